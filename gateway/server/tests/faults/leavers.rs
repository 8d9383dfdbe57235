//! Fault 15: callers leave at any moment of their calls. What is written down of them is whole or not there at all.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use futures::future::{Either, select};
use h2::Reason;
use serde_json::{Value as Json, json};
use tokio::task::JoinSet;
use tonic::Code;
use weir_loadtest::proxy::{Fault, Proxy, Share};
use weir_proto::v1;

use crate::harness::redis::RedisServer;
use crate::harness::{PATIENCE, Running, Setup, connect, eventually, repo};
use crate::is_quiet;
use crate::python::python;
use crate::stored::{load, never_fresh, route, unhurried};
use crate::wire::{Caller, GET_FEATURES, GRPC, framed};

/// Calls at a time.
const CALLS: usize = 40;
/// So many have to be answered, and so many to be left.
const ENOUGH: usize = 200;
/// What the store takes; callers leave some time before or after.
const STORE_TAKES: Duration = Duration::from_millis(3);
/// One reply behind another is there after twice that, and on a busy machine later.
const PATIENCE_MAX: Duration = Duration::from_millis(12);
const DESTS: [&str; 4] = ["LAX", "SFO", "BOS", "ORD"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_leaves_is_in_the_journal_with_all_rows_or_with_none() {
    let server = RedisServer::start();
    let setup = never_fresh(unhurried()).journal();
    load(&setup, &server);
    let proxy = Proxy::start(([127, 0, 0, 1], server.port()).into()).expect("a proxy");
    proxy.inject(Fault::late(STORE_TAKES), Share::ALL);
    let gateway = setup.store(&format!("redis://{}", proxy.address())).start().await;
    let (mut answered, mut left) = (BTreeSet::new(), 0);
    let began = Instant::now();
    while answered.len() < ENOUGH || left < ENOUGH {
        assert!(began.elapsed() < PATIENCE, "{} answered, {left} left", answered.len());
        // Not for longer on one connection: who resets so many calls is a flood.
        let client = connect(gateway.listen()).await;
        let mut calls = JoinSet::new();
        for n in 0..CALLS {
            let mut client = client.clone();
            calls.spawn(async move {
                let patience = PATIENCE_MAX * n as u32 / CALLS as u32;
                tokio::time::timeout(patience, client.get_features(route("JFK", &DESTS))).await
            });
        }
        for call in calls.join_all().await {
            match call {
                Ok(Ok(reply)) => drop(answered.insert(reply.into_inner().request_id)),
                // On a busy machine some are too many.
                Ok(Err(status)) => assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}"),
                Err(_) => left += 1,
            }
        }
    }
    eventually("nobody is inside", async || gateway.metric("weir_in_flight ").await == 0.0).await;
    let completed = gateway.metric(r#"weir_requests_total{service="route_card"} "#).await as usize;
    let cancelled = gateway.metric("weir_cancelled_total ").await as usize;
    assert!(cancelled > 0 && completed + cancelled <= answered.len() + left, "{completed} {cancelled} {left}");

    let setup = gateway.stop().await;
    let written = counts(&setup).await;
    let written = written.as_object().expect("requests");
    assert_eq!(written.len(), completed, "as many as were answered, whether or not anybody was still there");
    for (request, rows) in written {
        assert_eq!(
            *rows,
            json!({ "rows": DESTS.len(), "distinct": DESTS.len(), "last": DESTS.len() - 1 }),
            "{request}"
        );
    }
    assert!(answered.iter().all(|request| written.contains_key(request)), "and everybody who stayed");
}

/// How long the store takes while calls are begun and left: each waits for it when its caller leaves.
const STORE_IS_SLOW: Duration = Duration::from_millis(250);
/// Calls that one connection leaves. Its library counts the resets of a connection's life and says goodbye after some.
const LEFT_ON_ONE: usize = 3_000;

/// A caller that left holds a permit for no longer, at the median, on a machine that has nothing else to do.
const FREE_WITHIN: Duration = Duration::from_millis(10);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_on_which_thousands_of_calls_were_left_still_answers() {
    let server = RedisServer::start();
    let setup = never_fresh(unhurried());
    load(&setup, &server);
    let proxy = Proxy::start(([127, 0, 0, 1], server.port()).into()).expect("a proxy");
    proxy.inject(Fault::late(STORE_IS_SLOW), Share::ALL);
    let gateway = setup.store(&format!("redis://{}", proxy.address())).start().await;
    let caller = Caller::to(gateway.listen()).await;
    let message = prost::Message::encode_to_vec(&route("JFK", &["LAX"]));
    // One after another, each inside before it is left: many at a time would be a flood.
    let mut freed_us = Vec::with_capacity(LEFT_ON_ONE);
    while freed_us.len() < LEFT_ON_ONE {
        let (response, mut call) = caller.open(GET_FEATURES, GRPC).await;
        call.send_data(framed(&message).into(), true).expect("ask");
        let response = match select(Box::pin(response), Box::pin(inside(&gateway, 1))).await {
            // On a busy machine some are answered before anybody looks.
            Either::Left((reply, _)) => {
                reply.expect("an answer");
                continue;
            }
            Either::Right((_, response)) => response,
        };
        // Sending it may cost the test its core: the time runs from before.
        let left = Instant::now();
        call.send_reset(Reason::CANCEL);
        drop(response);
        inside(&gateway, 0).await;
        freed_us.push(left.elapsed().as_micros());
    }
    freed_us.sort_unstable();
    let [p50, p99] = [2, 100].map(|share| freed_us[LEFT_ON_ONE - 1 - LEFT_ON_ONE / share]);
    println!("a permit is free after p50 {p50}, p99 {p99} µs");
    assert!(p50 <= FREE_WITHIN.as_micros() || !is_quiet(), "p50 {p50}, p99 {p99} µs");
    let reply = caller.call(&[], &message).await.message::<v1::GetFeaturesResponse>();
    assert_eq!(reply.rows, 1, "on the same connection");
    let cancelled = gateway.metric("weir_cancelled_total ").await;
    assert!(cancelled > LEFT_ON_ONE as f64 * 0.9, "{cancelled} were left while they waited");
    for why in ["protocol", "flood", "lost"] {
        let ended = gateway.metric(&format!("weir_connections_ended_total{{reason=\"{why}\"}} ")).await;
        assert_eq!(ended, 0.0, "{why}");
    }
    gateway.stop().await;
}

/// Waits until so many are inside, by the gateway's own count.
async fn inside(gateway: &Running, wanted: usize) {
    let (began, in_flight) = (Instant::now(), || gateway.gateway().admission.in_flight());
    while in_flight() != wanted {
        assert!(began.elapsed() < PATIENCE, "{} inside", in_flight());
        tokio::task::yield_now().await;
    }
}

/// Rows of each request in the sealed journal.
async fn counts(setup: &Setup) -> Json {
    let script = repo().join("gateway/server/tests/readers.py");
    let journal = setup.journal_dir();
    python(&[script.to_str().expect("a path"), "counts", journal.to_str().expect("a path")]).await
}
