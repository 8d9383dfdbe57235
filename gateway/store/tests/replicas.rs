//! What a fetch answers when a master is slow or gone and a replica is there: the replica's value, asked for at most
//! once in ten times and only while somebody waits for it, and never a value or an absence that is not so.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test that fails panics")]

mod common;
#[path = "common/scene.rs"]
mod scene;

use std::sync::Arc;
use std::time::Duration;

use common::{Cluster, MASTERS, RedisServer, Watched, until};
use futures::FutureExt;
use scene::*;
use weir_domain::catalog::Scope;
use weir_domain::plan::Plan;
use weir_domain::{Gathered, Provenance};
use weir_store::{Backend, BreakerState, CacheSettings, Loader, Redis, Replicas, Store, Trouble, Withheld};

use Provenance::{Late, Missing, Store as FromStore, Unavailable};

/// Longer than a read may live: what a paused server is asked, it does not answer.
const PAUSE_MS: &str = "60000";
/// The time of a request that has some to spare, and ends before a read does.
const BUDGET: Duration = Duration::from_millis(150);

/// A store with a hundred entities, each with its number, that never answers from its cache.
struct Board {
    store: Store,
    plan: Arc<Plan>,
}

impl Board {
    async fn over(url: &str, replicas: Replicas) -> Self {
        let redis = Redis::open_with(&address(url), replicas).unwrap();
        let store = Store::new(Backend::Redis(redis.clone()), CacheSettings::default(), NAMESPACE);
        let uncached = freshness(Duration::ZERO, Duration::ZERO, Duration::ZERO);
        let plan = Arc::new(plan_of(vec![(small_view(uncached), Scope::Item)]));
        let rows: Vec<(String, f64)> = (0..100).map(|n| (format!("e{n}"), f64::from(n))).collect();
        let mut loader = Loader::connect(&address(url)).await.unwrap();
        loader.write(&small_rows(&plan.reads[0].view, &rows)).await.unwrap();
        redis.settled().await.unwrap();
        Self { store, plan }
    }

    async fn ask(&self, id: &str, budget: Duration) -> Provenance {
        let mut into = Gathered::default();
        self.store.fetch(&self.plan, &bound(1, vec![texts(&[id])]), in_time(budget), &mut into).await;
        let reply = Reply::of(into);
        assert!(reply.provenance[0] != FromStore || Ok(reply.values[0]) == id[1..].parse(), "{id}: {reply:?}");
        reply.provenance[0]
    }

    /// Asks for all, so often that the nodes' times are known and a few hedges are saved up.
    async fn warm(&self) {
        let mut answered = 0;
        while answered < 200 {
            let why = self.ask(&format!("e{}", answered % 100), AMPLE).await;
            answered = if why == FromStore { answered + 1 } else { 0 };
        }
    }

    fn withheld(&self, why: Withheld) -> u64 {
        self.store.counters().hedges_withheld(why)
    }
}

/// A master, its replica, and a store that knows both.
struct Pair {
    master: RedisServer,
    replica: RedisServer,
    board: Board,
}

impl Pair {
    async fn start(replicas: Replicas) -> Self {
        let master = RedisServer::start_with(&["--repl-diskless-sync-delay", "0"]);
        let port = master.port().to_string();
        let replica = RedisServer::start_with(&["--replicaof", "127.0.0.1", &port]);
        common::wait(|| is_linked(&replica));
        let url = format!("{}/?replicas=127.0.0.1:{}", master.url(), replica.port());
        let board = Board::over(&url, replicas).await;
        until("the replica has everything", async || replica.command(&["DBSIZE"]) == "100").await;
        Self { master, replica, board }
    }

    fn pause(&self) {
        assert_eq!(self.master.command(&["CLIENT", "PAUSE", PAUSE_MS, "ALL"]), "OK");
    }
}

fn is_linked(replica: &RedisServer) -> bool {
    replica.command(&["INFO", "replication"]).contains("master_link_status:up")
}

#[tokio::test]
async fn when_the_master_stops_its_replica_answers_within_the_quota_and_then_in_its_place() {
    let Pair { master, replica, board } = &Pair::start(Replicas::Read).await;
    board.warm().await;
    let counters = board.store.counters();
    // On a busy machine a healthy master may have been slow as well.
    let (sent, asked) = (counters.hedges_sent.get(), counters.store_batches.get());
    assert_eq!(counters.store_attempts.get(), asked + sent);
    master.freeze();
    assert_eq!(board.ask("e1", BUDGET).await, FromStore);
    assert!(counters.hedges_won.get() > 0 && replica.calls("mget") > 0);
    until("the quota is used up and the breaker opens", async || {
        let why = board.ask("e2", BUDGET).await;
        assert!([FromStore, Late, Unavailable].contains(&why), "{why:?}");
        counters.breaker() != BreakerState::Closed
    })
    .await;
    // A few were saved up, and a tenth of what came since.
    let (sent, asked) = (counters.hedges_sent.get() - sent, counters.store_batches.get() - asked);
    assert!(sent as f64 <= 25.0 + asked as f64 * 0.1, "{sent} of {asked}");
    let before = counters.fallbacks.get();
    until("the replica is read in its place", async || board.ask("e3", BUDGET).await == FromStore).await;
    assert!(counters.fallbacks.get() > before);
    assert_eq!((counters.nodes_out(), counters.replicas.out(), counters.replicas.count()), (1, 0, 1));
    // One server alone: what a replica does not have is not there.
    assert_eq!(board.ask("nobody", BUDGET).await, Missing);
    master.thaw();
    until("the master is asked again", async || {
        let before = counters.fallbacks.get();
        board.ask("e4", AMPLE).await == FromStore && counters.fallbacks.get() == before
    })
    .await;
}

#[tokio::test]
async fn hedges_are_withheld_when_they_would_help_nobody() {
    let pair = Pair::start(Replicas::Read).await;
    let (board, counters) = (&pair.board, pair.board.store.counters());
    board.warm().await;
    pair.pause();
    let sent = counters.hedges_sent.get();
    // A caller who leaves while the master is still waited for.
    let (mut into, plan) = (Gathered::default(), board.plan.clone());
    let bound = bound(1, vec![texts(&["e1"])]);
    let mut fetch = Box::pin(board.store.fetch(&plan, &bound, in_time(AMPLE), &mut into));
    assert!(fetch.as_mut().now_or_never().is_none());
    drop(fetch);
    until("it is seen that nobody waits", async || board.withheld(Withheld::NobodyWaits) > 0).await;
    assert_eq!(counters.hedges_sent.get(), sent);
    // A caller who has no time left.
    until("it is seen again", async || {
        assert_eq!(board.ask("e2", Duration::from_micros(50)).await, Late);
        board.withheld(Withheld::NobodyWaits) > 1
    })
    .await;
    // A replica that is a master of its own by now may have anything.
    assert_eq!(pair.replica.command(&["REPLICAOF", "NO", "ONE"]), "OK");
    until("it is known to be none", async || counters.troubles(Trouble::NotReplica) > 1).await;
    pair.replica.command(&["FLUSHALL"]);
    for _ in 0..5 {
        let why = board.ask("e3", BUDGET).await;
        assert!([Late, Unavailable].contains(&why), "{why:?}");
    }
}

#[tokio::test]
async fn replicas_that_are_ignored_are_not_even_connected_to() {
    let pair = Pair::start(Replicas::Ignored).await;
    pair.board.warm().await;
    pair.pause();
    assert_eq!(pair.board.ask("e1", BUDGET).await, Late);
    let counters = pair.board.store.counters();
    assert_eq!((counters.hedges_sent.get(), counters.replicas.count(), pair.replica.calls("role")), (0, 0, 0));
    assert_eq!(counters.store_attempts.get(), counters.store_batches.get());
}

#[tokio::test]
async fn the_replica_that_sentinels_name_answers_for_a_paused_master() {
    let watched = Watched::start();
    let board = Board::over(&watched.url(), Replicas::Read).await;
    until("the replica has everything", async || watched.servers[1].command(&["DBSIZE"]) == "100").await;
    let counters = board.store.counters();
    until("its master's time is known", async || {
        board.warm().await;
        counters.replicas.count() == 1 && watched.servers[1].calls("role") > 0
    })
    .await;
    // Sentinels make nothing of so short a pause.
    assert_eq!(watched.servers[0].command(&["CLIENT", "PAUSE", "300", "ALL"]), "OK");
    assert_eq!(board.ask("e1", BUDGET).await, FromStore);
    assert!(counters.hedges_won.get() > 0);
}

#[tokio::test]
async fn in_a_cluster_what_a_replica_does_not_have_is_not_taken_for_missing() {
    let cluster = Cluster::start();
    let board = Board::over(&cluster.url(), Replicas::Read).await;
    let counters = board.store.counters();
    until("the replicas are known", async || counters.replicas.count() == MASTERS).await;
    let [here, gone] = {
        let slot = |n: u32| cluster.slot(&key_of(&board.plan, &format!("e{n}")));
        let owner = |n: u32| cluster.owner(&key_of(&board.plan, &format!("e{n}")));
        let other = (1..100).find(|n| owner(*n) == owner(0) && slot(*n) != slot(0)).unwrap();
        [format!("e{other}"), "e0".to_owned()]
    };
    let key = key_of(&board.plan, &gone);
    let (slot, from) = (cluster.slot(&key), cluster.owner(&key));
    // The key moves; the slot is not handed over yet, so its old master alone knows where it went.
    cluster.begin_to_move(slot, from, (from + 1) % MASTERS);
    cluster.move_key(&key, from, (from + 1) % MASTERS);
    until("the replica has followed", async || {
        let keys = |node: usize| cluster.nodes[node].command(&["DBSIZE"]);
        keys(from) == keys(from + MASTERS)
    })
    .await;
    assert_eq!(board.ask(&gone, AMPLE).await, FromStore);
    // Frozen, not paused: a paused master still says where the keys went that it does not have. So short that the
    // cluster makes nothing of it.
    let ask_frozen = async |id: &str| {
        until("the master answers", async || board.ask(&here, AMPLE).await == FromStore).await;
        board.warm().await;
        let won = counters.hedges_won.get();
        cluster.nodes[from].freeze();
        let why = board.ask(id, BUDGET).await;
        cluster.nodes[from].thaw();
        assert!([FromStore, Late].contains(&why), "{why:?}");
        (why, counters.hedges_won.get() > won)
    };
    until("its replica answers for a silent master", async || ask_frozen(&here).await == (FromStore, true)).await;
    let asked = cluster.nodes[from + MASTERS].calls("get");
    until("and is asked for what it does not have", async || {
        assert_eq!(ask_frozen(&gone).await.0, Late);
        cluster.nodes[from + MASTERS].calls("get") > asked
    })
    .await;
    until("its master still tells where it is", async || board.ask(&gone, AMPLE).await == FromStore).await;
}
