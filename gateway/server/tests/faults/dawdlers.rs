//! Fault 16: callers who take their time with what they send or with what they should read. Each loses what it holds up,
//! after a time, and nobody else anything.

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::join_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tonic::Code;
use weir_proto::v1;

use crate::harness::{PATIENCE, Running, connect, eventually};
use crate::stored::{route, routes, unhurried};
use crate::wire::{Caller, GET_FEATURES, GRPC, framed, read, send};

/// What tests wait for instead of seconds. No test depends on how much longer it takes.
const SOON: Duration = Duration::from_millis(300);

async fn ended(gateway: &Running, why: &str) -> f64 {
    gateway.metric(&format!("weir_connections_ended_total{{reason=\"{why}\"}} ")).await
}

/// Routes whose answer is larger than what the system keeps for a reader.
fn long() -> v1::GetFeaturesRequest {
    routes(&[("JFK", "LAX"); 10_000])
}

fn long_json() -> String {
    let (origins, dests) = (vec!["JFK"; 10_000], vec!["LAX"; 10_000]);
    serde_json::json!({ "service": "route_card", "items": { "origin": origins, "dest": dests } }).to_string()
}

#[tokio::test]
async fn whoever_does_not_finish_the_headers_is_cut_after_the_header_timeout() {
    let gateway = unhurried().limits(|limits| limits.header_timeout = SOON).start().await;
    let to = gateway.listen();
    // A client that connects early has said all it has to, and makes its first call when it has one.
    let mut early = connect(to).await;
    let slow: [&[u8]; 4] = [
        b"POST /v1/features HTTP/1.1\r\nhost: test\r\nx-one-more: ",
        b"GET",
        // The start of an HTTP/2 connection, as far as it goes.
        b"PRI * HTTP",
        b"",
    ];
    let began = Instant::now();
    let cut = slow.map(|bytes| async move {
        send(to, bytes).await;
        began.elapsed()
    });
    for (bytes, after) in slow.iter().zip(join_all(cut).await) {
        let bytes = String::from_utf8_lossy(bytes);
        assert!(after > SOON / 2, "{bytes:?} was cut after {after:?}");
    }
    assert!(began.elapsed() > SOON);
    eventually("four were too slow", async || ended(&gateway, "silent").await == 4.0).await;
    assert_eq!(early.get_features(route("JFK", &["LAX"])).await.expect("an answer").into_inner().rows, 1);
    gateway.stop().await;
}

#[tokio::test]
async fn a_body_that_trickles_is_given_up() {
    let gateway = unhurried().limits(|limits| limits.body_timeout = SOON).start().await;
    let caller = Caller::to(gateway.listen()).await;
    // Over HTTP/1.1, which has one request at a time, this ends the connection.
    let (mut reading, mut writing) = TcpStream::connect(gateway.listen()).await.expect("connect").into_split();
    let head =
        "POST /v1/features HTTP/1.1\r\nhost: test\r\ncontent-type: application/json\r\ncontent-length: 100000\r\n\r\n";
    writing.write_all(head.as_bytes()).await.expect("send");
    let trickling = async {
        while writing.write_all(b" ").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let mut reply = Vec::new();
    let (_, _) = tokio::join!(trickling, reading.read_to_end(&mut reply));
    let reply = String::from_utf8_lossy(&reply);
    assert!(reply.starts_with("HTTP/1.1 408 ") && reply.contains("SLOW_BODY"), "{reply}");

    // Over HTTP/2 it is one stream of many.
    let (json, mut trickle) = caller.open("/v1/features", &[("content-type", "application/json")]).await;
    trickle.send_data(Bytes::from_static(b"{"), false).expect("send");
    let (grpc, mut drops) = caller.open(GET_FEATURES, GRPC).await;
    drops.send_data(Bytes::from_static(&[0, 0, 0, 0, 9, 1]), false).expect("send");
    let message = prost::Message::encode_to_vec(&route("JFK", &["LAX"]));
    assert_eq!(caller.call(&[], &message).await.message::<v1::GetFeaturesResponse>().rows, 1);
    assert_eq!(read(json).await.expect("a response").status, 408);
    assert_eq!(read(grpc).await.expect("a response").grpc().code(), Code::DeadlineExceeded);
    assert_eq!(gateway.metric(r#"weir_refusals_total{reason="SLOW_BODY"} "#).await, 3.0);
    assert_eq!(gateway.metric("weir_in_flight ").await, 0.0);
    assert_eq!(caller.call(&[], &message).await.message::<v1::GetFeaturesResponse>().rows, 1);
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_does_not_take_a_reply_loses_the_connection_and_its_memory_is_free_again() {
    let gateway = unhurried().limits(|limits| limits.unread_max = 2 * SOON).start().await;
    let message = Bytes::from(framed(&prost::Message::encode_to_vec(&long())));
    // The window is closed: not a byte of a reply can be sent. The connection answers PINGs as ever.
    let closed = Caller::with(gateway.listen(), h2::client::Builder::new().initial_window_size(0)).await;
    let mut waiting = Vec::new();
    for _ in 0..4 {
        let (response, mut stream) = closed.open(GET_FEATURES, GRPC).await;
        stream.send_data(message.clone(), true).expect("send");
        waiting.push(response);
    }
    // Over HTTP/1.1 the system's buffers are full.
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(4_096).expect("a small buffer");
    let mut stalled = socket.connect(gateway.listen()).await.expect("connect");
    let body = long_json();
    let head = "POST /v1/features HTTP/1.1\r\nhost: test\r\ncontent-type: application/json\r\n";
    let request = format!("{head}content-length: {}\r\n\r\n{body}", body.len());
    stalled.write_all(request.repeat(4).as_bytes()).await.expect("send");

    eventually("replies wait", async || gateway.metric("weir_unread_bytes ").await > 0.0).await;
    for response in waiting {
        let unread = async { read(response).await };
        let cut = tokio::time::timeout(PATIENCE, unread).await.expect("it is cut");
        cut.expect_err("nothing could be sent");
    }
    let mut rest = Vec::new();
    eventually("both are cut", async || ended(&gateway, "unread").await == 2.0).await;
    let _ = tokio::time::timeout(PATIENCE, stalled.read_to_end(&mut rest)).await.expect("it is closed");
    eventually("nothing is kept", async || gateway.metric("weir_unread_bytes ").await == 0.0).await;
    // Whoever reads gets all of it.
    assert_eq!(gateway.get(long()).await.expect("an answer").rows, 10_000);
    assert_eq!(ended(&gateway, "unread").await, 2.0);
    gateway.stop().await;
}

#[tokio::test]
async fn while_too_much_is_left_unread_nobody_is_given_more() {
    let gateway =
        unhurried().limits(|limits| (limits.unread_max, limits.unread_bytes_max) = (4 * SOON, 1_000)).start().await;
    let closed = Caller::with(gateway.listen(), h2::client::Builder::new().initial_window_size(0)).await;
    let (_unread, mut stream) = closed.open(GET_FEATURES, GRPC).await;
    stream.send_data(framed(&prost::Message::encode_to_vec(&long())).into(), true).expect("send");
    eventually("others are sent away", async || match gateway.get(route("JFK", &["LAX"])).await {
        Ok(reply) => reply.rows != 1,
        Err(status) => status.code() == Code::ResourceExhausted,
    })
    .await;
    assert!(gateway.metric(r#"weir_refusals_total{reason="OVERLOADED"} "#).await >= 1.0);
    eventually("he is cut, and they are back", async || gateway.get(route("JFK", &["LAX"])).await.is_ok()).await;
    assert_eq!(ended(&gateway, "unread").await, 1.0);
    gateway.stop().await;
}

#[tokio::test]
async fn an_old_connection_is_told_to_go_and_finishes_what_it_has_begun() {
    let gateway = unhurried().limits(|limits| (limits.header_timeout, limits.age) = (SOON / 3, SOON)).start().await;
    let caller = Caller::to(gateway.listen()).await;
    let (response, mut body) = caller.open(GET_FEATURES, GRPC).await;
    eventually("it may ask nothing new", async || !caller.is_open().await).await;
    // What it had begun to ask it may finish.
    body.send_data(framed(&prost::Message::encode_to_vec(&route("JFK", &["LAX"]))).into(), true).expect("send");
    assert_eq!(read(response).await.expect("a response").message::<v1::GetFeaturesResponse>().rows, 1);
    // So does one of HTTP/1.1, which waits for its next request in vain.
    let mut idle = TcpStream::connect(gateway.listen()).await.expect("connect");
    idle.write_all(b"GET / HTTP/1.1\r\nhost: test\r\n\r\n").await.expect("send");
    let mut reply = Vec::new();
    tokio::time::timeout(PATIENCE, idle.read_to_end(&mut reply)).await.expect("it is closed").expect("a reply");
    assert!(reply.starts_with(b"HTTP/1.1 200 "));
    eventually("it has gone of age", async || ended(&gateway, "age").await >= 1.0).await;
    assert_eq!(
        connect(gateway.listen())
            .await
            .get_features(route("JFK", &["LAX"]))
            .await
            .expect("an answer")
            .into_inner()
            .rows,
        1
    );
    gateway.stop().await;
}
