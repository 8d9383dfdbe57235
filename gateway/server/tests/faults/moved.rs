//! Fault 5: slots move and masters change places on purpose. Callers get every route from the store, and no key is
//! asked more than twice.

use weir_domain::Provenance::{Stale, Store};

use crate::cards::{Cards, ROUTES, key, loaded};
use crate::harness::eventually;
use crate::harness::redis::{Cluster, MASTERS};

const BUDGET_MS: u32 = 10_000;
const REDIRECTS: &str = "weir_store_redirects_total";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_that_moves_costs_a_redirect_a_key_until_it_is_known() {
    let cluster = Cluster::without_replicas();
    let cards = Cards::over(&loaded(&cluster.url(), BUDGET_MS)).await;
    // One that is alone in its slot.
    let is_alone = |key: &Vec<u8>| {
        let (slot, owner) = (cluster.slot(key).to_string(), cluster.owner(key));
        cluster.nodes[owner].command(&["CLUSTER", "COUNTKEYSINSLOT", &slot]) == "1"
    };
    let key = ROUTES.map(key).into_iter().find(is_alone).expect("one of so few keys");
    let (slot, from) = (cluster.slot(&key), cluster.owner(&key));
    let to = (from + 1) % MASTERS;
    // Reads of one reply, and how many of its keys were asked again.
    let ask = async || {
        let before = cards.metric(REDIRECTS).await;
        assert_eq!(cards.ask().await, [Store; ROUTES.len()]);
        cards.metric(REDIRECTS).await - before
    };
    assert_eq!(ask().await, 0.0);
    cluster.begin_to_move(slot, from, to);
    assert_eq!(ask().await, 0.0, "it is still there");
    cluster.move_key(&key, from, to);
    for _ in 0..10 {
        assert_eq!(ask().await, 1.0, "ASK: this key alone, every time");
    }
    let topologies = cards.metric("weir_store_topologies_total").await;
    cluster.end_move(slot, from, to);
    eventually("MOVED: it is asked where it is", async || {
        let redirects = ask().await;
        assert!(redirects <= 1.0, "{redirects}");
        redirects == 0.0
    })
    .await;
    assert!(cards.metric("weir_store_topologies_total").await > topologies);
    assert_eq!(cards.metric(r#"weir_store_troubles_total{kind="moved"}"#).await, 0.0, "nobody was sent on twice");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_planned_failover_costs_at_most_a_redirect_a_key() {
    let cluster = Cluster::start();
    let cards = Cards::over(&loaded(&cluster.url(), BUDGET_MS)).await;
    cards.warm(MASTERS).await;
    // The cards' routes and their destinations.
    let keys_max = 2.0 * ROUTES.len() as f64;
    let asked = cluster.nodes[MASTERS].calls("get");
    assert_eq!(cluster.nodes[MASTERS].command(&["CLUSTER", "FAILOVER"]), "OK");
    eventually("the other is the master, and known as such", async || {
        let before = cards.metric(REDIRECTS).await;
        let reply = cards.ask().await;
        let redirects = cards.metric(REDIRECTS).await - before;
        // In the moment in which neither is the master, both say so.
        assert!(
            reply.iter().all(|from| [Store, Stale].contains(from)) && redirects <= keys_max,
            "{redirects} {reply:?}"
        );
        let is_asked = cluster.is_master(MASTERS) && cluster.nodes[MASTERS].calls("get") > asked;
        is_asked && redirects == 0.0 && reply == [Store; ROUTES.len()]
    })
    .await;
    assert_eq!(cards.metric("weir_store_breaker").await, 0.0);
}
