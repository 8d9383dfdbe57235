//! The journal behind the real gateway: what was answered is in the Parquet, whoever reads it, however the
//! gateway ended.
#![allow(clippy::expect_used, clippy::panic, reason = "a test that fails panics")]

mod harness;
#[path = "harness/python.rs"]
mod python;

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use harness::{Setup, column, connect, eventually, flights, texts};
use python::python;
use serde_json::{Value as Json, json};
use weir_proto::v1;
use weir_proto::v1::values::Kind;

/// Deaths on one journal folder; a soak asks for more.
const KILL_ROUNDS: usize = 8;
/// Callers at a time, each with a connection of its own.
const CALLERS: usize = 4;
/// Replies that a gateway may give before it is killed.
const REPLIES_MAX: u64 = 300;

/// Removes the shared memory of a journal whose gateway was killed and never started again, as a failing test does.
struct Leftover(PathBuf);

impl Drop for Leftover {
    fn drop(&mut self) {
        if let Ok(queue) = std::fs::read_to_string(self.0.join("QUEUE")) {
            let _ = std::fs::remove_file(queue);
        }
    }
}

async fn readers(command: &str, journal: &Path, more: &[&str]) -> Json {
    let script = harness::repo().join("gateway/server/tests/readers.py");
    let args = [script.to_str().expect("a path"), command, journal.to_str().expect("a path")];
    python(&[&args, more].concat()).await
}

/// Asks until the gateway is gone; what was answered: rows by request.
async fn ask_until_it_dies(to: SocketAddr, caller: usize, answered: Arc<AtomicUsize>) -> BTreeMap<String, u32> {
    let mut seen = BTreeMap::new();
    let mut client = connect(to).await;
    let items = [("N14228", "UA", "LAX"), ("N24211", "UA", "BOS"), ("N0NE", "ZZ", "XXX"), ("N804JB", "B6", "MIA")];
    loop {
        let rows = 1 + seen.len() % items.len();
        let request = flights(&format!("unit-{caller}-{}", seen.len()), "JFK", &items[..rows]);
        let Ok(reply) = client.get_features(request).await else { return seen };
        let reply = reply.into_inner();
        seen.insert(reply.request_id, reply.rows);
        answered.fetch_add(1, Ordering::Relaxed);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_answer_a_caller_saw_survives_kill_9_exactly_once() {
    // Sealing every second, so that a kill meets it too.
    let setup = Setup::demo().journal();
    let journal = setup.journal_dir();
    let table =
        format!("\n[journal]\ndir = \"{}\"\nqueue_mib = 4\nseal_after_s = 1\nfeast_log = true\n", journal.display());
    let setup = setup.append("weir.toml", &table);
    let _leftover = Leftover(journal.clone());
    let rounds = std::env::var("WEIR_KILL_ROUNDS").map_or(KILL_ROUNDS, |n| n.parse().expect("a number of rounds"));
    let mut seen = BTreeMap::new();
    for round in 0..rounds {
        let gateway = setup.spawn();
        let answered = Arc::new(AtomicUsize::new(0));
        let callers: Vec<_> = (0..CALLERS)
            .map(|caller| tokio::spawn(ask_until_it_dies(gateway.listen, caller, Arc::clone(&answered))))
            .collect();
        // Any moment will do, the start and the sealing of what the last one left among them.
        let replies = (RandomState::new().hash_one(round) % REPLIES_MAX) as usize;
        eventually("enough replies", async || answered.load(Ordering::Relaxed) >= replies.max(CALLERS)).await;
        gateway.kill();
        for caller in callers {
            seen.extend(caller.await.expect("a caller"));
        }
    }
    let mut gateway = setup.spawn();
    gateway.signal("-TERM");
    assert!(gateway.wait().success(), "{:#?}", gateway.log());

    assert!(seen.len() >= rounds * CALLERS);
    let served = readers("counts", &journal, &[]).await;
    for (request, rows) in &seen {
        let rows = u64::from(*rows);
        assert_eq!(
            served[request],
            json!({ "rows": rows, "distinct": rows, "last": rows - 1 }),
            "{request} of {} in {rounds} rounds",
            seen.len()
        );
    }
    // Also what nobody saw was written whole and once, and in both datasets.
    let logged = readers("logged", &journal, &[]).await;
    assert_eq!(logged.as_object().map(serde_json::Map::len), served.as_object().map(serde_json::Map::len));
    for (request, found) in served.as_object().expect("requests") {
        let rows = found["rows"].as_u64().expect("a count");
        assert_eq!(*found, json!({ "rows": rows, "distinct": rows, "last": rows - 1 }), "{request}");
        assert_eq!(logged[request], rows, "{request} in the log for Feast");
    }
    let on_their_way = served.as_object().expect("requests").len() - seen.len();
    assert!(on_their_way <= rounds * CALLERS, "a killed gateway can only owe one reply a caller: {on_their_way}");
    assert!(!journal.join("QUEUE").exists(), "an orderly end leaves nothing in shared memory");
    assert!(!journal.join("quarantine").exists(), "nothing was damaged");
}

#[tokio::test]
async fn pyarrow_duckdb_and_pandas_read_what_was_answered() {
    let gateway = Setup::demo().journal().start().await;
    let journal = gateway.setup.journal_dir();
    let (mut rows, mut exposures, mut last) = (0, BTreeSet::new(), None);
    for i in 0..60 {
        let unit = format!("unit-{}", i % 40);
        let items = [("N14228", "UA", "LAX"), ("N24211", "UA", "BOS"), ("N0NE", "ZZ", "XXX")];
        let reply = gateway.get(flights(&unit, "JFK", &items[..1 + i % 3])).await.expect("an answer");
        rows += reply.rows;
        exposures.extend(reply.assignments.iter().map(|a| (unit.clone(), a.arm.clone())));
        last = Some(reply);
    }
    let last = last.expect("a reply");
    assert_eq!(last.rows, 3);
    let _setup = gateway.stop().await;

    let mut arms: Vec<_> = exposures.iter().map(|(_, arm)| arm.clone()).collect();
    arms.sort();
    let seats = column(&last, "plane:seats");
    let said = json!({
        "served": rows,
        "exposures": exposures.len(),
        "arms": arms,
        "services": vec!["arrival_delay"; 3],
        "values": (0..3).map(|row| value(seats, row)).collect::<Vec<_>>(),
        "provenance": (0..3).map(|row| provenance(seats, row)).collect::<Vec<_>>(),
    });
    assert_eq!(said["provenance"][2], "DEFAULT_MISSING");
    let read = readers("compare", &journal, &[&last.request_id, "plane__seats"]).await;
    for reader in ["pyarrow", "duckdb", "pandas"] {
        assert_eq!(read[reader], said, "{reader}");
    }
}

#[tokio::test]
async fn what_is_journalled_is_what_was_answered_to_the_last_value() {
    let gateway = Setup::demo().journal().start().await;
    let journal = gateway.setup.journal_dir();
    // Known flights around one of which nothing is known: values of the store beside defaults and nulls.
    let items = [("N14228", "UA", "LAX"), ("N0NE", "ZZ", "XXX"), ("N14228", "UA", "LAX")];
    let mut answers = Vec::new();
    for unit in ["unit-1", "unit-43", ""] {
        let request = flights(unit, "JFK", &items);
        answers.push((request.clone(), gateway.get(request).await.expect("an answer")));
    }
    let mut invented = flights("unit-2", "NOWHERE", &items);
    invented.features[0] = harness::floats("runway_heading_deg", &[-1e-308]);
    let hours = Some(Kind::Int64s(v1::Int64s { values: vec![i64::MIN, 0, 9_007_199_254_740_993] }));
    invented.features.push(v1::Column { name: "sched_hour".to_owned(), values: Some(v1::Values { kind: hours }) });
    answers.push((invented.clone(), gateway.get(invented).await.expect("an answer")));
    // Here what is not known stays empty: lists, texts, numbers and booleans.
    let card = v1::GetFeaturesRequest {
        service: "route_card".to_owned(),
        items: vec![texts("origin", &["JFK", "EWR", "ÖÄÜ"]), texts("dest", &["LAX", "SJU", "☃ '\"\\"])],
        ..v1::GetFeaturesRequest::default()
    };
    answers.push((card.clone(), gateway.get(card).await.expect("an answer")));
    let _setup = gateway.stop().await;

    let mut kinds = BTreeSet::new();
    for (request, reply) in &answers {
        let rows = readers("request", &journal, &[&request.service, &reply.request_id]).await;
        let rows = rows.as_array().expect("rows");
        assert_eq!(rows.len(), 3, "{}", reply.request_id);
        for (i, row) in rows.iter().enumerate() {
            for column in &reply.columns {
                let name = column.name.replacen(':', "__", 1);
                let provenance = provenance(column, i);
                assert_eq!(row[&name], value(column, i), "row {i} of {name}");
                assert_eq!(row[format!("{name}__provenance")], provenance, "row {i} of {name}");
                kinds.insert(provenance);
            }
            for view in &reply.views {
                let at = |len: usize| if len == 1 { 0 } else { i };
                let event_time = view.event_time_us[at(view.event_time_us.len())];
                let found = (event_time != 0).then_some(event_time);
                assert_eq!(row[format!("{}__event_time", view.name)], json!(found), "{}", view.name);
                let age = found.map(|_| view.age_ms[at(view.age_ms.len())]);
                assert_eq!(row[format!("{}__age_ms", view.name)], json!(age), "{}", view.name);
            }
            for key in request.context.iter().chain(&request.items) {
                let Some(Kind::Strings(keys)) = key.values.as_ref().and_then(|v| v.kind.as_ref()) else { panic!() };
                assert_eq!(row[&key.name], keys.values[if keys.values.len() == 1 { 0 } else { i }]);
            }
            let arms: Vec<_> = reply
                .assignments
                .iter()
                .map(|a| json!({ "experiment": a.experiment, "arm": a.arm, "bucket": a.bucket }))
                .collect();
            let budget = reply.budget.as_ref().expect("a budget");
            let empty_is_none = |text: &str| Some(text).filter(|t| !t.is_empty()).map(str::to_owned);
            let about = json!([
                i,
                arms,
                reply.holdouts,
                empty_is_none(&request.unit),
                empty_is_none(&reply.fallback_model),
                reply.catalog_version,
                budget.granted_us,
                budget.total_us,
            ]);
            let names =
                ["row", "arms", "holdouts", "unit", "fallback_model", "catalog_version", "granted_us", "spent_us"];
            assert_eq!(Json::Array(names.map(|n| row[n].clone()).into()), about);
        }
    }
    let arms: BTreeSet<_> = answers.iter().flat_map(|(_, r)| &r.assignments).map(|a| a.arm.as_str()).collect();
    assert!(!arms.is_empty());
    assert!(answers.iter().any(|(_, r)| !r.holdouts.is_empty()), "no unit of this test is held out any more");
    for kind in ["STORE", "COMPUTED", "CALLER", "DEFAULT_MISSING", "MISSING"] {
        assert!(kinds.contains(kind), "{kind} is not among {kinds:?}: this test has lost a case");
    }
}

#[tokio::test]
async fn a_second_gateway_on_the_same_journal_ends_with_a_clear_error_and_the_first_goes_on() {
    let setup = Setup::demo().journal();
    let journal = setup.journal_dir();
    let _leftover = Leftover(journal.clone());
    let mut first = setup.spawn();
    let mut client = connect(first.listen).await;
    let mut ask = async || client.get_features(flights("u", "JFK", &[("N14228", "UA", "LAX")])).await;
    let before = ask().await.expect("an answer").into_inner();

    let second = setup.run("serve", &["--journal", journal.to_str().expect("a path")]);
    let says = String::from_utf8_lossy(&second.stderr);
    assert_eq!(second.status.code(), Some(1), "{says}");
    assert!(says.contains(&*journal.to_string_lossy()) && says.contains("in use"), "{says}");
    assert!(says.contains(&first.pid().to_string()), "{says}");

    let after = ask().await.expect("an answer").into_inner();
    first.signal("-TERM");
    assert!(first.wait().success());
    let served = readers("counts", &journal, &[]).await;
    assert_eq!(served.as_object().expect("requests").len(), 2);
    assert!(served[&before.request_id].is_object() && served[&after.request_id].is_object(), "{served}");
}

/// A value of a reply as the journal should have it: null where nothing was served.
fn value(column: &v1::FeatureColumn, row: usize) -> Json {
    let absent = column.provenance[row] >= 32;
    let kind = column.values.as_ref().and_then(|v| v.kind.as_ref()).expect("values");
    if absent { Json::Null } else { at(kind, row) }
}

fn at(kind: &Kind, row: usize) -> Json {
    match kind {
        Kind::Bools(v) => json!(v.values[row]),
        Kind::Int64s(v) => json!(v.values[row]),
        Kind::Doubles(v) => json!(v.values[row]),
        Kind::Floats(v) => json!(f64::from(v.values[row])),
        Kind::Strings(v) => json!(v.values[row]),
        Kind::Timestamps(v) => json!(v.values[row]),
        Kind::Blobs(_) => panic!("the demo serves no bytes"),
        Kind::Lists(v) => {
            let items = v.items.as_ref().and_then(|i| i.kind.as_ref()).expect("items");
            let start = if row == 0 { 0 } else { v.ends[row - 1] };
            (start..v.ends[row]).map(|i| at(items, i as usize)).collect()
        }
    }
}

fn provenance(column: &v1::FeatureColumn, row: usize) -> String {
    let of = v1::Provenance::try_from(i32::from(column.provenance[row])).expect("a known provenance");
    of.as_str_name().replace("PROVENANCE_", "")
}
