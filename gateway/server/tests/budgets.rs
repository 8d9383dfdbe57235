//! Time and room: callers in a hurry get an answer whatever the store does, callers who have left cost nothing any
//! more, and one request too many is sent away at once while those inside are served as ever.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test that fails panics, and says what it saw"
)]

mod harness;
#[path = "harness/stored.rs"]
mod stored;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use harness::redis::RedisServer;
use harness::{Running, Setup, eventually, flights, http_get};
use stored::{filled, provenances};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::RwLock;
use tokio::task::JoinSet;
use tonic::Code;
use tonic_types::StatusExt;
use weir_domain::Provenance;
use weir_proto::v1;

use Provenance::{Cache, DefaultLate, DefaultTransform, DefaultUnavailable, Late, Store, Unavailable};

/// The test that measures has the cores to itself; the others share them.
static CORES: RwLock<()> = RwLock::const_new(());

/// Reads of the store live this long, whoever waits for them. A store that was frozen for less has hurt nobody who
/// has time.
const READ_LIFE: Duration = Duration::from_millis(250);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_in_a_hurry_are_always_answered_however_slow_the_store_is() {
    const CALLERS: usize = 8;
    const CALLS: usize = 150;
    let _cores = CORES.write().await;
    let (server, setup) = filled(Setup::demo());
    let server = Arc::new(server);
    let gateway = setup.spawn();
    let slow = Slow::down(&server);
    let mut callers = JoinSet::new();
    for caller in 0..CALLERS {
        let client = harness::connect(gateway.listen).await;
        callers.spawn(async move {
            let mut pace = tokio::time::interval(Duration::from_millis(10));
            let mut seen = Vec::new();
            for call in 0..CALLS {
                pace.tick().await;
                let mut request = tonic::Request::new(hurried(caller + call));
                let deadline_ms = 1 + (caller + call) % 5;
                request.metadata_mut().insert("x-request-timeout-ms", deadline_ms.into());
                seen.push((deadline_ms as u32, client.clone().get_features(request).await));
            }
            seen
        });
    }
    let seen: Vec<_> = callers.join_all().await.into_iter().flatten().collect();
    assert_eq!(seen.len(), CALLERS * CALLS);
    let (mut over_us, mut refused, mut late) = (Vec::new(), 0, 0);
    for (deadline_ms, reply) in &seen {
        let reply = match reply {
            Ok(reply) => reply.get_ref(),
            Err(status) => {
                assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
                refused += 1;
                continue;
            }
        };
        let budget = reply.budget.expect("a budget");
        assert_eq!(budget.granted_us, deadline_ms * 1_000);
        over_us.push(i64::from(budget.total_us) - i64::from(budget.granted_us));
        late += usize::from(provenances(reply).any(|p| [Late, DefaultLate].contains(&p)));
    }
    over_us.sort_unstable();
    let at = |share: f64| over_us[((over_us.len() - 1) as f64 * share) as usize];
    let told = format!(
        "over budget p50 {}, p90 {}, p99 {}, p99.9 {}, max {} µs of {}, {late} with something late, {refused} refused",
        at(0.5),
        at(0.9),
        at(0.99),
        at(0.999),
        at(1.0),
        over_us.len()
    );
    println!("{told}");
    assert!(late > 0, "{told}");
    // What came too late for one caller is there for the next, in however much of a hurry.
    assert!(seen.iter().flat_map(|(_, r)| r.as_ref().ok()).any(|r| provenances(r.get_ref()).any(|p| p == Cache)));
    slow.up().await;
    // A busy machine holds up some; had they waited for the store, most would be ten times their deadline late.
    assert!(at(0.5) <= 15_000 && at(1.0) < 3_000_000, "{told}");
    assert!(refused * 4 <= seen.len(), "{told}");
}

#[tokio::test]
async fn who_hangs_up_gives_the_permit_back() {
    let _cores = CORES.read().await;
    let (server, setup) = filled(Setup::demo());
    let gateway = setup.start().await;
    let in_flight = || gateway.gateway().admission.in_flight();
    let answered = async || gateway.metric(r#"weir_requests_total{service="arrival_delay"} "#).await;
    // A round counts if all were inside and none was answered before they hung up.
    eventually("a round in which nobody is answered", async || {
        well(&gateway, &server).await;
        let before = answered().await;
        server.freeze();
        let mut callers = JoinSet::new();
        for n in 0..8 {
            let mut client = gateway.client.clone();
            callers.spawn(async move { client.get_features(slow_flight(n)).await.is_ok() });
        }
        // And one over HTTP/1.1, whose connection is all it has to hang up.
        let body = r#"{"service":"arrival_delay","context":{"origin":"LGA"},"max_staleness_ms":0,
            "items":{"tailnum":["N14228"],"carrier":["UA"],"dest":["ORD"]},"features":{"runway_heading_deg":40}}"#;
        let stream = send(gateway.listen(), body).await;
        let began = Instant::now();
        while in_flight() < 9 && began.elapsed() < READ_LIFE {
            tokio::task::yield_now().await;
        }
        let inside = in_flight();
        callers.shutdown().await;
        drop(stream);
        eventually("all permits are back", async || in_flight() == 0).await;
        let counts = inside == 9 && answered().await == before;
        server.thaw();
        counts
    })
    .await;
    well(&gateway, &server).await;
    gateway.stop().await;
}

#[tokio::test]
async fn who_hangs_up_leaves_no_work_behind() {
    const CALLERS: usize = 8;
    let _cores = CORES.read().await;
    let (server, setup) = filled(Setup::demo());
    let gateway = setup.start().await;
    let sum = async |metric: &str| {
        let page = http_get(gateway.admin(), "/metrics").await.1;
        let lines = page.lines().filter_map(|line| line.strip_prefix(metric)?.rsplit(' ').next()?.parse::<f64>().ok());
        lines.sum::<f64>()
    };
    let done = async || {
        [sum("weir_requests_total").await, sum("weir_transform_calls_total").await, sum("weir_rows_total").await]
    };
    // A round counts if all had sent their reads and none was answered before they hung up.
    eventually("a round in which nobody is answered", async || {
        well(&gateway, &server).await;
        let (before, sent, left) = (done().await, sum("weir_store_attempts_total").await, sum("weir_cancelled").await);
        server.freeze();
        let mut callers = JoinSet::new();
        for n in 0..CALLERS {
            let mut client = gateway.client.clone();
            callers.spawn(async move { client.get_features(slow_flight(n)).await.is_ok() });
        }
        let began = Instant::now();
        while sum("weir_store_attempts_total").await < sent + CALLERS as f64 && began.elapsed() < READ_LIFE {}
        let attempts = sum("weir_store_attempts_total").await;
        callers.shutdown().await;
        eventually("all permits are back", async || gateway.gateway().admission.in_flight() == 0).await;
        let counts = attempts == sent + CALLERS as f64 && done().await == before;
        // The frozen store answers nobody: what goes on goes on for nobody, and ends with the life of its reads.
        eventually("no read goes on", async || sum("weir_store_reads_in_flight").await == 0.0).await;
        if counts {
            assert_eq!(done().await, before, "nothing is computed or answered for who has left");
            assert_eq!(sum("weir_store_attempts_total").await, attempts, "and the store is not asked any more");
            assert_eq!(sum("weir_cancelled_total").await - left, CALLERS as f64);
        }
        server.thaw();
        counts
    })
    .await;
    gateway.stop().await;
}

#[tokio::test]
async fn one_request_too_many_is_refused_at_once_and_told_when_to_come_back() {
    let _cores = CORES.read().await;
    let (server, setup) = filled(Setup::demo().append("weir.toml", "in_flight_max = 3\n"));
    let gateway = setup.start().await;
    let in_flight = || gateway.gateway().admission.in_flight();
    // A round counts if the store was back before anybody would have stopped waiting for it.
    eventually("a round in which the store is back in time", async || {
        well(&gateway, &server).await;
        let frozen = Instant::now();
        server.freeze();
        let mut admitted = JoinSet::new();
        for n in 0..3 {
            let mut client = gateway.client.clone();
            admitted.spawn(async move { client.get_features(slow_flight(n)).await.expect("an answer").into_inner() });
        }
        while in_flight() < 3 && frozen.elapsed() < READ_LIFE {
            tokio::task::yield_now().await;
        }
        let was_full = in_flight() == 3;
        let status = gateway.get(slow_flight(3)).await;
        let body = r#"{"service":"route_card","items":{"origin":["JFK"],"dest":["LAX"]}}"#;
        let mut stream = send(gateway.listen(), body).await;
        let mut reply = String::new();
        stream.read_to_string(&mut reply).await.expect("a reply");
        server.thaw();
        let in_time = frozen.elapsed() < READ_LIFE * 3 / 5;
        let replies = admitted.join_all().await;
        if !(was_full && in_time) {
            return false;
        }
        let status = status.expect_err("there is no room");
        assert_eq!(status.code(), Code::ResourceExhausted);
        let details = status.get_error_details();
        assert_eq!(details.error_info().expect("a reason").reason, "OVERLOADED");
        let retry = details.retry_info().and_then(|r| r.retry_delay).expect("when to come back");
        assert!(retry > Duration::ZERO && retry <= Duration::from_secs(1), "{retry:?}");
        let head = reply.split("\r\n\r\n").next().unwrap_or_default().to_ascii_lowercase();
        assert!(head.starts_with("http/1.1 429") && head.contains("\r\nretry-after: 1\r\n"), "{reply}");
        assert!(reply.contains("RESOURCE_EXHAUSTED") && reply.contains("OVERLOADED"), "{reply}");
        for reply in replies {
            assert_eq!(hurt(&reply), None, "{reply:?}");
        }
        true
    })
    .await;
    assert_eq!(gateway.metric("weir_in_flight ").await, 0.0);
    assert!(gateway.metric(r#"weir_refusals_total{reason="OVERLOADED"} "#).await >= 2.0);
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_crowd_everyone_is_answered_in_full_or_refused() {
    const CROWD: usize = 200;
    let _cores = CORES.read().await;
    let (_server, setup) = filled(Setup::demo().append("weir.toml", "in_flight_max = 2\n"));
    let gateway = setup.start().await;
    let mut crowd = JoinSet::new();
    for n in 0..CROWD {
        let mut client = gateway.client.clone();
        crowd.spawn(async move { client.get_features(slow_flight(n)).await });
    }
    let (mut answered, mut refused) = (0, 0);
    for reply in crowd.join_all().await {
        match reply {
            Ok(reply) => {
                answered += 1;
                assert_eq!(hurt(reply.get_ref()), None, "{reply:?}");
            }
            Err(status) => {
                refused += 1;
                assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
            }
        }
    }
    println!("{answered} answered, {refused} refused");
    assert!(answered >= 2);
    assert_eq!(gateway.metric(r#"weir_refusals_total{reason="OVERLOADED"} "#).await, f64::from(refused));
    assert_eq!(gateway.metric(r#"weir_requests_total{service="arrival_delay"} "#).await, f64::from(answered));
    assert_eq!(gateway.metric("weir_in_flight ").await, 0.0);
    gateway.stop().await;
}

/// Waits until the store is read from as ever.
async fn well(gateway: &Running, server: &RedisServer) {
    server.thaw();
    eventually("the store is read", async || {
        let reply = gateway.get(slow_flight(0)).await;
        reply.is_ok_and(|r| provenances(&r).any(|p| p == Store)) && gateway.metric("weir_store_breaker ").await == 0.0
    })
    .await;
}

/// Another flight for every `n`, of a caller who takes nothing from the cache.
fn slow_flight(n: usize) -> v1::GetFeaturesRequest {
    v1::GetFeaturesRequest { max_staleness: Some(Default::default()), ..hurried(n) }
}

/// Another flight for every `n`, up to a few hundred.
fn hurried(n: usize) -> v1::GetFeaturesRequest {
    let origins = ["JFK", "LGA", "EWR"];
    let dests = ["LAX", "SFO", "BOS", "ORD", "MIA", "ATL", "DEN", "MCO", "CLT", "DTW", "FLL"];
    let planes = [("N14228", "UA"), ("N24211", "UA"), ("N804JB", "B6"), ("N39463", "UA"), ("N516JB", "B6")];
    let (tailnum, carrier) = planes[n % planes.len()];
    flights("", origins[n % origins.len()], &[(tailnum, carrier, dests[n % dests.len()])])
}

/// A value that somebody with more time or room would have got.
fn hurt(reply: &v1::GetFeaturesResponse) -> Option<Provenance> {
    let hurts = [Late, Unavailable, DefaultLate, DefaultUnavailable, DefaultTransform];
    provenances(reply).find(|p| hurts.contains(p))
}

/// Sends a JSON request and leaves its reply to be read.
async fn send(to: SocketAddr, body: &str) -> TcpStream {
    let mut stream = TcpStream::connect(to).await.expect("connect");
    let head = "POST /v1/features HTTP/1.1\r\nhost: test\r\nconnection: close\r\ncontent-type: application/json\r\n";
    let request = format!("{head}content-length: {}\r\n\r\n{body}", body.len());
    stream.write_all(request.as_bytes()).await.expect("send");
    stream
}

/// A server that pauses again and again and answers in between: every read takes up to a pause.
struct Slow {
    stopped: Arc<AtomicBool>,
    pausing: tokio::task::JoinHandle<()>,
}

impl Slow {
    const PAUSE_MS: &str = "40";

    fn down(server: &Arc<RedisServer>) -> Self {
        let stopped = Arc::new(AtomicBool::new(false));
        let (server, until) = (server.clone(), stopped.clone());
        let pausing = tokio::task::spawn_blocking(move || {
            while !until.load(Ordering::SeqCst) {
                // It is paused too: the answer comes when the pause before is over.
                server.command(&["CLIENT", "PAUSE", Self::PAUSE_MS, "ALL"]);
            }
        });
        Self { stopped, pausing }
    }

    async fn up(self) {
        self.stopped.store(true, Ordering::SeqCst);
        self.pausing.await.expect("the server answers");
    }
}
