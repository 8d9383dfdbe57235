//! Fault 16: callers who take their time with what they send or with what they should read. Each loses what it holds up,
//! after a time, and nobody else anything.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::FutureExt;
use futures::future::{Either, join_all, select};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tonic::Code;
use weir_proto::v1;

use crate::harness::{PATIENCE, Process, connect, eventually, http_get};
use crate::stored::{route, routes, unhurried};
use crate::wire::{
    CONTINUATION, Caller, END_HEADERS, GET_FEATURES, GRPC, HEADERS, POST, PREFACE, SETTINGS, field, frame, framed,
    read, send,
};

/// What tests wait for instead of seconds. No test depends on how much longer it takes.
const SOON: Duration = Duration::from_millis(300);
/// The same, as operators write it.
const HEADERS_SOON: &str = "[doors]\nheader_timeout_ms = 300\n";

/// A gateway in a process of its own, with these settings.
fn spawn(settings: &str) -> Process {
    unhurried().append("weir.toml", settings).spawn()
}

async fn metric(admin: SocketAddr, name: &str) -> f64 {
    let page = http_get(admin, "/metrics").await.1;
    let value = page.lines().find_map(|line| line.strip_prefix(name));
    value.map_or(0.0, |value| value.trim().parse().expect("a number"))
}

async fn ended(admin: SocketAddr, why: &str) -> f64 {
    metric(admin, &format!("weir_connections_ended_total{{reason=\"{why}\"}} ")).await
}

/// Before, while and after that goes on, somebody else asks one thing after another and is always answered.
async fn others_are_served<T>(gateway: &Process, meanwhile: impl Future<Output = T>) -> T {
    let mut client = connect(gateway.listen).await;
    let mut meanwhile = std::pin::pin!(meanwhile);
    loop {
        let mut call = std::pin::pin!(client.get_features(route("JFK", &["LAX"])));
        let (reply, done) = match select(&mut meanwhile, &mut call).await {
            Either::Left((done, _)) => (call.await, Some(done)),
            Either::Right((reply, _)) => (reply, None),
        };
        assert_eq!(reply.expect("an answer").into_inner().rows, 1);
        if let Some(done) = done {
            return done;
        }
    }
}

/// So many of their answers are more than a MiB.
const UNREAD: usize = 8;

/// Routes whose answer is larger than what the system keeps for a reader.
fn long() -> v1::GetFeaturesRequest {
    routes(&[("JFK", "LAX"); 10_000])
}

fn long_json() -> String {
    let (origins, dests) = (vec!["JFK"; 10_000], vec!["LAX"; 10_000]);
    serde_json::json!({ "service": "route_card", "items": { "origin": origins, "dest": dests } }).to_string()
}

/// Half a request, in every way there is: over HTTP/1, before anybody knows which, and over HTTP/2.
fn halves() -> Vec<(&'static str, Vec<u8>)> {
    let begun = [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat();
    let then = |bytes: &[u8]| [&begun, bytes].concat();
    let [headers, whole] = [0, END_HEADERS].map(|flags| frame(HEADERS, flags, 1, POST));
    vec![
        ("nothing", Vec::new()),
        ("a method", b"GET".to_vec()),
        ("half a header", b"POST /v1/features HTTP/1.1\r\nhost: test\r\nx-one-more: ".to_vec()),
        ("half a preface", PREFACE[..10].to_vec()),
        ("half a frame's head", then(&whole[..5])),
        ("half a frame", then(&whole[..whole.len() - 1])),
        ("headers without an end", then(&headers)),
        ("more of them", then(&[headers, frame(CONTINUATION, 0, 1, &[])].concat())),
    ]
}

#[tokio::test]
async fn whoever_does_not_finish_the_headers_is_cut_after_the_header_timeout() {
    let gateway = spawn(HEADERS_SOON);
    // A client that connects early has said all it has to, and makes its first call when it has one.
    let mut early = connect(gateway.listen).await;
    let cut = halves().into_iter().map(|(what, bytes)| async move {
        let began = Instant::now();
        send(gateway.listen, &bytes).await;
        (what, began.elapsed())
    });
    let cut = others_are_served(&gateway, join_all(cut)).await;
    for (what, after) in &cut {
        assert!(*after > SOON / 2, "{what} was cut after {after:?}");
    }
    eventually("all were too slow", async || ended(gateway.admin, "silent").await == cut.len() as f64).await;
    assert_eq!(early.get_features(route("JFK", &["LAX"])).await.expect("an answer").into_inner().rows, 1);
}

#[tokio::test]
async fn headers_that_trickle_have_no_more_time_than_others() {
    let gateway = spawn(HEADERS_SOON);
    let begun = [PREFACE, &frame(SETTINGS, 0, 0, &[]), &frame(HEADERS, 0, 1, POST)].concat();
    let more = frame(CONTINUATION, END_HEADERS, 1, &[0; 16 << 10]);
    let trickles: [(&[u8], &[u8]); 2] = [(b"GET / HTTP/1.1\r\nx: ", &[b'x'; 16 << 10]), (&begun, &more)];
    let trickling = trickles.into_iter().map(|(first, rest)| async move {
        let (mut read, mut write) = TcpStream::connect(gateway.listen).await.expect("connect").into_split();
        write.write_all(first).await.expect("send");
        let trickle = async {
            for byte in rest {
                if write.write_all(&[*byte]).await.is_err() {
                    break;
                }
                tokio::time::sleep(SOON / 30).await;
            }
        };
        let mut reply = Vec::new();
        let reading = tokio::time::timeout(PATIENCE, read.read_to_end(&mut reply));
        // Whichever sees first that it is over.
        select(std::pin::pin!(trickle), std::pin::pin!(reading)).await;
    });
    others_are_served(&gateway, join_all(trickling)).await;
    eventually("both were too slow", async || ended(gateway.admin, "silent").await == 2.0).await;
}

#[tokio::test]
async fn the_header_timeout_is_five_seconds_unless_it_is_told() {
    let gateway = spawn("");
    let cut = halves().into_iter().map(|(what, bytes)| async move {
        let began = Instant::now();
        send(gateway.listen, &bytes).await;
        (what, began.elapsed())
    });
    let cut = others_are_served(&gateway, join_all(cut)).await;
    for (what, after) in &cut {
        assert!((4..15).contains(&after.as_secs()), "{what} was cut after {after:?}");
    }
    eventually("all were too slow", async || ended(gateway.admin, "silent").await == cut.len() as f64).await;
}

/// A request over a connection of HTTP/1 that stays; its reply is there with its last byte.
async fn ask(stream: &mut TcpStream) {
    stream.write_all(b"GET / HTTP/1.1\r\nhost: test\r\n\r\n").await.expect("send");
    let mut reply = Vec::new();
    let length = loop {
        assert!(stream.read_buf(&mut reply).await.expect("a reply") > 0, "it was closed");
        let text = String::from_utf8_lossy(&reply).to_ascii_lowercase();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            assert!(head.starts_with("http/1.1 200 "), "{head}");
            let length = head.split("content-length: ").nth(1).and_then(|rest| rest.split("\r\n").next());
            let length: usize = length.expect("a length").parse().expect("a number");
            break length - body.len();
        }
    };
    let mut rest = vec![0; length];
    stream.read_exact(&mut rest).await.expect("the rest of it");
}

#[tokio::test]
async fn a_connection_between_requests_outlives_the_header_timeout() {
    let gateway = spawn(HEADERS_SOON);
    let mut pooled = TcpStream::connect(gateway.listen).await.expect("connect");
    ask(&mut pooled).await;
    tokio::time::sleep(3 * SOON).await;
    ask(&mut pooled).await;
    assert_eq!(ended(gateway.admin, "silent").await, 0.0);
    // The next request's headers have as much time as the first one's.
    tokio::time::sleep(2 * SOON).await;
    let began = Instant::now();
    pooled.write_all(b"GET / HT").await.expect("send");
    let rest = tokio::time::timeout(PATIENCE, pooled.read_to_end(&mut Vec::new())).await.expect("it is closed");
    assert!(rest.is_err() || began.elapsed() > SOON / 2, "cut after {:?}", began.elapsed());
    eventually("that was too slow", async || ended(gateway.admin, "silent").await == 1.0).await;
    assert_eq!(ended(gateway.admin, "idle").await, 0.0);
}

#[tokio::test]
async fn a_connection_without_a_next_request_is_closed_after_the_idle_timeout() {
    // Longer than that: the second to wait for is the idle timeout's.
    let gateway = spawn("[doors]\nheader_timeout_ms = 20000\nidle_timeout_s = 1\n");
    let mut idle = TcpStream::connect(gateway.listen).await.expect("connect");
    // Over HTTP/2 nobody need ever ask.
    let mut quiet = connect(gateway.listen).await;
    ask(&mut idle).await;
    let began = Instant::now();
    let closed = async { tokio::time::timeout(PATIENCE, idle.read_to_end(&mut Vec::new())).await };
    let rest = others_are_served(&gateway, closed).await.expect("it is closed");
    assert_eq!(rest.expect("closed, and not broken"), 0);
    assert!(began.elapsed() > Duration::from_millis(900), "closed after {:?}", began.elapsed());
    eventually("it was idle", async || ended(gateway.admin, "idle").await == 1.0).await;
    assert_eq!(ended(gateway.admin, "silent").await, 0.0);
    assert_eq!(quiet.get_features(route("JFK", &["LAX"])).await.expect("an answer").into_inner().rows, 1);
}

#[tokio::test]
async fn a_body_that_trickles_is_given_up() {
    let gateway = spawn("[doors]\nbody_timeout_ms = 300\n");
    let caller = Caller::to(gateway.listen).await;
    // Over HTTP/1.1, which has one request at a time, this ends the connection.
    let (mut reading, mut writing) = TcpStream::connect(gateway.listen).await.expect("connect").into_split();
    let head =
        "POST /v1/features HTTP/1.1\r\nhost: test\r\ncontent-type: application/json\r\ncontent-length: 100000\r\n\r\n";
    writing.write_all(head.as_bytes()).await.expect("send");
    let trickling = async {
        while writing.write_all(b" ").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let mut reply = Vec::new();
    let both = async { tokio::join!(trickling, reading.read_to_end(&mut reply)) };
    let _ = others_are_served(&gateway, both).await;
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
    assert_eq!(metric(gateway.admin, r#"weir_refusals_total{reason="SLOW_BODY"} "#).await, 3.0);
    assert_eq!(metric(gateway.admin, "weir_in_flight ").await, 0.0);
    assert_eq!(caller.call(&[], &message).await.message::<v1::GetFeaturesResponse>().rows, 1);
}

#[tokio::test]
async fn every_call_that_is_one_message_has_to_end_it_and_only_streams_may_be_silent() {
    let gateway = spawn("[doors]\nbody_timeout_ms = 300\n");
    let caller = Caller::to(gateway.listen).await;
    // Streams that live: one that asks now and then, and one that only listens.
    let name = framed(&field(7, "*"));
    let (asked, mut asks) = caller.open("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", GRPC).await;
    asks.send_data(name.clone().into(), false).expect("ask");
    let mut told = asked.await.expect("a response").into_body();
    assert!(told.data().await.expect("an answer").is_ok());
    let (watched, mut watches) = caller.open("/grpc.health.v1.Health/Watch", GRPC).await;
    watches.send_data(framed(&[]).into(), true).expect("ask");
    let mut health = watched.await.expect("a response").into_body();
    assert!(health.data().await.expect("an answer").is_ok());

    // Half a message each, with and without a permit.
    let unary = [
        "/weir.v1.ExperimentService/Assign",
        "/grpc.health.v1.Health/Check",
        "/grpc.health.v1.Health/Watch",
        GET_FEATURES,
    ];
    let half = Bytes::from_static(&[0, 0, 0, 0, 9, 1]);
    let slow = unary.map(|path| {
        let (caller, half) = (caller.clone(), half.clone());
        async move {
            let (response, mut body) = caller.open(path, GRPC).await;
            body.send_data(half, false).expect("send");
            (path, tokio::time::timeout(PATIENCE, read(response)).await.expect("it is given up").expect("a response"))
        }
    });
    for (path, reply) in others_are_served(&gateway, join_all(slow)).await {
        assert_eq!(reply.grpc().code(), Code::DeadlineExceeded, "{path}");
    }
    assert_eq!(metric(gateway.admin, r#"weir_refusals_total{reason="SLOW_BODY"} "#).await, unary.len() as f64);

    tokio::time::sleep(SOON).await;
    assert!(health.data().now_or_never().is_none(), "whoever listens is not sent away");
    asks.send_data(name.into(), false).expect("ask again");
    assert!(told.data().await.expect("another answer").is_ok());
    // There is no room for a long message that never ends.
    asks.send_data(Bytes::from_static(&[0, 0, 1, 0, 0]), false).expect("begin");
    let ended = tokio::time::timeout(PATIENCE, told.data()).await.expect("it is not waited for");
    assert!(ended.is_none(), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_does_not_take_a_reply_loses_the_connection_and_its_memory_is_free_again() {
    let gateway = spawn("[doors]\nunread_timeout_ms = 600\n");
    let message = Bytes::from(framed(&prost::Message::encode_to_vec(&long())));
    // The window is closed: not a byte of a reply can be sent. The connection answers PINGs as ever.
    let closed = Caller::with(gateway.listen, h2::client::Builder::new().initial_window_size(0)).await;
    let mut waiting = Vec::new();
    for _ in 0..4 {
        let (response, mut stream) = closed.open(GET_FEATURES, GRPC).await;
        stream.send_data(message.clone(), true).expect("send");
        waiting.push(response);
    }
    // Over HTTP/1.1 the system's buffers are full.
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(4_096).expect("a small buffer");
    let mut stalled = socket.connect(gateway.listen).await.expect("connect");
    let body = long_json();
    let head = "POST /v1/features HTTP/1.1\r\nhost: test\r\ncontent-type: application/json\r\n";
    let request = format!("{head}content-length: {}\r\n\r\n{body}", body.len());
    stalled.write_all(request.repeat(4).as_bytes()).await.expect("send");

    eventually("replies wait", async || metric(gateway.admin, "weir_unread_bytes ").await > 0.0).await;
    for response in waiting {
        let unread = async { read(response).await };
        let cut = tokio::time::timeout(PATIENCE, unread).await.expect("it is cut");
        cut.expect_err("nothing could be sent");
    }
    let mut rest = Vec::new();
    let cut = eventually("both are cut", async || ended(gateway.admin, "unread").await == 2.0);
    others_are_served(&gateway, cut).await;
    let _ = tokio::time::timeout(PATIENCE, stalled.read_to_end(&mut rest)).await.expect("it is closed");
    eventually("nothing is kept", async || metric(gateway.admin, "weir_unread_bytes ").await == 0.0).await;
    // Whoever reads gets all of it.
    assert_eq!(connect(gateway.listen).await.get_features(long()).await.expect("an answer").into_inner().rows, 10_000);
    assert_eq!(ended(gateway.admin, "unread").await, 2.0);
}

#[tokio::test]
async fn while_too_much_is_left_unread_nobody_is_given_more() {
    let gateway = spawn("[doors]\nunread_timeout_ms = 1200\nunread_max_mib = 1\n");
    let others = connect(gateway.listen).await;
    let closed = Caller::with(gateway.listen, h2::client::Builder::new().initial_window_size(0)).await;
    let message = Bytes::from(framed(&prost::Message::encode_to_vec(&long())));
    let mut unread = Vec::new();
    for _ in 0..UNREAD {
        let (response, mut stream) = closed.open(GET_FEATURES, GRPC).await;
        stream.send_data(message.clone(), true).expect("send");
        unread.push(response);
    }
    eventually("others are sent away", async || match others.clone().get_features(route("JFK", &["LAX"])).await {
        Ok(reply) => reply.into_inner().rows != 1,
        Err(status) => status.code() == Code::ResourceExhausted,
    })
    .await;
    assert!(metric(gateway.admin, r#"weir_refusals_total{reason="OVERLOADED"} "#).await >= 1.0);
    eventually("he is cut, and they are back", async || {
        others.clone().get_features(route("JFK", &["LAX"])).await.is_ok()
    })
    .await;
    assert_eq!(ended(gateway.admin, "unread").await, 1.0);
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
    eventually("it has gone of age", async || ended(gateway.admin(), "age").await >= 1.0).await;
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
