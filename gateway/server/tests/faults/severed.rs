//! Fault 7: the connections to Redis fall silent, are reset, are closed in the middle of a reply, or bring it one byte
//! at a time. Callers get true values or none, each for the entity they asked for; broken connections are replaced;
//! nothing is sent twice.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use weir_domain::{Provenance, Value};
use weir_loadtest::proxy::{Fault, Proxy, Share};

use crate::harness::redis::RedisServer;
use crate::harness::{Running, connect, eventually};
use crate::stored::{filled, never_fresh, provenances, routes, told, unhurried, value, wire};

use Provenance::{Late, Missing, Stale, Store, Unavailable};

/// Connections that a gateway keeps to a server.
const CONNECTIONS: u64 = 2;
const ORIGINS: [&str; 3] = ["JFK", "LGA", "EWR"];
const DESTS: [&str; 8] = ["LAX", "SFO", "BOS", "ORD", "MIA", "ATL", "DEN", "MCO"];
const CALLERS: usize = 12;

/// A gateway that asks its Redis for everything, through a proxy.
struct Scene {
    _server: RedisServer,
    proxy: Proxy,
    gateway: Running,
    truth: Arc<Vec<Vec<(Provenance, Value)>>>,
}

impl Scene {
    async fn start() -> Self {
        let (server, setup) = filled(never_fresh(unhurried()));
        let proxy = Proxy::start(([127, 0, 0, 1], server.port()).into()).expect("a proxy");
        let gateway = setup.store(&format!("redis://{}", proxy.address())).start().await;
        let all: Vec<usize> = (0..ORIGINS.len() * DESTS.len()).collect();
        let reply = gateway.get(question(&all)).await.expect("an answer");
        let truth: Vec<_> = all.iter().map(|i| row(&reply, *i)).collect();
        assert!(truth.iter().flatten().all(|(was, _)| [Store, Missing].contains(was)), "{truth:?}");
        // Replies that went astray would be seen.
        assert!(truth.iter().enumerate().all(|(i, row)| truth[..i].iter().all(|other| other != row)));
        Self { _server: server, proxy, gateway, truth: Arc::new(truth) }
    }

    async fn metric(&self, name: &str) -> f64 {
        self.gateway.metric(name).await
    }

    async fn troubles(&self, kind: &str) -> f64 {
        self.metric(&format!("weir_store_troubles_total{{kind=\"{kind}\"}} ")).await
    }

    /// All is as if nothing had happened.
    async fn is_well(&self) -> bool {
        let reply = self.gateway.get(question(&[3, 8, 21])).await.expect("an answer");
        provenances(&reply).all(|p| [Store, Missing].contains(&p))
            && self.metric("weir_store_breaker ").await == 0.0
            && self.proxy.counts().open == CONNECTIONS
    }
}

/// Routes by their number.
fn question(which: &[usize]) -> weir_proto::v1::GetFeaturesRequest {
    routes(&which.iter().map(|i| (ORIGINS[i / DESTS.len()], DESTS[i % DESTS.len()])).collect::<Vec<_>>())
}

fn row(reply: &weir_proto::v1::GetFeaturesResponse, at: usize) -> Vec<(Provenance, Value)> {
    reply.columns.iter().map(|column| (told(column)[at], value(wire(column), at))).collect()
}

/// Callers that ask for ever other routes, and look at every value that they get.
struct Callers {
    tasks: Vec<tokio::task::JoinHandle<()>>,
    asked: Arc<AtomicUsize>,
    /// Values that came from the store.
    real: Arc<AtomicUsize>,
}

impl Callers {
    async fn start(scene: &Scene) -> Self {
        let (asked, real) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let mut tasks = vec![];
        for seed in 0..CALLERS {
            let client = connect(scene.gateway.listen()).await;
            let (truth, asked, real) = (scene.truth.clone(), asked.clone(), real.clone());
            tasks.push(tokio::spawn(async move {
                for round in 0.. {
                    let which: Vec<usize> = (0..5).map(|i| (seed * 31 + round * 17 + i * 7) % truth.len()).collect();
                    asked.fetch_add(1, SeqCst);
                    let reply = client.clone().get_features(question(&which)).await.expect("an answer").into_inner();
                    for (at, route) in which.into_iter().enumerate() {
                        for (got, true_one) in row(&reply, at).into_iter().zip(&truth[route]) {
                            match got.0 {
                                Store | Missing => assert_eq!(got, *true_one, "of another entity"),
                                Stale => assert_eq!((Store, &got.1), (true_one.0, &true_one.1), "of another entity"),
                                why => assert!([Late, Unavailable].contains(&why), "{why:?}"),
                            }
                            real.fetch_add(usize::from(got.0 == Store), SeqCst);
                        }
                    }
                }
            }));
        }
        Self { tasks, asked, real }
    }

    /// All of them go on without having found anything wrong.
    fn are_content(&self) -> bool {
        assert!(self.tasks.iter().all(|task| !task.is_finished()), "a caller was told something wrong");
        true
    }

    /// Returns how many questions were asked.
    async fn stop(self) -> usize {
        self.are_content();
        for task in self.tasks {
            task.abort();
            let _ = task.await;
        }
        self.asked.load(SeqCst)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replies_that_are_cut_short_are_nobodys_and_their_connections_are_replaced() {
    let scene = Scene::start().await;
    let batches = scene.metric("weir_store_batches_total ").await;
    let callers = Callers::start(&scene).await;
    for fault in [
        Fault::Reset { after_bytes: 0 },
        Fault::Reset { after_bytes: 300 },
        Fault::HalfClose { after_bytes: 0 },
        Fault::HalfClose { after_bytes: 5 },
        Fault::HalfClose { after_bytes: 300 },
    ] {
        let (before, real) = (scene.proxy.counts(), callers.real.load(SeqCst));
        let made = scene.metric("weir_store_connections_total ").await;
        let broken = scene.troubles("connection").await;
        scene.proxy.inject(fault, Share::Replies(0.05));
        eventually("five replies are cut, and others pass", async || {
            let is_enough = scene.proxy.counts().struck >= before.struck + 5;
            is_enough && callers.real.load(SeqCst) > real && callers.are_content()
        })
        .await;
        scene.proxy.heal();
        eventually("all is well again", async || callers.are_content() && scene.is_well().await).await;
        // A struck reply is the end of its connection, and what ended was missed and replaced.
        eventually("five are missed", async || scene.troubles("connection").await >= broken + 5.0).await;
        // Not five, if the reply that was struck was one to a connection that was only being made.
        assert!(scene.metric("weir_store_connections_total ").await > made, "{fault:?}");
    }
    let asked = callers.stop().await as f64;
    // The scene asked too, now and then: at most once a look.
    let sent = scene.metric("weir_store_batches_total ").await - batches;
    let own = scene.metric(r#"weir_requests_total{service="route_card"} "#).await - asked;
    assert!(sent <= asked + own, "{sent} batches for {asked} + {own} requests: something was sent twice");
    scene.gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_fall_silent_for_ever_are_given_up_and_do_not_pile_up() {
    let scene = Scene::start().await;
    let callers = Callers::start(&scene).await;
    for _ in 0..2 {
        let timeouts = scene.troubles("timeout").await;
        scene.proxy.inject(Fault::BlackHole, Share::ALL);
        eventually("the breaker opens", async || {
            callers.are_content() && scene.metric("weir_store_breaker ").await != 0.0
        })
        .await;
        assert!(scene.troubles("timeout").await >= timeouts + 3.0, "silent reads opened it");
        let seen = scene.proxy.counts().connections;
        eventually("it goes on trying, and nothing waits", async || {
            let quiet = scene.metric("weir_store_reads_in_flight ").await == 0.0;
            scene.proxy.counts().connections > seen + 3 && quiet && callers.are_content()
        })
        .await;
        let reply = scene.gateway.get(question(&[0])).await.expect("an answer");
        assert!(provenances(&reply).all(|p| p == Stale || p == Missing || p == Unavailable), "{reply:?}");
        scene.proxy.heal();
        // Two connections and no more: those in the hole were closed.
        eventually("all is well again", async || callers.are_content() && scene.is_well().await).await;
    }
    callers.stop().await;
    scene.gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reply_that_comes_byte_by_byte_is_the_same_reply() {
    let scene = Scene::start().await;
    scene.proxy.inject(Fault::Slices { bytes: 1 }, Share::ALL);
    let all: Vec<usize> = (0..scene.truth.len()).collect();
    let made = scene.metric("weir_store_connections_total ").await;
    eventually("it came in time", async || {
        let reply = scene.gateway.get(question(&all)).await.expect("an answer");
        let rows: Vec<_> = all.iter().map(|i| row(&reply, *i)).collect();
        rows == *scene.truth
    })
    .await;
    assert!(scene.proxy.counts().struck > 0);
    assert_eq!(scene.troubles("protocol").await, 0.0);
    println!("{} connections replaced", scene.metric("weir_store_connections_total ").await - made);
    // And under load, where several replies lie behind one another.
    let callers = Callers::start(&scene).await;
    eventually("500 values byte by byte", async || callers.are_content() && callers.real.load(SeqCst) > 500).await;
    callers.stop().await;
    scene.gateway.stop().await;
}
