//! What a fetch answers when the store is broken in one of the ways stores break: on time, honestly, and
//! rightly again as soon as the store is.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test that fails panics")]

mod common;
#[path = "common/fake.rs"]
mod fake;
#[path = "common/scene.rs"]
mod scene;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use common::{RedisServer, free_port, until};
use fake::{Fake, Manner};
use scene::*;
use tokio::time::Instant;
use weir_domain::Provenance;
use weir_domain::catalog::Scope;
use weir_store::{Backend, BreakerState, CacheSettings, Redis, Store, Trouble};

use Provenance::{Cache, Late, Missing, Stale, Store as FromStore, Unavailable};

const BUDGET: Duration = Duration::from_millis(20);
/// Never fresh, long stale: every request asks the store and has something to fall back on.
fn never_fresh() -> weir_domain::catalog::Freshness {
    freshness(Duration::ZERO, seconds(600), Duration::ZERO)
}

fn uncached() -> weir_domain::catalog::Freshness {
    freshness(Duration::ZERO, Duration::ZERO, Duration::ZERO)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_store_costs_the_budget_and_no_more_and_thaws_within_one_probe() {
    let scene = Scene::with(never_fresh()).await;
    scene.load(&[("a", 1.0)]).await;
    assert_eq!(scene.why("a", AMPLE).await, FromStore);
    scene.server.freeze();
    let mut overruns = vec![];
    // One request after another until the breaker has opened and for a while after.
    for n in 0.. {
        let began = Instant::now();
        let reply = scene.ask(&["a", &format!("cold{n}")], BUDGET).await;
        overruns.push(began.elapsed().saturating_sub(BUDGET));
        assert_eq!((reply.provenance[0], reply.values[0]), (Stale, 1.0));
        assert!([Late, Unavailable].contains(&reply.provenance[1]), "{reply:?}");
        if scene.store.counters().breaker() != BreakerState::Closed && n > 50 {
            break;
        }
        tokio::task::yield_now().await;
    }
    overruns.sort();
    assert_eq!(overruns[overruns.len() / 2], Duration::ZERO, "half of them and more are on time");
    // Nobody waited for the store: reads live for 250 ms. (How late the worst is depends on the machine.)
    assert!(overruns[overruns.len() - 1] < Duration::from_secs(2), "{overruns:?}");
    until("reads for nobody have ended", async || scene.store.reads_in_flight() == 0).await;
    let asked = scene.store.counters().store_batches.get();
    assert_eq!(scene.why("cold", BUDGET).await, Unavailable);
    assert_eq!(scene.store.counters().store_batches.get(), asked, "an open breaker sends nothing");

    scene.server.thaw();
    let thawed = Instant::now();
    until("it is back", async || scene.why("a", AMPLE).await == FromStore).await;
    assert!(thawed.elapsed() < Duration::from_secs(3), "{:?}", thawed.elapsed());
    assert_eq!(scene.store.counters().breaker(), BreakerState::Closed);
}

#[tokio::test]
async fn a_store_that_was_killed_and_came_back_empty_is_stale_then_missing() {
    let mut scene = Scene::with(freshness(Duration::ZERO, seconds(600), seconds(600))).await;
    scene.load(&[("a", 1.0)]).await;
    assert_eq!(scene.why("a", AMPLE).await, FromStore);
    scene.server.kill();
    let reply = scene.ask(&["a", "b"], BUDGET).await;
    assert_eq!((reply.provenance[0], reply.values[0]), (Stale, 1.0));
    assert!([Late, Unavailable].contains(&reply.provenance[1]), "{reply:?}");
    until("the breaker opens", async || scene.store.counters().breaker() != BreakerState::Closed).await;
    assert!(scene.store.counters().troubles(Trouble::Connection) > 0);
    assert_eq!(scene.ask(&["a", "b"], BUDGET).await.provenance, [Stale, Unavailable]);
    scene.server.start_again();
    until("it is found again", async || scene.why("a", AMPLE).await == Missing).await;
    // The outage was not taken for an answer: "b" could not be read before and can be now.
    scene.load(&[("b", 2.0)]).await;
    assert_eq!(scene.ask(&["b"], AMPLE).await.provenance, [FromStore]);
    // "a" is gone from the store, so it is gone from the cache as well.
    scene.server.kill();
    assert_eq!(scene.why("a", BUDGET).await, Missing, "believed for negative_for");
}

#[tokio::test]
async fn a_row_that_comes_too_late_fills_the_cache_for_the_next() {
    let scene = Scene::with(freshness(seconds(60), seconds(600), seconds(60))).await;
    scene.load(&[("a", 1.0)]).await;
    scene.server.freeze();
    assert_eq!(scene.why("a", BUDGET).await, Late);
    scene.server.thaw();
    until("the late row is in the cache", async || scene.store.counters().late_fills.get() == 1).await;
    assert_eq!(scene.why("a", BUDGET).await, Cache);
    scene.store.drain().await;
    assert_eq!(scene.store.reads_in_flight(), 0);
}

#[tokio::test]
async fn nothing_is_served_past_stale_for_or_past_what_the_caller_takes() {
    let mut scene = Scene::with(freshness(seconds(10), seconds(60), seconds(10))).await;
    scene.load(&[("a", 1.0)]).await;
    assert_eq!(scene.why("a", AMPLE).await, FromStore);
    scene.server.kill();
    until("the breaker opens", async || scene.store.counters().breaker() != BreakerState::Closed).await;
    assert_eq!(scene.why("a", BUDGET).await, Cache);
    tokio::time::pause();
    tokio::time::advance(seconds(30)).await;
    let reply = scene.ask(&["a"], BUDGET).await;
    assert_eq!(reply.provenance, [Stale]);
    assert!((30_000..31_000).contains(&reply.age_ms[0]), "{reply:?}");
    let picky = weir_store::Limits { max_stale: Some(seconds(29)), ..in_time(BUDGET) };
    assert_eq!(scene.ask_within(&["a"], picky).await.provenance, [Unavailable]);
    tokio::time::advance(seconds(31)).await;
    assert_eq!(scene.ask(&["a"], BUDGET).await.provenance, [Unavailable]);
}

#[tokio::test]
async fn an_unreachable_store_is_no_reason_not_to_start() {
    let port = free_port();
    let redis = Redis::open(&address(&format!("redis://127.0.0.1:{port}"))).unwrap();
    assert_eq!(redis.settled().await, Err(Trouble::Connection));
    let store = Store::new(Backend::Redis(redis), CacheSettings::default(), NAMESPACE);
    let plan = plan_of(vec![(small_view(uncached()), Scope::Item)]);
    let ask = async || {
        let mut into = weir_domain::Gathered::default();
        store.fetch(&plan, &bound(1, vec![texts(&["a"])]), in_time(AMPLE), &mut into).await;
        Reply::of(into).provenance[0]
    };
    assert_eq!(ask().await, Unavailable);
    let _server = RedisServer::start_at(port, &[]).expect("the port is still free");
    until("it is found", async || ask().await == Missing).await;
}

#[tokio::test]
async fn a_refused_password_is_named_and_not_tried_in_a_loop() {
    let locked = || RedisServer::start_with(&["--requirepass", "right"]);
    for (login, wanted) in [("", Err(Trouble::Auth)), (":wrong@", Err(Trouble::Auth)), (":right@", Ok(()))] {
        let scene = Scene::over(locked(), small_view(uncached()), login);
        assert_eq!(scene.redis.settled().await, wanted, "{login}");
        let provenance = scene.why("a", AMPLE).await;
        assert_eq!(provenance, if wanted.is_ok() { Missing } else { Unavailable });
        // Both connections tried once, and the request was told why.
        if wanted.is_err() {
            until("both have tried", async || scene.store.counters().troubles(Trouble::Auth) == 3).await;
            tokio::time::pause();
            tokio::time::advance(seconds(2)).await;
            tokio::time::resume();
            assert_eq!(scene.store.counters().troubles(Trouble::Auth), 3);
            assert_eq!(scene.store.counters().breaker(), BreakerState::Closed, "it does answer");
        }
    }
}

#[tokio::test]
async fn a_user_who_may_not_read_is_told_so_and_the_connection_lives_on() {
    let server = RedisServer::start();
    server.command(&["ACL", "SETUSER", "blind", "on", ">pw", "~*", "+ping"]);
    let scene = Scene::over(server, small_view(uncached()), "blind:pw@");
    for _ in 0..10 {
        assert_eq!(scene.why("a", AMPLE).await, Unavailable);
    }
    let counters = scene.store.counters();
    assert_eq!((counters.troubles(Trouble::Permission), counters.connections.get() <= 2), (10, true));
    scene.server.command(&["ACL", "SETUSER", "blind", "+mget"]);
    assert_eq!(scene.why("a", AMPLE).await, Missing);
}

#[tokio::test]
async fn a_full_server_still_reads() {
    let scene = Scene::with(uncached()).await;
    scene.load(&[("a", 1.0)]).await;
    scene.server.command(&["CONFIG", "SET", "maxmemory", "1"]);
    assert_eq!(scene.why("a", AMPLE).await, FromStore);
    let mut loader = weir_store::Loader::connect(&address(&scene.server.url())).await.unwrap();
    let refused = loader.write(&small_rows(scene.view(), &[("b", 2.0)])).await.unwrap_err();
    assert!(matches!(refused, weir_store::LoadError::Refused { kind: Trouble::OutOfMemory, .. }), "{refused}");
}

#[tokio::test]
async fn a_server_that_talks_nonsense_is_unavailable_until_it_stops() {
    let array = |items: &str, n: usize| format!("*{n}\r\n{}", items.repeat(n)).into_bytes();
    let manners = [
        ("garbage", Manner::Says(b"\x16\x03\x01 what?\r\n".to_vec())),
        ("too few replies", Manner::Says(array("$-1\r\n", 1))),
        ("too many replies", Manner::Says(array("$-1\r\n", 3))),
        ("replies of another kind", Manner::Says(array(":1\r\n", 2))),
        ("no array", Manner::Says(b"+OK\r\n".to_vec())),
        ("endless nesting", Manner::Says("*1\r\n".repeat(10_000).into_bytes())),
        ("a huge promise", Manner::Says(b"*2\r\n$9999999999999\r\nabc".to_vec())),
        ("a negative length", Manner::Says(b"*2\r\n%-5\r\n".to_vec())),
        ("half a reply", Manner::HangsUpAfter(b"*2\r\n$40\r\nabc".to_vec())),
        ("no reply", Manner::HangsUpAfter(vec![])),
        ("still loading", Manner::Says(b"-LOADING Redis is loading the dataset in memory\r\n".to_vec())),
    ];
    for (name, manner) in manners {
        let fake = Fake::start(manner).await;
        let redis = Redis::open(&address(&fake.url())).unwrap();
        let store = Store::new(Backend::Redis(redis), CacheSettings::default(), NAMESPACE);
        let plan = plan_of(vec![(small_view(uncached()), Scope::Item)]);
        let ask = async || {
            let mut into = weir_domain::Gathered::default();
            store.fetch(&plan, &bound(2, vec![texts(&["a", "b"])]), in_time(BUDGET), &mut into).await;
            Reply::of(into).provenance
        };
        for _ in 0..5 {
            let said = ask().await;
            assert!(said == [Unavailable; 2] || said == [Late; 2], "{name}: {said:?}");
        }
        fake.behave(Manner::Proper);
        until(name, async || ask().await == [Missing; 2]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replies_are_never_mispaired_whatever_is_cancelled_or_cut() {
    let scene = Arc::new(Scene::with(uncached()).await);
    let rows: Vec<(String, f64)> = (0..200).map(|i| (format!("e{i}"), f64::from(i))).collect();
    scene.load(&rows).await;
    let right = Arc::new(AtomicUsize::new(0));
    let worker = |seed: usize| {
        let (scene, right) = (scene.clone(), right.clone());
        tokio::spawn(async move {
            for round in 0.. {
                let wanted: Vec<usize> = (0..7).map(|i| (seed * 31 + round * 17 + i * 3) % 200).collect();
                let ids: Vec<String> = wanted.iter().map(|i| format!("e{i}")).collect();
                let asked = scene.ask(&ids, Duration::from_millis([100, 3, 2][round % 3]));
                // Every fifth caller leaves in the middle.
                let reply = if round % 5 == 0 {
                    tokio::time::timeout(Duration::from_micros(1), asked).await.ok()
                } else {
                    Some(asked.await)
                };
                let Some(reply) = reply else { continue };
                for (i, why) in reply.provenance.iter().enumerate() {
                    match why {
                        FromStore => assert_eq!(reply.values[i], wanted[i] as f64),
                        why => assert!(matches!(why, Late | Unavailable), "{why:?}"),
                    }
                }
                right.fetch_add(reply.provenance.iter().filter(|why| **why == FromStore).count(), Relaxed);
                tokio::task::yield_now().await;
            }
        })
    };
    let workers: Vec<_> = (0..16).map(worker).collect();
    for _ in 0..10 {
        let before = right.load(Relaxed);
        until("reads succeed", async || {
            assert!(workers.iter().all(|w| !w.is_finished()), "a worker found a wrong value");
            right.load(Relaxed) > before + 1_000
        })
        .await;
        scene.server.command(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
    }
    workers.iter().for_each(|w| w.abort());
    until("it is as before", async || scene.why("e1", AMPLE).await == FromStore).await;
}

#[tokio::test]
async fn an_idle_connection_that_was_cut_is_replaced_before_anyone_needs_it() {
    let scene = Scene::with(uncached()).await;
    until("both connections are up", async || scene.store.counters().connections.get() == 2).await;
    scene.server.command(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
    until("both are replaced", async || scene.store.counters().connections.get() == 4).await;
    assert_eq!(scene.why("a", AMPLE).await, Missing);
    assert_eq!(scene.store.counters().store_batches.get(), 1);
}
