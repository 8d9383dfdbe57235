//! Fault 6: Redis is there and says no: it is loading, full, does not know us, or does not let us read. Callers are told
//! per value, operators by kind and in the log, and what only an operator can mend is not tried over and over.

use std::time::Instant;

use weir_domain::Provenance;
use weir_loadtest::proxy::Proxy;

use crate::harness::redis::RedisServer;
use crate::harness::{Process, connect, eventually, http_get};
use crate::stored::{filled, load, never_fresh, provenances, route, unhurried};

use Provenance::{Missing, Stale, Store, Unavailable};

/// A gateway in a process of its own, whose user of Redis is called `weir` and may be changed by the test.
struct Scene {
    server: RedisServer,
    proxy: Proxy,
    gateway: Process,
    client: weir_proto::v1::feature_service_client::FeatureServiceClient<tonic::transport::Channel>,
}

impl Scene {
    async fn start() -> Self {
        let (server, setup) = (RedisServer::start(), never_fresh(unhurried()));
        load(&setup, &server);
        server.command(&["ACL", "SETUSER", "weir", "on", ">right", "~*", "+mget", "+ping"]);
        let proxy = Proxy::start(([127, 0, 0, 1], server.port()).into()).expect("a proxy");
        // Not as an argument, where everybody on the machine sees the password.
        let gateway = setup.env("WEIR_STORE", &format!("redis://weir:right@{}", proxy.address())).spawn();
        let client = connect(gateway.listen).await;
        let scene = Self { server, proxy, gateway, client };
        assert_eq!(scene.known().await, Store);
        scene
    }

    fn user(&self, change: &str) {
        assert_eq!(self.server.command(&["ACL", "SETUSER", "weir", change]), "OK");
    }

    /// Where the values of a route come from that has been read before.
    async fn known(&self) -> Provenance {
        self.told("JFK", "LAX").await
    }

    /// The same of a route that nobody asked for yet.
    async fn unknown(&self) -> Provenance {
        self.told("LGA", "CLT").await
    }

    async fn told(&self, origin: &str, dest: &str) -> Provenance {
        let reply = self.client.clone().get_features(route(origin, &[dest])).await.expect("an answer").into_inner();
        let all: Vec<Provenance> = provenances(&reply).collect();
        assert!(all.iter().all(|p| *p == all[0]), "{all:?}");
        all[0]
    }

    async fn troubles(&self, kind: &str) -> f64 {
        self.metric(&format!("weir_store_troubles_total{{kind=\"{kind}\"}} ")).await
    }

    async fn metric(&self, name: &str) -> f64 {
        let page = http_get(self.gateway.admin, "/metrics").await.1;
        page.lines().find_map(|l| l.strip_prefix(name)).map_or(0.0, |v| v.trim().parse().expect("a number"))
    }

    /// What the log calls for an operator.
    fn errors(&self, trouble: &str) -> usize {
        let parsed = self.gateway.log().into_iter().map(|line| serde_json::from_str(&line).unwrap_or_default());
        parsed.filter(|line: &serde_json::Value| line["level"] == "ERROR" && line["trouble"] == trouble).count()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_password_that_is_no_longer_right_is_told_and_not_tried_over_and_over() {
    /// How long a connection waits after a refusal.
    const PAUSE_S: f64 = 10.0;
    let scene = Scene::start().await;
    scene.user("resetpass");
    scene.user(">another");
    let (changed, before) = (Instant::now(), scene.proxy.counts().connections);
    scene.proxy.cut();
    eventually("it is refused", async || scene.known().await == Stale && scene.troubles("auth").await > 0.0).await;
    for _ in 0..200 {
        assert_eq!((scene.known().await, scene.unknown().await), (Stale, Unavailable));
    }
    let attempts = (scene.proxy.counts().connections - before) as f64;
    let most = 2.0 * (1.0 + changed.elapsed().as_secs_f64() / PAUSE_S).ceil();
    assert!(attempts <= most, "{attempts} attempts in {:?}", changed.elapsed());
    // Until both connections have been refused, a request may hear of the one that was cut.
    let told = scene.troubles("auth").await + scene.troubles("connection").await;
    assert!(told >= 400.0, "each request was told why");
    assert_eq!(scene.metric("weir_store_breaker ").await, 0.0, "it does answer");
    let errors = scene.errors("auth");
    assert!((1..=attempts as usize).contains(&errors), "{errors} errors in the log for {attempts} attempts");
    scene.user(">right");
    eventually("it is let in", async || scene.known().await == Store && scene.unknown().await == Store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_who_may_not_read_is_told_once_per_request_and_keeps_the_connections() {
    let scene = Scene::start().await;
    let made = scene.metric("weir_store_connections_total ").await;
    let sent = scene.metric("weir_store_batches_total ").await;
    scene.user("-mget");
    for n in 1..=100 {
        assert_eq!((scene.known().await, scene.unknown().await), (Stale, Unavailable));
        assert_eq!(scene.troubles("permission").await, f64::from(2 * n));
    }
    assert_eq!(scene.metric("weir_store_batches_total ").await, sent + 200.0, "each was sent once");
    assert_eq!(scene.metric("weir_store_breaker ").await, 0.0, "it does answer");
    // An operator hears of it, and not a hundred times.
    let errors = scene.errors("permission");
    assert!((1..=20).contains(&errors), "{errors} errors in the log");
    scene.user("+mget");
    assert_eq!((scene.known().await, scene.unknown().await), (Store, Store), "at once");
    assert!(scene.metric("weir_store_connections_total ").await <= made.max(2.0), "no connection was given up");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_full_still_reads_and_says_so_to_those_who_write() {
    let (server, setup) = filled(never_fresh(unhurried()));
    let gateway = setup.start().await;
    server.command(&["CONFIG", "SET", "maxmemory", "1"]);
    let reply = gateway.get(route("JFK", &["LAX"])).await.expect("an answer");
    assert!(provenances(&reply).all(|p| p == Store), "{reply:?}");
    assert_eq!(gateway.metric(r#"weir_store_troubles_total{kind="out_of_memory"} "#).await, 0.0);
    let refused = gateway.setup.run("load", &["--store", &server.url()]);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(refused.status.code() == Some(1) && said.contains("OOM"), "{said}");
    server.command(&["CONFIG", "SET", "maxmemory", "0"]);
    load(&gateway.setup, &server);
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_loading_is_not_taken_for_an_empty_one() {
    // Slow by Redis's own means: so long for each key, with a look at the sockets after every kilobyte.
    let options = ["--key-load-delay", "500", "--loading-process-events-interval-bytes", "1024"];
    let mut server = RedisServer::start_with(&options);
    let setup = never_fresh(unhurried());
    load(&setup, &server);
    assert_eq!(server.command(&["SAVE"]), "OK");
    let gateway = setup.store(&server.url()).start().await;
    let ask = async |origin: &str, dest: &str| {
        let reply = gateway.get(route(origin, &[dest])).await.expect("an answer");
        provenances(&reply).collect::<Vec<_>>()
    };
    assert!(ask("JFK", "LAX").await.iter().all(|p| *p == Store));
    server.kill();
    // Returns when it has loaded.
    let server = tokio::task::spawn_blocking(move || {
        server.start_again();
        server
    });
    let loading = async || gateway.metric(r#"weir_store_troubles_total{kind="loading"} "#).await;
    eventually("it says that it is loading", async || {
        assert!(ask("JFK", "LAX").await.iter().all(|p| [Stale, Store].contains(p)));
        let unknown = ask("LGA", "CLT").await;
        assert!(unknown.iter().all(|p| *p != Missing), "not there yet is not missing: {unknown:?}");
        loading().await > 0.0
    })
    .await;
    eventually("it has loaded", async || {
        let unknown = ask("LGA", "CLT").await;
        assert!(unknown.iter().all(|p| *p != Missing), "not there yet is not missing: {unknown:?}");
        unknown.iter().all(|p| *p == Store) && ask("JFK", "LAX").await.iter().all(|p| *p == Store)
    })
    .await;
    assert_eq!(gateway.metric("weir_store_breaker ").await, 0.0);
    drop(server.await.expect("it starts again"));
    gateway.stop().await;
}
