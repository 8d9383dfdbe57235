//! What strangers do at the door, and what clients that are none of ours get through it.
#![allow(clippy::expect_used, clippy::panic, reason = "a test that fails panics")]

mod harness;
#[path = "harness/python.rs"]
mod python;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use harness::{PATIENCE, Setup, connect, eventually, flights, post};
use python::python;
use serde_json::{Value as Json, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use weir_proto::v1;
use weir_proto::v1::experiment_service_client::ExperimentServiceClient;

/// The header timeout of the gateway.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);

fn one_flight() -> v1::GetFeaturesRequest {
    flights("u", "JFK", &[("N14228", "UA", "LAX")])
}

/// Sends bytes and nothing after them; whatever comes back until the gateway closes.
async fn send(to: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(to).await.expect("connect");
    // It may close while we still send.
    let _ = stream.write_all(bytes).await;
    let mut reply = Vec::new();
    let closed = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut reply)).await;
    assert!(closed.is_ok(), "still open after {PATIENCE:?}: {:?}", String::from_utf8_lossy(bytes));
    reply
}

#[tokio::test]
async fn whoever_does_not_finish_the_headers_is_cut_after_the_header_timeout() {
    let gateway = Setup::demo().start().await;
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
    for (bytes, after) in slow.iter().zip(futures::future::join_all(cut).await) {
        let bytes = String::from_utf8_lossy(bytes);
        assert!(after > HEADER_TIMEOUT / 2, "{bytes:?} was cut after {after:?}");
    }
    assert!(began.elapsed() > HEADER_TIMEOUT);
    assert_eq!(early.get_features(one_flight()).await.expect("an answer").into_inner().rows, 1);
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_foreign_client_finds_its_way_by_reflection_and_health() {
    let gateway = Setup::demo().start().await;
    let script = r#"
import json, sys
from grpc_requests import Client

client = Client.get_by_endpoint(sys.argv[1])
texts = lambda name, value: {"name": name, "values": {"strings": {"values": [value]}}}
card = {"service": "route_card", "items": [texts("origin", "JFK"), texts("dest", "LAX")]}
print(json.dumps({
    "services": sorted(client.service_names),
    "health": client.request("grpc.health.v1.Health", "Check", {"service": ""}),
    "card": client.request("weir.v1.FeatureService", "GetFeatures", card),
    "unit": client.request("weir.v1.ExperimentService", "Assign", {"unit": "N14228"}),
}))
"#;
    let said = python(&["-c", script, &gateway.listen().to_string()]).await;
    let services: Vec<_> = said["services"].as_array().expect("services").iter().filter_map(Json::as_str).collect();
    for service in ["weir.v1.FeatureService", "weir.v1.ExperimentService", "grpc.health.v1.Health"] {
        assert!(services.contains(&service), "{services:?}");
    }
    assert_eq!(said["health"], json!({ "status": "SERVING" }));
    assert_eq!(said["card"]["rows"], 1, "{said}");
    assert_eq!(said["unit"]["assignments"][0]["experiment"], "delay_risk_v2", "{said}");
    gateway.stop().await;
}

/// The demo's experiments worked out from its catalog by another hand.
const ASSIGN: &str = r#"
import hashlib, json, sys, tomllib

catalog = tomllib.load(open(sys.argv[1], "rb"))
(layer,), (holdout,), (experiment,) = catalog["layer"], catalog["holdout"], catalog["experiment"]

def bucket(salt, unit):
    return int.from_bytes(hashlib.md5(f"{salt}-{unit}".encode()).digest()[:4], "big") % 10000

def inside(bounds, number):
    return bounds[0] <= number < bounds[1]

def assign(unit, carrier):
    if inside(holdout["buckets"], bucket(holdout["salt"], unit)):
        return {"holdouts": [holdout["name"]], "arms": []}
    at, behind = bucket(experiment["salt"], unit), 0
    if inside(experiment["slots"], bucket(layer["salt"], unit)) and carrier not in experiment["where"][0]["values"]:
        for arm in experiment["arm"]:
            behind += arm["weight"]
            if at < behind:
                return {"holdouts": [], "arms": [[experiment["name"], arm["name"], at]]}
    return {"holdouts": [], "arms": []}

print(json.dumps([assign(unit, carrier) for unit, carrier in json.loads(sys.argv[2])]))
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_doors_assign_as_one_line_of_md5_says() {
    // Narrower slots than the demo's, so that they matter too.
    let setup = Setup::demo().edit("catalog/experiments.toml", "slots = [0, 10000]", "slots = [1000, 9000]");
    let gateway = setup.start().await;
    let units: Vec<(String, &str)> = (0..500)
        .map(|i| {
            let unit = if i % 7 == 0 { format!("Zürich-☃-{i}") } else { format!("unit-{i}") };
            (unit, if i % 10 == 0 { "HA" } else { "UA" })
        })
        .collect();
    let experiments = gateway.setup.dir().join("catalog/experiments.toml").display().to_string();
    let wanted = python(&["-c", ASSIGN, &experiments, &json!(units).to_string()]).await;
    let wanted = wanted.as_array().expect("an assignment a unit");

    let channel = tonic::transport::Channel::from_shared(format!("http://{}", gateway.listen())).expect("a URL");
    let mut grpc = ExperimentServiceClient::new(channel.connect().await.expect("connect"));
    let mut places = std::collections::BTreeSet::new();
    for ((unit, carrier), wanted) in units.iter().zip(wanted) {
        let value = Some(v1::attribute::Value::StringValue((*carrier).to_owned()));
        let attributes = [("carrier".to_owned(), v1::Attribute { value })].into();
        let request = v1::AssignRequest { unit: unit.clone(), attributes, service: String::new() };
        let reply = grpc.assign(request).await.expect("an assignment").into_inner();
        let arms: Vec<_> = reply.assignments.iter().map(|a| json!([a.experiment, a.arm, a.bucket])).collect();
        assert_eq!(json!({ "holdouts": reply.holdouts, "arms": arms }), *wanted, "{unit} over gRPC");

        let body = json!({ "unit": unit, "attributes": { "carrier": carrier } });
        let (status, reply) = post(gateway.listen(), "/v1/assign", &body.to_string()).await;
        assert_eq!(status, 200, "{reply}");
        let assignments = reply["assignments"].as_array().expect("assignments");
        let arms: Vec<_> = assignments.iter().map(|a| json!([a["experiment"], a["arm"], a["bucket"]])).collect();
        assert_eq!(json!({ "holdouts": reply["holdouts"], "arms": arms }), *wanted, "{unit} over HTTP");
        places.insert(json!([wanted["holdouts"], wanted["arms"][0][1]]).to_string());
    }
    assert_eq!(places.len(), 4, "held out, in no arm, and in both arms: {places:?}");
    gateway.stop().await;
}

#[tokio::test]
async fn garbage_closes_its_own_connection_and_no_other() {
    let gateway = Setup::demo().start().await;
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".as_slice();
    let garbage: [Vec<u8>; 8] = [
        vec![0; 4_096],
        vec![0xff; 4_096],
        (0..=255).cycle().take(10_000).collect(),
        // A TLS client at a port without TLS.
        [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".as_slice(), &[7; 512]].concat(),
        b"GET / HTTP/9.9\r\n\r\n".to_vec(),
        b"GET /\0\0 HTTP/1.1\r\n\r\n".to_vec(),
        // HTTP/2 that begins well: a frame of 16 MiB, and a SETTINGS frame on a stream of its own.
        [preface, &[0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1], &[1; 4_096]].concat(),
        [preface, &[0, 0, 6, 4, 0, 0, 0, 0, 9], &[1; 6]].concat(),
    ];
    for bytes in &garbage {
        let reply = send(gateway.listen(), bytes).await;
        // At most a refusal, or in HTTP/2 the server's settings and its goodbye.
        let text = String::from_utf8_lossy(&reply).into_owned();
        assert!(!text.starts_with("HTTP/1.1 2") && !text.starts_with("HTTP/1.1 5"), "{text}");
        // The connection from before, and a new one.
        assert_eq!(gateway.get(one_flight()).await.expect("an answer").rows, 1);
        assert_eq!(harness::http_get(gateway.listen(), "/").await.0, 200);
    }
    eventually("nothing is in flight", async || gateway.metric("weir_in_flight ").await == 0.0).await;
    gateway.stop().await;
}

/// An HTTP/2 frame.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let len = (payload.len() as u32).to_be_bytes();
    [&len[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

#[tokio::test]
async fn http2_floods_cost_the_flooder_its_connection() {
    const HEADERS: u8 = 1;
    const RST_STREAM: u8 = 3;
    const SETTINGS: u8 = 4;
    const CONTINUATION: u8 = 9;
    const END_HEADERS: u8 = 4;
    // POST http / in the words of HPACK's static table.
    let post = [0x83, 0x86, 0x84];
    let start = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".as_slice(), &frame(SETTINGS, 0, 0, &[])].concat();
    let mut rapid_reset = start.clone();
    for stream in (1..20_000).step_by(2) {
        rapid_reset.extend(frame(HEADERS, END_HEADERS, stream, &post));
        rapid_reset.extend(frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes()));
    }
    let mut endless_headers = [start, frame(HEADERS, 0, 1, &post)].concat();
    for _ in 0..1_000 {
        // A header of its own in each: x: x….
        let field = [&[0x00, 0x01, b'x', 0x7f, 0x81, 0x07], [b'x'; 1_024].as_slice()].concat();
        endless_headers.extend(frame(CONTINUATION, 0, 1, &field));
    }
    let gateway = Setup::demo().start().await;
    for flood in [rapid_reset, endless_headers] {
        send(gateway.listen(), &flood).await;
        assert_eq!(gateway.get(one_flight()).await.expect("an answer").rows, 1);
    }
    eventually("nothing is in flight", async || gateway.metric("weir_in_flight ").await == 0.0).await;
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_connections_are_served_side_by_side() {
    let gateway = Setup::demo().start().await;
    let to = gateway.listen();
    // All are open before the first of them asks.
    let mut clients = futures::future::join_all((0..200).map(|_| connect(to))).await;
    let asked = clients.iter_mut().enumerate().map(|(i, client)| async move {
        let reply = client.get_features(flights(&format!("unit-{i}"), "JFK", &[("N14228", "UA", "LAX")])).await;
        reply.expect("an answer").into_inner().request_id
    });
    let ids: std::collections::BTreeSet<_> = futures::future::join_all(asked).await.into_iter().collect();
    assert_eq!(ids.len(), 200);
    drop(clients);
    eventually("nothing is in flight", async || gateway.metric("weir_in_flight ").await == 0.0).await;
    gateway.stop().await;
}

#[tokio::test]
async fn a_path_that_leads_nowhere_says_so_in_the_callers_own_protocol() {
    let gateway = Setup::demo().start().await;
    let (status, body) = harness::http_get(gateway.listen(), "/v2/features").await;
    assert_eq!(status, 404);
    assert!(body.contains("UNKNOWN_PATH") && body.contains("/v2/features"), "{body}");
    let grpc = [("content-type", "application/grpc")];
    let (status, head, _) = harness::exchange(gateway.listen(), "POST", "/no.such.Service/Method", &grpc, "").await;
    // gRPC says it in a header of a successful response: 12 is UNIMPLEMENTED.
    assert_eq!(status, 200);
    assert!(head.contains("grpc-status: 12"), "{head}");
    gateway.stop().await;
}
