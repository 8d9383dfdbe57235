//! What a fetch answers when nothing is broken: the right values in the right order, and where each is from.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test that fails panics")]

mod common;
#[path = "common/scene.rs"]
mod scene;

use std::sync::Arc;
use std::time::Duration;

use common::{RedisServer, until};
use scene::*;
use weir_domain::catalog::{Scope, View};
use weir_domain::{Cell, Column, FeatureType, Gathered, Kind, Provenance, Times, Value};
use weir_store::{Backend, CacheSettings, Embedded, Limits, Loader, Redis, Store, entity_keys, pack_rows};

use Provenance::{Cache, Expired, Invalid, Late, Missing, Stale, Store as FromStore};

const KINDS: [Kind; 7] = [Kind::Bool, Kind::I64, Kind::F64, Kind::F32, Kind::String, Kind::Bytes, Kind::Timestamp];

fn sample(kind: Kind, n: u8) -> Value {
    match kind {
        Kind::Bool => Value::Bool(n % 2 == 1),
        Kind::I64 => Value::I64(-i64::from(n)),
        Kind::F64 => Value::F64(f64::from(n) + 0.25),
        Kind::F32 => Value::F32(f32::from(n) - 0.5),
        Kind::String => Value::String(format!("né{n}")),
        Kind::Bytes => Value::Bytes(vec![0, 255, n]),
        Kind::Timestamp => Value::Timestamp(NOW_US + i64::from(n)),
    }
}

/// Rows of every type; in row 1 every value is null.
fn every_type(view: &View, rows: u8) -> Vec<Cell> {
    let cell = |of: FeatureType| {
        let mut column = Column::with_capacity(of, rows.into());
        let mut provenance = vec![];
        for n in 0..rows {
            let value = match of {
                FeatureType::One(kind) => sample(kind, n),
                FeatureType::List(kind) => Value::List(kind, (0..n).map(|m| sample(kind, m)).collect()),
            };
            if n == 1 {
                column.push_placeholder()
            } else {
                column.push(&value).unwrap()
            }
            provenance.push(if n == 1 { Missing } else { FromStore });
        }
        Cell { column, provenance }
    };
    view.features.iter().map(|f| cell(f.of)).collect()
}

#[tokio::test]
async fn memory_and_redis_give_the_same_values_of_every_type() {
    let types: Vec<FeatureType> = KINDS.into_iter().flat_map(|k| [FeatureType::One(k), FeatureType::List(k)]).collect();
    let view = view(&types);
    let cells = every_type(&view, 3);
    let packed = pack_rows(&view, &cells, &[NOW_US; 3]).unwrap();
    let keys = entity_keys(NAMESPACE, &view, &[texts(&["a", "", "c:s1:d"])]);
    let rows: Vec<_> = keys.into_iter().zip(packed).collect();

    let embedded = Embedded::default();
    embedded.insert(rows.clone());
    let server = RedisServer::start();
    Loader::connect(&address(&server.url())).await.unwrap().write(&rows).await.unwrap();
    let redis = Redis::open(&address(&server.url())).unwrap();

    let plan = plan_of(vec![(view, Scope::Item)]);
    let mut answers = vec![];
    for backend in [Backend::Embedded(embedded), Backend::Redis(redis)] {
        let store = Store::new(backend, CacheSettings::default(), NAMESPACE);
        let mut into = Gathered::default();
        store.fetch(&plan, &bound(3, vec![texts(&["a", "", "c:s1:d"])]), in_time(AMPLE), &mut into).await;
        for (cell, wanted) in into.cells.iter().zip(&cells) {
            assert_eq!(cell.as_ref(), Some(wanted));
        }
        answers.push(into);
    }
    assert_eq!(answers[0], answers[1]);
    assert_eq!(answers[0].times[0].event_time_us, [NOW_US; 3]);
}

#[tokio::test]
async fn a_row_comes_from_the_store_once_and_then_from_the_cache() {
    let scene = Scene::with(freshness(seconds(60), seconds(600), seconds(60))).await;
    scene.load(&[("a", 1.0), ("b", 2.0)]).await;
    let first = scene.ask(&["a", "b", "nobody"], AMPLE).await;
    assert_eq!(first.provenance, [FromStore, FromStore, Missing]);
    assert_eq!(first.values, [1.0, 2.0, 0.0]);
    let second = scene.ask(&["nobody", "b", "a"], AMPLE).await;
    assert_eq!(second.provenance, [Missing, Cache, Cache]);
    assert_eq!(second.values, [0.0, 2.0, 1.0]);
    assert_eq!(scene.server.calls("mget"), 1);
    let counters = scene.store.counters();
    assert_eq!((counters.cache_hits.get(), counters.cache_misses.get(), counters.cache_negatives.get()), (2, 3, 1));
}

#[tokio::test]
async fn a_cached_row_has_the_number_of_its_reading_until_it_is_read_again() {
    let ttl = Some(seconds(3_600));
    let view = View { ttl, ..small_view(freshness(seconds(60), seconds(600), seconds(60))) };
    let scene = Scene::over(RedisServer::start(), view, "");
    scene.load(&[("a", 1.0), ("b", 2.0)]).await;
    let (unnumbered, no_row) = (Times::UNNUMBERED, Times::NO_ROW);
    assert_eq!(scene.ask(&["a", "b", "nobody"], AMPLE).await.readings, [unnumbered, unnumbered, no_row]);
    // From the cache, then from a copy of it.
    let first = scene.ask(&["a", "b", "nobody"], AMPLE).await.readings;
    assert!(first[0] >= Times::FIRST_READING && first[1] >= Times::FIRST_READING && first[0] != first[1], "{first:?}");
    assert_eq!(first[2], no_row);
    let again = scene.ask(&["b", "nobody", "a", "b"], AMPLE).await.readings;
    assert_eq!(again, [first[1], no_row, first[0], first[1]]);
    // Another row in the same place of the copies, and the same row read once more.
    scene.load(&[("a", 3.0)]).await;
    let nothing_old = Limits { max_stale: Some(Duration::ZERO), ..in_time(AMPLE) };
    assert_eq!(scene.ask_within(&["a"], nothing_old).await.values, [3.0]);
    for _ in 0..2 {
        let anew = scene.ask(&["a", "b"], AMPLE).await;
        assert_eq!((anew.values, anew.readings[1]), (vec![3.0, 2.0], first[1]));
        assert!(anew.readings[0] > first[0], "{:?}", anew.readings);
    }
    // Too old for its view: there is no row, whatever the cache has.
    let late = Limits { now_us: NOW_US + 3_600_000_001, ..in_time(AMPLE) };
    assert_eq!(scene.ask_within(&["a"], late).await.readings, [no_row]);
}

#[tokio::test]
async fn duplicates_are_read_once_and_answered_in_order() {
    let scene = Scene::with(freshness(seconds(60), seconds(600), seconds(60))).await;
    scene.load(&[("a", 1.0), ("b", 2.0)]).await;
    let reply = scene.ask(&["b", "a", "b", "b", "a"], AMPLE).await;
    assert_eq!(reply.values, [2.0, 1.0, 2.0, 2.0, 1.0]);
    assert_eq!(reply.provenance, [FromStore; 5]);
    assert_eq!(scene.store.counters().store_keys.get(), 2);
}

#[tokio::test]
async fn all_views_of_a_request_go_in_one_command_and_a_context_read_is_one_key_of_it() {
    let scene = Scene::with(freshness(seconds(60), seconds(600), seconds(60))).await;
    scene.load(&[("u", 9.0), ("a", 1.0), ("b", 2.0)]).await;
    let view = || View::clone(scene.view());
    let plan = plan_of(vec![(view(), Scope::Context), (view(), Scope::Item)]);
    let keys = vec![texts(&["u"]), texts(&["a", "u", "b"])];
    let mut into = Gathered::default();
    scene.store.fetch(&plan, &bound(3, keys), in_time(AMPLE), &mut into).await;
    let values = |slot: usize| into.cells[slot].as_ref().unwrap().column.clone();
    assert_eq!(values(0), Column::F64(vec![9.0]));
    assert_eq!(values(1), Column::F64(vec![1.0, 9.0, 2.0]));
    assert_eq!((into.times[0].age_ms.len(), into.times[1].age_ms.len()), (1, 3));
    assert_eq!((scene.server.calls("mget"), scene.store.counters().store_keys.get()), (1, 3));
}

#[tokio::test]
async fn a_request_for_nothing_reads_nothing() {
    let scene = Scene::with(freshness(seconds(60), seconds(600), seconds(60))).await;
    assert_eq!(scene.ask::<&str>(&[], AMPLE).await.values, []);
    assert_eq!(scene.store.counters().store_batches.get(), 0);
}

#[tokio::test]
async fn a_batch_larger_than_one_command_is_answered_in_order() {
    let scene = Scene::with(freshness(seconds(60), seconds(600), seconds(60))).await;
    let rows: Vec<(String, f64)> = (0..1_500).map(|i| (format!("e{i}"), f64::from(i))).collect();
    scene.load(&rows).await;
    let ids: Vec<String> = (0..1_500).rev().map(|i| format!("e{i}")).collect();
    let reply = scene.ask(&ids, AMPLE).await;
    assert_eq!(reply.values, (0..1_500).rev().map(f64::from).collect::<Vec<_>>());
    assert_eq!((scene.store.counters().store_batches.get(), scene.server.calls("mget")), (1, 3));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_callers_of_one_cold_key_cost_one_read() {
    let scene = Arc::new(Scene::with(freshness(seconds(60), seconds(600), seconds(60))).await);
    scene.load(&[("hot", 7.0)]).await;
    let caller = |_| {
        let scene = scene.clone();
        tokio::spawn(async move { scene.ask(&["hot"], AMPLE).await.values[0] })
    };
    for task in (0..1_000).map(caller).collect::<Vec<_>>() {
        assert_eq!(task.await.unwrap(), 7.0);
    }
    assert_eq!(scene.server.calls("mget"), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_first_caller_does_not_take_the_read_with_it() {
    let scene = Arc::new(Scene::with(freshness(seconds(60), seconds(600), seconds(60))).await);
    scene.load(&[("hot", 7.0)]).await;
    scene.server.freeze();
    let caller = |_| {
        let scene = scene.clone();
        tokio::spawn(async move { scene.ask(&["hot"], AMPLE).await.values[0] })
    };
    let first = caller(0);
    until("the first caller's read is under way", async || scene.store.reads_in_flight() == 1).await;
    let others: Vec<_> = (1..100).map(caller).collect();
    until("the others wait for it", async || scene.store.counters().flights_joined.get() == 99).await;
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    scene.server.thaw();
    for task in others {
        assert_eq!(task.await.unwrap(), 7.0);
    }
    assert_eq!((scene.server.calls("mget"), scene.store.counters().store_batches.get()), (1, 1));
}

#[tokio::test]
async fn values_past_their_ttl_are_expired_in_the_cache_too() {
    let ttl = Some(seconds(3_600));
    let view = View { ttl, ..small_view(freshness(seconds(60), seconds(600), seconds(60))) };
    let scene = Scene::over(RedisServer::start(), view, "");
    scene.load(&[("a", 1.0)]).await;
    let at = |later: i64| Limits { now_us: NOW_US + later, ..in_time(AMPLE) };
    assert_eq!(scene.ask_within(&["a"], at(3_600_000_000)).await.provenance, [FromStore]);
    let expired = scene.ask_within(&["a"], at(3_600_000_001)).await;
    assert_eq!((expired.provenance, expired.values), (vec![Expired], vec![0.0]));
    assert_eq!(scene.ask_within(&["a"], at(-1)).await.provenance, [Cache], "a clock set back");
}

#[tokio::test]
async fn a_spoilt_row_is_invalid_alone_and_is_not_cached() {
    let scene = Scene::with(freshness(seconds(60), seconds(600), seconds(60))).await;
    scene.load(&[("good", 1.0), ("bad", 2.0)]).await;
    let other = View { fingerprint: 1, ..View::clone(scene.view()) };
    let alien = &small_rows(&other, &[("alien", 3.0)])[0];
    scene.server.command(&["SET".as_bytes(), &alien.0, &alien.1]);
    scene.server.command(&["SET".as_bytes(), &scene.key("bad"), b"not a row"]);
    scene.server.command(&["RPUSH".as_bytes(), &scene.key("list"), b"1"]);
    let reply = scene.ask(&["bad", "good", "alien", "list"], AMPLE).await;
    assert_eq!(reply.provenance, [Invalid, FromStore, Invalid, Missing]);
    assert_eq!(reply.values, [0.0, 1.0, 0.0, 0.0]);
    assert_eq!(scene.store.counters().invalid_rows.get(), 2);
    scene.load(&[("bad", 2.0)]).await;
    assert_eq!(scene.ask(&["bad", "good"], AMPLE).await.provenance, [FromStore, Cache]);
}

#[tokio::test]
async fn an_entity_that_appears_is_found_once_its_absence_is_no_longer_believed() {
    let scene = Scene::with(freshness(seconds(60), seconds(600), Duration::from_millis(50))).await;
    assert_eq!(scene.why("a", AMPLE).await, Missing);
    scene.load(&[("a", 1.0)]).await;
    until("the absence is forgotten", async || scene.why("a", AMPLE).await == FromStore).await;
    assert_eq!(scene.why("a", AMPLE).await, Cache);
}

#[tokio::test]
async fn a_caller_who_takes_nothing_old_reads_again() {
    let scene = Scene::with(freshness(seconds(60), seconds(600), seconds(60))).await;
    scene.load(&[("a", 1.0)]).await;
    assert_eq!(scene.why("a", AMPLE).await, FromStore);
    let nothing_old = Limits { max_stale: Some(Duration::ZERO), ..in_time(AMPLE) };
    assert_eq!(scene.ask_within(&["a"], nothing_old).await.provenance, [FromStore]);
    assert_eq!(scene.why("a", AMPLE).await, Cache);
}

#[tokio::test]
async fn with_no_time_left_the_cache_answers_and_the_store_is_not_asked() {
    let scene = Scene::with(freshness(Duration::ZERO, seconds(600), seconds(60))).await;
    scene.load(&[("a", 1.0)]).await;
    assert_eq!(scene.why("a", AMPLE).await, FromStore);
    let reply = scene.ask(&["a", "b"], Duration::ZERO).await;
    assert_eq!((reply.provenance, reply.values), (vec![Stale, Late], vec![1.0, 0.0]));
    assert_eq!(scene.store.counters().store_batches.get(), 1);
}
