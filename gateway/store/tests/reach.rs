//! The ways to a server: TLS, unix sockets, users, passwords and databases, and what is said of those that fail.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test that fails panics")]

mod common;
#[path = "common/scene.rs"]
mod scene;

use std::sync::Arc;
use std::time::Duration;

use common::{Certificates, RedisServer, until};
use scene::*;
use tokio::runtime::Handle;
use weir_domain::Provenance;
use weir_domain::catalog::Scope;
use weir_store::{Backend, CacheSettings, Loader, Redis, Replicas, Store, Trouble};

use Provenance::{Missing, Store as FromStore};

/// Loads a row through this address, and reads it back, and one that is not there.
async fn works(url: &str) -> Result<Redis, Trouble> {
    let redis = Redis::open(&address(url)).unwrap();
    redis.settled().await?;
    let store = Store::new(Backend::Redis(redis.clone()), CacheSettings::default(), NAMESPACE);
    let uncached = freshness(Duration::ZERO, Duration::ZERO, Duration::ZERO);
    let plan = plan_of(vec![(small_view(uncached), Scope::Item)]);
    let mut loader = Loader::connect(&address(url)).await.unwrap();
    loader.write(&small_rows(&plan.reads[0].view, &[("a", 1.0)])).await.unwrap();
    let mut into = weir_domain::Gathered::default();
    store.fetch(&plan, &bound(2, vec![texts(&["a", "b"])]), in_time(AMPLE), &mut into).await;
    assert_eq!(Reply::of(into).provenance, [FromStore, Missing]);
    Ok(redis)
}

async fn why_not(url: &str) -> Option<Trouble> {
    works(url).await.err()
}

#[tokio::test]
async fn over_tls_a_server_is_believed_if_the_right_authority_vouches_for_it() {
    let certs = Certificates::make("127.0.0.1");
    let (server, port) = certs.server("no");
    let (ca, other) = (certs.text("ca.pem"), certs.text("other.pem"));
    works(&format!("rediss://127.0.0.1:{port}?ca={ca}")).await.unwrap();
    works(&format!("rediss://127.0.0.1:{port}#insecure")).await.unwrap();
    assert_eq!(why_not(&format!("rediss://127.0.0.1:{port}?ca={other}")).await, Some(Trouble::Tls));
    assert_eq!(why_not(&format!("rediss://127.0.0.1:{port}?ca={other}#any-name")).await, Some(Trouble::Tls));
    // The certificate is for the address, not for this name of it.
    assert_eq!(why_not(&format!("rediss://localhost:{port}?ca={ca}")).await, Some(Trouble::Tls));
    works(&format!("rediss://localhost:{port}?ca={ca}#any-name")).await.unwrap();
    // Without a file it is for the system to say, which does not know our authority.
    assert_eq!(why_not(&format!("rediss://127.0.0.1:{port}")).await, Some(Trouble::Tls));
    // Plainly to a port that wants TLS, and the other way round.
    assert_eq!(why_not(&format!("redis://127.0.0.1:{port}")).await, Some(Trouble::Connection));
    let plain = server.port();
    let why = why_not(&format!("rediss://127.0.0.1:{plain}#insecure")).await;
    // Redis waits for the end of what it takes for a line, unless there happens to be one.
    assert!(matches!(why, Some(Trouble::Tls | Trouble::Timeout)), "{why:?}");
}

#[tokio::test]
async fn a_server_that_wants_to_know_who_we_are_is_told() {
    let certs = Certificates::make("localhost");
    let (_server, port) = certs.server("yes");
    let file = |name: &str| certs.text(name);
    let url = format!("rediss://localhost:{port}?ca={}", file("ca.pem"));
    works(&format!("{url}&cert={}&key={}", file("client.pem"), file("client.key"))).await.unwrap();
    assert_eq!(why_not(&url).await, Some(Trouble::Tls));
    let stranger = format!("{url}&cert={}&key={}", file("other.pem"), file("other.key"));
    assert_eq!(why_not(&stranger).await, Some(Trouble::Tls));
}

#[tokio::test]
async fn files_that_are_no_certificates_are_mistakes_of_the_address() {
    let certs = Certificates::make("localhost");
    let wrong = |query: &str| {
        let address = address(&format!("rediss://:secret@localhost?{query}"));
        let (checked, opened) = (address.check_files().unwrap_err(), Redis::open(&address).err().unwrap());
        assert_eq!(checked.to_string(), opened.to_string());
        opened.to_string()
    };
    let (ca, cert, key) = (certs.text("ca.pem"), certs.text("client.pem"), certs.text("client.key"));
    assert!(wrong("ca=/nowhere.pem").contains("/nowhere.pem"));
    assert!(wrong(&format!("ca={key}")).contains("has no certificate"));
    assert!(wrong(&format!("ca={ca}&cert={cert}&key={cert}")).contains("key"));
    assert!(wrong(&format!("ca={ca}&cert={cert}&key={}", certs.text("other.key"))).contains("cannot be used"));
}

#[tokio::test]
async fn a_unix_socket_leads_to_the_same_server() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("redis.sock").display().to_string();
    let options = ["--unixsocket", &path, "--databases", "4"];
    let mut server = RedisServer::start_with(&options);
    server.command(&["ACL", "SETUSER", "ann", "on", ">p@ss", "~*", "+@all"]);
    let redis = works(&format!("redis+unix://{path}?db=3&user=ann&pass=p%40ss")).await.unwrap();
    assert!(server.command(&["INFO", "keyspace"]).contains("db3:keys=1"));
    server.kill();
    until("it is missed", async || redis.settled().await == Err(Trouble::Connection)).await;
    server.start_again();
    // The user went with the server.
    until("it is there again", async || redis.settled().await == Err(Trouble::Auth)).await;
}

#[tokio::test]
async fn users_passwords_and_databases_are_what_the_address_says() {
    let server = RedisServer::start_with(&["--requirepass", "p@ss"]);
    server.command(&["ACL", "SETUSER", "ann", "on", ">pw", "~*", "+@all"]);
    server.command(&["ACL", "SETUSER", "open", "on", "nopass", "~*", "+@all"]);
    let url = |login: &str, db: &str| format!("redis://{login}@127.0.0.1:{}/{db}", server.port());
    works(&url(":p%40ss", "0")).await.unwrap();
    works(&url("ann:pw", "2")).await.unwrap();
    works(&url("open", "3")).await.unwrap();
    let keyspace = server.command(&["INFO", "keyspace"]);
    assert!(["db0:keys=1", "db2:keys=1", "db3:keys=1"].iter().all(|db| keyspace.contains(db)), "{keyspace}");
    assert_eq!(why_not(&url("ann:wrong", "0")).await, Some(Trouble::Auth));
    assert_eq!(why_not(&url("ben:pw", "0")).await, Some(Trouble::Auth));
}

#[tokio::test]
async fn a_user_who_may_read_and_nothing_else_serves() {
    let server = RedisServer::start();
    works(&server.url()).await.unwrap();
    server.command(&["ACL", "SETUSER", "reader", "on", ">pw", "~*", "-@all", "+mget"]);
    let redis = Redis::open(&address(&server.url().replace("//", "//reader:pw@"))).unwrap();
    redis.settled().await.unwrap();
    let store = Store::new(Backend::Redis(redis), CacheSettings::default(), NAMESPACE);
    let uncached = freshness(Duration::ZERO, Duration::ZERO, Duration::ZERO);
    let plan = plan_of(vec![(small_view(uncached), Scope::Item)]);
    // Long enough for its pings to have been refused.
    let refused = || server.command(&["INFO", "commandstats"]).contains("cmdstat_ping:calls=");
    until("it was pinged", async || refused()).await;
    let mut into = weir_domain::Gathered::default();
    store.fetch(&plan, &bound(1, vec![texts(&["a"])]), in_time(AMPLE), &mut into).await;
    assert_eq!(Reply::of(into).provenance, [FromStore]);
    let counters = store.counters();
    assert_eq!((counters.connections.get(), counters.troubles(Trouble::Permission)), (2, 0));
}

#[tokio::test]
async fn a_node_of_a_cluster_that_is_taken_for_a_single_server_says_so() {
    let cluster = common::Cluster::without_replicas();
    let redis = Redis::open(&address(&cluster.nodes[0].url())).unwrap();
    redis.settled().await.unwrap();
    let store = Store::new(Backend::Redis(redis), CacheSettings::default(), NAMESPACE);
    let uncached = freshness(Duration::ZERO, Duration::ZERO, Duration::ZERO);
    let plan = plan_of(vec![(small_view(uncached), Scope::Item)]);
    let ids: Vec<String> = (0..20).map(|n| n.to_string()).collect();
    let mut into = weir_domain::Gathered::default();
    store.fetch(&plan, &bound(ids.len(), vec![texts(&ids)]), in_time(AMPLE), &mut into).await;
    assert_eq!(Reply::of(into).provenance, [Provenance::Unavailable; 20]);
    assert_eq!(store.counters().troubles(Trouble::CrossSlot), 1);
}

#[tokio::test]
async fn every_runtime_asks_over_a_connection_of_its_own_while_it_is_there() {
    let server = RedisServer::start();
    let runtimes: Vec<_> = (0..2)
        .map(|_| tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap())
        .collect();
    let homes: Vec<_> = runtimes.iter().map(|runtime| runtime.handle().clone()).collect();
    let redis = Redis::open_on(homes.clone().into(), &address(&server.url()), Replicas::Ignored, None).unwrap();
    redis.settled().await.unwrap();
    let store = Store::new(Backend::Redis(redis), CacheSettings::default(), NAMESPACE);
    let uncached = freshness(Duration::ZERO, Duration::ZERO, Duration::ZERO);
    let plan = Arc::new(plan_of(vec![(small_view(uncached), Scope::Item)]));
    let ask_from = async |home: &Handle| {
        let (store, plan) = (store.clone(), Arc::clone(&plan));
        let asked = home.spawn(async move {
            let mut into = weir_domain::Gathered::default();
            store.fetch(&plan, &bound(1, vec![texts(&["nobody"])]), in_time(AMPLE), &mut into).await;
            Reply::of(into).provenance[0]
        });
        asked.await.unwrap()
    };
    // Which connections read last; a heartbeat may come between.
    let readers = || {
        let list = server.command(&["CLIENT", "LIST"]);
        let reads = list.lines().filter(|line| line.contains(" cmd=mget "));
        reads.map(|line| line.split(' ').next().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let ask_from_both = async || [ask_from(&homes[0]).await, ask_from(&homes[1]).await];
    until("each runtime reads over its own", async || ask_from_both().await == [Missing; 2] && readers().len() == 2)
        .await;
    let first = readers().remove(0);
    server.command(&["CLIENT", "KILL", "ID", first.trim_start_matches("id=")]);
    until("and again", async || {
        ask_from_both().await == [Missing; 2] && readers().len() == 2 && !readers().contains(&first)
    })
    .await;
    runtimes.into_iter().for_each(tokio::runtime::Runtime::shutdown_background);
}
