//! Fault 18 through Feast's doors: bodies within the limit that ask for far more than they are. Each is refused before
//! hash names or replies are made of it, and what batch clients ask is answered.

use prost::Message;
use serde_json::json;
use tonic::Code;
use tonic_types::StatusExt;
use weir_proto::feast::serving::{FeatureList, GetOnlineFeaturesRequest, get_online_features_request::Kind};
use weir_proto::feast::types::{RepeatedValue, Value, value::Val, value_type::Enum as Type};

use crate::garbage::{forget_peak, peak_mib};
use crate::harness::{Process, eventually, post};
use crate::overload::metric;
use crate::repo::{ONLINE, Repo, column, text, view};
use crate::wire::{Caller, GRPC, framed};

const BODY_BYTES_MAX: usize = 4 << 20;
const VIEWS: usize = 24;
const PUSH: &str = "/push";
const WRITE: &str = "/write-to-online-store";
const SERVICES: [&str; 2] = ["/feast.serving.ServingService/GetOnlineFeatures", "/GrpcFeatureServer/GetOnlineFeatures"];
/// What reading a body of 4 MiB costs: a million values of some 50 bytes, in a list that was copied as it grew. Hash names
/// and replies of what is asked for would be gigabytes.
const GROWTH_MIB_MAX: u64 = 192;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_small_body_that_asks_for_gigabytes_is_refused_before_they_are_made() {
    let repo = repo();
    let gateway = repo.spawn("");
    let refs: Vec<String> = (0..VIEWS).map(|v| format!("v{v}:value{v}")).collect();
    let ones = |rows: usize| vec!["1".to_owned(); rows];
    let huge = vec!["k".repeat(BODY_BYTES_MAX - 2_000)];
    let caller = Caller::to(gateway.listen).await;
    let cases = [
        (&refs[..], ones(BODY_BYTES_MAX / 4 - 1_000), "1047576 rows"),
        (&refs[..1], ones(100_001), "100001 rows"),
        (&refs[..], ones(100_000), "100000 rows of 25 columns"),
        (&refs[..], huge, "4192304 bytes of join keys for 24 views"),
    ];
    let mut refused = 0.0;
    for (refs, keys, says) in cases {
        let (before, body) =
            (forget_peak(gateway.pid()), json!({ "features": refs, "entities": { "driver_id": keys } }));
        let body = body.to_string();
        assert!(body.len() <= BODY_BYTES_MAX);
        let (status, reply) = post(gateway.listen, ONLINE, &body).await;
        assert_eq!(status, 413, "{says}: {reply}");
        assert!(reply.to_string().contains(says) && reply["error"]["reason"] == "TOO_LARGE", "{reply}");
        grown_by_little(&gateway, before, says);
        refused += 1.0;
    }
    let cases = [
        (&refs[..], ones(BODY_BYTES_MAX / 5 - 1_000), "837860 rows"),
        (&refs[..], ones(100_000), "100000 rows of 25 columns"),
        (&refs[..], vec!["k".repeat(BODY_BYTES_MAX - 2_000)], "4192304 bytes of join keys for 24 views"),
    ];
    for ((refs, keys, says), service) in cases.iter().flat_map(|case| SERVICES.map(|service| (case, service))) {
        let (before, message) = (forget_peak(gateway.pid()), message(refs, keys));
        assert!(message.len() <= BODY_BYTES_MAX);
        let status = caller.post(service, GRPC, framed(&message)).await.grpc();
        assert_eq!(status.code(), Code::InvalidArgument, "{says}: {status:?}");
        let details = status.get_error_details();
        assert_eq!(details.error_info().expect("a reason").reason, "TOO_LARGE");
        assert_eq!(details.bad_request().expect("a field").field_violations[0].field, "entities");
        assert!(status.message().contains(says), "{says}: {status:?}");
        grown_by_little(&gateway, before, says);
        refused += 1.0;
    }
    assert_eq!(metric(gateway.admin, r#"weir_refusals_total{reason="TOO_LARGE"} "#).await, refused);
    assert_eq!(metric(gateway.admin, "weir_store_keys_total ").await, 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn so_is_one_that_would_write_them() {
    let repo = repo();
    let gateway = repo.spawn("");
    let rows = "1,".repeat(200_000) + "1";
    let some = "1,".repeat(49_999) + "1";
    let columns: String = (0..40).map(|n| format!(",\"c{n}\":1")).collect();
    // Of a column for each label, every row gets a cell.
    let labels: Vec<String> = (0..100_000).map(|n| format!("\"c{n}\":{{\"{n}\":1}}")).collect();
    let cases = [
        (format!("\"driver_id\":[{rows}]"), "200001 rows"),
        (format!("\"driver_id\":[{some}]{columns}"), "50000 rows of 41 columns"),
        (labels.join(","), "100000 rows of 100000 columns"),
        (format!("\"driver_id\":[{some}],\"value0\":\"{}\"", "x".repeat(1 << 20)), "1048576 bytes of scalars"),
        (format!("\"driver_id\":[{some}],\"value0\":{}", "1".repeat(4_000)), "4428 bytes of scalars"),
    ];
    let mut refused = 0.0;
    for ((df, says), path) in cases.iter().flat_map(|case| [PUSH, WRITE].map(|path| (case, path))) {
        let body = format!("{{\"push_source_name\":\"nobody\",\"feature_view_name\":\"v0\",\"df\":{{{df}}}}}");
        let before = forget_peak(gateway.pid());
        let (status, reply) = post(gateway.listen, path, &body).await;
        assert_eq!(status, 413, "{says}: {reply}");
        assert!(reply.to_string().contains(says) && reply["error"]["reason"] == "TOO_LARGE", "{says}: {reply}");
        assert_eq!(reply["error"]["violations"][0]["field"], "df");
        grown_by_little(&gateway, before, says);
        refused += 1.0;
    }
    assert_eq!(metric(gateway.admin, r#"weir_refusals_total{reason="TOO_LARGE"} "#).await, refused);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_thousand_rows_are_answered() {
    const ROWS: usize = 100_000;
    let repo = repo();
    repo.row("v0", &[("driver_id", text("1"))], 1_700_000_000, &[("value0", Some(Val::DoubleVal(0.5)))]);
    let gateway = repo.spawn("");
    let keys = vec!["1"; ROWS];
    let body = json!({ "features": ["v0:value0", "v1:value1"], "entities": { "driver_id": keys } });
    let (status, reply) = post(gateway.listen, ONLINE, &body.to_string()).await;
    assert_eq!(status, 200, "{reply}");
    let values = |name: &str| column(&reply, name)["values"].as_array().expect("values").clone();
    assert_eq!(values("driver_id").len(), ROWS);
    eventually("Redis is connected to", async || {
        let (_, reply) = post(gateway.listen, ONLINE, &body.to_string()).await;
        column(&reply, "value0")["values"] == json!(vec![0.5; ROWS])
    })
    .await;
}

fn grown_by_little(gateway: &Process, before: u64, what: &str) {
    let grown = peak_mib(gateway.pid()).saturating_sub(before);
    assert!(grown <= GROWTH_MIB_MAX, "{what}: grew by {grown} MiB");
}

/// Views of one feature each, all by one text.
fn repo() -> Repo {
    (0..VIEWS).fold(Repo::new().entity("driver"), |repo, v| {
        repo.view(view(&format!("v{v}"), &[("driver_id", Type::String)], &[(&format!("value{v}"), Type::Double)]))
    })
}

fn message(refs: &[String], keys: &[String]) -> Vec<u8> {
    let value = |key: &String| Value { val: Some(Val::StringVal(key.clone())) };
    let keys = RepeatedValue { val: keys.iter().map(value).collect() };
    let request = GetOnlineFeaturesRequest {
        kind: Some(Kind::Features(FeatureList { val: refs.to_vec() })),
        entities: [("driver_id".to_owned(), keys)].into(),
        ..Default::default()
    };
    request.encode_to_vec()
}
