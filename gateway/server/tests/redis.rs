//! A gateway over a real Redis that `weir load` has filled: what it answers while the server is well, frozen or not
//! there yet. Other faults are in `faults/`.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test that fails panics, and says what it saw"
)]

mod harness;
#[path = "harness/stored.rs"]
mod stored;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use harness::redis::RedisServer;
use harness::{Setup, eventually, flights, http_get, post, texts};
use stored::{
    filled, load, never_fresh, on_a_port_of_its_own, one, provenances, route, told, unhurried, value, values, wire,
};
use weir_domain::catalog::View;
use weir_domain::{Cell, Column, FeatureType, Kind, Provenance, Value};
use weir_journal::table::read_table;
use weir_proto::v1;

use Provenance::{Cache, DefaultUnavailable, Expired, Late, Stale, Store, Unavailable};

#[tokio::test]
async fn every_entity_of_every_view_is_answered_as_by_the_embedded_store() {
    let (server, redis) = filled(with_whole_views(never_fresh(unhurried())));
    let redis = redis.start().await;
    let embedded = with_whole_views(unhurried()).start().await;
    let catalog = weir::snapshot::catalog(redis.setup.dir()).expect("the demo's catalog");
    let as_of_us = redis.setup.config().as_of_us.expect("a fixed day");
    let mut entities = BTreeMap::new();
    for view in &catalog.views {
        let truth = Truth::of(view, &redis.setup);
        for chunk in truth.chunks(500) {
            let request = || v1::GetFeaturesRequest {
                service: format!("whole_{}", view.doc.name),
                items: chunk.keys.clone(),
                ..Default::default()
            };
            let over_redis = redis.get(request()).await.expect("an answer");
            let in_memory = embedded.get(request()).await.expect("an answer");
            assert_eq!(over_redis.columns, in_memory.columns, "{}", view.doc.name);
            assert_eq!(over_redis.views, in_memory.views, "{}", view.doc.name);
            assert_eq!(over_redis.views[0].event_time_us, chunk.event_time_us);
            chunk.is_told_by(&over_redis, view, as_of_us);
            *entities.entry(view.doc.name.to_string()).or_insert(0) += chunk.event_time_us.len() as u64;
        }
    }
    assert!(entities.len() == 5 && entities["plane"] > 1_000, "{entities:?}");
    assert_eq!(server.calls("set"), entities.values().sum::<u64>(), "no row was loaded that nobody can ask for");
    redis.stop().await;
    embedded.stop().await;
}

#[tokio::test]
async fn the_first_read_is_from_the_store_and_the_next_from_the_cache_with_its_age() {
    let (server, setup) = filled(unhurried());
    let gateway = setup.start().await;
    let first = gateway.get(route("JFK", &["LAX"])).await.expect("an answer");
    assert!(provenances(&first).all(|p| p == Store), "{first:?}");
    assert!(first.views.iter().all(|v| v.age_ms == [0]));
    // The row grows old before our eyes, and the store hears nothing of it.
    eventually("the cached row is 20 ms old", async || {
        let reply = gateway.get(route("JFK", &["LAX"])).await.expect("an answer");
        assert!(provenances(&reply).all(|p| p == Cache), "{reply:?}");
        assert_eq!(values(&reply), values(&first));
        assert_eq!(times(&reply), times(&first));
        reply.views.iter().all(|v| v.age_ms[0] >= 20)
    })
    .await;
    assert_eq!(server.calls("mget"), 1);
    gateway.stop().await;
}

#[tokio::test]
async fn what_is_loaded_anew_is_read_anew_where_writes_are_tracked() {
    let (server, setup) = filled(unhurried());
    let cache = "namespace = \"flights\"\ncache = { client_tracking = true }\n";
    let gateway = setup.edit("weir.toml", "namespace = \"flights\"\n", cache).start().await;
    let tracking = async || gateway.metric(r#"weir_store_tracking{state="up"} "#).await;
    eventually("writes are told", async || tracking().await == 1.0).await;
    let ask = async || {
        let reply = gateway.get(route("JFK", &["LAX"])).await.expect("an answer");
        provenances(&reply).collect::<BTreeSet<_>>()
    };
    eventually("it is cached", async || ask().await == [Cache].into()).await;
    load(&gateway.setup, &server);
    // Not all of its rows are written at the same time.
    eventually("it is read anew", async || ask().await.contains(&Store)).await;
    eventually("it is cached again", async || ask().await == [Cache].into()).await;
    assert!(gateway.metric("weir_cache_forgotten_total ").await >= 1.0);
    gateway.stop().await;
}

#[tokio::test]
async fn a_caller_who_takes_nothing_stale_is_read_to_from_the_store() {
    let (server, setup) = filled(unhurried());
    let gateway = setup.start().await;
    let ask = async |max_staleness| {
        let request = v1::GetFeaturesRequest { max_staleness, ..route("JFK", &["LAX"]) };
        provenances(&gateway.get(request).await.expect("an answer")).collect::<BTreeSet<_>>()
    };
    assert_eq!(ask(None).await, [Store].into());
    assert_eq!(ask(None).await, [Cache].into());
    assert_eq!(ask(Some(Default::default())).await, [Store].into());
    assert_eq!(ask(None).await, [Cache].into());
    assert_eq!(server.calls("mget"), 2);
    let body = r#"{"service":"route_card","items":{"origin":["JFK"],"dest":["LAX"]},"max_staleness_ms":0}"#;
    let (_, json) = post(gateway.listen(), "/v1/features", body).await;
    assert_eq!(json["features"][0]["provenance"], serde_json::json!(["STORE"]), "{json}");
    assert_eq!(server.calls("mget"), 3);
    gateway.stop().await;
}

#[tokio::test]
async fn the_context_is_read_once_and_every_entity_of_200_candidates_once() {
    let (server, setup) = filled(unhurried());
    let gateway = setup.start().await;
    let planes = ["N14228", "N24211", "N619AA", "N804JB", "N668DN", "N39463", "N516JB"];
    let carriers = ["UA", "AA", "B6"];
    let dests = ["LAX", "SFO", "BOS", "ORD", "MIA", "ATL", "SEA", "DEN", "MCO", "FLL", "IAH"];
    let candidates: Vec<_> =
        (0..200).map(|i| (planes[i % planes.len()], carriers[i % carriers.len()], dests[i % dests.len()])).collect();
    let reply = gateway.get(flights("", "JFK", &candidates)).await.expect("an answer");
    assert_eq!(reply.rows, 200);
    // A route is its destination, for the origin is the same; and one row of weather.
    let distinct = (planes.len() + carriers.len() + 2 * dests.len() + 1) as u64;
    assert_eq!(gateway.metric("weir_store_keys_total ").await, distinct as f64);
    assert_eq!(lookups(&server), distinct);
    assert_eq!(server.calls("mget"), 1);
    gateway.stop().await;
}

#[tokio::test]
async fn what_was_cached_outlives_the_store_as_stale_and_never_past_stale_for() {
    const STALE_FOR: Duration = Duration::from_millis(1_500);
    let (server, setup) =
        filled(never_fresh(unhurried()).edit("catalog/views.toml", "stale_for_ms = 3600000", "stale_for_ms = 1500"));
    let gateway = setup.start().await;
    let asked_first = Instant::now();
    let first = gateway.get(route("JFK", &["LAX"])).await.expect("an answer");
    let told_first = Instant::now();
    assert!(provenances(&first).all(|p| p == Store), "{first:?}");
    server.freeze();
    let stale = AtomicUsize::new(0);
    eventually("the rows are too old", async || {
        let asked = Instant::now();
        let reply = gateway.get(route("JFK", &["LAX"])).await.expect("an answer");
        // The rows are at least as old as from the first reply to this question, and at most as from the first
        // question to this reply.
        let (youngest, oldest) = (asked - told_first, asked_first.elapsed());
        if provenances(&reply).all(|p| p == Stale) {
            stale.fetch_add(1, Ordering::Relaxed);
            assert!(youngest <= STALE_FOR, "served at {youngest:?}");
            assert_eq!(values(&reply), values(&first));
            for view in &reply.views {
                assert!(u128::from(view.age_ms[0]) <= oldest.as_millis().min(STALE_FOR.as_millis()), "{reply:?}");
            }
            return false;
        }
        assert!(provenances(&reply).all(|p| [Late, Unavailable].contains(&p)), "{reply:?}");
        assert!(oldest > STALE_FOR, "nothing served at {oldest:?}");
        true
    })
    .await;
    assert!(stale.into_inner() > 0);
    let last = gateway.get(route("JFK", &["LAX"])).await.expect("an answer");
    assert!(provenances(&last).all(|p| p == Unavailable), "gone is gone: {last:?}");
    server.thaw();
    eventually("it is read again", async || {
        let reply = gateway.get(route("JFK", &["LAX"])).await.expect("an answer");
        provenances(&reply).all(|p| p == Store) && values(&reply) == values(&first)
    })
    .await;
    gateway.stop().await;
}

#[tokio::test]
async fn a_gateway_starts_without_its_store_and_finds_it_when_it_comes() {
    let mut server = on_a_port_of_its_own();
    server.kill();
    let gateway = unhurried().store(&server.url()).start().await;
    let flight = || flights("", "JFK", &[("N14228", "UA", "LAX")]);
    let reply = gateway.get(flight()).await.expect("an answer");
    assert_eq!(one(&reply, "carrier:arr_delay_mean_7d_min"), (DefaultUnavailable, Value::F64(1.3)));
    assert_eq!(one(&reply, "destination:lat").0, Unavailable);
    assert_eq!(reply.fallback_model, "carrier_mean", "too little of it is real");
    assert_eq!(http_get(gateway.admin(), "/readyz").await.0, 200, "it can answer");
    server.start_again();
    load(&gateway.setup, &server);
    eventually("the store is found", async || {
        let reply = gateway.get(flight()).await.expect("an answer");
        one(&reply, "carrier:arr_delay_mean_7d_min").0.is_real() && reply.fallback_model.is_empty()
    })
    .await;
    gateway.stop().await;
}

/// Entities that the server was asked for, by its own count.
fn lookups(server: &RedisServer) -> u64 {
    let stats = server.command(&["INFO", "stats"]);
    let of = |name: &str| -> u64 {
        let line = stats.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':'));
        line.expect(name).parse().expect("a number")
    };
    of("keyspace_hits") + of("keyspace_misses")
}

fn times(reply: &v1::GetFeaturesResponse) -> Vec<&[i64]> {
    reply.views.iter().map(|v| &*v.event_time_us).collect()
}

/// One service for each view that gives all its features, by item.
fn with_whole_views(setup: Setup) -> Setup {
    let catalog = weir::snapshot::catalog(setup.dir()).expect("the demo's catalog");
    let quoted = |names: Vec<String>| names.iter().map(|n| format!("{n:?}")).collect::<Vec<_>>().join(", ");
    let service = |view: &View| {
        let name = &view.doc.name;
        let keys = quoted(view.entity.keys.iter().map(|k| k.name.to_string()).collect());
        let features = quoted(view.features.iter().map(|f| format!("{name}:{}", f.name)).collect());
        format!(
            "\n[[service]]\nname = \"whole_{name}\"\nowner = \"tests@example.com\"\ndescription = \"All of it.\"\n\
             context = []\nitems = [{keys}]\nbudget_ms = 10000\non_absent = \"null\"\nfeatures = [{features}]\n"
        )
    };
    let services: String = catalog.views.iter().map(|v| service(v)).collect();
    setup.append("catalog/services.toml", &services)
}

/// What a view's file says.
struct Truth {
    keys: Vec<(String, Cell)>,
    event_time_us: Vec<i64>,
    features: Vec<Cell>,
}

/// Some rows of it.
struct Chunk<'a> {
    truth: &'a Truth,
    start: usize,
    keys: Vec<v1::Column>,
    event_time_us: &'a [i64],
}

impl Truth {
    fn of(view: &View, setup: &Setup) -> Self {
        let keys = view.entity.keys.iter().map(|k| (k.name.to_string(), FeatureType::One(k.kind)));
        let time = (view.event_time.clone(), FeatureType::One(Kind::Timestamp));
        let features = view.features.iter().map(|f| (f.name.to_string(), f.of));
        let columns: Vec<_> = keys.chain([time]).chain(features).collect();
        let path = setup.dir().join(view.source.as_ref().expect("a file"));
        let mut batches = read_table(&path, &columns).expect("a table");
        let mut cells = batches.next().expect("a batch").expect("rows");
        assert!(batches.next().is_none(), "the demo's files are read in one batch");
        let features = cells.split_off(view.entity.keys.len() + 1);
        let Some(Column::Timestamp(event_time_us)) = cells.pop().map(|c| c.column) else { panic!("no event time") };
        let names = view.entity.keys.iter().map(|k| k.name.to_string());
        Self { keys: names.zip(cells).collect(), event_time_us, features }
    }

    fn chunks(&self, rows: usize) -> impl Iterator<Item = Chunk<'_>> {
        (0..self.event_time_us.len()).step_by(rows).map(move |start| {
            let end = (start + rows).min(self.event_time_us.len());
            let text = |cell: &Cell, i| match cell.column.value(i) {
                Value::String(text) => text,
                other => panic!("a join key of the demo is {other:?}"),
            };
            let rows = |cell| (start..end).map(|i| text(cell, i)).collect::<Vec<_>>();
            let keys = self.keys.iter().map(|(name, cell)| texts(name, &rows(cell)));
            Chunk { truth: self, start, keys: keys.collect(), event_time_us: &self.event_time_us[start..end] }
        })
    }
}

impl Chunk<'_> {
    /// The reply says what the file says: its values as STORE, its nulls as MISSING, and nothing past its ttl.
    fn is_told_by(&self, reply: &v1::GetFeaturesResponse, view: &View, as_of_us: i64) {
        let oldest_us = view.ttl.map_or(i64::MIN, |ttl| as_of_us - ttl.as_micros() as i64);
        assert_eq!(reply.columns.len(), self.truth.features.len());
        for (column, cell) in reply.columns.iter().zip(&self.truth.features) {
            for (i, is) in told(column).into_iter().enumerate() {
                let expired = self.event_time_us[i] < oldest_us;
                let was = if expired { Expired } else { cell.provenance[self.start + i] };
                assert_eq!(is, was, "{} of row {}", column.name, self.start + i);
                if is == Store {
                    assert_eq!(value(wire(column), i), cell.column.value(self.start + i), "{}", column.name);
                }
            }
        }
    }
}
