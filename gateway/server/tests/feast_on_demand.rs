//! On-demand views, which are Python inside Feast, by the Wasm transforms of their names: asked through Feast's own doors
//! by people who know nothing of it.
#![allow(clippy::expect_used, clippy::panic, reason = "a test that fails panics")]

mod harness;
#[path = "harness/feast.rs"]
mod repo;

use std::collections::BTreeMap;
use std::fs;

use harness::{components, exchange, post};
use repo::{Repo, of, on_free_ports, text, view};
use serde_json::{Value as Json, json};
use tonic::transport::Channel;
use weir::app::App;
use weir::config::{Config, Overrides};
use weir_proto::feast::python::grpc_feature_server_client::GrpcFeatureServerClient;
use weir_proto::feast::serving::serving_service_client::ServingServiceClient;
use weir_proto::feast::serving::{
    FeatureList, FieldStatus, GetOnlineFeaturesRequest, GetOnlineFeaturesResponse, get_online_features_request::Kind,
};
use weir_proto::feast::types::{RepeatedValue, Value, value::Val, value_type::Enum as Type};

#[tokio::test]
async fn outputs_come_from_view_features_and_request_data_under_feasts_names() {
    let scene = Scene::of(rides()).await;
    let entities = json!({ "driver_id": [1, 2, 99], "distance_km": [10.0, 120.0, 1.0] });
    let features = ["rates:per_km", "Trip fare:fare", "Trip fare:note", "Trip fare:is_long"];
    let reply = scene.ask(json!({ "features": features, "entities": entities })).await;
    let named = |name: &str| column(&reply, name);
    assert_eq!(named("driver_id")["values"], json!([1, 2, 99]));
    assert_eq!(named("distance_km")["values"], json!([10.0, 120.0, 1.0]));
    assert_eq!(named("per_km")["values"], json!([0.5, 2.0, null]));
    // Whoever has no rate has no fare, and Feast's Python server calls a null PRESENT.
    assert_eq!(named("fare")["values"], json!([8.0, 243.0, null]));
    assert_eq!(named("note")["values"], json!(["8.00", "243.00", null]));
    assert_eq!(named("is_long")["values"], json!([false, true, false]));
    for output in ["fare", "note", "is_long"] {
        assert_eq!(named(output)["statuses"], json!(["PRESENT", "PRESENT", "PRESENT"]));
        assert_eq!(named(output)["event_timestamps"], json!(vec!["1970-01-01T00:00:00Z"; 3]));
    }
    assert_eq!(names(&reply).len(), 6, "what the transform reads is no column: {reply}");
    scene.app.stop().await;
}

#[tokio::test]
async fn full_names_services_and_grpc_say_the_same() {
    let scene = Scene::of(rides()).await;
    let entities = json!({ "driver_id": [1], "distance_km": [10.0] });
    let body = json!({ "features": ["Trip fare:fare"], "entities": entities, "full_feature_names": true });
    assert_eq!(column(&scene.ask(body).await, "Trip fare__fare")["values"], json!([8.0]));
    let body = json!({ "feature_service": "fares", "entities": entities });
    let reply = scene.ask(body).await;
    assert_eq!(column(&reply, "fare")["values"], json!([8.0]));
    assert_eq!(column(&reply, "base")["values"], json!([3]));

    let request = GetOnlineFeaturesRequest {
        kind: Some(Kind::Features(FeatureList { val: ["fare", "note"].map(|f| format!("Trip fare:{f}")).into() })),
        entities: [("driver_id", Val::Int64Val(2)), ("distance_km", Val::DoubleVal(1.5))]
            .map(|(name, val)| (name.to_owned(), RepeatedValue { val: vec![Value { val: Some(val) }] }))
            .into(),
        ..Default::default()
    };
    for reply in scene.grpc(request).await {
        let names = reply.metadata.and_then(|m| m.feature_names).expect("names").val;
        let results: BTreeMap<_, _> = names.into_iter().zip(reply.results).collect();
        assert_eq!(results["fare"].values, [Value { val: Some(Val::DoubleVal(6.0)) }]);
        assert_eq!(results["note"].values, [Value { val: Some(text("6.00")) }]);
        assert_eq!(results["fare"].statuses, [FieldStatus::Present as i32]);
    }
    scene.app.stop().await;
}

#[tokio::test]
async fn a_value_that_is_not_what_the_transform_takes_is_told_and_request_data_must_be_there() {
    let scene = Scene::of(rides()).await;
    let ask = async |entities: Json| scene.post(json!({ "features": ["Trip fare:fare"], "entities": entities })).await;
    let (status, told) = ask(json!({ "driver_id": [1], "distance_km": ["far"] })).await;
    assert_eq!(status, 500);
    assert!(told.to_string().contains("distance_km: row 1 is no f64"), "{told}");
    let (status, told) = ask(json!({ "driver_id": [1] })).await;
    assert_eq!(status, 404);
    assert!(told.to_string().contains("distance_km not found in the entity rows"), "{told}");
    // Whole numbers are numbers.
    let (_, whole) = ask(json!({ "driver_id": [1], "distance_km": [10] })).await;
    assert_eq!(column(&whole, "fare")["values"], json!([8.0]));
    scene.app.stop().await;
}

#[tokio::test]
async fn without_a_transform_that_fits_it_is_said_which_view_cannot_be_computed_and_what_would_help() {
    let scene = Scene::with(rides(), "").await;
    let body = json!({ "features": ["Trip fare:fare"], "entities": { "driver_id": [1], "distance_km": [10.0] } });
    let (status, told) = scene.post(body.clone()).await;
    assert_eq!(status, 500);
    let told = told.to_string();
    assert!(told.contains("'Trip fare' is computed by Python") && told.contains("named 'trip_fare'"), "{told}");
    scene.app.stop().await;

    let scene = Scene::of(rides_with(Type::Float)).await;
    let (status, told) = scene.post(body).await;
    assert_eq!(status, 500);
    assert!(told.to_string().contains("computes fare as f64, where Feast has FLOAT"), "{told}");
    scene.app.stop().await;
}

#[tokio::test]
async fn what_is_not_heard_in_time_is_invalid_and_so_is_what_would_be_computed_from_it() {
    let scene = Scene::of(rides()).await;
    let mut repo = scene.repo;
    repo.server.freeze();
    let body = json!({ "features": ["rates:base", "Trip fare:fare"], "entities": { "driver_id": [1], "distance_km": [10.0] } });
    let headers = [("content-type", "application/json"), ("x-request-timeout-ms", "150")];
    let (status, head, reply) =
        exchange(scene.app.listen(), "POST", "/get-online-features", &headers, &body.to_string()).await;
    assert_eq!(status, 200, "{reply}");
    let reply: Json = serde_json::from_str(&reply).expect("JSON");
    // Nothing was heard of the rates, so the fare is not known either.
    assert_eq!(column(&reply, "base")["statuses"], json!(["INVALID"]));
    assert_eq!(column(&reply, "fare")["values"], json!([null]));
    assert!(head.contains("x-weir-provenance: ") && head.contains("LATE="), "{head}");
    repo.server.thaw();
    repo.server.kill();
    scene.app.stop().await;
}

const TRANSFORM: &str = r#"
[[transform]]
name = "trip_fare"
version = 1
owner = "tests"
description = "What a trip costs."
component = "plugins/trip_fare.wasm"

[transform.inputs]
per_km = "rates:per_km"
base = "rates:base"
distance_km = "request:distance_km"

[[transform.output]]
name = "fare"
type = "f64"
description = "What it costs."

[[transform.output]]
name = "is_long"
type = "bool"
description = "Whether it takes a while."

[[transform.output]]
name = "note"
type = "string"
description = "For the receipt."
"#;

/// Rates by driver, and what they cost a passenger.
fn rides() -> Repo {
    rides_with(Type::Double)
}

fn rides_with(fare: Type) -> Repo {
    let outputs = [("fare", fare), ("is_long", Type::Bool), ("note", Type::String)];
    let rates = view("rates", &[("driver_id", Type::Int64)], &[("per_km", Type::Double), ("base", Type::Int64)]);
    let inputs = vec![of(&rates, &[])];
    let fare = weir_proto::feast::core::FeatureViewProjection {
        feature_view_name: "Trip fare".to_owned(),
        feature_columns: repo::fields(&outputs[..1]),
        ..Default::default()
    };
    let repo = Repo::new().entity("driver").service("fares", vec![of(&rates, &["base"]), fare]).view(rates);
    let repo = repo.on_demand("Trip fare", inputs, &[("distance_km", Type::Double)], &outputs);
    for (driver, per_km) in [(1, 0.5), (2, 2.0)] {
        let features = [("per_km", Some(Val::DoubleVal(per_km))), ("base", Some(Val::Int64Val(3)))];
        repo.row("rates", &[("driver_id", Val::Int64Val(driver))], 1_600_000_000, &features);
    }
    repo
}

/// `weir serve --feast REPO --config DIR`, where DIR is what `weir import feast` wrote, with its transform written.
struct Scene {
    app: App,
    repo: Repo,
    _config: tempfile::TempDir,
}

impl Scene {
    async fn of(repo: Repo) -> Self {
        Self::with(repo, TRANSFORM).await
    }

    async fn with(repo: Repo, transform: &str) -> Self {
        repo.write();
        let config = tempfile::tempdir().expect("a folder");
        let (dir, out) = (repo.dir().to_str().expect("UTF-8"), config.path().to_str().expect("UTF-8"));
        let weir = std::process::Command::new(env!("CARGO_BIN_EXE_weir"))
            .args(["import", "feast", dir, "--out", out])
            .output()
            .expect("run weir");
        assert!(weir.status.success(), "{}", String::from_utf8_lossy(&weir.stderr));
        fs::create_dir(config.path().join("plugins")).expect("a folder");
        fs::copy(components().join("trip_fare.wasm"), config.path().join("plugins/trip_fare.wasm")).expect("copy");
        fs::write(config.path().join("catalog/own.toml"), transform).expect("write");
        if !transform.is_empty() {
            // What the import left as comments is now true: the service gives the fare and takes the distance.
            let services = config.path().join("catalog/services.toml");
            let text = fs::read_to_string(&services).expect("services");
            let uncommented = text.replace("  # \"trip_fare:fare\"", "  \"trip_fare:fare\"");
            let at = uncommented.find("# [[service.request]]").expect("a commented request");
            let (before, after) = uncommented.split_at(at);
            let after: Vec<&str> = after.lines().map(|line| line.strip_prefix("# ").unwrap_or(line)).collect();
            fs::write(&services, format!("{before}{}\n", after.join("\n"))).expect("write");
        }
        let overrides = Overrides { feast: vec![repo.dir().to_owned()], ..on_free_ports() };
        let settings = Config::load(config.path(), overrides).expect("good settings");
        let app = App::start(settings).await.unwrap_or_else(|error| panic!("{error}: {error:?}"));
        Self { app, repo, _config: config }
    }

    async fn post(&self, body: Json) -> (u16, Json) {
        post(self.app.listen(), "/get-online-features", &body.to_string()).await
    }

    async fn ask(&self, body: Json) -> Json {
        let (status, reply) = self.post(body).await;
        assert_eq!(status, 200, "{reply}");
        reply
    }

    /// By the Go server's service and by the Python server's.
    async fn grpc(&self, request: GetOnlineFeaturesRequest) -> [GetOnlineFeaturesResponse; 2] {
        let url = format!("http://{}", self.app.listen());
        let channel = Channel::from_shared(url).expect("a URL").connect().await.expect("connect");
        let go = ServingServiceClient::new(channel.clone()).get_online_features(request.clone()).await;
        let python = GrpcFeatureServerClient::new(channel).get_online_features(request).await;
        [go, python].map(|reply| reply.expect("an answer").into_inner())
    }
}

fn names(reply: &Json) -> Vec<&str> {
    reply["metadata"]["feature_names"].as_array().expect("names").iter().flat_map(Json::as_str).collect()
}

fn column<'r>(reply: &'r Json, name: &str) -> &'r Json {
    let at = names(reply).iter().position(|n| *n == name).unwrap_or_else(|| panic!("no {name} in {reply}"));
    &reply["results"][at]
}
