//! What a fetch answers over a Redis Cluster, while slots move, masters change, freeze and die: the right value
//! or none, and only the keys of the node that is in trouble are.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test that fails panics")]

mod common;
#[path = "common/scene.rs"]
mod scene;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use common::{Cluster, MASTERS, RedisServer, until};
use scene::*;
use weir_domain::Provenance;
use weir_domain::catalog::Scope;
use weir_domain::plan::Plan;
use weir_store::{Backend, BreakerState, CacheSettings, Loader, Redis, Replicas, Store, Trouble};

use Provenance::{Late, Missing, Store as FromStore, Unavailable};

/// A store over a cluster, with `e0` … `e299` in it, each with its number.
struct Board {
    cluster: Cluster,
    store: Store,
    plan: Arc<Plan>,
    ids: Vec<String>,
}

impl Board {
    async fn over(cluster: Cluster) -> Self {
        let address = address(&cluster.url());
        // What replicas do is another matter: see `replicas.rs`.
        let redis = Redis::open_with(&address, Replicas::Ignored).unwrap();
        let store = Store::new(Backend::Redis(redis.clone()), CacheSettings::default(), NAMESPACE);
        let uncached = freshness(Duration::ZERO, Duration::ZERO, Duration::ZERO);
        let plan = Arc::new(plan_of(vec![(small_view(uncached), Scope::Item)]));
        let ids: Vec<String> = (0..300).map(|n| format!("e{n}")).collect();
        let rows: Vec<(&str, f64)> = ids.iter().enumerate().map(|(n, id)| (id.as_str(), n as f64)).collect();
        let mut loader = Loader::connect(&address).await.unwrap();
        loader.write(&small_rows(&plan.reads[0].view, &rows)).await.unwrap();
        redis.settled().await.unwrap();
        Self { cluster, store, plan, ids }
    }

    fn key(&self, id: &str) -> Bytes {
        key_of(&self.plan, id)
    }

    fn owner(&self, id: &str) -> usize {
        self.cluster.owner(&self.key(id))
    }

    /// An entity of each master.
    fn of_each(&self) -> [&str; MASTERS] {
        std::array::from_fn(|node| self.ids.iter().find(|id| self.owner(id) == node).unwrap().as_str())
    }

    async fn ask<S: AsRef<str>>(&self, ids: &[S]) -> Reply {
        let mut into = weir_domain::Gathered::default();
        self.store.fetch(&self.plan, &bound(ids.len(), vec![texts(ids)]), in_time(AMPLE), &mut into).await;
        Reply::of(into)
    }

    async fn why(&self, id: &str) -> Provenance {
        let reply = self.ask(&[id]).await;
        let number: f64 = id[1..].parse().unwrap();
        assert!(reply.provenance[0] != FromStore || reply.values[0] == number, "{id}: {reply:?}");
        reply.provenance[0]
    }
}

/// Nodes that go on serving their slots when another is gone, which is not Redis' default.
const PARTIAL: [&str; 2] = ["--cluster-require-full-coverage", "no"];

#[tokio::test]
async fn keys_of_all_slots_are_read_in_one_batch_per_node() {
    let board = Board::over(Cluster::without_replicas()).await;
    let mut ids = board.ids.clone();
    ids.insert(17, "nobody".into());
    let reply = board.ask(&ids).await;
    for (i, id) in ids.iter().enumerate() {
        match id.as_str() {
            "nobody" => assert_eq!(reply.provenance[i], Missing),
            id => assert_eq!((reply.provenance[i], reply.values[i]), (FromStore, id[1..].parse().unwrap())),
        }
    }
    let counters = board.store.counters();
    assert_eq!((counters.store_batches.get(), counters.store_keys.get()), (3, 301));
    assert_eq!((counters.redirects.get(), counters.node_count()), (0, 3));
    let gets: Vec<u64> = board.cluster.nodes.iter().map(|node| node.calls("get")).collect();
    assert!(gets.iter().sum::<u64>() == 301 && gets.iter().all(|n| *n > 50), "{gets:?}");
}

#[tokio::test]
async fn a_slot_that_moved_costs_one_redirect_and_is_then_known() {
    let mut cluster = Cluster::without_replicas();
    cluster.grow();
    let board = Board::over(cluster).await;
    let (cluster, counters) = (&board.cluster, board.store.counters());
    // To a node that had no slots, and that nothing has told us of.
    let (key, from, to) = (board.key("e7"), board.owner("e7"), 3);
    let slot = cluster.slot(&key);
    assert_eq!(counters.node_count(), 3);
    cluster.begin_to_move(slot, from, to);
    cluster.move_key(&key, from, to);
    cluster.end_move(slot, from, to);
    assert_eq!(board.why("e7").await, FromStore);
    assert_eq!((counters.redirects.get(), cluster.nodes[to].calls("get")), (1, 1));
    until("the new owner is known", async || counters.node_count() == 4 && counters.topologies.get() > 1).await;
    // Asking another node may have told us of the time before, so this may take another look.
    until("it is asked at once", async || {
        let before = counters.redirects.get();
        assert_eq!(board.why("e7").await, FromStore);
        counters.redirects.get() == before
    })
    .await;
    let reply = board.ask(&board.ids).await;
    assert!(reply.provenance.iter().all(|why| *why == FromStore), "{reply:?}");
}

#[tokio::test]
async fn while_a_slot_moves_its_keys_are_found_on_either_side() {
    let board = Board::over(Cluster::without_replicas()).await;
    let ids: Vec<String> = (0..10).map(|n| format!("{{t}}{n}")).collect();
    let rows: Vec<(&str, f64)> = ids.iter().enumerate().map(|(n, id)| (id.as_str(), n as f64)).collect();
    let mut loader = Loader::connect(&address(&board.cluster.url())).await.unwrap();
    loader.write(&small_rows(&board.plan.reads[0].view, &rows)).await.unwrap();
    let (cluster, from) = (&board.cluster, board.owner("{t}0"));
    let (slot, to) = (cluster.slot(&board.key("{t}0")), (from + 1) % MASTERS);
    cluster.begin_to_move(slot, from, to);
    for moved in 0..=10 {
        let asked = [&ids[..], &["{t}nobody".into()]].concat();
        let before = board.store.counters().redirects.get();
        let reply = board.ask(&asked).await;
        assert_eq!(reply.provenance[..10], [FromStore; 10], "{moved} moved");
        assert_eq!(reply.values[..10], std::array::from_fn::<f64, 10, _>(|n| n as f64));
        assert_eq!(reply.provenance[10], Missing);
        // Those that are gone, and the one that might be.
        assert_eq!(board.store.counters().redirects.get() - before, moved + 1);
        if let Some(id) = ids.get(moved as usize) {
            cluster.move_key(&board.key(id), from, to);
        }
    }
    // A loader finds its way as well.
    let changed: Vec<(&str, f64)> = rows.iter().map(|(id, x)| (*id, x + 0.5)).collect();
    loader.write(&small_rows(&board.plan.reads[0].view, &changed)).await.unwrap();
    cluster.end_move(slot, from, to);
    let reply = board.ask(&ids).await;
    assert_eq!(reply.values, (0..10).map(|n| f64::from(n) + 0.5).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_planned_failover_is_not_noticed_by_those_who_ask() {
    let board = Board::over(Cluster::start()).await;
    let asked = board.of_each();
    assert_eq!(board.cluster.nodes[MASTERS].command(&["CLUSTER", "FAILOVER"]), "OK");
    until("the replica is the master and is asked", async || {
        for id in asked {
            // A moment in which neither is the master, and says so, is possible.
            assert!([FromStore, Unavailable].contains(&board.why(id).await));
        }
        board.cluster.is_master(MASTERS) && board.cluster.nodes[MASTERS].calls("get") > 0
    })
    .await;
    let counters = board.store.counters();
    until("nothing is redirected any more", async || {
        let before = counters.redirects.get();
        let reply = board.ask(&board.ids).await;
        reply.provenance.iter().all(|why| *why == FromStore) && counters.redirects.get() == before
    })
    .await;
    assert_eq!(counters.breaker(), BreakerState::Closed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_that_dies_takes_only_its_own_keys_and_its_replica_brings_them_back() {
    let mut board = Board::over(Cluster::of(MASTERS, &PARTIAL)).await;
    let [own, others @ ..] = board.of_each().map(str::to_owned);
    // Redis replicates after it has answered: what a replica has not got is Missing for good.
    let rows = |node: usize| board.cluster.nodes[node].command(&["DBSIZE"]);
    until("its replica has its rows", async || rows(0) == rows(MASTERS)).await;
    board.cluster.nodes[0].kill();
    let mut gone = 0;
    until("its replica serves its keys", async || {
        for other in &others {
            assert_eq!(board.why(other).await, FromStore, "{other}");
        }
        let reply = board.ask(&[own.as_str(), others[0].as_str(), others[1].as_str()]).await;
        assert_eq!(reply.provenance[1..], [FromStore; 2]);
        let why = board.why(&own).await;
        assert!([FromStore, Unavailable].contains(&why), "{why:?}");
        gone += usize::from(why == Unavailable);
        why == FromStore
    })
    .await;
    assert!(gone > 0, "it was gone for a while");
    until("all is as before", async || board.ask(&board.ids).await.provenance.iter().all(|why| *why == FromStore))
        .await;
    // The old master comes back as a replica with nothing in it, and nobody asks it for anything.
    board.cluster.nodes[0].start_again();
    until("it is a replica", async || !board.cluster.is_master(0)).await;
    for id in &board.ids {
        assert_eq!(board.why(id).await, FromStore);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_node_costs_only_its_own_keys() {
    let board = Board::over(Cluster::of(0, &PARTIAL)).await;
    let [own, one, two] = board.of_each();
    board.cluster.nodes[0].freeze();
    let counters = board.store.counters();
    until("its breaker is open", async || {
        let reply = board.ask(&[one, own, two]).await;
        assert_eq!((reply.provenance[0], reply.provenance[2]), (FromStore, FromStore));
        assert!([Late, Unavailable].contains(&reply.provenance[1]), "{reply:?}");
        counters.breaker() != BreakerState::Closed
    })
    .await;
    assert_eq!((counters.nodes_out(), counters.breakers_held.get()), (1, 0));
    // Not Late: nobody waits for it.
    for _ in 0..10 {
        assert_eq!(board.ask(&[one, own, two]).await.provenance, [FromStore, Unavailable, FromStore]);
    }
    board.cluster.nodes[0].thaw();
    until("it is back", async || board.why(own).await == FromStore).await;
    assert_eq!(counters.nodes_out(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_all_fall_silent_at_once_not_all_are_given_up() {
    let board = Board::over(Cluster::of(0, &PARTIAL)).await;
    let (counters, asked) = (board.store.counters(), board.of_each());
    board.cluster.nodes.iter().for_each(|node| node.freeze());
    until("a breaker would have opened", async || {
        board.ask(&asked).await;
        assert!(counters.nodes_out() <= 1, "{}", counters.nodes_out());
        counters.breakers_held.get() > 0
    })
    .await;
    assert_eq!(counters.nodes_out(), 1);
    board.cluster.nodes.iter().for_each(|node| node.thaw());
    until("all are back", async || board.ask(&board.ids).await.provenance.iter().all(|why| *why == FromStore)).await;
    assert_eq!(counters.nodes_out(), 0);
}

#[tokio::test]
async fn a_slot_that_nobody_has_fails_its_keys_and_says_why() {
    let board = Board::over(Cluster::of(0, &PARTIAL)).await;
    let (cluster, counters) = (&board.cluster, board.store.counters());
    let (slot, owner) = (cluster.slot(&board.key("e1")).to_string(), board.owner("e1"));
    for node in &cluster.nodes {
        assert_eq!(node.command(&["CLUSTER", "DELSLOTS", &slot]), "OK");
    }
    until("it is known that nobody has it", async || {
        assert_eq!(board.why("e1").await, Unavailable);
        counters.troubles(Trouble::NoOwner) > 0
    })
    .await;
    assert!(counters.troubles(Trouble::ClusterDown) > 0, "as its node said before");
    let reply = board.ask(&board.ids).await;
    let here = reply.provenance.iter().filter(|why| **why == FromStore).count();
    assert_eq!((reply.provenance[1], here), (Unavailable, 299));
    assert_eq!(cluster.nodes[owner].command(&["CLUSTER", "ADDSLOTS", &slot]), "OK");
    until("it is found again", async || board.why("e1").await == FromStore).await;
}

#[tokio::test]
async fn nodes_that_do_not_tell_their_names_are_where_they_were_reached() {
    let options = ["--cluster-preferred-endpoint-type", "unknown-endpoint"];
    let board = Board::over(Cluster::of(0, &options)).await;
    let reply = board.ask(&board.ids).await;
    assert!(reply.provenance.iter().all(|why| *why == FromStore), "{reply:?}");
    let (key, from) = (board.key("e7"), board.owner("e7"));
    let (slot, to) = (board.cluster.slot(&key), (from + 1) % MASTERS);
    board.cluster.begin_to_move(slot, from, to);
    board.cluster.move_key(&key, from, to);
    assert_eq!(board.why("e7").await, FromStore);
    board.cluster.end_move(slot, from, to);
    assert_eq!(board.why("e7").await, FromStore);
    assert_eq!(board.store.counters().redirects.get(), 2);
}

#[tokio::test]
async fn a_user_who_may_only_read_needs_no_more_than_the_slots() {
    let board = Board::over(Cluster::without_replicas()).await;
    for node in &board.cluster.nodes {
        node.command(&["ACL", "SETUSER", "reader", "on", ">pw", "~*", "+get", "+asking", "+cluster|slots"]);
        node.command(&["ACL", "SETUSER", "blind", "on", ">pw", "~*", "+get"]);
    }
    // The first nodes of the list are not there.
    let url = |login: &str| board.cluster.url().replace("://", &format!("://{login}@127.0.0.1:1,127.0.0.1:2,"));
    let redis = Redis::open(&address(&url("reader:pw"))).unwrap();
    redis.settled().await.unwrap();
    let reader = Board { store: Store::new(Backend::Redis(redis), CacheSettings::default(), NAMESPACE), ..board };
    let reply = reader.ask(&reader.ids).await;
    assert!(reply.provenance.iter().all(|why| *why == FromStore), "{reply:?}");
    for (login, why) in [("blind:pw", Trouble::Permission), ("reader:wrong", Trouble::Auth)] {
        let redis = Redis::open(&address(&reader.cluster.url().replace("://", &format!("://{login}@")))).unwrap();
        assert_eq!(redis.settled().await, Err(why));
    }
    let alone = RedisServer::start();
    let redis = Redis::open(&address(&alone.url().replace("redis:", "redis-cluster:"))).unwrap();
    assert_eq!(redis.settled().await, Err(Trouble::Other), "no cluster");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_loader_waits_for_a_failover_and_loses_nothing() {
    let mut board = Board::over(Cluster::start()).await;
    let mut loader = Loader::connect(&address(&board.cluster.url())).await.unwrap();
    let ids: Vec<String> = (0..5_000).map(|n| format!("e{n}")).collect();
    let rows: Vec<(&str, f64)> = ids.iter().enumerate().map(|(n, id)| (id.as_str(), n as f64)).collect();
    let rows = small_rows(&board.plan.reads[0].view, &rows);
    loader.write(&rows[..2_500]).await.unwrap();
    board.cluster.nodes[0].kill();
    loader.write(&rows[2_500..]).await.unwrap();
    until("all that was written is there", async || {
        // What the dead master had not yet told its replica is lost, as Redis has it.
        let late = board.ask(&ids[2_500..]).await;
        late.provenance.iter().all(|why| *why == FromStore)
    })
    .await;
}
