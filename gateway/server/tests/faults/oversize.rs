//! Fault 18: messages over the limit, bodies that inflate, and nesting of a hundred thousand levels. Each gets a clear
//! error before room is made for it, and everybody else his answer.

use std::io::Write;
use std::process::{Command, Stdio};

use bytes::Bytes;
use tonic::Code;
use weir_proto::v1;

use crate::harness::{exchange, post};
use crate::stored::{route, unhurried};
use crate::wire::{Caller, GET_FEATURES, GRPC, field, framed, read, send};

const BODY_BYTES_MAX: usize = 4 << 20;
/// More levels than any stack has frames for.
const DEEP: usize = 100_000;

#[tokio::test]
async fn a_body_that_announces_too_much_is_refused_before_a_byte_of_it_is_sent() {
    let gateway = unhurried().start().await;
    let head = "POST /v1/features HTTP/1.1\r\nhost: test\r\nconnection: close\r\ncontent-type: application/json\r\n";
    let announced = send(gateway.listen(), format!("{head}content-length: 5000000000\r\n\r\n").as_bytes()).await;
    let announced = String::from_utf8_lossy(&announced);
    assert!(announced.starts_with("HTTP/1.1 413 ") && announced.contains("TOO_LARGE"), "{announced}");

    let caller = Caller::to(gateway.listen()).await;
    let length = [("content-type", "application/json"), ("content-length", "5000000000")];
    let (response, _unsent) = caller.open("/v1/features", &length).await;
    let reply = read(response).await.expect("a response");
    assert!(reply.status == 413 && reply.text().contains("TOO_LARGE"), "{reply:?}");

    // In gRPC the length stands in the headers, or in the first bytes of the body.
    let (response, _unsent) = caller.open(GET_FEATURES, &[GRPC, &[("content-length", "5000000000")]].concat()).await;
    let in_headers = read(response).await.expect("a response").grpc();
    let (response, mut unsent) = caller.open(GET_FEATURES, GRPC).await;
    unsent.send_data(Bytes::from_static(&[0, 0xff, 0xff, 0xff, 0xff]), false).expect("send");
    let in_prefix = read(response).await.expect("a response").grpc();
    for status in [in_headers, in_prefix] {
        assert_eq!(status.code(), Code::OutOfRange, "{status:?}");
        assert!(status.message().contains(&BODY_BYTES_MAX.to_string()), "{status:?}");
    }
    // What only turns out to be too large in the first bytes is the transport's business.
    assert_eq!(gateway.metric(r#"weir_refusals_total{reason="TOO_LARGE"} "#).await, 3.0);
    assert_eq!(gateway.get(route("JFK", &["LAX"])).await.expect("an answer").rows, 1);
    gateway.stop().await;
}

#[tokio::test]
async fn a_body_without_a_length_is_refused_when_the_limit_has_come() {
    let gateway = unhurried().start().await;
    let head = "POST /v1/features HTTP/1.1\r\nhost: test\r\nconnection: close\r\ncontent-type: application/json\r\n";
    let mut chunked = format!("{head}transfer-encoding: chunked\r\n\r\n").into_bytes();
    for _ in 0..6 {
        chunked.extend_from_slice(b"100000\r\n");
        chunked.resize(chunked.len() + (1 << 20), b' ');
        chunked.extend_from_slice(b"\r\n");
    }
    let endless = send(gateway.listen(), &chunked).await;
    let endless = String::from_utf8_lossy(&endless);
    assert!(endless.starts_with("HTTP/1.1 413 ") && endless.contains("TOO_LARGE"), "{endless}");
    let unit = "u".repeat(BODY_BYTES_MAX + 1);
    let refused = gateway.get(v1::GetFeaturesRequest { unit, ..route("JFK", &["LAX"]) }).await;
    assert_eq!(refused.expect_err("too large").code(), Code::OutOfRange);
    // At the limit and not over it: what is wrong is said, not that it is long.
    let spaces = " ".repeat(BODY_BYTES_MAX);
    assert_eq!(post(gateway.listen(), "/v1/features", &spaces).await.0, 400);
    assert_eq!(gateway.get(route("JFK", &["LAX"])).await.expect("an answer").rows, 1);
    gateway.stop().await;
}

#[tokio::test]
async fn headers_over_the_limit_are_refused() {
    let gateway = unhurried().start().await;
    let huge = format!("GET /v1/services HTTP/1.1\r\nhost: test\r\nx: {}\r\n\r\n", "x".repeat(64 << 10));
    let many = format!("GET /v1/services HTTP/1.1\r\nhost: test\r\n{}\r\n", "x: y\r\n".repeat(4_000));
    for head in [huge, many] {
        let reply = String::from_utf8_lossy(&send(gateway.listen(), head.as_bytes()).await).into_owned();
        assert!(reply.is_empty() || reply.starts_with("HTTP/1.1 431 "), "{reply}");
    }
    // Over HTTP/2 it is said to that request alone: the connection goes on.
    let caller = Caller::to(gateway.listen()).await;
    let value = "x".repeat(1_000);
    for many in [vec![("x-some", &*value); 20], vec![("x", "y"); 600]] {
        let reply = caller.post(GET_FEATURES, &[GRPC, &many].concat(), framed(&[])).await;
        assert_eq!(reply.status, 431, "{reply:?}");
    }
    assert_eq!(caller.call(&[], &[]).await.grpc().code(), Code::NotFound);
    gateway.stop().await;
}

#[tokio::test]
async fn nothing_is_inflated() {
    let gateway = unhurried().start().await;
    let bomb = gzip(&vec![0; 64 << 20]);
    assert!(bomb.len() < 100_000);
    let caller = Caller::to(gateway.listen()).await;
    let mut compressed = framed(&bomb);
    compressed[0] = 1;
    for encoding in ["gzip", "deflate", "zstd", "br"] {
        let headers = [GRPC, &[("grpc-encoding", encoding)]].concat();
        let reply = caller.post(GET_FEATURES, &headers, compressed.clone()).await;
        assert_eq!(reply.grpc().code(), Code::Unimplemented, "{reply:?}");
        assert_eq!(reply.header("grpc-accept-encoding"), "identity");
        for path in ["/v1/features", "/v1/assign"] {
            let headers = [("content-type", "application/json"), ("content-encoding", encoding)];
            let reply = caller.post(path, &headers, bomb.clone()).await;
            assert_eq!(reply.status, 415, "{reply:?}");
            assert_eq!(reply.header("accept-encoding"), "identity");
            assert!(reply.text().contains("content-encoding"), "{reply:?}");
        }
    }
    // A compressed message whose headers say nothing of it is a broken one.
    let reply = caller.post(GET_FEATURES, GRPC, compressed).await;
    assert_eq!(reply.grpc().code(), Code::Internal, "{reply:?}");
    assert_eq!(gateway.metric(r#"weir_refusals_total{reason="INVALID_REQUEST"} "#).await, 8.0);
    // As it is, by name.
    let message = prost::Message::encode_to_vec(&route("JFK", &["LAX"]));
    let reply = caller.call(&[("grpc-encoding", "identity")], &message).await;
    assert_eq!(reply.message::<v1::GetFeaturesResponse>().rows, 1);
    let headers = [("content-type", "application/json"), ("content-encoding", "identity")];
    let body = r#"{"service":"route_card","items":{"origin":["JFK"],"dest":["LAX"]}}"#;
    assert_eq!(exchange(gateway.listen(), "POST", "/v1/features", &headers, body).await.0, 200);
    gateway.stop().await;
}

#[tokio::test]
async fn nesting_ends_with_an_error_and_not_with_the_stack() {
    let setup = unhurried();
    let gateway = setup.spawn();
    let caller = Caller::to(gateway.listen).await;
    // Lists in lists, as the schema has them, and groups in groups, which nobody knows.
    let lists = field(4, [field(1, "x"), field(2, nested_lists(DEEP))].concat());
    let groups = [vec![0x7b; DEEP], vec![0x7c; DEEP]].concat();
    for deep in [lists, groups] {
        assert!(deep.len() < BODY_BYTES_MAX);
        let reply = caller.call(&[], &[field(1, "route_card"), deep].concat()).await;
        assert_eq!(reply.grpc().code(), Code::InvalidArgument, "{reply:?}");
        assert!(reply.grpc().message().contains("recursion"), "{reply:?}");
    }
    let (open, close) = ("[".repeat(DEEP), "]".repeat(DEEP));
    let (opened, closed) = (r#"{"a":"#.repeat(DEEP), "}".repeat(DEEP));
    let json = [
        open.clone(),
        format!(r#"{{"service":"route_card","items":{{"origin":{open}{close}}}}}"#),
        format!(r#"{{"service":"route_card","context":{opened}1{closed}}}"#),
        format!(r#"{{"service":"route_card","unheard_of":{open}{close}}}"#),
        format!(r#"{{"unit":"u","attributes":{opened}1{closed}}}"#),
    ];
    for body in &json {
        for path in ["/v1/features", "/v1/assign"] {
            let (status, reply) = post(gateway.listen, path, body).await;
            assert_eq!(status, 400, "{reply}");
            assert!(reply.to_string().contains("INVALID_REQUEST"), "{reply}");
        }
    }
    // A depth that everybody can read is judged by what it means.
    let few = field(4, [field(1, "x"), field(2, nested_lists(3))].concat());
    let reply = caller.call(&[], &[field(1, "route_card"), few].concat()).await;
    assert!(reply.grpc().message().contains("features.x: lists of lists"), "{reply:?}");
    let message = prost::Message::encode_to_vec(&route("JFK", &["LAX"]));
    assert_eq!(caller.call(&[], &message).await.message::<v1::GetFeaturesResponse>().rows, 1);
}

/// `Values` of `Lists` of `Values` of `Lists`…, built from the inside, where the end of the bytes is.
fn nested_lists(levels: usize) -> Vec<u8> {
    // Innermost are doubles, and none of them: Values.doubles = 3.
    let mut reversed = vec![0x00, 0x1a];
    let mut varint = Vec::new();
    for _ in 0..levels {
        // Values.lists = 8, Lists.items = 2.
        for number in [2, 8] {
            varint.clear();
            prost::encoding::encode_key(number, prost::encoding::WireType::LengthDelimited, &mut varint);
            prost::encoding::encode_varint(reversed.len() as u64, &mut varint);
            reversed.extend(varint.iter().rev());
        }
    }
    reversed.reverse();
    reversed
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut gzip = Command::new("gzip");
    let mut gzip = gzip.arg("-c").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("run gzip");
    // It says little until it has read everything.
    gzip.stdin.take().expect("its input").write_all(bytes).expect("feed gzip");
    gzip.wait_with_output().expect("gzip's output").stdout
}
