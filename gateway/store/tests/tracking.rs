//! Writes that Redis tells of: what was cached for an hour is read again, over every way to a server, also when the
//! write comes while the row is being read; and what holds while nobody tells.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test that fails panics")]
#![allow(clippy::print_stdout, reason = "the measurement is printed")]

mod common;
#[path = "common/relay.rs"]
mod relay;
#[path = "common/scene.rs"]
mod scene;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use common::{Certificates, Cluster, MASTERS, RedisServer, Watched, until};
use relay::Relay;
use scene::*;
use weir_domain::catalog::{Freshness, Scope};
use weir_domain::feast::HashRead;
use weir_domain::plan::Plan;
use weir_domain::{Gathered, Provenance};
use weir_store::{Backend, CacheSettings, Counters, HashAsk, HashFound, Redis, Replicas, Store, Trouble};

use Provenance::{Cache, Missing, Store as FromStore};

/// Nothing in here is read anew because it has grown old.
const HOURS: Freshness = freshness(seconds(3_600), seconds(7_200), seconds(3_600));

/// A store that tracks writes, and a plan that reads one view per item.
struct Board {
    store: Arc<Store>,
    plan: Arc<Plan>,
}

impl Board {
    fn open(url: &str) -> Self {
        let redis = Redis::open_on(Arc::default(), &address(url), Replicas::Ignored, Some(NAMESPACE)).unwrap();
        let store = Arc::new(Store::new(Backend::Redis(redis), CacheSettings::default(), NAMESPACE));
        Self { store, plan: Arc::new(plan_of(vec![(small_view(HOURS), Scope::Item)])) }
    }

    /// Waits until this many servers tell of writes.
    async fn tracking(url: &str, servers: usize) -> Self {
        let board = Self::open(url);
        until("all writes are told", async || board.counters().tracking_up() == servers).await;
        board
    }

    fn counters(&self) -> &Counters {
        self.store.counters()
    }

    async fn ask(&self, id: &str) -> (f64, Provenance) {
        let mut into = Gathered::default();
        self.store.fetch(&self.plan, &bound(1, vec![texts(&[id])]), in_time(AMPLE), &mut into).await;
        let reply = Reply::of(into);
        (reply.values[0], reply.provenance[0])
    }

    fn key(&self, id: &str) -> Bytes {
        key_of(&self.plan, id)
    }

    fn write(&self, to: &RedisServer, id: &str, x: f64) {
        let (key, row) = small_rows(&self.plan.reads[0].view, &[(id, x)]).remove(0);
        assert_eq!(to.command::<&[u8]>(&[b"SET", &key, &row]), "OK");
    }

    /// Writes, and waits until that has been heard of.
    async fn write_and_hear(&self, to: &RedisServer, id: &str, x: f64) {
        let before = self.counters().invalidations.get();
        self.write(to, id, x);
        until("the write is told", async || self.counters().invalidations.get() > before).await;
    }

    /// What is cached is served until a write is heard of, and the first to see the new value reads it from the store.
    async fn follows_a_write(&self, to: &RedisServer, id: &str, (old, new): (f64, f64)) {
        until("it is cached", async || self.ask(id).await == (old, Cache)).await;
        self.write(to, id, new);
        until("the write is seen", async || match self.ask(id).await {
            seen if seen == (old, Cache) => false,
            seen => {
                assert_eq!(seen, (new, FromStore));
                true
            }
        })
        .await;
        assert_eq!(self.ask(id).await, (new, Cache));
    }
}

/// A server with "a" = 1 in it.
fn server() -> RedisServer {
    let server = RedisServer::start();
    Board::write_unheard(&server);
    server
}

impl Board {
    fn write_unheard(server: &RedisServer) {
        let (key, row) = small_rows(&small_view(HOURS), &[("a", 1.0)]).remove(0);
        assert_eq!(server.command::<&[u8]>(&[b"SET", &key, &row]), "OK");
    }
}

#[tokio::test]
async fn what_is_written_deleted_or_new_is_read_again_at_once() {
    let server = server();
    let board = Board::tracking(&server.url(), 1).await;
    board.follows_a_write(&server, "a", (1.0, 2.0)).await;
    let counters = board.counters();
    assert_eq!((counters.invalidations.get(), counters.cache_forgotten.get()), (1, 1));
    assert_eq!(server.command::<&[u8]>(&[b"DEL", &board.key("a")]), "1");
    until("it is gone", async || board.ask("a").await == (0.0, Missing)).await;
    let reads = server.calls("mget");
    assert_eq!(board.ask("a").await, (0.0, Missing));
    assert_eq!(server.calls("mget"), reads, "nobody is asked for who is known not to be there");
    board.write(&server, "a", 3.0);
    until("it is there again", async || board.ask("a").await.0 == 3.0).await;
    assert_eq!(board.ask("a").await, (3.0, Cache));
}

#[tokio::test]
async fn who_does_not_track_serves_what_is_fresh_by_time() {
    let server = server();
    let redis = Redis::open(&address(&server.url())).unwrap();
    let store = Arc::new(Store::new(Backend::Redis(redis), CacheSettings::default(), NAMESPACE));
    let board = Board { store, ..Board::tracking(&server.url(), 1).await };
    assert_eq!(board.ask("a").await, (1.0, FromStore));
    board.write(&server, "a", 2.0);
    assert_eq!(board.ask("a").await, (1.0, Cache));
    let counters = board.counters();
    assert_eq!((counters.tracking_up(), counters.tracking_down(), counters.invalidations.get()), (0, 0, 0));
}

#[tokio::test]
async fn a_row_that_is_written_while_it_is_read_is_not_kept_and_not_shared() {
    let server = server();
    let relay = Relay::to(server.port()).await;
    let board = Arc::new(Board::tracking(&format!("redis://127.0.0.1:{}", relay.port), 1).await);
    let ask = || {
        let board = board.clone();
        tokio::spawn(async move { board.ask("a").await })
    };
    let (mut x, mut rounds) = (1.0, 0);
    // A round in which a reply was held for longer than a read may live has shown nothing.
    for _ in 0..100 {
        // Whatever is cached goes.
        board.write_and_hear(&server, "a", x).await;
        relay.hold();
        let reads = server.calls("mget");
        let early = ask();
        until("the value is on its way", async || server.calls("mget") > reads).await;
        x += 1.0;
        board.write_and_hear(&server, "a", x).await;
        let late = ask();
        until("it is read anew", async || server.calls("mget") > reads + 1 || early.is_finished()).await;
        relay.release();
        let (early, late) = (early.await.unwrap(), late.await.unwrap());
        let (forgotten, cached) = (board.counters().troubles(Trouble::Timeout), board.ask("a").await);
        assert_ne!(cached.0, x - 1.0, "the value of before was kept");
        if early == (x - 1.0, FromStore) && late.1 == FromStore {
            assert_eq!((late, cached), ((x, FromStore), (x, Cache)));
            rounds += 1;
        } else {
            assert!(forgotten > 0, "{early:?}, {late:?}");
            until("it answers again", async || board.ask("a").await.0 == x).await;
        }
        if rounds == 3 {
            return;
        }
    }
    panic!("no round counted");
}

#[tokio::test]
async fn what_is_written_unheard_is_not_fresh_once_writes_are_told_again() {
    let server = server();
    let relay = Relay::to(server.port()).await;
    let board = Board::tracking(&format!("redis://127.0.0.1:{}", relay.port), 1).await;
    assert_eq!(board.ask("a").await, (1.0, FromStore));
    assert_eq!(board.ask("nobody").await, (0.0, Missing));
    relay.refuse_tracking(true);
    assert_eq!(server.command(&["CLIENT", "KILL", "TYPE", "pubsub"]), "1");
    until("nobody tells", async || board.counters().tracking_down() == 1).await;
    board.write(&server, "a", 2.0);
    board.write(&server, "nobody", 3.0);
    // Meanwhile rows are as fresh as their view says.
    assert_eq!((board.ask("a").await, board.ask("nobody").await), ((1.0, Cache), (0.0, Missing)));
    relay.refuse_tracking(false);
    until("writes are told again", async || board.counters().tracking_up() == 1).await;
    assert_eq!((board.ask("a").await, board.ask("nobody").await), ((2.0, FromStore), (3.0, FromStore)));
    assert_eq!(board.counters().cache_flushes.get(), 2, "at the start and when tracking was back");
    board.follows_a_write(&server, "a", (2.0, 4.0)).await;
}

#[tokio::test]
async fn a_server_that_is_emptied_is_believed() {
    let server = server();
    let board = Board::tracking(&server.url(), 1).await;
    for (flush, round) in [("FLUSHALL", 1), ("FLUSHDB", 2)] {
        assert_eq!(board.ask("a").await, (1.0, FromStore));
        assert_eq!(board.ask("a").await, (1.0, Cache));
        assert_eq!(server.command(&[flush]), "OK");
        until("it is gone", async || board.ask("a").await == (0.0, Missing)).await;
        assert_eq!(board.counters().cache_flushes.get(), 1 + round);
        board.write_and_hear(&server, "a", 1.0).await;
    }
}

#[tokio::test]
async fn a_server_that_stopped_answering_is_listened_to_again() {
    let server = server();
    let board = Board::tracking(&server.url(), 1).await;
    server.freeze();
    until("its silence is noticed", async || board.counters().tracking_down() == 1).await;
    server.thaw();
    until("it tells again", async || board.counters().tracking_up() == 1).await;
    board.follows_a_write(&server, "a", (1.0, 2.0)).await;
}

#[tokio::test]
async fn writes_are_heard_over_tls_through_a_socket_and_by_users_with_few_rights() {
    let certs = Certificates::make("127.0.0.1");
    let (server, port) = certs.server("no");
    Board::write_unheard(&server);
    let few = ["+mget", "+ping", "+client|id", "+client|tracking", "+subscribe", "&__redis__:invalidate"];
    let user = ["ACL", "SETUSER", "reader", "reset", "on", ">p@ss", "~*", "-@all"];
    assert_eq!(server.command(&[&user[..], &few].concat()), "OK");
    let ca = certs.text("ca.pem");
    let url = format!("rediss://reader:p%40ss@127.0.0.1:{port}/0?ca={ca}");
    Board::tracking(&url, 1).await.follows_a_write(&server, "a", (1.0, 2.0)).await;
    let wrong = Board::open(&format!("rediss://127.0.0.1:{port}?ca={}", certs.text("other.pem")));
    until("no other authority is believed", async || wrong.counters().troubles(Trouble::Tls) >= 3).await;
    assert_eq!(wrong.counters().tracking_up(), 0);

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("redis.sock");
    let server = RedisServer::start_with(&["--unixsocket", path.to_str().unwrap()]);
    Board::write_unheard(&server);
    let board = Board::tracking(&format!("redis+unix://{}?db=0", path.display()), 1).await;
    board.follows_a_write(&server, "a", (1.0, 2.0)).await;
}

#[tokio::test]
async fn a_server_that_does_not_let_us_track_is_asked_once_and_serves_all_the_same() {
    for rights in [&["+subscribe", "&*"][..], &["+client|id", "+client|tracking", "+subscribe"]] {
        let server = server();
        let user = ["ACL", "SETUSER", "reader", "reset", "on", ">pw", "~*", "-@all", "+mget", "+ping"];
        assert_eq!(server.command(&[&user[..], rights].concat()), "OK");
        let board = Board::open(&server.url().replace("//", "//reader:pw@"));
        until("it is refused", async || board.counters().troubles(Trouble::Permission) > 0).await;
        assert_eq!(board.ask("a").await, (1.0, FromStore));
        // An impatient loop would have been refused a dozen times in this.
        let since = tokio::time::Instant::now();
        until("half a second has passed", async || since.elapsed() > Duration::from_millis(500)).await;
        assert_eq!(board.ask("a").await, (1.0, Cache));
        assert_eq!(board.counters().troubles(Trouble::Permission), 1);
        assert_eq!((board.counters().tracking_up(), board.counters().tracking_down()), (0, 1));
    }
}

#[tokio::test]
async fn every_master_of_a_cluster_tells() {
    let cluster = Cluster::without_replicas();
    let board = Board::tracking(&cluster.url(), MASTERS).await;
    let ids: Vec<String> = (0..100).map(|n| format!("e{n}")).collect();
    for node in 0..MASTERS {
        let id = ids.iter().find(|id| cluster.owner(&board.key(id)) == node).unwrap();
        board.write_and_hear(&cluster.nodes[node], id, 1.0).await;
        assert_eq!(board.ask(id).await, (1.0, FromStore));
        board.follows_a_write(&cluster.nodes[node], id, (1.0, 2.0)).await;
    }
}

#[tokio::test]
async fn after_a_failover_the_new_master_tells() {
    let watched = Watched::start();
    Board::write_unheard(&watched.servers[0]);
    let board = Board::tracking(&watched.url(), 1).await;
    assert_eq!(board.ask("a").await, (1.0, FromStore));
    until("the replica has it", async || watched.servers[1].command(&["DBSIZE"]) == "1").await;
    watched.fail_over();
    // Not asked itself before: who leads a failover cuts its connections.
    until("the sentinels agree", async || watched.names(1)).await;
    until("it is the master", async || watched.is_master(1)).await;
    board.write(&watched.servers[1], "a", 2.0);
    until("the write is seen", async || board.ask("a").await.0 == 2.0).await;
    board.follows_a_write(&watched.servers[1], "a", (2.0, 3.0)).await;
}

#[tokio::test]
async fn a_write_to_a_feast_hash_is_seen_by_all_who_read_parts_of_it() {
    let server = RedisServer::start();
    let board = Board::tracking(&server.url(), 1).await;
    let reads =
        [&["x"][..], &["x", "y"]].map(|fields| Arc::new(HashRead::new("driver", fields.iter().copied(), 3, HOURS)));
    let write = |value: &str| {
        let (x, y) = (reads[1].fields[0], reads[1].fields[1]);
        server.command::<&[u8]>(&[
            b"HSET",
            b"entity",
            &x,
            value.as_bytes(),
            &y,
            b"same",
            &reads[1].time_field,
            b"\x08\x01",
        ])
    };
    let ask = async || {
        let ask = |read: &Arc<HashRead>| HashAsk { read: read.clone(), keys: b"entity".to_vec(), ends: vec![6] };
        let found = board.store.fetch_hashes(&reads.each_ref().map(ask), in_time(AMPLE)).await.found;
        let told = found.into_iter().map(|found| match found {
            HashFound::Row { row, provenance, .. } => (provenance, row.windows(3).any(|w| w == b"new")),
            HashFound::Hole(provenance) => (provenance, false),
        });
        told.collect::<Vec<_>>()
    };
    write("old");
    assert_eq!(ask().await, [(FromStore, false); 2]);
    // The first hash that is kept widens what is told: until then only writes to keys of the namespace were.
    until("all writes are told", async || board.counters().cache_flushes.get() == 2).await;
    until("it is cached", async || ask().await == [(Cache, false); 2]).await;
    write("new");
    until("the write is seen", async || {
        let seen = ask().await;
        assert!(seen.iter().all(|seen| [(Cache, false), (FromStore, true), (Cache, true)].contains(seen)), "{seen:?}");
        seen.iter().all(|(_, is_new)| *is_new)
    })
    .await;
    assert_eq!(ask().await, [(Cache, true); 2]);
}

/// `cargo test -p weir-store --test tracking -- --ignored --nocapture`
#[tokio::test]
#[ignore = "measures the machine"]
async fn how_long_a_write_takes_to_be_seen() {
    let server = server();
    let board = Board::tracking(&server.url(), 1).await;
    let (mut gone, mut seen) = (Vec::new(), Vec::new());
    for round in 0..1_000 {
        until("it is cached", async || board.ask("a").await.1 == Cache).await;
        let (forgotten, new) = (board.counters().cache_forgotten.get(), f64::from(round) + 2.0);
        board.write(&server, "a", new);
        let written = std::time::Instant::now();
        // One thread, so that nobody who looks keeps the listener from a core.
        while board.counters().cache_forgotten.get() == forgotten {
            tokio::task::yield_now().await;
        }
        gone.push(written.elapsed().as_micros());
        assert_eq!(board.ask("a").await, (new, FromStore));
        seen.push(written.elapsed().as_micros());
    }
    for (what, mut us) in [("gone from the cache", gone), ("new value served", seen)] {
        us.sort_unstable();
        let at = |share: f64| us[((us.len() - 1) as f64 * share) as usize];
        println!("write acknowledged → {what}: p50 {}, p90 {}, p99 {}, max {} µs", at(0.5), at(0.9), at(0.99), at(1.0));
    }
}
