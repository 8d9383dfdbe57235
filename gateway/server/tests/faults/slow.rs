//! Fault 2: a Redis that is up and does not answer. With a replica beside it, callers get what the store has, in time;
//! without, they get what was read before, and only that node's breaker opens.

use std::time::Instant;

use weir_domain::Provenance::{Stale, Store};

use crate::cards::{Cards, ROUTES, loaded, of};
use crate::harness::eventually;
use crate::harness::redis::{Cluster, RedisServer, wait};
use crate::is_quiet;

/// Longer than any test, and less than a read may live: what waits for a paused server is late.
const PAUSE_MS: &str = "600000";
const BUDGET_MS: u32 = 200;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_answers_for_a_slow_master_in_time() {
    let master = RedisServer::start_with(&["--repl-diskless-sync-delay", "0"]);
    let port = master.port().to_string();
    let replica = RedisServer::start_with(&["--replicaof", "127.0.0.1", &port]);
    let url = format!("{}/0?replicas=127.0.0.1:{}", master.url(), replica.port());
    let setup = loaded(&url, BUDGET_MS);
    wait(|| replica.command(&["DBSIZE"]) == master.command(&["DBSIZE"]));
    let cards = Cards::over(&setup).await;
    cards.warm(1).await;
    let won = cards.metric("weir_store_hedges_won_total").await;
    assert_eq!(master.command(&["CLIENT", "PAUSE", PAUSE_MS, "ALL"]), "OK");

    // Whatever comes from the store now comes from the replica. What is not hedged is stale, and nothing is lost.
    eventually("a hedge answers in time", async || {
        let asked = Instant::now();
        let reply = cards.ask().await;
        assert!(reply == [Store; ROUTES.len()] || reply == [Stale; ROUTES.len()], "{reply:?}");
        println!("{:?} after {:?}", reply[0], asked.elapsed());
        assert!(!is_quiet() || reply[0] == Stale || asked.elapsed().as_millis() < u128::from(BUDGET_MS / 4));
        reply[0] == Store
    })
    .await;
    assert!(cards.metric("weir_store_hedges_won_total").await > won);
    let per_batch = cards.attempts_per_batch().await;
    assert!(per_batch <= 1.2, "{per_batch}");

    eventually("the master counts as out, and its replica is read", async || {
        cards.ask().await == [Store; ROUTES.len()] && cards.metric("weir_store_fallbacks_total").await > 0.0
    })
    .await;
    assert_eq!(cards.metric("weir_store_replicas_out").await, 0.0);
    let per_batch = cards.attempts_per_batch().await;
    assert!(per_batch <= 1.2, "{per_batch}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_replica_a_slow_node_makes_its_own_routes_stale() {
    let cluster = Cluster::of(0, &["--cluster-require-full-coverage", "no"]);
    let cards = Cards::over(&loaded(&cluster.url(), BUDGET_MS)).await;
    let wanted = of(&cluster, 0).map(|own| if own { Stale } else { Store });
    assert_eq!(cluster.nodes[0].command(&["CLIENT", "PAUSE", PAUSE_MS, "ALL"]), "OK");
    eventually("its breaker is open", async || {
        let reply = cards.ask().await;
        assert!(reply.iter().all(|from| [Store, Stale].contains(from)), "{reply:?}");
        cards.metric("weir_store_nodes_out").await == 1.0
    })
    .await;
    eventually("the others are as ever", async || cards.ask().await == wanted).await;
    let metric = async |name| cards.metric(name).await;
    assert_eq!((metric("weir_store_nodes").await, metric("weir_store_nodes_out").await), (3.0, 1.0));
    assert_eq!(
        (metric("weir_store_breakers_held_total").await, metric("weir_store_hedges_sent_total").await),
        (0.0, 0.0)
    );
    assert!(metric(r#"weir_store_troubles_total{kind="timeout"}"#).await > 0.0);
}
