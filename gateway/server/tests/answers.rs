//! What callers get from the demo's catalog, over both protocols.
#![allow(clippy::expect_used, clippy::panic, reason = "a failed expectation is a failed test")]

mod harness;

use harness::{Setup, column, eventually, flights, post, texts};
use weir_proto::v1;
use weir_proto::v1::values::Kind;

fn provenances(column: &v1::FeatureColumn) -> Vec<v1::Provenance> {
    column.provenance.iter().map(|b| v1::Provenance::try_from(i32::from(*b)).expect("a known provenance")).collect()
}

fn doubles(column: &v1::FeatureColumn) -> &[f64] {
    match column.values.as_ref().and_then(|v| v.kind.as_ref()) {
        Some(Kind::Doubles(doubles)) => &doubles.values,
        other => panic!("{} is no column of doubles: {other:?}", column.name),
    }
}

fn len(column: &v1::FeatureColumn) -> usize {
    match column.values.as_ref().and_then(|v| v.kind.as_ref()).expect("values") {
        Kind::Bools(v) => v.values.len(),
        Kind::Int64s(v) => v.values.len(),
        Kind::Doubles(v) => v.values.len(),
        Kind::Floats(v) => v.values.len(),
        Kind::Strings(v) => v.values.len(),
        Kind::Blobs(v) => v.values.len(),
        Kind::Timestamps(v) => v.values.len(),
        Kind::Lists(v) => v.ends.len(),
    }
}

/// Destinations and planes that are in the data, `n` of each in turn.
fn candidates(n: usize) -> Vec<(&'static str, &'static str, &'static str)> {
    let dests = ["LAX", "SFO", "BOS", "ORD", "MIA", "ATL", "SEA", "DEN"];
    let planes = [("N14228", "UA"), ("N24211", "UA"), ("N619AA", "AA"), ("N804JB", "B6")];
    (0..n).map(|i| (planes[i % planes.len()].0, planes[i % planes.len()].1, dests[i % dests.len()])).collect()
}

#[tokio::test]
async fn one_origin_and_200_candidates_get_200_rows_of_every_feature_in_one_reply() {
    let gateway = Setup::demo().start().await;
    let reply = gateway.get(flights("N14228", "JFK", &candidates(200))).await.expect("an answer");
    assert_eq!(reply.rows, 200);
    let (_, service) = harness::http_get(gateway.listen(), "/v1/services/arrival_delay").await;
    let service: serde_json::Value = serde_json::from_str(&service).expect("JSON");
    let features = service["features"].as_array().expect("features");
    assert!(features.len() > 20);
    assert_eq!(reply.columns.len(), features.len());
    for (column, feature) in reply.columns.iter().zip(features) {
        assert_eq!(column.name, feature["name"]);
        assert_eq!((len(column), column.provenance.len()), (200, 200), "{}", column.name);
    }
    // The origin's weather was read once: one event time stands for all rows.
    let weather = reply.views.iter().find(|v| v.name == "weather").expect("the weather");
    assert_eq!(weather.event_time_us.len(), 1);
    let plane = reply.views.iter().find(|v| v.name == "plane").expect("the planes");
    assert_eq!(plane.event_time_us.len(), 200);
    gateway.stop().await;
}

#[tokio::test]
async fn transforms_build_on_each_other_and_say_so() {
    let gateway = Setup::demo().start().await;
    let reply = gateway.get(flights("", "JFK", &candidates(2))).await.expect("an answer");
    for name in ["crosswind:crosswind_mph", "crosswind:headwind_mph", "delay_risk:score"] {
        assert_eq!(provenances(column(&reply, name)), [v1::Provenance::Computed; 2], "{name}");
    }
    // The wind and its components make a right triangle whatever the runway.
    let [wind, cross, head] = ["weather:wind_speed_mph", "crosswind:crosswind_mph", "crosswind:headwind_mph"]
        .map(|n| doubles(column(&reply, n))[0]);
    assert!((cross.hypot(head) - wind).abs() < 1e-9, "{cross} {head} {wind}");
    let risks = doubles(column(&reply, "delay_risk:score"));
    assert!(risks.iter().all(|r| (0.0..=1.0).contains(r)) && risks[0] != risks[1], "{risks:?}");
    gateway.stop().await;
}

#[tokio::test]
async fn json_says_what_grpc_says() {
    let gateway = Setup::demo().start().await;
    let reply = gateway.get(flights("N14228", "JFK", &candidates(3))).await.expect("an answer");
    let items = candidates(3);
    let body = serde_json::json!({
        "service": "arrival_delay", "unit": "N14228", "context": { "origin": "JFK" },
        "items": {
            "tailnum": items.iter().map(|i| i.0).collect::<Vec<_>>(),
            "carrier": items.iter().map(|i| i.1).collect::<Vec<_>>(),
            "dest": items.iter().map(|i| i.2).collect::<Vec<_>>(),
        },
        "features": { "runway_heading_deg": 310 },
    });
    let (status, json) = post(gateway.listen(), "/v1/features", &body.to_string()).await;
    assert_eq!(status, 200, "{json}");
    assert_eq!(json["rows"], 3);
    assert_eq!(json["assignments"][0]["arm"], reply.assignments[0].arm);
    for (json, column) in json["features"].as_array().expect("features").iter().zip(&reply.columns) {
        assert_eq!(json["name"], column.name);
        let names: Vec<_> = provenances(column).iter().map(|p| p.as_str_name().replace("PROVENANCE_", "")).collect();
        assert_eq!(json["provenance"], serde_json::json!(names), "{}", column.name);
        if let Some(Kind::Doubles(doubles)) = column.values.as_ref().and_then(|v| v.kind.as_ref()) {
            for (i, value) in doubles.values.iter().enumerate().filter(|(i, _)| column.provenance[*i] < 32) {
                assert_eq!(json["values"][i].as_f64(), Some(*value), "{}", column.name);
            }
        }
    }
    assert_eq!(json["features"].as_array().map(Vec::len), Some(reply.columns.len()));
    assert_eq!(json["views"].as_array().map(Vec::len), Some(reply.views.len()));
    for (json, view) in json["views"].as_array().expect("views").iter().zip(&reply.views) {
        let said = serde_json::json!({
            "name": view.name, "version": view.version, "event_time_us": view.event_time_us, "age_ms": view.age_ms,
        });
        assert_eq!(*json, said);
    }
    // What was written with the first reply is in the next one too, and one of other rows or of another service is its own.
    let said = async |body: serde_json::Value| {
        let (status, mut json) = post(gateway.listen(), "/v1/features", &body.to_string()).await;
        assert_eq!(status, 200, "{json}");
        let json = json.as_object_mut().expect("an object");
        assert!(json.remove("budget").is_some());
        (json.remove("request_id").expect("an id"), serde_json::json!(json))
    };
    let (first, again) = (said(body.clone()).await, said(body.clone()).await);
    assert_ne!(first.0, again.0);
    assert_eq!(first.1, again.1);
    let route = |to: &[&str]| serde_json::json!({ "service": "route_card", "items": { "origin": vec!["JFK"; to.len()], "dest": to } });
    let (one, two) = (said(route(&["LAX"])).await.1, said(route(&["LAX", "SFO"])).await.1);
    assert_eq!((&one["service"], &one["rows"], &two["rows"]), (&"route_card".into(), &1.into(), &2.into()));
    for (one, two) in
        one["features"].as_array().into_iter().flatten().zip(two["features"].as_array().expect("features"))
    {
        assert_eq!((&one["name"], &one["type"], &one["values"][0]), (&two["name"], &two["type"], &two["values"][0]));
        assert_eq!(two["values"].as_array().map(Vec::len), Some(2));
    }
    assert_eq!(said(body).await.1, first.1);
    gateway.stop().await;
}

#[tokio::test]
async fn unknown_entities_are_missing_or_default_and_say_which() {
    let gateway = Setup::demo().start().await;
    let reply = gateway.get(flights("", "JFK", &[("N0NE", "ZZ", "XXX")])).await.expect("an answer");
    // A default stands in where the catalog has one, and nothing where it has none.
    assert_eq!(provenances(column(&reply, "carrier:arr_delay_mean_7d_min")), [v1::Provenance::DefaultMissing]);
    assert_eq!(provenances(column(&reply, "destination:lat")), [v1::Provenance::Missing]);
    assert_eq!(provenances(column(&reply, "weather:temp_f")), [v1::Provenance::Store]);
    assert!(reply.fallback_model.is_empty() || reply.fallback_model == "carrier_mean");
    gateway.stop().await;
}

#[tokio::test]
async fn arms_pin_versions_and_a_holdout_keeps_out() {
    let gateway = Setup::demo().start().await;
    let mut seen = std::collections::BTreeMap::<String, Vec<f64>>::new();
    for i in 0..200 {
        let reply = gateway.get(flights(&format!("unit-{i}"), "JFK", &candidates(1))).await.expect("an answer");
        let key = match (reply.assignments.as_slice(), reply.holdouts.as_slice()) {
            ([one], []) => one.arm.clone(),
            ([], [holdout]) => holdout.clone(),
            other => panic!("{other:?}"),
        };
        seen.entry(key).or_default().push(doubles(column(&reply, "delay_risk:score"))[0]);
    }
    assert_eq!(seen.keys().collect::<Vec<_>>(), ["control", "gusts", "never_treated"]);
    // The same flight: the score depends on the arm alone, and those held out get what the service pins.
    for scores in seen.values() {
        assert!(scores.iter().all(|s| *s == scores[0]), "{seen:?}");
    }
    assert_eq!(seen["control"][0], seen["never_treated"][0]);
    assert_ne!(seen["control"][0], seen["gusts"][0]);
    // Whoever names no unit is in no experiment; whoever asks another service is not exposed to this one.
    let reply = gateway.get(flights("", "JFK", &candidates(1))).await.expect("an answer");
    assert!(reply.assignments.is_empty() && reply.holdouts.is_empty());
    let other = v1::GetFeaturesRequest {
        service: "route_card".to_owned(),
        unit: "unit-0".to_owned(),
        items: vec![texts("origin", &["JFK"]), texts("dest", &["LAX"])],
        ..Default::default()
    };
    assert!(gateway.get(other).await.expect("an answer").assignments.is_empty());
    gateway.stop().await;
}

#[tokio::test]
async fn a_deadline_is_the_least_that_anybody_gives() {
    let gateway = Setup::demo().start().await;
    let body = r#"{"service":"route_card","items":{"origin":["JFK"],"dest":["LAX"]}}"#;
    let with = async |header: &str, value: &str| {
        let headers = [("content-type", "application/json"), (header, value)];
        harness::http(gateway.listen(), "POST", "/v1/features", &headers, body).await
    };
    let granted =
        |body: &str| serde_json::from_str::<serde_json::Value>(body).expect("JSON")["budget"]["granted_us"].clone();
    let service = granted(&with("x-other", "1").await.1).as_u64().expect("a number");
    assert_eq!(granted(&with("x-request-timeout-ms", "7").await.1), 7_000);
    assert_eq!(granted(&with("grpc-timeout", "7m").await.1), 7_000);
    assert_eq!(granted(&with("x-request-timeout-ms", "99999999999999999999").await.1), service);
    assert_eq!(with("x-request-timeout-ms", "0").await.0, 504);
    for (header, bad) in [("x-request-timeout-ms", "soon"), ("grpc-timeout", "5"), ("grpc-timeout", "-5m")] {
        let (status, reply) = with(header, bad).await;
        assert_eq!(status, 400);
        assert!(reply.contains(header), "{reply}");
    }
    gateway.stop().await;
}

#[tokio::test]
async fn a_reply_says_what_each_stage_spent_and_left_of_the_budget() {
    let gateway = Setup::demo().start().await;
    let reply = gateway.get(flights("u", "JFK", &candidates(20))).await.expect("an answer");
    let budget = reply.budget.expect("a budget");
    let stages = [
        (budget.plan_us, budget.plan_left_us),
        (budget.fetch_us, budget.fetch_left_us),
        (budget.transform_us, budget.transform_left_us),
        (budget.answer_us, budget.answer_left_us),
    ];
    let mut left = budget.granted_us;
    for (spent, then_left) in stages {
        left -= spent;
        assert_eq!(then_left, left, "{budget:?}");
    }
    assert!(budget.transform_us > 0 && left > 0 && left.abs_diff(budget.granted_us - budget.total_us) <= 4);

    let body = r#"{"service":"route_card","items":{"origin":["JFK"],"dest":["LAX"]}}"#;
    let budget = post(gateway.listen(), "/v1/features", body).await.1["budget"].clone();
    let number = |key: &str| budget[key].as_u64().unwrap_or_else(|| panic!("{key} in {budget}"));
    assert_eq!(number("plan_left_us"), number("granted_us") - number("plan_us"));
    assert_eq!(number("answer_left_us"), number("transform_left_us") - number("answer_us"));
    for stage in ["plan", "fetch", "transform", "answer"] {
        let count = format!("weir_budget_spent_ratio_count{{stage=\"{stage}\"}} ");
        assert_eq!(gateway.metric(&count).await, 2.0, "{stage}");
    }
    gateway.stop().await;
}

#[tokio::test]
async fn requests_are_counted_where_operators_look() {
    let gateway = Setup::demo().start().await;
    gateway.get(flights("u", "JFK", &candidates(2))).await.expect("an answer");
    gateway.get(v1::GetFeaturesRequest::default()).await.expect_err("no service");
    assert_eq!(gateway.metric(r#"weir_requests_total{service="arrival_delay"} "#).await, 1.0);
    assert_eq!(gateway.metric(r#"weir_refusals_total{reason="UNKNOWN_SERVICE"} "#).await, 1.0);
    assert_eq!(gateway.metric(r#"weir_values_total{service="arrival_delay",provenance="COMPUTED"} "#).await, 6.0);
    eventually("nothing is in flight", async || gateway.metric("weir_in_flight ").await == 0.0).await;
    assert_eq!(harness::http_get(gateway.admin(), "/livez").await.0, 200);
    assert_eq!(harness::http_get(gateway.admin(), "/readyz").await.0, 200);
    gateway.stop().await;
}
