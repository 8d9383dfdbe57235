//! Fault 15 through Feast's doors, and the ledger there: who leaves is counted and takes the work along, and what answers
//! have spent of their budgets shows as it does for our own.

use prost::Message;
use serde_json::json;
use weir_proto::feast::serving::{FeatureList, GetOnlineFeaturesRequest, get_online_features_request::Kind};
use weir_proto::feast::types::{RepeatedValue, Value, value::Val, value_type::Enum as Type};

use crate::harness::{eventually, http_get};
use crate::overload::metric;
use crate::repo::{ONLINE, Repo, ask, view};
use crate::wire::{Caller, GRPC, framed};

const SERVICES: [&str; 2] = ["/feast.serving.ServingService/GetOnlineFeatures", "/GrpcFeatureServer/GetOnlineFeatures"];

#[tokio::test]
async fn who_leaves_is_counted_and_nothing_is_left_of_the_call() {
    let repo = drivers();
    let app = repo.serve().await;
    let metric = async |name: &str| metric(app.admin(), name).await;
    eventually("Redis is connected to", async || {
        ask(&app, body()).await;
        metric("weir_store_keys_total ").await > 0.0
    })
    .await;
    assert_eq!(metric("weir_cancelled_total ").await, 0.0);
    repo.server.freeze();
    let caller = Caller::to(app.listen()).await;
    let json = [("content-type", "application/json")];
    let calls = [(ONLINE, &json[..], body().to_string().into_bytes())].into_iter();
    for (n, (path, headers, body)) in calls.chain(SERVICES.map(|path| (path, GRPC, framed(&message())))).enumerate() {
        let asked = metric("weir_store_keys_total ").await + metric("weir_store_flights_joined_total ").await;
        let (response, mut stream) = caller.open(path, headers).await;
        stream.send_data(body.into(), true).expect("send");
        eventually("it waits for Redis", async || {
            metric("weir_store_keys_total ").await + metric("weir_store_flights_joined_total ").await > asked
        })
        .await;
        drop((response, stream));
        let left = (n + 1) as f64;
        eventually(path, async || {
            metric("weir_cancelled_total ").await == left && metric("weir_in_flight ").await == 0.0
        })
        .await;
    }
    repo.server.thaw();
    app.stop().await;
}

#[tokio::test]
async fn what_answers_have_spent_of_their_budgets_shows() {
    const ASKED: f64 = 5.0;
    let repo = drivers();
    let app = repo.serve().await;
    for _ in 0..ASKED as usize {
        ask(&app, body()).await;
    }
    let page = http_get(app.admin(), "/metrics").await.1;
    let value = |name: &str| {
        let line = page.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("no {name}"));
        line.trim().parse::<f64>().expect("a number")
    };
    for stage in ["plan", "fetch", "transform"] {
        assert_eq!(value(&format!("weir_stage_duration_seconds_count{{stage=\"{stage}\"}} ")), ASKED);
    }
    let mut before = 0.0;
    for stage in ["plan", "fetch", "transform", "answer"] {
        assert_eq!(value(&format!("weir_budget_spent_ratio_count{{stage=\"{stage}\"}} ")), ASKED);
        let gone = value(&format!("weir_budget_spent_ratio_sum{{stage=\"{stage}\"}} "));
        assert!(gone >= before, "{stage}: {gone} after {before}");
        before = gone;
    }
    assert!(before > 0.0);
    let total = value("weir_request_duration_seconds_sum{service=\"features\"} ");
    let stages: f64 = ["plan", "fetch", "transform"]
        .map(|s| value(&format!("weir_stage_duration_seconds_sum{{stage=\"{s}\"}} ")))
        .iter()
        .sum();
    assert!(stages > 0.0 && stages <= total + 1e-9, "{stages} of {total}");
    app.stop().await;
}

fn drivers() -> Repo {
    Repo::new().entity("driver").view(view("stats", &[("driver_id", Type::Int64)], &[("trips", Type::Int64)]))
}

fn body() -> serde_json::Value {
    json!({ "features": ["stats:trips"], "entities": { "driver_id": [1] } })
}

fn message() -> Vec<u8> {
    let keys = RepeatedValue { val: vec![Value { val: Some(Val::Int64Val(1)) }] };
    let kind = Some(Kind::Features(FeatureList { val: vec!["stats:trips".to_owned()] }));
    GetOnlineFeaturesRequest { kind, entities: [("driver_id".to_owned(), keys)].into(), ..Default::default() }
        .encode_to_vec()
}
