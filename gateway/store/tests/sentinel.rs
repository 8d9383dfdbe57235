//! What a fetch answers over a master that sentinels watch, while masters change and sentinels are away.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test that fails panics")]

mod common;
#[path = "common/scene.rs"]
mod scene;

use std::sync::Arc;
use std::time::Duration;

use common::{Watched, until};
use scene::*;
use tokio::time::Instant;
use weir_domain::Provenance;
use weir_domain::catalog::Scope;
use weir_domain::plan::Plan;
use weir_store::{Backend, BreakerState, CacheSettings, Loader, Redis, Replicas, Store, Trouble};

use Provenance::{Late, Missing, Store as FromStore, Unavailable};

/// A store over the master, with "a" = 1 in it.
struct Board {
    watched: Watched,
    store: Store,
    plan: Arc<Plan>,
}

impl Board {
    async fn over(watched: Watched) -> Self {
        let url = watched.url();
        Self::at(watched, &url).await
    }

    async fn at(watched: Watched, url: &str) -> Self {
        // What replicas do is another matter: see `replicas.rs`.
        let redis = Redis::open_with(&address(url), Replicas::Ignored).unwrap();
        let store = Store::new(Backend::Redis(redis.clone()), CacheSettings::default(), NAMESPACE);
        let uncached = freshness(Duration::ZERO, Duration::ZERO, Duration::ZERO);
        let plan = Arc::new(plan_of(vec![(small_view(uncached), Scope::Item)]));
        let mut loader = Loader::connect(&address(url)).await.unwrap();
        loader.write(&small_rows(&plan.reads[0].view, &[("a", 1.0)])).await.unwrap();
        redis.settled().await.unwrap();
        let board = Self { watched, store, plan };
        assert_eq!(board.why("a").await, FromStore);
        // What is not yet on the replica would be lost with the master.
        until("the replica has it", async || board.watched.servers[1].command(&["DBSIZE"]) == "1").await;
        board
    }

    async fn why(&self, id: &str) -> Provenance {
        let mut into = weir_domain::Gathered::default();
        self.store.fetch(&self.plan, &bound(1, vec![texts(&[id])]), in_time(AMPLE), &mut into).await;
        let reply = Reply::of(into);
        assert!(reply.provenance[0] != FromStore || reply.values[0] == 1.0, "{reply:?}");
        reply.provenance[0]
    }

    /// Until the other server is the master and is asked.
    async fn other_master(&self) {
        until("the new master is asked", async || {
            let why = self.why("a").await;
            assert!([FromStore, Unavailable, Late].contains(&why), "{why:?}");
            why == FromStore && self.watched.is_master(1) && self.watched.servers[1].calls("mget") > 0
        })
        .await;
        let asked = self.watched.servers[1].calls("mget");
        assert_eq!((self.why("a").await, self.why("nobody").await), (FromStore, Missing));
        assert_eq!(self.watched.servers[1].calls("mget"), asked + 2);
    }
}

#[tokio::test]
async fn a_planned_failover_is_followed_at_once() {
    let board = Board::over(Watched::start()).await;
    let counters = board.store.counters();
    assert_eq!((counters.topologies.get(), counters.node_count()), (1, 1));
    board.watched.fail_over();
    until("the sentinels agree", async || board.watched.names(1)).await;
    let announced = Instant::now();
    board.other_master().await;
    // Nobody waited for the next look, which comes every five seconds.
    assert!(announced.elapsed() < Duration::from_secs(3), "{:?}", announced.elapsed());
    assert_eq!((counters.topologies.get(), counters.node_count()), (2, 1));
    // The old one goes on thinking that it is the master until the sentinels tell it, seconds later.
    let asked = board.watched.servers[0].calls("mget");
    for _ in 0..10 {
        assert_eq!(board.why("a").await, FromStore);
    }
    assert_eq!(board.watched.servers[0].calls("mget"), asked);
}

#[tokio::test]
async fn a_master_that_dies_is_replaced_also_when_a_sentinel_died_with_it() {
    let mut board = Board::over(Watched::start()).await;
    let mut loader = Loader::connect(&address(&board.watched.url())).await.unwrap();
    board.watched.kill_sentinel(0);
    board.watched.servers[0].kill();
    assert_eq!(board.why("a").await, Unavailable);
    board.other_master().await;
    assert_eq!(board.store.counters().breaker(), BreakerState::Closed);
    let more = small_rows(&board.plan.reads[0].view, &[("b", 1.0)]);
    loader.write(&more).await.unwrap();
    assert_eq!(board.why("b").await, FromStore);
}

#[tokio::test]
async fn sentinels_that_are_gone_frozen_or_nowhere_do_not_hide_the_one_that_answers() {
    let mut watched = Watched::start();
    watched.kill_sentinel(0);
    watched.freeze_sentinel(1);
    let url = watched.url().replace("://", "://127.0.0.1:1,");
    // Whichever is asked first.
    for _ in 0..8 {
        let redis = Redis::open(&address(&url)).unwrap();
        redis.settled().await.unwrap();
    }
}

#[tokio::test]
async fn a_loader_waits_for_the_new_master() {
    let mut board = Board::over(Watched::start()).await;
    let mut loader = Loader::connect(&address(&board.watched.url())).await.unwrap();
    board.watched.servers[0].kill();
    loader.write(&small_rows(&board.plan.reads[0].view, &[("b", 1.0)])).await.unwrap();
    until("it is served", async || board.why("b").await == FromStore).await;
}

#[tokio::test]
async fn sentinels_and_servers_have_logins_of_their_own() {
    let servers = ["--requirepass", "data", "--masterauth", "data"];
    let sentinels = ["requirepass watch", "sentinel sentinel-pass watch", "sentinel auth-pass main data"];
    let watched = Watched::start_with(&servers, &sentinels);
    let url = |data: &str, watch: &str| {
        watched.url().replace("://", &format!("://:{data}@")) + &format!("/0?sentinel_password={watch}")
    };
    let right = url("data", "watch");
    for (data, watch, wanted) in
        [("data", "watch", Ok(())), ("data", "wrong", Err(Trouble::Auth)), ("wrong", "watch", Err(Trouble::Auth))]
    {
        let redis = Redis::open(&address(&url(data, watch))).unwrap();
        assert_eq!(redis.settled().await, wanted, "{data} {watch}");
    }
    let unknown = Redis::open(&address(&right.replace("/main/", "/other/"))).unwrap();
    assert_eq!(unknown.settled().await, Err(Trouble::NoMaster));
    let loaded = Loader::connect(&address(&right)).await;
    assert!(loaded.is_ok(), "{:?}", loaded.err());
}
