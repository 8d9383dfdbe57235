//! Stale while revalidate: rows past their freshness are served at once, and one read in the background gets them anew.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test that fails panics")]

mod common;
#[path = "common/scene.rs"]
mod scene;

use std::time::Duration;

use common::until;
use futures::future::join_all;
use scene::*;
use weir_domain::Provenance;
use weir_domain::catalog::Freshness;
use weir_store::BreakerState;

use Provenance::{Cache, Stale, Store as FromStore};

/// Fresh for ten seconds, then served for another hour while it is read again.
fn revalidated() -> Freshness {
    let hour = seconds(3_600);
    Freshness { revalidate_for: hour, ..freshness(seconds(10), seconds(7_200), Duration::ZERO) }
}

/// The clock goes on by so much at once.
async fn later(by: Duration) {
    tokio::time::pause();
    tokio::time::advance(by).await;
    tokio::time::resume();
}

#[tokio::test]
async fn a_row_past_its_freshness_is_served_at_once_and_read_again_once_for_all() {
    let scene = Scene::with(revalidated()).await;
    scene.load(&[("a", 1.0)]).await;
    assert_eq!(scene.why("a", AMPLE).await, FromStore);
    scene.load(&[("a", 2.0)]).await;
    assert_eq!(scene.ask(&["a"], AMPLE).await.values, [1.0], "it is fresh");
    later(seconds(15)).await;
    // Nobody waits, so nothing is read before the last one was answered.
    for reply in join_all((0..5).map(|_| scene.ask(&["a"], AMPLE))).await {
        assert_eq!((reply.provenance, reply.values), (vec![Stale], vec![1.0]));
        assert!((15_000..60_000).contains(&reply.age_ms[0]), "{:?}", reply.age_ms);
    }
    let counters = scene.store.counters();
    assert_eq!((counters.revalidations.get(), counters.store_batches.get()), (1, 1), "not sent yet");
    scene.store.drain().await;
    let reply = scene.ask(&["a"], AMPLE).await;
    assert_eq!((reply.provenance, reply.values), (vec![Cache], vec![2.0]));
    assert_eq!((counters.revalidations.get(), counters.store_batches.get()), (1, 2));
    assert_eq!((counters.cache_stale.get(), counters.cache_misses.get(), counters.late_fills.get()), (5, 1, 0));
    assert_eq!((counters.cache_hits.get(), counters.flights_joined.get()), (2, 0));
}

#[tokio::test]
async fn what_ages_does_not_wait_for_what_is_missing_nor_the_other_way_round() {
    let scene = Scene::with(revalidated()).await;
    scene.load(&[("a", 1.0), ("b", 2.0)]).await;
    assert_eq!(scene.why("a", AMPLE).await, FromStore);
    later(seconds(15)).await;
    assert_eq!(scene.ask(&["a", "b"], AMPLE).await.provenance, [Stale, FromStore]);
    scene.store.drain().await;
    assert_eq!(scene.ask(&["a", "b"], AMPLE).await.provenance, [Cache, Cache]);
    // Past the time in which it is served at once, the store is waited for.
    later(seconds(4_000)).await;
    assert_eq!(scene.ask(&["a"], AMPLE).await.provenance, [FromStore]);
}

#[tokio::test]
async fn reads_that_nobody_waits_for_are_few() {
    const FEW: u64 = 64;
    let ids: Vec<String> = (0..100).map(|n| format!("k{n}")).collect();
    let rows: Vec<(&str, f64)> = ids.iter().map(|id| (id.as_str(), 1.0)).collect();
    let scene = Scene::with(revalidated()).await;
    scene.load(&rows).await;
    assert_eq!(scene.ask(&ids, AMPLE).await.provenance, vec![FromStore; 100]);
    later(seconds(15)).await;
    for reply in join_all(ids.iter().map(|id| scene.ask(std::slice::from_ref(id), AMPLE))).await {
        assert_eq!(reply.provenance, [Stale]);
    }
    let counters = scene.store.counters();
    let counts = || (counters.revalidations.get(), counters.revalidations_withheld.get());
    assert_eq!((counts(), scene.store.reads_in_flight() as u64), ((FEW, 100 - FEW), FEW));
    scene.store.drain().await;
    // The others' turn comes when they are asked for again.
    let reply = scene.ask(&ids, AMPLE).await;
    assert_eq!(reply.provenance.iter().filter(|p| **p == Cache).count() as u64, FEW);
    assert_eq!(counts(), (100, 100 - FEW));
    scene.store.drain().await;
    assert_eq!(scene.ask(&ids, AMPLE).await.provenance, vec![Cache; 100]);
}

#[tokio::test]
async fn a_store_that_is_out_is_not_asked_and_nothing_too_old_is_served() {
    let mut scene = Scene::with(revalidated()).await;
    scene.load(&[("a", 1.0)]).await;
    assert_eq!(scene.why("a", AMPLE).await, FromStore);
    scene.server.kill();
    until("the breaker opens", async || scene.store.counters().breaker() != BreakerState::Closed).await;
    later(seconds(3_000)).await;
    let batches = scene.store.counters().store_batches.get();
    assert_eq!(scene.why("a", AMPLE).await, Stale);
    assert_eq!(scene.store.counters().revalidations_withheld.get(), 1);
    assert_eq!(scene.store.counters().store_batches.get(), batches);
    later(seconds(4_201)).await;
    assert!(scene.why("a", AMPLE).await.is_absent());
}
