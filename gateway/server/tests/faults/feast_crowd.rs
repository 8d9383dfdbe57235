//! Fault 12 for what asks for no features: arms of units, and writes through Feast's doors. They take their place among the
//! requests in flight like everything else and are refused when there is no room or no memory; and writes are few at a
//! time, and wait for their turn no longer than their callers do.

use std::net::SocketAddr;

use serde_json::json;
use tokio::task::JoinSet;
use weir::app::App;
use weir::config::{Config, Overrides};
use weir_proto::feast::core::{DataSource, FeatureViewSpec, data_source::SourceType};
use weir_proto::feast::types::value_type::Enum as Type;

use crate::harness::{PATIENCE, eventually, exchange, http_get};
use crate::overload::{metric, sent_away};
use crate::repo::{Repo, on_free_ports, view};
use crate::wire::{Caller, GRPC, framed};

const HTTP: [&str; 5] = ["/v1/assign", "/push", "/write-to-online-store", "/search", "/retrieve-online-documents"];
const CALLS: [&str; 3] =
    ["/weir.v1.ExperimentService/Assign", "/GrpcFeatureServer/Push", "/GrpcFeatureServer/WriteToOnlineStore"];
const JSON: &[(&str, &str)] = &[("content-type", "application/json")];
/// Writes at a time, and those that may wait for them.
const WRITES: usize = 16;
const WAITING: usize = 48;

#[tokio::test]
async fn what_asks_for_no_features_needs_room_like_everything_else() {
    let repo = drivers();
    let overrides = Overrides { feast: vec![repo.write()], ..on_free_ports() };
    let mut config = Config::of_feast(overrides).expect("good settings");
    config.in_flight_max = HTTP.len() + CALLS.len();
    config.limits.body_timeout = PATIENCE;
    config.latency_target = Some(PATIENCE);
    let app = App::start(config).await.expect("a gateway");
    let caller = Caller::to(app.listen()).await;
    let mut inside = Vec::new();
    for (path, headers) in HTTP.map(|path| (path, JSON)).into_iter().chain(CALLS.map(|path| (path, GRPC))) {
        inside.push(caller.open(path, headers).await);
        let n = inside.len() as f64;
        eventually(path, async || metric(app.admin(), "weir_in_flight ").await == n).await;
    }
    everything_is_refused(app.listen(), app.admin(), "full").await;

    drop(inside);
    eventually("everybody has left", async || metric(app.admin(), "weir_in_flight ").await == 0.0).await;
    assert_eq!(push(app.listen(), 1, &[]).await.0, 200);
    app.stop().await;
}

#[tokio::test]
async fn without_memory_nothing_of_it_is_let_in() {
    // A gateway has more than that as soon as it is there.
    let repo = drivers();
    let gateway = repo.spawn("memory_max_mib = 1");
    eventually("memory is short", async || metric(gateway.admin, "weir_memory_pressure ").await == 3.0).await;
    everything_is_refused(gateway.listen, gateway.admin, "memory").await;
}

/// By headers alone, in the caller's own protocol, and counted.
async fn everything_is_refused(listen: SocketAddr, admin: SocketAddr, reason: &str) {
    let caller = Caller::to(listen).await;
    for path in HTTP {
        let (response, _unsent) = caller.open(path, JSON).await;
        let reply = crate::wire::read(response).await.expect("a response");
        assert_eq!((reply.status, reply.header("retry-after")), (429, "1"), "{path}: {reply:?}");
        assert!(reply.text().contains("OVERLOADED"), "{path}: {reply:?}");
    }
    for path in CALLS {
        let (response, _unsent) = caller.open(path, GRPC).await;
        sent_away(&crate::wire::read(response).await.expect("a response").grpc());
    }
    let all = (HTTP.len() + CALLS.len()) as f64;
    let by_admission = format!("weir_admission_refused_total{{priority=\"normal\",reason=\"{reason}\"}} ");
    assert_eq!(metric(admin, &by_admission).await, all);
    assert_eq!(metric(admin, r#"weir_refusals_total{reason="OVERLOADED"} "#).await, all);
    // Who looks after it is always let in.
    assert_eq!(http_get(listen, "/health").await.0, 200);
    assert_eq!(caller.post("/grpc.health.v1.Health/Check", GRPC, framed(&[])).await.grpc().code(), tonic::Code::Ok);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_are_few_at_a_time_and_wait_no_longer_than_their_callers() {
    const TOO_MANY: usize = 20;
    let repo = drivers();
    let gateway = repo.spawn("in_flight_max = 1000");
    let (listen, admin) = (gateway.listen, gateway.admin);
    assert_eq!(push(listen, 0, &[]).await.0, 200);
    let before = repo.clients();

    repo.server.command(&["CLIENT", "PAUSE", "60000", "WRITE"]);
    let mut pushes = JoinSet::new();
    for driver in 1..=WRITES {
        pushes.spawn(async move { push(listen, driver, &[]).await });
    }
    eventually("all who may are writing", async || repo.blocked() == WRITES).await;
    assert!(repo.clients() <= before + WRITES, "{} after {before}", repo.clients());
    let mut late = JoinSet::new();
    for driver in 1_000..1_000 + WAITING + TOO_MANY {
        late.spawn(async move { push(listen, driver, &[("x-request-timeout-ms", "300")]).await });
    }
    for (status, head) in late.join_all().await {
        assert_eq!(status, 429, "{head}");
        assert!(head.to_ascii_lowercase().contains("\r\nretry-after: 1"), "{head}");
    }
    assert_eq!(metric(admin, r#"weir_refusals_total{reason="OVERLOADED"} "#).await, (WAITING + TOO_MANY) as f64);
    assert_eq!((repo.blocked(), pushes.len()), (WRITES, WRITES), "those who write are left alone");
    // So many may wait. Whoever comes then is sent away at once, patient or not.
    let mut patient = JoinSet::new();
    for driver in 2_000..2_000 + WAITING + TOO_MANY {
        patient.spawn(async move { push(listen, driver, &[]).await });
    }
    for _ in 0..TOO_MANY {
        let (status, head) = patient.join_next().await.expect("a push").expect("an answer");
        assert_eq!(status, 429, "{head}");
    }
    repo.server.command(&["CLIENT", "UNPAUSE"]);
    let written = pushes.join_all().await.into_iter().chain(patient.join_all().await);
    let statuses: Vec<u16> = written.map(|(status, _)| status).collect();
    assert_eq!(statuses, vec![200; WRITES + WAITING]);
    // Those who were refused wrote nothing.
    assert_eq!(repo.server.command(&["DBSIZE"]), (1 + WRITES + WAITING).to_string());
    assert!(repo.clients() <= before + WRITES);
}

#[tokio::test]
async fn the_deadline_of_a_write_is_read_like_any_other() {
    let repo = drivers();
    let app = repo.serve().await;
    let caller = Caller::to(app.listen()).await;
    for (header, value, status, reason) in [
        ("x-request-timeout-ms", "soon", 400, "INVALID_REQUEST"),
        ("grpc-timeout", "5", 400, "INVALID_REQUEST"),
        ("x-request-timeout-ms", "0", 504, "DEADLINE_EXCEEDED"),
    ] {
        let (got, body) = push(app.listen(), 1, &[(header, value)]).await;
        assert_eq!(got, status, "{header}: {value}: {body}");
        let code = if status == 400 { tonic::Code::InvalidArgument } else { tonic::Code::DeadlineExceeded };
        for path in &CALLS[1..] {
            let reply = caller.post(path, &[GRPC, &[(header, value)]].concat(), framed(&[])).await;
            assert_eq!(reply.grpc().code(), code, "{path}: {header}: {value}");
        }
        assert!(metric(app.admin(), &format!("weir_refusals_total{{reason=\"{reason}\"}} ")).await >= 3.0);
    }
    assert_eq!(repo.server.command(&["DBSIZE"]), "0");
    app.stop().await;
}

/// Pushes a row; status and head.
async fn push(to: SocketAddr, driver: usize, headers: &[(&str, &str)]) -> (u16, String) {
    let df = json!({ "driver_id": [driver], "trips": [1], "event_timestamp": ["2024-05-01T10:00:00Z"] });
    let body = json!({ "push_source_name": "driver_push", "df": df, "to": "online" });
    let (status, head, _) = exchange(to, "POST", "/push", &[JSON, headers].concat(), &body.to_string()).await;
    (status, head)
}

fn drivers() -> Repo {
    let spec = view("driver_stats", &[("driver_id", Type::Int64)], &[("trips", Type::Int64)]);
    let batch = DataSource { timestamp_field: "event_timestamp".to_owned(), ..Default::default() };
    let push =
        DataSource { name: "driver_push".to_owned(), r#type: SourceType::PushSource as i32, ..Default::default() };
    let spec = FeatureViewSpec { batch_source: Some(batch), stream_source: Some(push), ..spec };
    Repo::new().entity("driver").view(spec)
}

impl Repo {
    /// Connections to Redis.
    fn clients(&self) -> usize {
        self.info("connected_clients:")
    }

    /// Those of them that wait for their command to be done.
    fn blocked(&self) -> usize {
        self.info("blocked_clients:")
    }

    fn info(&self, name: &str) -> usize {
        let info = self.server.command(&["INFO", "clients"]);
        let line = info.lines().find_map(|line| line.strip_prefix(name)).expect(name);
        line.trim().parse().expect("a number")
    }
}
