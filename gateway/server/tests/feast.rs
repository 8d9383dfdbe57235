//! Reads through Feast's doors, HTTP and gRPC: what Feast's own clients send, get and are told, over the hashes that
//! Feast fills, through outages of Redis and changes of the registry.
#![allow(clippy::expect_used, clippy::panic, reason = "a test that fails panics")]

mod harness;
#[path = "harness/feast.rs"]
mod repo;

use harness::{eventually, exchange, http, http_get, post};
use prost::Message;
use repo::{ONLINE, PROJECT, Repo, ask, column, names, of, on_free_ports, text, view};
use serde_json::{Value as Json, json};
use tonic::transport::Channel;
use weir::config::Overrides;
use weir_domain::feast::KeyFormat;
use weir_feast::Semantics;
use weir_proto::feast::core::{
    FeatureView, FeatureViewMeta, FeatureViewProjection, FeatureViewVersionHistory, FeatureViewVersionRecord,
};
use weir_proto::feast::python::grpc_feature_server_client::GrpcFeatureServerClient;
use weir_proto::feast::serving::serving_service_client::ServingServiceClient;
use weir_proto::feast::serving::{
    FeatureList, FieldStatus, GetFeastServingInfoRequest, GetOnlineFeaturesRequest, get_online_features_request::Kind,
};
use weir_proto::feast::types::{RepeatedValue, Value, value::Val, value_type::Enum as Type};

/// 2023-11-14T22:13:20Z.
const AT: i64 = 1_700_000_000;

#[tokio::test]
async fn values_statuses_and_times_come_as_feasts_python_server_gives_them() {
    let repo = rides();
    let app = repo.serve().await;
    let features = ["driver_stats:rate", "driver_stats:trips", "weather:is_raining"];
    let reply = ask(&app, json!({ "features": features, "entities": { "driver_id": [1, 2, 99] } })).await;
    assert_eq!(names(&reply), ["driver_id", "rate", "trips", "is_raining"]);
    let (known, never) = ("2023-11-14T22:13:20Z", "1970-01-01T00:00:00Z");
    for (name, values, times) in [
        ("driver_id", json!([1, 2, 99]), [never; 3]),
        ("rate", json!([0.25, null, null]), [known, known, never]),
        ("trips", json!([12, -3, null]), [known, known, never]),
        ("is_raining", json!([true, true, true]), [known; 3]),
    ] {
        let column = column(&reply, name);
        assert_eq!(column["values"], values, "{name}");
        assert_eq!(column["event_timestamps"], json!(times), "{name}");
        // To Feast's Python server everything is there.
        assert_eq!(column["statuses"], json!(vec!["PRESENT"; 3]), "{name}");
    }
    let body = json!({ "features": features, "entities": { "driver_id": [1] }, "full_feature_names": true });
    let full = ask(&app, body).await;
    assert_eq!(names(&full), ["driver_id", "driver_stats__rate", "driver_stats__trips", "weather__is_raining"]);
    app.stop().await;
}

#[tokio::test]
async fn a_service_reads_one_view_twice_under_aliases_by_columns_of_its_own() {
    let repo = rides();
    let app = repo.serve().await;
    let entities = json!({ "from": [1, 2, 99], "to": [2, 1, 1] });
    let full =
        ask(&app, json!({ "feature_service": "journeys", "entities": entities, "full_feature_names": true })).await;
    assert_eq!(names(&full), ["from", "to", "origin__city", "destination__city"]);
    assert_eq!(column(&full, "origin__city")["values"], json!(["Ulm", "Bonn", null]));
    assert_eq!(column(&full, "destination__city")["values"], json!(["Bonn", "Ulm", "Ulm"]));
    app.stop().await;
}

#[tokio::test]
async fn what_is_wrong_is_told_in_feasts_words() {
    let repo = rides();
    let app = repo.serve().await;
    let driver = json!({ "driver_id": [1] });
    let (status, told) = post(app.listen(), ONLINE, &asking(json!(["nobody:rate"]), &driver)).await;
    assert_eq!(status, 404);
    let inner: Json = serde_json::from_str(told.as_str().expect("a string with JSON in it")).expect("JSON");
    let says = "Feature view nobody does not exist in project rides";
    assert_eq!(inner, json!({ "module": "feast.errors", "class": "FeatureViewNotFoundException", "message": says }));
    let body = json!({ "feature_service": "nothing", "entities": driver }).to_string();
    let (status, told) = post(app.listen(), ONLINE, &body).await;
    assert_eq!(status, 404);
    assert!(told.to_string().contains("FeatureServiceNotFoundException"), "{told}");

    let both = json!(["driver_stats:trips", "driver_more:trips"]);
    let (status, told) = post(app.listen(), ONLINE, &asking(both, &driver)).await;
    assert_eq!(status, 500);
    assert!(told.to_string().contains("FeatureNameCollisionError"), "{told}");
    assert!(told.to_string().contains("Duplicate features named trips found."), "{told}");

    let good = asking(json!(["driver_stats:trips"]), &driver);
    assert_eq!(post(app.listen(), ONLINE, &good).await.0, 200);
    for headers in [&[][..], &[("content-type", "text/plain")]] {
        let (status, told) = http(app.listen(), "POST", ONLINE, headers, &good).await;
        assert_eq!(status, 422, "{told}");
        assert!(told.contains("\"detail\":[{"), "{told}");
    }
    let (status, told) = post(app.listen(), ONLINE, "{\"features\":").await;
    assert_eq!(status, 422, "{told}");
    app.stop().await;
}

#[tokio::test]
async fn paths_and_methods_are_feasts() {
    let repo = rides();
    let app = repo.serve().await;
    for (method, path, status) in [
        ("GET", "/health", 200),
        ("HEAD", "/health", 405),
        ("POST", "/health", 405),
        ("GET", ONLINE, 405),
        ("PUT", "/push", 405),
        ("POST", "/get-online-features/", 307),
        ("POST", "/no-such-path", 404),
    ] {
        let (told, head, body) = exchange(app.listen(), method, path, &[], "").await;
        assert_eq!(told, status, "{method} {path}: {head}");
        if status == 405 && method != "HEAD" {
            assert_eq!(body, r#"{"detail":"Method Not Allowed"}"#, "{method} {path}");
        }
    }
    app.stop().await;
}

#[tokio::test]
async fn views_of_one_entity_are_one_command_and_an_entity_is_read_once() {
    let repo = rides();
    let app = repo.serve().await;
    let reads = || repo.server.calls("hmget") + repo.server.calls("hgetall");
    let before = reads();
    let features = json!(["driver_stats:rate", "driver_more:trips", "driver_more:score", "driver_stats:trips"]);
    let body =
        json!({ "features": features, "entities": { "driver_id": [1, 2, 1, 1, 2] }, "full_feature_names": true });
    let reply = ask(&app, body).await;
    assert_eq!(column(&reply, "driver_stats__trips")["values"], json!([12, -3, 12, 12, -3]));
    assert_eq!(column(&reply, "driver_more__trips")["values"], json!([1, null, 1, 1, null]));
    assert_eq!(column(&reply, "driver_more__score")["values"], json!([0.5, null, 0.5, 0.5, null]));
    assert_eq!(reads() - before, 2, "two drivers");
    app.stop().await;
}

#[tokio::test]
async fn keys_are_those_of_the_repositorys_version() {
    for format in [KeyFormat::V2, KeyFormat::V3] {
        let mut repo = Repo::new().entity("driver").view(stats());
        repo.key_format = format;
        fill_stats(&repo);
        let app = repo.serve().await;
        let body = json!({ "features": ["driver_stats:trips"], "entities": { "driver_id": [1] } });
        assert_eq!(column(&ask(&app, body.clone()).await, "trips")["values"], json!([12]), "{format:?}");
        app.stop().await;
        // The other version's hash is not there.
        repo.key_format = if format == KeyFormat::V2 { KeyFormat::V3 } else { KeyFormat::V2 };
        let app = repo.serve().await;
        assert_eq!(column(&ask(&app, body).await, "trips")["values"], json!([null]), "{format:?}");
        app.stop().await;
    }
}

#[tokio::test]
async fn versions_of_a_view_are_read_where_each_was_written() {
    let mut repo = Repo::new().entity("driver");
    let meta = Some(FeatureViewMeta { current_version_number: 2, ..Default::default() });
    repo.registry.feature_views.push(FeatureView { spec: Some(stats()), meta: meta.clone() });
    let record = |version: i32| FeatureViewVersionRecord {
        feature_view_name: "driver_stats".to_owned(),
        project_id: PROJECT.to_owned(),
        version_number: version,
        feature_view_type: "feature_view".to_owned(),
        feature_view_proto: FeatureView { spec: Some(stats()), meta: meta.clone() }.encode_to_vec(),
    };
    let records = vec![record(1), record(2)];
    repo.registry.feature_view_version_history = Some(FeatureViewVersionHistory { records });
    for (stored, trips) in [("driver_stats", 10), ("driver_stats_v1", 11), ("driver_stats_v2", 12)] {
        repo.row(stored, &driver(1), AT, &[("trips", Some(Val::Int64Val(trips)))]);
    }
    let entities = json!({ "driver_id": [1] });
    let plain = repo.serve().await;
    let current = json!({ "features": ["driver_stats:trips"], "entities": entities });
    assert_eq!(column(&ask(&plain, current.clone()).await, "trips")["values"], json!([10]));
    plain.stop().await;

    repo.versioning = true;
    let app = repo.serve().await;
    assert_eq!(column(&ask(&app, current).await, "trips")["values"], json!([12]));
    let features = ["driver_stats@v1:trips", "driver_stats@v2:trips", "driver_stats@latest:trips"];
    for (feature, trips) in features.into_iter().zip([11, 12, 12]) {
        let reply = ask(&app, json!({ "features": [feature], "entities": entities })).await;
        assert_eq!(column(&reply, "trips")["values"], json!([trips]), "{feature}");
    }
    let (status, told) = post(app.listen(), ONLINE, &asking(json!(["driver_stats@v9:trips"]), &entities)).await;
    assert_eq!(status, 404);
    assert!(told.to_string().contains("Version v9 of feature view driver_stats does not exist"), "{told}");
    app.stop().await;
}

#[tokio::test]
async fn strict_statuses_say_what_there_is_not_and_keep_a_value_that_is_too_old() {
    let mut spec = stats();
    spec.ttl = Some(prost_types::Duration { seconds: 3_600, nanos: 0 });
    let repo = Repo::new().entity("driver").view(spec);
    let (old, young) = (AT, i64::from(u32::MAX));
    repo.row("driver_stats", &driver(1), young, &[("rate", Some(Val::DoubleVal(0.5))), ("trips", None)]);
    repo.row("driver_stats", &driver(2), old, &[("rate", Some(Val::DoubleVal(0.75)))]);
    let strict = Overrides { semantics: Some(Semantics::Strict), ..on_free_ports() };
    let app = repo.serve_with(strict).await;
    let features = ["driver_stats:rate", "driver_stats:trips"];
    let reply = ask(&app, json!({ "features": features, "entities": { "driver_id": [1, 2, 99] } })).await;
    let (rate, trips) = (column(&reply, "rate"), column(&reply, "trips"));
    assert_eq!(rate["values"], json!([0.5, 0.75, null]));
    assert_eq!(rate["statuses"], json!(["PRESENT", "OUTSIDE_MAX_AGE", "NOT_FOUND"]));
    assert_eq!(trips["values"], json!([null, null, null]));
    assert_eq!(trips["statuses"], json!(["NULL_VALUE", "NOT_FOUND", "NOT_FOUND"]));
    app.stop().await;
}

#[tokio::test]
async fn grpc_answers_the_same_through_both_services_and_reflection_lists_them() {
    let repo = rides();
    let app = repo.serve().await;
    let url = format!("http://{}", app.listen());
    let channel = Channel::from_shared(url).expect("a URL").connect().await.expect("connect");
    let mut go = ServingServiceClient::new(channel.clone());
    let mut python = GrpcFeatureServerClient::new(channel.clone());
    let of = |kind| GetOnlineFeaturesRequest {
        kind: Some(kind),
        entities: [column_of("driver_id", &[1, 99])].into(),
        full_feature_names: true,
        ..Default::default()
    };
    let features = FeatureList { val: vec!["driver_stats:trips".to_owned(), "driver_more:trips".to_owned()] };
    let request = of(Kind::Features(features));
    let replies = [
        go.get_online_features(request.clone()).await.expect("Go's answer").into_inner(),
        python.get_online_features(request).await.expect("Python's answer").into_inner(),
    ];
    assert_eq!(replies[0], replies[1]);
    let [reply, _] = replies;
    let names = reply.metadata.and_then(|m| m.feature_names).expect("names").val;
    assert_eq!(names, ["driver_id", "driver_stats__trips", "driver_more__trips"]);
    let trips = &reply.results[1];
    assert_eq!(trips.values, [Some(Val::Int64Val(12)), None].map(|val| Value { val }));
    assert_eq!(trips.statuses, [FieldStatus::Present as i32; 2]);
    assert_eq!(trips.event_timestamps[0].seconds, AT);

    let info = go.get_feast_serving_info(GetFeastServingInfoRequest {}).await.expect("info").into_inner();
    assert!(!info.version.is_empty());
    let unknown = of(Kind::FeatureService("nothing".to_owned()));
    let status = python.get_online_features(unknown).await.expect_err("no such service");
    assert_eq!(status.code(), tonic::Code::Internal);
    assert!(status.message().contains("Feature service nothing does not exist"), "{status:?}");

    let listed = reflected(channel).await;
    for service in ["GrpcFeatureServer", "feast.serving.ServingService", "weir.v1.FeatureService"] {
        assert!(listed.iter().any(|name| name == service), "{service}: {listed:?}");
    }
    app.stop().await;
}

#[tokio::test]
async fn a_frozen_redis_costs_the_budget_and_values_are_stale_or_invalid_until_it_thaws() {
    let repo = rides();
    let app = repo.serve().await;
    let entities = |drivers: &[i64]| json!({ "driver_id": drivers });
    let features = json!(["driver_stats:trips"]);
    let read = async |drivers: &[i64]| {
        let headers = [("content-type", "application/json"), ("x-request-timeout-ms", "100")];
        let body = asking(features.clone(), &entities(drivers));
        // Without a budget nothing would come at all.
        let (status, head, body) = exchange(app.listen(), "POST", ONLINE, &headers, &body).await;
        let provenance = head.lines().find_map(|line| line.strip_prefix("x-weir-provenance: ")).map(str::to_owned);
        let reply: Json = serde_json::from_str(&body).unwrap_or_default();
        (status, reply, provenance.unwrap_or_default())
    };
    eventually("read from Redis", async || {
        let (status, reply, provenance) = read(&[1]).await;
        status == 200 && provenance.is_empty() && column(&reply, "trips")["values"] == json!([12])
    })
    .await;

    repo.server.freeze();
    for _ in 0..20 {
        let (status, reply, provenance) = read(&[1, 2]).await;
        assert_eq!(status, 200, "{reply}");
        let trips = column(&reply, "trips");
        assert_eq!(trips["values"], json!([12, null]), "{provenance}");
        assert_eq!(trips["statuses"], json!(["PRESENT", "INVALID"]), "{provenance}");
        assert!(provenance.contains("STALE=1"), "{provenance}");
        assert!(provenance.contains("LATE=1") || provenance.contains("UNAVAILABLE=1"), "{provenance}");
    }
    repo.server.thaw();
    eventually("read from Redis again", async || {
        let (_, reply, provenance) = read(&[1, 2]).await;
        provenance.is_empty() && column(&reply, "trips")["values"] == json!([12, -3])
    })
    .await;
    app.stop().await;
}

#[tokio::test]
async fn a_registry_of_garbage_changes_nothing_and_a_good_one_is_served() {
    let mut repo = rides();
    let app = repo.serve().await;
    let entities = json!({ "driver_id": [1] });
    std::fs::write(repo.dir().join("garbage"), "no registry").expect("write");
    std::fs::rename(repo.dir().join("garbage"), repo.dir().join("registry.db")).expect("replace");
    eventually("it is refused", async || {
        let page = http_get(app.admin(), "/metrics").await.1;
        let refused = page.lines().find_map(|l| l.strip_prefix(r#"weir_config_reloads_total{outcome="refused"} "#));
        refused.is_some_and(|count| count != "0")
    })
    .await;
    let trips = ask(&app, json!({ "features": ["driver_stats:trips"], "entities": entities })).await;
    assert_eq!(column(&trips, "trips")["values"], json!([12]));

    let new = asking(json!(["driver_new:level"]), &entities);
    assert_eq!(post(app.listen(), ONLINE, &new).await.0, 404);
    repo = repo.view(view("driver_new", &[("driver_id", Type::Int64)], &[("level", Type::String)]));
    repo.row("driver_new", &driver(1), AT, &[("level", Some(text("gold")))]);
    repo.write();
    eventually("the new view is served", async || {
        let (status, reply) = post(app.listen(), ONLINE, &new).await;
        status == 200 && column(&reply, "level")["values"] == json!(["gold"])
    })
    .await;
    app.stop().await;
}

/// Drivers in two views that both have trips, places under aliases, and the weather for everybody.
fn rides() -> Repo {
    let more = view("driver_more", &[("driver_id", Type::Int64)], &[("trips", Type::Int64), ("score", Type::Float)]);
    let place = view("places", &[("place_id", Type::Int64)], &[("city", Type::String)]);
    let mut weather = view("weather", &[("__dummy_id", Type::String)], &[("is_raining", Type::Bool)]);
    weather.entities = vec!["__dummy".to_owned()];
    let aliased = |alias: &str, column: &str| FeatureViewProjection {
        feature_view_name_alias: alias.to_owned(),
        join_key_map: [("place_id".to_owned(), column.to_owned())].into(),
        ..of(&place, &[])
    };
    let journeys = vec![aliased("origin", "from"), aliased("destination", "to")];
    let repo = Repo::new().entity("driver").entity("place").entity("__dummy").service("journeys", journeys);
    let repo = repo.view(stats()).view(more).view(place).view(weather);
    fill_stats(&repo);
    repo.row("driver_more", &driver(1), AT, &[("trips", Some(Val::Int64Val(1))), ("score", Some(Val::FloatVal(0.5)))]);
    for (id, city) in [(1, "Ulm"), (2, "Bonn")] {
        repo.row("places", &[("place_id", Val::Int64Val(id))], AT, &[("city", Some(text(city)))]);
    }
    repo.row("weather", &[], AT, &[("is_raining", Some(Val::BoolVal(true)))]);
    repo
}

fn stats() -> weir_proto::feast::core::FeatureViewSpec {
    view("driver_stats", &[("driver_id", Type::Int64)], &[("rate", Type::Double), ("trips", Type::Int64)])
}

fn fill_stats(repo: &Repo) {
    let rate = ("rate", Some(Val::DoubleVal(0.25)));
    repo.row("driver_stats", &driver(1), AT, &[rate, ("trips", Some(Val::Int64Val(12)))]);
    repo.row("driver_stats", &driver(2), AT, &[("rate", None), ("trips", Some(Val::Int64Val(-3)))]);
}

fn driver(id: i64) -> [(&'static str, Val); 1] {
    [("driver_id", Val::Int64Val(id))]
}

fn asking(features: Json, entities: &Json) -> String {
    json!({ "features": features, "entities": entities }).to_string()
}

fn column_of(name: &str, ids: &[i64]) -> (String, RepeatedValue) {
    (name.to_owned(), RepeatedValue { val: ids.iter().map(|id| Value { val: Some(Val::Int64Val(*id)) }).collect() })
}

/// The services that reflection lists.
async fn reflected(channel: Channel) -> Vec<String> {
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
    use tonic_reflection::pb::v1::{ServerReflectionRequest, server_reflection_client::ServerReflectionClient};
    let list = ServerReflectionRequest {
        message_request: Some(MessageRequest::ListServices(String::new())),
        ..Default::default()
    };
    let asked = ServerReflectionClient::new(channel).server_reflection_info(futures::stream::iter([list])).await;
    let answer = asked.expect("reflection").into_inner().message().await.expect("an answer").expect("one");
    let Some(MessageResponse::ListServicesResponse(listed)) = answer.message_response else {
        panic!("no list: {answer:?}")
    };
    listed.service.into_iter().map(|service| service.name).collect()
}
