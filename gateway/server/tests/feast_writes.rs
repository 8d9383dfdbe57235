//! Writes through Feast's doors and `weir load --feast`, read back through the same doors; and the journal of what was
//! answered there.
#![allow(clippy::expect_used, clippy::panic, reason = "a test that fails panics")]

mod harness;
#[path = "harness/feast.rs"]
mod repo;

use std::hash::{BuildHasher, RandomState};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use harness::{Process, eventually, http_get, post};
use repo::{ONLINE, Repo, ask, column, hash_name, of, on_free_ports, view};
use serde_json::{Value as Json, json};
use tonic::transport::Channel;
use weir::app::App;
use weir::config::{Config, Overrides};
use weir_domain::catalog::Freshness;
use weir_domain::{Cell, Column, FeatureType, Kind};
use weir_journal::table::read_table;
use weir_proto::feast::core::{DataSource, FeatureViewSpec, data_source::SourceType};
use weir_proto::feast::python::grpc_feature_server_client::GrpcFeatureServerClient;
use weir_proto::feast::python::{PushRequest, WriteToOnlineStoreRequest};
use weir_proto::feast::types::{Value, value::Val, value_type::Enum as Type};

#[tokio::test]
async fn what_is_pushed_or_written_is_read_back_and_an_older_row_replaces_nothing() {
    let repo = drivers();
    let app = repo.serve().await;
    let push = async |trips: i64, at: &str| {
        let df = json!({ "driver_id": [1, 2], "rate": [0.5, 1.5], "trips": [trips, trips + 100], "event_timestamp": [at, at] });
        let body = json!({ "push_source_name": "driver_push", "df": df, "to": "online" });
        assert_eq!(post(app.listen(), "/push", &body.to_string()).await.0, 200);
    };
    push(1, "2024-05-01T10:00:00Z").await;
    let reply = ask(
        &app,
        json!({ "features": ["driver_stats:rate", "driver_stats:trips"], "entities": { "driver_id": [1, 2] } }),
    )
    .await;
    assert_eq!(column(&reply, "rate")["values"], json!([0.5, 1.5]));
    assert_eq!(column(&reply, "trips")["values"], json!([1, 101]));
    assert_eq!(column(&reply, "trips")["event_timestamps"][0], "2024-05-01T10:00:00Z");
    assert_eq!(repo.server.command(&["DBSIZE"]), "2");

    for (row, at, then) in [
        (2, "2024-05-01T10:00:00Z", 1),
        (3, "2024-05-01T09:59:59.999999Z", 1),
        (4, "2024-05-01T10:00:00.000001Z", 4),
        (5, "2024-05-01T10:00:00Z", 4),
        (6, "2024-05-01T10:00:01Z", 6),
    ] {
        push(row, at).await;
        assert_eq!(trips(&app, 1).await, json!(then), "row {row} of {at}");
    }
    let write = async |view: &str, trips: Json, at: &str| {
        let df = json!({ "driver_id": [1], "rate": [null], "trips": trips, "event_timestamp": [at] });
        post(app.listen(), "/write-to-online-store", &json!({ "feature_view_name": view, "df": df }).to_string()).await
    };
    assert_eq!(write("driver_stats", json!([7]), "2024-05-01T10:00:02Z").await, (200, Json::Null));
    assert_eq!(trips(&app, 1).await, json!(7));
    assert_eq!(write("driver_stats", json!([8]), "2024-05-01T10:00:01Z").await.0, 200);
    assert_eq!(trips(&app, 1).await, json!(7), "an older row");
    let reply = ask(&app, json!({ "features": ["driver_stats:rate"], "entities": { "driver_id": [1] } })).await;
    assert_eq!(column(&reply, "rate")["values"], json!([null]), "a null is written too");

    let (status, told) = write("nobody", json!([9]), "2024-05-01T11:00:00Z").await;
    assert_eq!(status, 404);
    assert!(told.to_string().contains("FeastObjectNotFoundException"), "{told}");
    let body = json!({ "push_source_name": "nobody", "df": { "driver_id": [1] } }).to_string();
    let (status, told) = post(app.listen(), "/push", &body).await;
    assert_eq!(status, 422);
    assert!(told.to_string().contains("PushSourceNotFoundException"), "{told}");
    app.stop().await;
}

#[tokio::test]
async fn what_is_pushed_is_read_at_once_although_it_may_be_cached_for_a_minute() {
    let repo = drivers();
    let overrides = Overrides { feast: vec![repo.write()], ..on_free_ports() };
    let mut config = Config { client_tracking: true, ..Config::of_feast(overrides).expect("good settings") };
    let minute = Duration::from_secs(60);
    let feast = config.feast.as_mut().expect("a repository");
    feast.cache = Freshness { fresh_for: minute, stale_for: minute, negative_for: minute, ..Freshness::default() };
    let app = App::start(config).await.expect("a gateway");
    let metric = async |name: &str| {
        let page = http_get(app.admin(), "/metrics").await.1;
        page.lines().find_map(|l| l.strip_prefix(name)?.trim().parse::<u64>().ok()).expect("a metric")
    };
    assert_eq!(trips(&app, 1).await, Json::Null);
    // That nobody is there is kept; it is the first hash, for which all writes have to be told.
    eventually("all writes are told", async || metric("weir_cache_flushes_total").await == 2).await;
    for second in 1..=3 {
        eventually("it is cached", async || {
            let hits = metric(r#"weir_cache_lookups_total{result="hit"}"#).await;
            let negatives = metric(r#"weir_cache_lookups_total{result="negative"}"#).await;
            trips(&app, 1).await;
            let (now, none) =
                (r#"weir_cache_lookups_total{result="hit"}"#, r#"weir_cache_lookups_total{result="negative"}"#);
            metric(now).await > hits || metric(none).await > negatives
        })
        .await;
        assert_eq!(push_trips(&app, 1, second).await, 200);
        eventually("it is read", async || trips(&app, 1).await == json!(second)).await;
    }
    assert_eq!(metric(r#"weir_store_tracking{state="up"}"#).await, 1);
    assert_eq!(metric(r#"weir_store_tracking{state="down"}"#).await, 0);
    app.stop().await;
}

#[tokio::test]
async fn what_is_pushed_and_written_through_grpc_is_read_back() {
    let repo = drivers();
    let app = repo.serve().await;
    let url = format!("http://{}", app.listen());
    let channel = Channel::from_shared(url).expect("a URL").connect().await.expect("connect");
    let mut python = GrpcFeatureServerClient::new(channel);
    let row = |trips: i64, at: &str| {
        let vals = [
            ("driver_id", Val::Int64Val(1)),
            ("rate", Val::DoubleVal(0.5)),
            ("trips", Val::Int64Val(trips)),
            ("event_timestamp", Val::StringVal(at.to_owned())),
        ];
        vals.map(|(name, val)| (name.to_owned(), Value { val: Some(val) }))
    };
    let push = |trips, at| PushRequest {
        stream_feature_view: "driver_push".to_owned(),
        to: "online".to_owned(),
        typed_features: row(trips, at).into(),
        ..Default::default()
    };
    assert!(python.push(push(1, "2024-05-01T10:00:00Z")).await.expect("pushed").into_inner().status);
    assert_eq!(trips(&app, 1).await, json!(1));
    python.push(push(2, "2024-05-01T09:00:00Z")).await.expect("pushed");
    assert_eq!(trips(&app, 1).await, json!(1), "an older row");
    let write = WriteToOnlineStoreRequest {
        feature_view_name: "driver_stats".to_owned(),
        typed_features: row(3, "2024-05-01T11:00:00Z").into(),
        ..Default::default()
    };
    assert!(python.write_to_online_store(write).await.expect("written").into_inner().status);
    assert_eq!(trips(&app, 1).await, json!(3));
    let nowhere = PushRequest { stream_feature_view: "nobody".to_owned(), ..push(4, "2024-05-01T12:00:00Z") };
    assert_eq!(python.push(nowhere).await.expect_err("no such source").code(), tonic::Code::InvalidArgument);
    app.stop().await;
}

#[tokio::test]
async fn hashes_expire_after_key_ttl_seconds_and_without_it_never() {
    for (online, ttls) in [("  key_ttl_seconds: 3600\n", 3_500..=3_600), ("", -1..=-1)] {
        let mut repo = drivers();
        repo.online = online;
        let app = repo.serve().await;
        assert_eq!(push_trips(&app, 1, 1).await, 200);
        let ttl = repo.server.command(&[&b"TTL"[..], &hash_name(&[("driver_id", Val::Int64Val(1))])]);
        let ttl: i64 = ttl.parse().expect("a number");
        assert!(ttls.contains(&ttl), "{ttl} with {online:?}");
        app.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_writers_through_two_gateways_the_newest_row_wins() {
    const WRITERS: i64 = 60;
    let repo = drivers();
    let gateways = [repo.serve().await, repo.serve().await];
    for driver in 1..=4 {
        let seed = RandomState::new();
        let mut order: Vec<i64> = (1..=WRITERS).collect();
        order.sort_by_key(|writer| seed.hash_one(writer));
        let writes = order.iter().enumerate().map(|(n, &writer)| push_trips(&gateways[n % 2], driver, writer));
        let statuses = futures::future::join_all(writes).await;
        assert!(statuses.iter().all(|status| *status == 200), "{statuses:?}");
        assert_eq!(trips(&gateways[0], driver).await, json!(WRITERS), "written in the order {order:?}");
    }
    for app in gateways {
        app.stop().await;
    }
}

#[tokio::test]
async fn a_parquet_file_is_loaded_into_a_view_and_read_back() {
    let features = [("name", Type::String), ("dep_delay_mean_7d_min", Type::Double), ("flights_30d", Type::Int64)];
    let repo = carriers("carrier_stats", &features);
    let file = harness::repo().join("deploy/demo/data/carrier.parquet");
    let first = load(&repo, "carrier_stats", &file);
    assert!(first.status.success(), "{}", stderr(&first));
    assert_eq!(stdout(&first).trim(), "carrier_stats: 16 rows, 16 of them newer than what was there");
    let again = load(&repo, "carrier_stats", &file);
    assert_eq!(stdout(&again).trim(), "carrier_stats: 16 rows, 0 of them newer than what was there");
    assert_eq!(repo.server.command(&["DBSIZE"]), "16");

    let app = repo.serve().await;
    let names = features.map(|(name, _)| format!("carrier_stats:{name}"));
    let reply = ask(&app, json!({ "features": names, "entities": { "carrier_id": ["AA", "9E", "??"] } })).await;
    assert_eq!(column(&reply, "name")["values"], json!(["American Airlines Inc.", "Endeavor Air Inc.", null]));
    assert_eq!(column(&reply, "flights_30d")["values"], json!([2577, 1595, null]));
    assert_eq!(column(&reply, "dep_delay_mean_7d_min")["values"][0], json!(6.987_522_281_639_928_5));
    assert_eq!(column(&reply, "name")["event_timestamps"][0], "2013-12-01T04:57:00Z");
    app.stop().await;
}

#[test]
fn a_file_that_does_not_fit_is_refused_with_the_reason() {
    let repo = carriers("carrier_stats", &[("name", Type::Int64)]);
    let file = harness::repo().join("deploy/demo/data/carrier.parquet");
    let nothing = repo.dir().join("nothing.parquet");
    for (view, file, says) in [
        ("nobody", &file, &["there is no feature view \"nobody\" in the registry"][..]),
        ("carrier_stats", &file, &["the file cannot be read", "name"]),
        ("carrier_stats", &nothing, &["the file cannot be read", "nothing.parquet"]),
    ] {
        let told = load(&repo, view, file);
        let said = stderr(&told);
        assert_eq!(told.status.code(), Some(1), "{said}");
        assert!(said.starts_with("weir load: ") && says.iter().all(|says| said.contains(says)), "{said}");
    }
    assert_eq!(repo.server.command(&["DBSIZE"]), "0");
}

#[tokio::test]
async fn what_a_service_answers_is_in_the_journal_and_what_has_none_is_counted() {
    let spec = stats();
    let repo = Repo::new().entity("driver").service("driving", vec![of(&spec, &["trips"])]).view(spec);
    let at = 1_700_000_000;
    repo.row("driver_stats", &[("driver_id", Val::Int64Val(1))], at, &[("trips", Some(Val::Int64Val(12)))]);
    let journal = repo.dir().join("journal");
    let mut command = weir(&["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--log", "json"]);
    command.arg("--feast").arg(repo.write()).arg("--journal").arg(&journal).stdin(Stdio::null());
    let mut gateway = Process::start(command);

    let entities = json!({ "driver_id": [1, 99] });
    let asked = AtomicUsize::new(0);
    eventually("Redis is connected to", async || {
        let body = json!({ "features": ["driver_stats:trips"], "entities": entities }).to_string();
        asked.fetch_add(1, Ordering::Relaxed);
        let (status, reply) = post(gateway.listen, ONLINE, &body).await;
        status == 200 && column(&reply, "trips")["statuses"] == json!(["PRESENT", "PRESENT"])
    })
    .await;
    let page = http_get(gateway.admin, "/metrics").await.1;
    let counted = format!("weir_feast_unlogged_total{{reason=\"no_service\"}} {}\n", asked.into_inner());
    assert!(page.contains(&counted), "{counted}: {page}");
    let body = json!({ "feature_service": "driving", "entities": entities }).to_string();
    assert_eq!(post(gateway.listen, ONLINE, &body).await.0, 200);
    gateway.signal("-TERM");
    assert!(gateway.wait().success(), "{:#?}", gateway.log());

    let (id, trips) = (FeatureType::One(Kind::I64), FeatureType::One(Kind::I64));
    let served = rows(&journal.join("served"), &[("driver_id", id), ("driver_stats__trips", trips)]);
    assert_eq!(served, [[Some(1), Some(12)], [Some(99), None]]);
    let status = FeatureType::One(Kind::I64);
    let columns = [("driver_id", id), ("driver_stats__trips", trips), ("driver_stats__trips__status", status)];
    let logged = rows(&journal.join("feast/driving"), &columns);
    // PRESENT and NOT_FOUND, in Feast's numbers.
    assert_eq!(logged, [[Some(1), Some(12), Some(1)], [Some(99), None, Some(3)]]);
}

/// Drivers that are pushed to.
fn drivers() -> Repo {
    Repo::new().entity("driver").view(stats())
}

fn stats() -> FeatureViewSpec {
    let spec = view("driver_stats", &[("driver_id", Type::Int64)], &[("rate", Type::Double), ("trips", Type::Int64)]);
    let batch = DataSource { timestamp_field: "event_timestamp".to_owned(), ..Default::default() };
    let push =
        DataSource { name: "driver_push".to_owned(), r#type: SourceType::PushSource as i32, ..Default::default() };
    FeatureViewSpec { batch_source: Some(batch), stream_source: Some(push), ..spec }
}

/// Carriers whose rows come from the demo's file, where their join key has another name.
fn carriers(name: &str, features: &[(&str, Type)]) -> Repo {
    let source = DataSource {
        timestamp_field: "event_time".to_owned(),
        field_mapping: [("carrier".to_owned(), "carrier_id".to_owned())].into(),
        ..Default::default()
    };
    let spec = view(name, &[("carrier_id", Type::String)], features);
    let repo = Repo::new().entity("carrier").view(FeatureViewSpec { batch_source: Some(source), ..spec });
    repo.write();
    repo
}

/// Pushes a row of this second with as many trips.
async fn push_trips(app: &App, driver: i64, second: i64) -> u16 {
    let at = format!("2024-05-01T10:{:02}:{:02}Z", second / 60, second % 60);
    let df = json!({ "driver_id": [driver], "rate": [0.5], "trips": [second], "event_timestamp": [at] });
    let body = json!({ "push_source_name": "driver_push", "df": df, "to": "online" });
    post(app.listen(), "/push", &body.to_string()).await.0
}

async fn trips(app: &App, driver: i64) -> Json {
    let reply = ask(app, json!({ "features": ["driver_stats:trips"], "entities": { "driver_id": [driver] } })).await;
    column(&reply, "trips")["values"][0].clone()
}

/// The rows of every Parquet file below a folder.
fn rows<const N: usize>(folder: &Path, columns: &[(&str, FeatureType); N]) -> Vec<[Option<i64>; N]> {
    let mut rows = Vec::new();
    for file in parquet(folder) {
        for cells in read_table(&file, columns).expect("a readable file") {
            let cells = cells.expect("a batch");
            let row = |n: usize| std::array::from_fn(|column| number(&cells[column], n));
            rows.extend((0..cells[0].provenance.len()).map(row));
        }
    }
    rows
}

fn number(cell: &Cell, row: usize) -> Option<i64> {
    let Column::I64(values) = &cell.column else { panic!("no numbers: {cell:?}") };
    (!cell.provenance[row].is_absent()).then(|| values[row])
}

fn parquet(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let paths = entries.map(|entry| entry.expect("an entry").path());
    paths.flat_map(|path| if path.is_dir() { parquet(&path) } else { vec![path] }).collect()
}

fn load(repo: &Repo, view: &str, file: &Path) -> Output {
    weir(&["load", "--feast"]).arg(repo.dir()).arg(view).arg(file).output().expect("run weir")
}

fn weir(args: &[&str]) -> Command {
    let mut weir = Command::new(env!("CARGO_BIN_EXE_weir"));
    weir.args(args).env_remove("RUST_LOG");
    weir
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}
