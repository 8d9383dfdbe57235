//! Feast's features natively: a registry imported as a catalog, as files or at the start of `weir serve --feast`, and
//! served by `weir.v1` with everything that other features have: provenance, defaults, ttl, the cache.
#![allow(clippy::expect_used, clippy::panic, reason = "a test that fails panics")]

mod harness;
#[path = "harness/feast.rs"]
mod repo;
#[path = "harness/stored.rs"]
mod stored;

use std::path::Path;
use std::process::{Command, Output};

use harness::{Setup, eventually, http_get, post};
use prost::Message;
use repo::{PROJECT, Repo, hash_name, of, on_free_ports, text, view};
use serde_json::{Value as Json, json};
use weir::app::App;
use weir::config::{Config, Overrides};
use weir_domain::feast::field;
use weir_proto::feast::types::{
    BoolList, DoubleList, FloatList, Int32List, Int64List, Null, StringList, Value, value::Val,
    value_type::Enum as Type,
};

#[tokio::test]
async fn an_imported_catalog_passes_the_check_and_answers_what_feasts_own_endpoint_answers() {
    let repo = rides();
    let out = imported(&repo);
    let checked = weir(&["check", "--config", path(out.path())]);
    assert!(checked.status.success(), "{}", stderr(&checked));
    let app = serve(out.path()).await;
    for (service, context) in [
        ("Driver & shop", json!({ "driver_id": [1, 2, 99], "Shop_id": [7, 7, 8] })),
        ("journeys", json!({ "from": [1, 2], "to": [2, 99] })),
        ("driver_types", json!({ "driver_id": [1, 2] })),
    ] {
        let body = json!({ "feature_service": service, "entities": context, "full_feature_names": true });
        let (status, feasts) = post(app.listen(), "/get-online-features", &body.to_string()).await;
        assert_eq!(status, 200, "{feasts}");
        let items: serde_json::Map<String, Json> = context
            .as_object()
            .expect("an object")
            .iter()
            .map(|(name, values)| (weir_feast::weir_name(name), values.clone()))
            .collect();
        let ours = native(&app, &weir_feast::weir_name(service), Json::Object(items)).await;
        let names: Vec<&str> =
            feasts["metadata"]["feature_names"].as_array().expect("names").iter().flat_map(Json::as_str).collect();
        let mut compared = 0;
        for (name, feasts) in names.iter().zip(feasts["results"].as_array().expect("results")) {
            let Some((view, feature)) = name.split_once("__") else { continue };
            let own = format!("{}:{}", weir_feast::weir_name(view), weir_feast::weir_name(feature));
            let mut values = feasts["values"].clone();
            if ["at", "times"].contains(&feature) {
                micros(&mut values);
            }
            assert_eq!(column(&ours, &own)["values"], values, "{service} {name}");
            compared += 1;
        }
        assert_eq!(compared, ours["features"].as_array().expect("features").len(), "{service}: {ours}");
    }
    app.stop().await;
}

#[tokio::test]
async fn every_type_is_read_as_its_own_and_what_is_no_value_says_why() {
    let repo = rides();
    let app = repo.serve().await;
    let reply = native(&app, "driver_types", json!({ "driver_id": [1, 2, 3, 99] })).await;
    let of = |name: &str| {
        let column = column(&reply, &format!("driver_types:{name}"));
        (column["values"].clone(), column["provenance"].clone())
    };
    let told = json!(["STORE", "MISSING", "INVALID", "MISSING"]);
    for (name, value) in [
        ("i32", json!(-7)),
        ("i64", json!(9_007_199_254_740_993_i64)),
        ("f32", json!(0.5)),
        ("flag", json!(true)),
        ("name", json!("gold")),
        ("raw", json!("AP8=")),
        // Seconds there, microseconds here.
        ("at", json!(1_700_000_000_000_000_i64)),
        ("doc", json!("{\"a\": 1}")),
        ("i32s", json!([1, -2])),
        ("f32s", json!([0.5, -2.0])),
        ("f64s", json!([0.25])),
        ("flags", json!([true, false])),
        ("words", json!(["a", ""])),
        ("times", json!([1_000_000])),
    ] {
        assert_eq!(of(name), (json!([value, null, null, null]), told.clone()), "{name}");
    }
    let view = &reply["views"][0];
    assert_eq!(view["event_time_us"], json!([1_600_000_000_000_000_i64, 1_000_000, 2_000_000, 0]), "{reply}");
    app.stop().await;
}

#[tokio::test]
async fn ttl_defaults_and_the_cache_are_the_catalogs() {
    let repo = rides();
    repo.row("driver_stats", &[("driver_id", Val::Int64Val(3))], 1, &[("trips", Some(Val::Int64Val(5)))]);
    let out = imported(&repo);
    let views = out.path().join("catalog/views.toml");
    let text = std::fs::read_to_string(&views).expect("views");
    let stats = text.find("name = \"driver_stats\"").expect("the view");
    let (before, after) = text.split_at(stats);
    let after = after.replacen("fresh_for_ms = 0", "fresh_for_ms = 60000", 1).replacen(
        "name = \"trips\"\ntype = \"i64\"\n",
        "name = \"trips\"\ntype = \"i64\"\ndefault = -1\n",
        1,
    );
    assert!(after.contains("ttl_s = 86400") && after.contains("default = -1"), "{after}");
    std::fs::write(&views, format!("{before}{after}")).expect("write");
    let app = serve(out.path()).await;
    let ask = || native(&app, "driver_shop", json!({ "driver_id": [1, 3, 99], "shop_id": [7, 7, 7] }));
    let first = ask().await;
    let trips = column(&first, "driver_stats:trips");
    assert_eq!(trips["values"], json!([12, -1, -1]));
    assert_eq!(trips["provenance"], json!(["STORE", "DEFAULT_EXPIRED", "DEFAULT_MISSING"]));
    assert_eq!(column(&first, "driver_stats:rate")["provenance"], json!(["STORE", "EXPIRED", "MISSING"]));
    let reads = repo.server.calls("hmget") + repo.server.calls("hgetall");
    let second = ask().await;
    assert_eq!(column(&second, "driver_stats:trips")["provenance"][0], "CACHE");
    assert_eq!(column(&second, "shop_stats:open")["provenance"][0], "STORE", "nobody told it to keep that view");
    let more = repo.server.calls("hmget") + repo.server.calls("hgetall") - reads;
    assert!(more < reads, "{more} reads after {reads}");
    app.stop().await;
}

#[tokio::test]
async fn a_number_that_feasts_key_cannot_hold_is_nobody() {
    let repo = rides();
    let app = repo.serve().await;
    let shops = [7, i64::from(i32::MAX) + 1, i64::MIN, 7];
    let reply = native(&app, "driver_shop", json!({ "driver_id": [1, 1, 2, 2], "shop_id": shops })).await;
    let open = column(&reply, "shop_stats:open");
    assert_eq!(open["values"], json!([true, null, null, true]));
    assert_eq!(open["provenance"], json!(["STORE", "MISSING", "MISSING", "STORE"]));
    app.stop().await;
}

#[tokio::test]
async fn packed_rows_and_feasts_hashes_are_read_side_by_side_and_versions_are_pinned() {
    let traffic = |version: u32, stored: &str| {
        format!(
            "[[view]]\nname = \"traffic\"\nversion = {version}\nentity = \"destination\"\nowner = \"tests\"\n\
             description = \"On the way.\"\nlayout = \"feast\"\n[view.feast]\nproject = \"{PROJECT}\"\nview = \"{stored}\"\n\
             key_names = {{ dest = \"Dest\" }}\n[[view.feature]]\nname = \"cars\"\ntype = \"i64\"\ndescription = \"Now.\"\n\n"
        )
    };
    let service = |name: &str, version: u32| {
        format!(
            "[[service]]\nname = \"{name}\"\nowner = \"tests\"\ndescription = \"Both.\"\nitems = [\"dest\"]\nbudget_ms = 10000\n\
             features = [\"destination:name\", \"traffic:cars\"]\npin = {{ traffic = {version} }}\n\n"
        )
    };
    let more = [traffic(1, "traffic"), traffic(2, "traffic_v2"), service("old", 1), service("new", 2)].concat();
    let (server, setup) = stored::filled(Setup::demo().append("catalog/traffic.toml", &more));
    for (view, cars) in [("traffic", 1), ("traffic_v2", 2)] {
        let hash = hash_name(&[("Dest", text("LAX"))]);
        let value = Value { val: Some(Val::Int64Val(cars)) }.encode_to_vec();
        server.command(&[b"HSET".to_vec(), hash, field(view, "cars").to_vec(), value]);
    }
    let gateway = setup.start().await;
    for (service, cars) in [("old", 1), ("new", 2)] {
        let body = json!({ "service": service, "items": { "dest": ["LAX", "SFO", "XXX"] } });
        let (_, reply) = post(gateway.listen(), "/v1/features", &body.to_string()).await;
        let names = &column(&reply, "destination:name")["values"];
        assert!(names[0].is_string() && names[1].is_string() && names[2].is_null(), "{reply}");
        assert_eq!(column(&reply, "traffic:cars")["values"], json!([cars, null, null]), "{reply}");
    }
    assert!(server.calls("mget") > 0 && server.calls("hmget") + server.calls("hgetall") > 0);
    gateway.stop().await;
}

#[tokio::test]
async fn keys_of_every_type_are_put_together_as_feast_sorts_them() {
    let keys = [
        ("hour_id", Type::UnixTimestamp),
        ("Zone_id", Type::Int32),
        ("blob_id", Type::Bytes),
        ("é_id", Type::String),
        ("n_id", Type::Int64),
    ];
    let all = view("all", &keys, &[("x", Type::Int64)]);
    let services = vec![of(&all, &[])];
    let repo = keys.iter().fold(rides(), |repo, (key, _)| repo.entity(key.trim_end_matches("_id")));
    let repo = repo.view(all).service("all", services);
    let row = |n: i64| {
        [
            ("hour_id", Val::UnixTimestampVal(1_700_000_000 + n)),
            ("Zone_id", Val::Int32Val(-1)),
            ("blob_id", Val::BytesVal(b"a:b".to_vec())),
            ("é_id", text("Zürich")),
            ("n_id", Val::Int64Val(i64::MIN)),
        ]
    };
    (1..3).for_each(|n| repo.row("all", &row(n), 1, &[("x", Some(Val::Int64Val(n)))]));
    let app = repo.serve().await;
    let micros = |n: i64| (1_700_000_000 + n) * 1_000_000;
    let items = json!({
        // Feast cuts fractions of a second off, and so is one cut off here.
        "hour_id": [micros(1), micros(2) + 999_999, micros(3)],
        "zone_id": [-1, -1, -1],
        "blob_id": ["a:b", "a:b", "a:b"],
        "id": ["Zürich", "Zürich", "Zürich"],
        "n_id": [i64::MIN, i64::MIN, i64::MIN],
    });
    let reply = native(&app, "all", items).await;
    assert_eq!(column(&reply, "all:x")["values"], json!([1, 2, null]), "{reply}");
    app.stop().await;
}

#[tokio::test]
async fn feast_alone_serves_its_services_natively_and_a_changed_registry_changes_them() {
    let mut repo = rides();
    let app = repo.serve().await;
    let services = http_get(app.listen(), "/v1/services").await.1;
    assert!(services.contains("driver_shop") && services.contains("journeys"), "{services}");
    let everything = native(&app, "weather_for_all", json!({})).await;
    assert_eq!(column(&everything, "weather:is_raining")["values"], json!([true]));
    let stats = repo.registry.feature_views[0].spec.clone().expect("a spec");
    repo = repo.service("late", vec![of(&stats, &["rate"])]);
    repo.write();
    eventually("the new service is there", async || {
        let body = r#"{"service":"late","items":{"driver_id":[1]}}"#;
        let (status, reply) = post(app.listen(), "/v1/features", body).await;
        status == 200 && reply["features"][0]["values"] == json!([0.25])
    })
    .await;
    app.stop().await;
}

#[tokio::test]
async fn what_cannot_be_imported_keeps_nothing_from_being_served() {
    let odd = view("odd", &[("ratio_id", Type::Double)], &[("x", Type::Int64)]);
    let maps = view("maps", &[("driver_id", Type::Int64)], &[("m", Type::Map)]);
    let (odd_service, maps_service) = (vec![of(&odd, &[])], vec![of(&maps, &[])]);
    let text_code = view("by_text", &[("code_id", Type::String)], &[("a", Type::Int64)]);
    let number_code = view("by_number", &[("code_id", Type::Int64)], &[("b", Type::Int64)]);
    // Feast lets the later view say of which type the column is; here a column has one type.
    let torn = vec![of(&text_code, &[]), of(&number_code, &[])];
    let repo = rides().entity("ratio").entity("code").view(odd).view(maps).view(text_code).view(number_code);
    let repo = repo.service("odd", odd_service).service("maps", maps_service).service("torn", torn);
    let app = repo.serve().await;
    assert_eq!(post(app.listen(), "/v1/features", r#"{"service":"maps","items":{"driver_id":[1]}}"#).await.0, 404);
    let reply = native(&app, "driver_types", json!({ "driver_id": [1] })).await;
    assert_eq!(column(&reply, "driver_types:name")["values"], json!(["gold"]));
    app.stop().await;
    let shown = weir(&["import", "feast", path(repo.dir())]);
    let (catalog, told) = (stdout(&shown), stderr(&shown));
    for says in [
        "view \"odd\": its join key \"ratio_id\" is DOUBLE",
        "view \"maps\": no column holds MAP",
        "service \"odd\": none of its features can be imported",
        "service \"torn\": by_number:b: join key \"code_id\" is i64 here but string in \"by_text\"",
        "entity \"ratio\": none of its views can be imported",
        "feature \"geo\" of view \"driver_stats\": no column holds STRUCT",
    ] {
        assert!(told.contains(says), "{says}: {told}");
        let commented = catalog.lines().map(|line| line.trim_start_matches("# ")).collect::<Vec<_>>().join(" ");
        assert!(commented.contains(says), "{says}: {catalog}");
    }
    assert!(catalog.contains("[[service]]\nname = \"driver_shop\""), "{catalog}");
}

#[test]
fn files_are_written_once_unless_it_is_said() {
    let repo = rides();
    repo.write();
    let out = tempfile::tempdir().expect("a folder");
    let into = out.path().join("weir");
    let args = ["import", "feast", path(repo.dir()), "--out", path(&into)];
    let written = weir(&[&args[..], &["--json"]].concat());
    assert!(written.status.success(), "{}", stderr(&written));
    let summary: Json = serde_json::from_slice(&written.stdout).expect("JSON");
    assert_eq!((&summary["services"], &summary["views"]), (&json!(4), &json!(5)), "{summary}");
    assert_eq!(summary["left_out"].as_array().map(Vec::len), Some(1), "{summary}");
    let views = into.join("catalog/views.toml");
    std::fs::write(&views, "mine").expect("write");
    let again = weir(&args);
    assert!(!again.status.success() && stderr(&again).contains("--force overwrites"), "{}", stderr(&again));
    assert_eq!(std::fs::read_to_string(&views).expect("views"), "mine");
    assert!(weir(&[&args[..], &["--force"]].concat()).status.success());
    assert!(weir(&["check", "--config", path(&into)]).status.success());
    let nowhere = weir(&["import", "feast", path(&into)]);
    assert_eq!(nowhere.status.code(), Some(78), "{}", stderr(&nowhere));
}

#[test]
fn the_embedded_store_has_no_feast_views_and_load_leaves_them_to_feast() {
    let repo = rides();
    let out = imported(&repo);
    let settings = out.path().join("weir.toml");
    let good = std::fs::read_to_string(&settings).expect("weir.toml");
    std::fs::write(&settings, format!("store = \"embedded\"\n{good}")).expect("write");
    let checked = weir(&["check", "--config", path(out.path())]);
    assert_eq!(checked.status.code(), Some(78));
    let said = stderr(&checked);
    assert!(said.contains("view \"driver_stats\": feast views need a Redis store"), "{said}");
    let line = said.lines().find(|line| line.contains("driver_stats")).expect("a line");
    assert!(line.contains("catalog/views.toml:"), "{line}");
    let load = ["load", "--config", path(out.path()), "--store", &repo.server.url()].map(str::to_owned);
    let load: Vec<&str> = load.iter().map(String::as_str).collect();
    let all = weir(&load);
    assert!(
        all.status.success() && stdout(&all).contains("driver_stats@1: not loaded: its rows lie in Feast's hashes")
    );
    let one = weir(&[&load[..], &["driver_stats"]].concat());
    assert!(!one.status.success() && stderr(&one).contains("which Feast fills"), "{}", stderr(&one));
    assert_eq!(repo.server.calls("set"), 0);
}

/// Drivers with numbers and with every type, shops by int32, a view of everything, and services over them.
fn rides() -> Repo {
    let mut stats = view(
        "driver_stats",
        &[("driver_id", Type::Int64)],
        &[("rate", Type::Double), ("trips", Type::Int64), ("geo", Type::Struct)],
    );
    stats.ttl = Some(prost_types::Duration { seconds: 86_400, nanos: 0 });
    let shop = view("Shop Stats", &[("Shop_id", Type::Int32)], &[("Open", Type::Bool)]);
    let place = view("places", &[("place_id", Type::Int64)], &[("city", Type::String)]);
    let weather = view("weather", &[("__dummy_id", Type::String)], &[("is_raining", Type::Bool)]);
    let weather = weir_proto::feast::core::FeatureViewSpec { entities: vec!["__dummy".to_owned()], ..weather };
    let types = view("driver_types", &[("driver_id", Type::Int64)], &types());
    let aliased = |alias: &str, column: &str| weir_proto::feast::core::FeatureViewProjection {
        feature_view_name_alias: alias.to_owned(),
        join_key_map: [("place_id".to_owned(), column.to_owned())].into(),
        ..of(&place, &[])
    };
    let journeys = vec![aliased("origin", "from"), aliased("destination", "to")];
    let repo = Repo::new().entity("driver").entity("Shop").entity("place").entity("__dummy");
    let repo = repo
        .service("Driver & shop", vec![of(&stats, &["trips", "rate"]), of(&shop, &[])])
        .service("journeys", journeys)
        .service("driver_types", vec![of(&types, &[])])
        .service("weather_for_all", vec![of(&weather, &[])]);
    let mut repo = repo.view(stats).view(shop).view(place).view(weather).view(types);
    // The dummy's join key is no `…_id` of its name.
    for entity in repo.registry.entities.iter_mut().flat_map(|e| &mut e.spec).filter(|e| e.name == "__dummy") {
        entity.join_key = "__dummy_id".to_owned();
    }
    fill(&repo);
    repo.write();
    repo
}

fn fill(repo: &Repo) {
    let now = i64::from(u32::MAX);
    let driver = |id| [("driver_id", Val::Int64Val(id))];
    let stats = [("rate", Some(Val::DoubleVal(0.25))), ("trips", Some(Val::Int64Val(12)))];
    repo.row("driver_stats", &driver(1), now, &stats);
    repo.row("driver_stats", &driver(2), now, &[("rate", None), ("trips", Some(Val::Int64Val(-3)))]);
    repo.row("Shop Stats", &[("Shop_id", Val::Int32Val(7))], now, &[("Open", Some(Val::BoolVal(true)))]);
    for (id, city) in [(1, "Ulm"), (2, "Bonn")] {
        repo.row("places", &[("place_id", Val::Int64Val(id))], now, &[("city", Some(text(city)))]);
    }
    repo.row("weather", &[], now, &[("is_raining", Some(Val::BoolVal(true)))]);
    let vals: Vec<(&str, Option<Val>)> = vals().into_iter().map(|(name, val)| (name, Some(val))).collect();
    repo.row("driver_types", &driver(1), 1_600_000_000, &vals);
    // One without any value: unset, set to null, or not there at all.
    let unset = vals.iter().enumerate().filter(|(i, _)| i % 3 > 0);
    let unset: Vec<_> =
        unset.map(|(i, (name, _))| (*name, (i % 3 == 1).then_some(Val::NullVal(Null::Null as i32)))).collect();
    repo.row("driver_types", &driver(2), 1, &unset);
    // And one whose values are all of a type that nothing was declared as.
    let wrong: Vec<_> = vals.iter().map(|(name, _)| (*name, Some(Val::MapVal(Default::default())))).collect();
    repo.row("driver_types", &driver(3), 2, &wrong);
    let keys = repo.server.command(&["DBSIZE"]);
    assert_eq!(keys, "7", "{:?}", hash_name(&driver(1)));
}

/// Features of one view, one of each kind that a column can be.
fn vals() -> Vec<(&'static str, Val)> {
    vec![
        ("i32", Val::Int32Val(-7)),
        ("i64", Val::Int64Val(9_007_199_254_740_993)),
        ("f32", Val::FloatVal(0.5)),
        ("flag", Val::BoolVal(true)),
        ("name", text("gold")),
        ("raw", Val::BytesVal(vec![0, 255])),
        ("at", Val::UnixTimestampVal(1_700_000_000)),
        ("doc", Val::JsonVal("{\"a\": 1}".to_owned())),
        ("i32s", Val::Int32ListVal(Int32List { val: vec![1, -2] })),
        ("f32s", Val::FloatListVal(FloatList { val: vec![0.5, -2.0] })),
        ("f64s", Val::DoubleSetVal(DoubleList { val: vec![0.25] })),
        ("flags", Val::BoolListVal(BoolList { val: vec![true, false] })),
        ("words", Val::StringListVal(StringList { val: vec!["a".to_owned(), String::new()] })),
        ("times", Val::UnixTimestampListVal(Int64List { val: vec![1] })),
    ]
}

fn types() -> Vec<(&'static str, Type)> {
    let of = |val: &Val| match val {
        Val::Int32Val(_) => Type::Int32,
        Val::Int64Val(_) => Type::Int64,
        Val::FloatVal(_) => Type::Float,
        Val::BoolVal(_) => Type::Bool,
        Val::StringVal(_) => Type::String,
        Val::BytesVal(_) => Type::Bytes,
        Val::UnixTimestampVal(_) => Type::UnixTimestamp,
        Val::JsonVal(_) => Type::Json,
        Val::Int32ListVal(_) => Type::Int32List,
        Val::FloatListVal(_) => Type::FloatList,
        Val::DoubleSetVal(_) => Type::DoubleSet,
        Val::BoolListVal(_) => Type::BoolList,
        Val::StringListVal(_) => Type::StringList,
        Val::UnixTimestampListVal(_) => Type::UnixTimestampList,
        other => panic!("no type for {other:?}"),
    };
    vals().iter().map(|(name, val)| (*name, of(val))).collect()
}

/// Feast's times are in seconds, ours in microseconds.
fn micros(values: &mut Json) {
    match values {
        Json::Array(items) => items.iter_mut().for_each(micros),
        Json::Number(seconds) => *values = json!(seconds.as_i64().expect("seconds") * 1_000_000),
        _ => {}
    }
}

/// What `weir import feast` makes of it.
fn imported(repo: &Repo) -> tempfile::TempDir {
    repo.write();
    let out = tempfile::tempdir().expect("a folder");
    let written = weir(&["import", "feast", path(repo.dir()), "--out", path(out.path())]);
    assert!(written.status.success(), "{}", stderr(&written));
    out
}

async fn serve(dir: &Path) -> App {
    let config = Config::load(dir, Overrides { ..on_free_ports() }).expect("good settings");
    App::start(config).await.unwrap_or_else(|error| panic!("{error}: {error:?}"))
}

async fn native(app: &App, service: &str, items: Json) -> Json {
    let body = json!({ "service": service, "items": items });
    let (status, reply) = post(app.listen(), "/v1/features", &body.to_string()).await;
    assert_eq!(status, 200, "{reply}");
    reply
}

fn column<'r>(reply: &'r Json, name: &str) -> &'r Json {
    let features = reply["features"].as_array().expect("features");
    features.iter().find(|f| f["name"] == name).unwrap_or_else(|| panic!("no {name} in {reply}"))
}

fn weir(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_weir")).args(args).env_remove("RUST_LOG").output().expect("run weir")
}

fn path(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}
