//! Fault 15: callers leave at any moment of their calls. What is written down of them is whole or not there at all.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::{Value as Json, json};
use tokio::task::JoinSet;
use tonic::Code;
use weir_loadtest::proxy::{Fault, Proxy, Share};

use crate::harness::redis::RedisServer;
use crate::harness::{PATIENCE, Setup, connect, eventually, repo};
use crate::python::python;
use crate::stored::{load, never_fresh, route, unhurried};

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

/// Rows of each request in the sealed journal.
async fn counts(setup: &Setup) -> Json {
    let script = repo().join("gateway/server/tests/readers.py");
    let journal = setup.journal_dir();
    python(&[script.to_str().expect("a path"), "counts", journal.to_str().expect("a path")]).await
}
