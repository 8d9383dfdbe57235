//! Fault 3: Redis is killed and comes back empty. What was known is stale and then missing, a default is never taken
//! for a value, and the server is sought with pauses, never by requests.

use std::time::Instant;

use weir_domain::{Provenance, Value};
use weir_loadtest::proxy::Proxy;
use weir_proto::v1;

use crate::harness::{eventually, flights};
use crate::stored::{filled, load, never_fresh, on_a_port_of_its_own, one, provenances, route, unhurried};

use Provenance::{DefaultLate, DefaultMissing, DefaultUnavailable, Late, Missing, Stale, Store, Unavailable};

#[tokio::test]
async fn a_store_that_comes_back_empty_is_missing_and_its_defaults_are_never_taken_for_values() {
    let mut server = on_a_port_of_its_own();
    let setup = never_fresh(unhurried()).edit("catalog/views.toml", "negative_for_ms = 5000", "negative_for_ms = 0");
    load(&setup, &server);
    let gateway = setup.store(&server.url()).start().await;
    let flight = || flights("", "JFK", &[("N14228", "UA", "LAX")]);
    let real = gateway.get(flight()).await.expect("an answer");
    let delay = |reply: &v1::GetFeaturesResponse| one(reply, "carrier:arr_delay_mean_7d_min");
    let place = |reply: &v1::GetFeaturesResponse| one(reply, "destination:lat");
    assert_eq!((delay(&real).0, place(&real).0), (Store, Store));
    server.kill();
    eventually("the cache stands in", async || {
        let reply = gateway.get(flight()).await.expect("an answer");
        assert_eq!(delay(&reply).1, delay(&real).1);
        delay(&reply).0 == Stale && place(&reply).0 == Stale
    })
    .await;
    let metric = async |name: &str| gateway.metric(name).await;
    assert!(metric(r#"weir_values_total{service="arrival_delay",provenance="STALE"} "#).await > 0.0);
    assert!(metric(r#"weir_store_troubles_total{kind="connection"} "#).await > 0.0);
    server.start_again();
    let default = (DefaultMissing, Value::F64(1.3));
    eventually("it is found empty", async || {
        let reply = gateway.get(flight()).await.expect("an answer");
        place(&reply).0 == Missing && delay(&reply) == default
    })
    .await;
    // Were the default cached, it would be what is left now.
    server.kill();
    eventually("nothing is left", async || {
        let reply = gateway.get(flight()).await.expect("an answer");
        let (was, value) = delay(&reply);
        assert!([DefaultMissing, DefaultLate, DefaultUnavailable].contains(&was) && value == default.1, "{was:?}");
        was == DefaultUnavailable && place(&reply).0 == Unavailable
    })
    .await;
    assert!(metric(r#"weir_values_total{service="arrival_delay",provenance="DEFAULT_UNAVAILABLE"} "#).await > 0.0);
    server.start_again();
    load(&gateway.setup, &server);
    eventually("the data are back", async || {
        let reply = gateway.get(flight()).await.expect("an answer");
        delay(&reply) == delay(&real) && place(&reply) == place(&real)
    })
    .await;
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_server_is_sought_with_pauses_and_requests_do_not_seek_it() {
    /// Each of two connections: pauses of 20, 40 … ms, then of at least half of 400 ms.
    const EARLY_ATTEMPTS: f64 = 6.0;
    const PAUSE_MIN_S: f64 = 0.2;
    let (mut server, setup) = filled(never_fresh(unhurried()));
    let proxy = Proxy::start(([127, 0, 0, 1], server.port()).into()).expect("a proxy");
    let gateway = setup.store(&format!("redis://{}", proxy.address())).start().await;
    let ask = async || gateway.get(route("JFK", &["LAX"])).await.expect("an answer");
    assert!(provenances(&ask().await).all(|p| p == Store));
    let (killed, before) = (Instant::now(), proxy.counts().connections);
    server.kill();
    eventually("the breaker is open", async || {
        assert!(provenances(&ask().await).all(|p| p == Stale || p == Store));
        gateway.metric("weir_store_breaker ").await != 0.0
    })
    .await;
    let sent = gateway.metric("weir_store_batches_total ").await;
    for _ in 0..500 {
        assert!(provenances(&ask().await).all(|p| p == Stale));
        let unknown = gateway.get(route("LGA", &["CLT"])).await.expect("an answer");
        assert!(provenances(&unknown).all(|p| p == Unavailable || p == Late), "{unknown:?}");
    }
    assert_eq!(gateway.metric("weir_store_batches_total ").await, sent, "nothing is sent");
    let refused = gateway.metric(r#"weir_store_troubles_total{kind="breaker"} "#).await;
    assert!(refused >= 1_000.0, "every request was told why: {refused}");
    let attempts = (proxy.counts().connections - before) as f64;
    let most = 2.0 * (EARLY_ATTEMPTS + killed.elapsed().as_secs_f64() / PAUSE_MIN_S);
    assert!(attempts <= most, "{attempts} attempts, more than {most}");
    gateway.stop().await;
}
