//! What strangers do at the door, and what clients that are none of ours get through it.
#![allow(clippy::expect_used, clippy::panic, reason = "a test that fails panics")]

mod harness;
#[path = "harness/python.rs"]
mod python;

use harness::{Setup, connect, eventually, flights, post};
use python::python;
use serde_json::{Value as Json, json};
use weir_proto::v1;
use weir_proto::v1::experiment_service_client::ExperimentServiceClient;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_foreign_client_finds_its_way_by_reflection_and_health() {
    let gateway = Setup::demo().start().await;
    let script = r#"
import json, sys
from grpc_requests import Client

client = Client.get_by_endpoint(sys.argv[1])
texts = lambda name, value: {"name": name, "values": {"strings": {"values": [value]}}}
card = {"service": "route_card", "items": [texts("origin", "JFK"), texts("dest", "LAX")]}
print(json.dumps({
    "services": sorted(client.service_names),
    "health": client.request("grpc.health.v1.Health", "Check", {"service": ""}),
    "card": client.request("weir.v1.FeatureService", "GetFeatures", card),
    "unit": client.request("weir.v1.ExperimentService", "Assign", {"unit": "N14228"}),
}))
"#;
    let said = python(&["-c", script, &gateway.listen().to_string()]).await;
    let services: Vec<_> = said["services"].as_array().expect("services").iter().filter_map(Json::as_str).collect();
    for service in ["weir.v1.FeatureService", "weir.v1.ExperimentService", "grpc.health.v1.Health"] {
        assert!(services.contains(&service), "{services:?}");
    }
    assert_eq!(said["health"], json!({ "status": "SERVING" }));
    assert_eq!(said["card"]["rows"], 1, "{said}");
    assert_eq!(said["unit"]["assignments"][0]["experiment"], "delay_risk_v2", "{said}");
    gateway.stop().await;
}

/// The demo's experiments worked out from its catalog by another hand.
const ASSIGN: &str = r#"
import hashlib, json, sys, tomllib

catalog = tomllib.load(open(sys.argv[1], "rb"))
(layer,), (holdout,), (experiment,) = catalog["layer"], catalog["holdout"], catalog["experiment"]

def bucket(salt, unit):
    return int.from_bytes(hashlib.md5(f"{salt}-{unit}".encode()).digest()[:4], "big") % 10000

def inside(bounds, number):
    return bounds[0] <= number < bounds[1]

def assign(unit, carrier):
    if inside(holdout["buckets"], bucket(holdout["salt"], unit)):
        return {"holdouts": [holdout["name"]], "arms": []}
    at, behind = bucket(experiment["salt"], unit), 0
    if inside(experiment["slots"], bucket(layer["salt"], unit)) and carrier not in experiment["where"][0]["values"]:
        for arm in experiment["arm"]:
            behind += arm["weight"]
            if at < behind:
                return {"holdouts": [], "arms": [[experiment["name"], arm["name"], at]]}
    return {"holdouts": [], "arms": []}

print(json.dumps([assign(unit, carrier) for unit, carrier in json.loads(sys.argv[2])]))
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_doors_assign_as_one_line_of_md5_says() {
    // Narrower slots than the demo's, so that they matter too.
    let setup = Setup::demo().edit("catalog/experiments.toml", "slots = [0, 10000]", "slots = [1000, 9000]");
    let gateway = setup.start().await;
    let units: Vec<(String, &str)> = (0..500)
        .map(|i| {
            let unit = if i % 7 == 0 { format!("Zürich-☃-{i}") } else { format!("unit-{i}") };
            (unit, if i % 10 == 0 { "HA" } else { "UA" })
        })
        .collect();
    let experiments = gateway.setup.dir().join("catalog/experiments.toml").display().to_string();
    let wanted = python(&["-c", ASSIGN, &experiments, &json!(units).to_string()]).await;
    let wanted = wanted.as_array().expect("an assignment a unit");

    let channel = tonic::transport::Channel::from_shared(format!("http://{}", gateway.listen())).expect("a URL");
    let mut grpc = ExperimentServiceClient::new(channel.connect().await.expect("connect"));
    let mut places = std::collections::BTreeSet::new();
    for ((unit, carrier), wanted) in units.iter().zip(wanted) {
        let value = Some(v1::attribute::Value::StringValue((*carrier).to_owned()));
        let attributes = [("carrier".to_owned(), v1::Attribute { value })].into();
        let request = v1::AssignRequest { unit: unit.clone(), attributes, service: String::new() };
        let reply = grpc.assign(request).await.expect("an assignment").into_inner();
        let arms: Vec<_> = reply.assignments.iter().map(|a| json!([a.experiment, a.arm, a.bucket])).collect();
        assert_eq!(json!({ "holdouts": reply.holdouts, "arms": arms }), *wanted, "{unit} over gRPC");

        let body = json!({ "unit": unit, "attributes": { "carrier": carrier } });
        let (status, reply) = post(gateway.listen(), "/v1/assign", &body.to_string()).await;
        assert_eq!(status, 200, "{reply}");
        let assignments = reply["assignments"].as_array().expect("assignments");
        let arms: Vec<_> = assignments.iter().map(|a| json!([a["experiment"], a["arm"], a["bucket"]])).collect();
        assert_eq!(json!({ "holdouts": reply["holdouts"], "arms": arms }), *wanted, "{unit} over HTTP");
        places.insert(json!([wanted["holdouts"], wanted["arms"][0][1]]).to_string());
    }
    assert_eq!(places.len(), 4, "held out, in no arm, and in both arms: {places:?}");
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_connections_are_served_side_by_side() {
    let gateway = Setup::demo().start().await;
    let to = gateway.listen();
    // All are open before the first of them asks.
    let mut clients = futures::future::join_all((0..200).map(|_| connect(to))).await;
    let asked = clients.iter_mut().enumerate().map(|(i, client)| async move {
        let reply = client.get_features(flights(&format!("unit-{i}"), "JFK", &[("N14228", "UA", "LAX")])).await;
        reply.expect("an answer").into_inner().request_id
    });
    let ids: std::collections::BTreeSet<_> = futures::future::join_all(asked).await.into_iter().collect();
    assert_eq!(ids.len(), 200);
    drop(clients);
    eventually("nothing is in flight", async || gateway.metric("weir_in_flight ").await == 0.0).await;
    gateway.stop().await;
}

#[tokio::test]
async fn a_path_that_leads_nowhere_says_so_in_the_callers_own_protocol() {
    let gateway = Setup::demo().start().await;
    let (status, body) = harness::http_get(gateway.listen(), "/v2/features").await;
    assert_eq!(status, 404);
    assert!(body.contains("UNKNOWN_PATH") && body.contains("/v2/features"), "{body}");
    let grpc = [("content-type", "application/grpc")];
    let (status, head, _) = harness::exchange(gateway.listen(), "POST", "/no.such.Service/Method", &grpc, "").await;
    // gRPC says it in a header of a successful response: 12 is UNIMPLEMENTED.
    assert_eq!(status, 200);
    assert!(head.contains("grpc-status: 12"), "{head}");
    gateway.stop().await;
}
