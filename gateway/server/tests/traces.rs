//! Traces reach a collector, as children of the caller's own span.
#![allow(clippy::expect_used, clippy::panic, reason = "a failed expectation is a failed test")]

mod harness;

use std::sync::{Arc, Mutex};

use axum::body::Bytes;
use axum::extract::State;
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use harness::{Setup, eventually, flights};

type Received = Arc<Mutex<Vec<(String, Vec<u8>)>>>;

/// A collector that keeps what it is sent and says yes: an empty `ExportTraceServiceResponse`.
async fn export(State(received): State<Received>, uri: Uri, body: Bytes) -> Response {
    received.lock().expect("received").push((uri.path().to_owned(), body.to_vec()));
    (StatusCode::OK, [("content-type", "application/grpc"), ("grpc-status", "0")], Bytes::from_static(&[0; 5]))
        .into_response()
}

// The collector must go on while this test waits for the process.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_is_a_span_in_its_callers_trace_with_its_stages() {
    let received = Received::default();
    let collector = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let endpoint = format!("http://{}", collector.local_addr().expect("its address"));
    let routes = axum::Router::new().fallback(export).with_state(Arc::clone(&received));
    let serving = tokio::spawn(async move { axum::serve(collector, routes).await });

    let mut gateway = Setup::demo().env("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint).spawn();
    let mut request = tonic::Request::new(flights("u", "JFK", &[("N14228", "UA", "LAX")]));
    let trace = "0af7651916cd43dd8448eb211c80319c";
    let parent = format!("00-{trace}-b7ad6b7169203331-01").parse().expect("a header");
    request.metadata_mut().insert("traceparent", parent);
    harness::connect(gateway.listen).await.get_features(request).await.expect("an answer");

    // Whatever is still waiting is sent when the gateway leaves.
    gateway.signal("-TERM");
    assert!(gateway.wait().success());
    let id: Vec<u8> = (0..16).map(|i| u8::from_str_radix(&trace[2 * i..2 * i + 2], 16).expect("hex")).collect();
    let holds = |body: &[u8], what: &[u8]| body.windows(what.len()).any(|w| w == what);
    eventually("the spans arrive", async || {
        let received = received.lock().expect("received");
        received.iter().any(|(path, body)| {
            path.ends_with("TraceService/Export")
                && holds(body, &id)
                && [&b"get_features"[..], b"fetch", b"transform", b"crosswind"].iter().all(|what| holds(body, what))
        })
    })
    .await;
    serving.abort();
}
