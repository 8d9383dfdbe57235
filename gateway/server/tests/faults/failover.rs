//! Fault 4: a master of a cluster dies and its replica takes its place, seconds later. Only its slots degrade, the new
//! master is found, and every value is that of its own route throughout.

use weir_domain::Provenance::{Stale, Store};

use crate::cards::{Cards, ROUTES, loaded, of};
use crate::harness::eventually;
use crate::harness::redis::{Cluster, MASTERS, until};

/// Time that nobody runs out of: what is stale is so because the node is gone.
const BUDGET_MS: u32 = 10_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_master_s_replica_is_read_before_it_takes_over() {
    let (mut cluster, cards, own) = start("").await;
    cards.warm(MASTERS).await;
    cluster.nodes[0].kill();
    let (stale, bridged) = until_replaced(&cluster, &cards, own).await;
    println!("{stale} replies with stale routes, {bridged} with the replica's");
    assert!(bridged > 0);
    assert!(cards.metric("weir_store_fallbacks_total").await > 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_hedging_a_dead_master_s_routes_are_stale_until_it_is_replaced() {
    let (mut cluster, cards, own) = start("hedge = false\n").await;
    cluster.nodes[0].kill();
    let (stale, bridged) = until_replaced(&cluster, &cards, own).await;
    assert!(stale > 0 && bridged == 0, "{stale} stale, {bridged} bridged");
    let told = r#"weir_values_total{service="route_card",provenance="STALE"}"#;
    assert!(cards.metric(told).await >= stale as f64, "whatever was stale is counted as that");
    assert_eq!(cards.metric("weir_store_replicas").await, 0.0);
}

async fn start(config: &str) -> (Cluster, Cards, [bool; ROUTES.len()]) {
    let cluster = Cluster::of(MASTERS, &["--cluster-require-full-coverage", "no"]);
    let cards = Cards::over(&loaded(&cluster.url(), BUDGET_MS).append("weir.toml", config)).await;
    let own = of(&cluster, 0);
    (cluster, cards, own)
}

/// Asks until the replica is the master and is asked as one: how many replies had stale routes, and how many came whole
/// before that.
async fn until_replaced(cluster: &Cluster, cards: &Cards, own: [bool; ROUTES.len()]) -> (usize, usize) {
    let topologies = cards.metric("weir_store_topologies_total").await;
    let (mut stale, mut bridged) = (0, 0);
    until("its replica is the master", async || {
        let was_replica = !cluster.is_master(MASTERS);
        let reply = cards.ask().await;
        for (from, own) in reply.iter().zip(own) {
            assert!(*from == Store || own && *from == Stale, "{reply:?} of {own:?}");
        }
        stale += usize::from(reply.contains(&Stale));
        bridged += usize::from(!reply.contains(&Stale) && !cluster.is_master(MASTERS));
        !was_replica
    })
    .await;
    eventually("it is asked as the master", async || {
        let before = cards.metric("weir_store_fallbacks_total").await;
        let reply = cards.ask().await;
        reply == [Store; ROUTES.len()]
            && cards.metric("weir_store_fallbacks_total").await == before
            && cards.metric("weir_store_topologies_total").await > topologies
            && cards.metric("weir_store_nodes_out").await == 0.0
    })
    .await;
    assert!(cards.metric(r#"weir_store_troubles_total{kind="connection"}"#).await > 0.0, "the dead one's connection");
    (stale, bridged)
}
