//! Fault 11: a thousand callers want the same row at the moment when the cache no longer may serve it. The store is asked
//! once, also when the caller who asked it leaves.

use std::time::{Duration, Instant};

use futures::future::join_all;
use weir_loadtest::proxy::{Fault, Proxy, Share};
use weir_proto::v1;

use crate::harness::redis::RedisServer;
use crate::harness::{PATIENCE, Running, connect, eventually};
use crate::stored::{filled, never_fresh, provenances, route, unhurried, values};

/// Over as many connections as it takes to have them all under way at once.
const CONNECTIONS: usize = 10;
const CALLERS: usize = 1_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_callers_at_expiry_cost_one_read() {
    const FRESH_FOR: Duration = Duration::from_millis(1_500);
    let (server, setup) = filled(unhurried().edit("catalog/views.toml", "fresh_for_ms = 60000", "fresh_for_ms = 1500"));
    // A read takes long enough that others come meanwhile, however few of the callers the machine runs at a time.
    let proxy = Proxy::start(([127, 0, 0, 1], server.port()).into()).expect("a proxy");
    proxy.inject(Fault::Late { fixed: Duration::from_millis(20), jitter: Duration::ZERO }, Share::ALL);
    let gateway = setup.store(&format!("redis://{}", proxy.address())).start().await;
    let mut clients = vec![];
    for _ in 0..CONNECTIONS {
        clients.push(connect(gateway.listen()).await);
    }
    let truth = gateway.get(hot()).await.expect("an answer");
    let timeouts = async || gateway.metric(r#"weir_store_troubles_total{kind="timeout"} "#).await;
    let mut read_once = 0;
    let began = Instant::now();
    while read_once < 3 {
        assert!(began.elapsed() < PATIENCE, "never a burst within {FRESH_FOR:?}");
        // Nobody asks until the row is past its time: only then is it a stampede.
        tokio::time::sleep(FRESH_FOR + Duration::from_millis(5)).await;
        let (reads, timed_out, burst) = (server.calls("mget"), timeouts().await, Instant::now());
        let callers = (0..CALLERS).map(|n| {
            let mut client = clients[n % CONNECTIONS].clone();
            tokio::spawn(async move { client.get_features(hot()).await })
        });
        for reply in join_all(callers).await {
            let reply = reply.expect("a caller").expect("an answer").into_inner();
            assert!(provenances(&reply).all(|p| p.is_real()), "{reply:?}");
            assert_eq!(values(&reply), values(&truth));
        }
        let took = burst.elapsed();
        let reads = server.calls("mget") - reads;
        // A machine that takes longer lets the row expire again, or the read's time pass before its answer is seen.
        let expiries = (took.as_millis() / FRESH_FOR.as_millis()) as u64;
        let given_up = (timeouts().await - timed_out) as u64;
        let most = 1 + expiries + given_up;
        assert!((1..=most).contains(&reads), "{reads} reads in {took:?}, {given_up} of them given up");
        read_once += usize::from(reads == 1);
    }
    assert!(gateway.metric("weir_store_flights_joined_total ").await > 0.0);
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_the_caller_who_asked_leaves_the_others_get_what_he_asked_for() {
    const FOLLOWERS: usize = 50;
    let (server, setup) = filled(never_fresh(unhurried()));
    let proxy = Proxy::start(([127, 0, 0, 1], server.port()).into()).expect("a proxy");
    let gateway = setup.store(&format!("redis://{}", proxy.address())).start().await;
    let truth = gateway.get(hot()).await.expect("an answer");
    let began = Instant::now();
    // A read may live for a quarter of a second, and in that everybody must have come: on a busy machine some rounds
    // are over before, and do not count.
    let mut counted = 0;
    while counted < 3 {
        assert!(began.elapsed() < PATIENCE, "never a read that all waited for");
        counted += usize::from(one_read_for_all(&server, &proxy, &gateway, &truth, FOLLOWERS).await);
    }
    gateway.stop().await;
}

/// Whether one read, begun by a caller who left, answered everybody.
async fn one_read_for_all(
    server: &RedisServer,
    proxy: &Proxy,
    gateway: &Running,
    truth: &v1::GetFeaturesResponse,
    followers: usize,
) -> bool {
    let is = async |name: &str, wanted: f64| gateway.metric(name).await == wanted;
    eventually("all is quiet", async || {
        let real = gateway.get(hot()).await.is_ok_and(|reply| provenances(&reply).all(|p| p.is_real()));
        real && is("weir_store_reads_in_flight ", 0.0).await && is("weir_store_breaker ", 0.0).await
    })
    .await;
    let (reads, joined) = (server.calls("mget"), gateway.metric("weir_store_flights_joined_total ").await);
    proxy.inject(Fault::Frozen, Share::ALL);
    let mut client = gateway.client.clone();
    let leader = tokio::spawn(async move { client.get_features(hot()).await });
    eventually("the read is under way", async || leader.is_finished() || is("weir_store_reads_in_flight ", 1.0).await)
        .await;
    leader.abort();
    eventually("its caller has left", async || is("weir_in_flight ", 0.0).await).await;
    let mut callers = vec![];
    for _ in 0..followers {
        let mut client = gateway.client.clone();
        callers.push(tokio::spawn(async move { client.get_features(hot()).await }));
    }
    eventually("all others wait", async || {
        callers.iter().any(|c| c.is_finished()) || is("weir_in_flight ", followers as f64).await
    })
    .await;
    proxy.heal();
    for reply in join_all(callers).await {
        let reply = reply.expect("a caller").expect("an answer").into_inner();
        assert!(provenances(&reply).all(|p| p.is_real()), "{reply:?}");
        assert_eq!(values(&reply), values(truth));
    }
    // The route's two views are two entities.
    let all_joined = gateway.metric("weir_store_flights_joined_total ").await == joined + 2.0 * followers as f64;
    server.calls("mget") == reads + 1 && all_joined
}

fn hot() -> v1::GetFeaturesRequest {
    route("JFK", &["LAX"])
}
