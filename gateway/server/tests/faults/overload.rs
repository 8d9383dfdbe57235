//! Fault 12: more requests than there is room for. As the house fills they are degraded, then refused by their headers
//! alone with a word on when to come back; those inside are served, the store is asked no more often than there are
//! requests, and when the crowd has left everything is as before.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tonic::Code;
use tonic_types::StatusExt;
use weir_domain::Provenance;
use weir_proto::v1;

use crate::harness::{Running, Setup, connect, eventually, flights, http_get};
use crate::stored::{filled, provenances, route};

use Provenance::{Cache, Caller, Computed, DefaultExpired, DefaultMissing, DefaultShed, Missing, Shed, Store};

/// Room for 20 in full or degraded, 15 of them in full, and for 30 with those who are refused last.
pub(crate) const SMALL: &str = "in_flight_max = 30\n";

#[tokio::test]
async fn as_the_house_fills_requests_are_degraded_then_refused_and_both_say_so() {
    let (server, setup) = filled(Setup::demo().append("weir.toml", SMALL));
    let gateway = setup.start().await;
    let known = route("JFK", &["LAX"]);
    eventually("it is known", async || {
        let reply = gateway.get(known.clone()).await.expect("an answer");
        provenances(&reply).any(|p| p == Cache)
    })
    .await;

    let mut inside = Vec::new();
    fill(&gateway, &mut inside, 14).await;
    let full = gateway.get(flight("BOS")).await.expect("an answer");
    assert!(provenances(&full).any(|p| p == Computed) && provenances(&full).all(|p| ![Shed, DefaultShed].contains(&p)));

    fill(&gateway, &mut inside, 15).await;
    let reads = server.calls("mget");
    let degraded = gateway.get(known).await.expect("an answer");
    assert!(provenances(&degraded).all(|p| [Cache, Missing, DefaultMissing].contains(&p)), "what is known is served");
    let degraded = gateway.get(flight("SFO")).await.expect("an answer");
    let told: Vec<_> = provenances(&degraded).collect();
    let honest = [Cache, Caller, Shed, DefaultShed, Missing, DefaultMissing, DefaultExpired];
    assert!(told.iter().all(|p| honest.contains(p)), "{told:?}");
    assert!(told.iter().any(|p| [Shed, DefaultShed].contains(p)), "{told:?}");
    assert_eq!(server.calls("mget"), reads, "a degraded request reads nothing");
    assert_eq!(gateway.metric(r#"weir_admission_degraded_total{priority="normal"} "#).await, 2.0);

    fill(&gateway, &mut inside, 20).await;
    let status = gateway.get(flight("BOS")).await.expect_err("there is no room");
    sent_away(&status);
    let mut reply = String::new();
    let mut stream = announce(gateway.listen(), "").await;
    stream.read_to_string(&mut reply).await.expect("a reply to headers alone");
    let head = reply.to_ascii_lowercase();
    assert!(head.starts_with("http/1.1 429") && head.contains("\r\nretry-after: 1\r\n"), "{reply}");
    assert!(reply.contains("RESOURCE_EXHAUSTED") && reply.contains("OVERLOADED"), "{reply}");
    let refused = async |reason: &str| {
        gateway.metric(&format!(r#"weir_admission_refused_total{{priority="normal",reason="{reason}"}} "#)).await
    };
    assert_eq!(refused("limit").await, 2.0);
    assert_eq!(gateway.metric(r#"weir_refusals_total{reason="OVERLOADED"} "#).await, 2.0);
    assert_eq!(gateway.metric(r#"weir_admission_in_flight{priority="normal"} "#).await, 20.0);

    drop(inside);
    eventually("everybody has left", async || gateway.metric("weir_in_flight ").await == 0.0).await;
    eventually("what was shed is read, and was not kept", async || {
        let full = gateway.get(flight("SFO")).await.expect("an answer");
        assert!(provenances(&full).all(|p| ![Shed, DefaultShed].contains(&p)));
        provenances(&full).any(|p| p == Store)
    })
    .await;
    gateway.stop().await;
}

#[tokio::test]
async fn the_dearest_are_served_in_full_while_others_are_refused() {
    let callers = "[[caller]]\nname = \"checkout\"\nowner = \"shop\"\ndescription = \"Sells.\"\npriority = \"critical\"\n\
                   [[caller]]\nname = \"backfill\"\nowner = \"shop\"\ndescription = \"Learns.\"\npriority = \"sheddable\"\n";
    let setup = Setup::demo().append("weir.toml", SMALL).append("catalog/callers.toml", callers);
    let gateway = setup.start().await;
    let ask = async |caller: &'static str| {
        let mut request = tonic::Request::new(flight("LAX"));
        request.metadata_mut().insert("x-weir-caller", caller.parse().expect("a name"));
        let reply = gateway.client.clone().get_features(request).await;
        reply.map(|reply| provenances(reply.get_ref()).any(|p| p == Computed))
    };
    let is_refused = |reply: Result<bool, tonic::Status>| reply.is_err_and(|s| s.code() == Code::ResourceExhausted);
    let mut inside = Vec::new();
    fill(&gateway, &mut inside, 10).await;
    assert!(!ask("backfill").await.expect("a degraded answer"));
    fill(&gateway, &mut inside, 15).await;
    assert!(is_refused(ask("backfill").await));
    assert!(ask("checkout").await.expect("an answer in full"));
    // Everybody has the same address; by name they would have shares of their own.
    fill(&gateway, &mut inside, 20).await;
    assert!(is_refused(ask("backfill").await));
    assert!(ask("checkout").await.is_ok());
    let refused = gateway.metric(r#"weir_admission_refused_total{priority="sheddable",reason="limit"} "#).await;
    let shared = gateway.metric(r#"weir_admission_refused_total{priority="sheddable",reason="share"} "#).await;
    assert_eq!(refused + shared, 2.0);
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_and_ten_times_too_many_for_a_second_are_answered_or_sent_away_and_it_passes() {
    let (server, setup) = filled(learning(Setup::demo()));
    let gateway = setup.spawn();
    let mut clients = Vec::new();
    for _ in 0..4 {
        clients.push(connect(gateway.listen).await);
    }
    let mut alone = 0;
    // What one caller after the other is served in a second; a debug build does some hundred.
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(1) {
        clients[0].get_features(fresh(alone)).await.expect("an answer");
        alone += 1;
    }
    let mut answered_in_all = alone;
    // On a machine that was busy then, ten times that may be nothing now.
    let mut has_refused = false;
    for times in [3, 10, 30, 100] {
        if times > 10 && has_refused {
            break;
        }
        let offered = alone * times * 2;
        let mut crowd = JoinSet::new();
        let mut pace = tokio::time::interval(Duration::from_secs(1) / offered as u32);
        pace.set_missed_tick_behavior(MissedTickBehavior::Burst);
        for n in 0..offered {
            pace.tick().await;
            let mut client = clients[n % clients.len()].clone();
            crowd.spawn(async move { client.get_features(fresh(n)).await });
        }
        let (mut answered, mut refused, mut late) = (0, 0, 0);
        for reply in crowd.join_all().await {
            match reply {
                Ok(reply) => answered += usize::from(!reply.get_ref().columns.is_empty()),
                // Got no core for a whole budget before anybody knew that there is a queue.
                Err(status) if status.code() == Code::DeadlineExceeded => late += 1,
                Err(status) => {
                    sent_away(&status);
                    refused += 1;
                }
            }
        }
        assert!(late * 100 <= offered, "{late} of {offered} were too late");
        let degraded = metric(gateway.admin, r#"weir_admission_degraded_total{priority="normal"} "#).await;
        println!("{times} times of {alone}/s: {answered} answered, {degraded} degraded so far, {refused} refused");
        answered_in_all += answered;
        assert!(answered > 0);
        assert!(degraded > 0.0 || refused == 0, "degraded before refused");
        has_refused |= refused > 0;
        eventually("everybody has left", async || metric(gateway.admin, "weir_in_flight ").await == 0.0).await;
    }
    assert!(has_refused, "so many do not fit");
    let reads = server.calls("mget");
    let client = clients.swap_remove(0);
    eventually("there is room as before", async || {
        let reply = client.clone().get_features(fresh(0)).await;
        let is_full = reply.is_ok_and(|reply| provenances(reply.get_ref()).any(|p| p == Store));
        is_full && metric(gateway.admin, "weir_admission_limit ").await == 1_352.0
    })
    .await;
    assert!(reads as f64 <= 1.2 * answered_in_all as f64, "{reads} reads for {answered_in_all} answers");
}

/// Learns how much it can do, which others in the harness do not; a millisecond in the queue is much.
pub(crate) fn learning(setup: Setup) -> Setup {
    setup.edit("weir.toml", "latency_target_ms = 60000", "latency_target_ms = 1")
}

pub(crate) fn sent_away(status: &tonic::Status) {
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    let details = status.get_error_details();
    let info = details.error_info().expect("a reason");
    assert_eq!((info.reason.as_str(), info.domain.as_str()), ("OVERLOADED", "weir"));
    let retry = details.retry_info().and_then(|r| r.retry_delay).expect("when to come back");
    assert!(retry > Duration::ZERO && retry <= Duration::from_secs(3), "{retry:?}");
}

/// Lets in requests whose bodies never come, until there are so many.
async fn fill(gateway: &Running, inside: &mut Vec<TcpStream>, count: usize) {
    while inside.len() < count {
        inside.push(announce(gateway.listen(), "").await);
    }
    eventually("they are inside", async || gateway.gateway().admission.in_flight() == count).await;
}

/// The head of a JSON request, with more headers.
pub(crate) async fn announce(to: SocketAddr, headers: &str) -> TcpStream {
    let mut stream = TcpStream::connect(to).await.expect("connect");
    let head = "POST /v1/features HTTP/1.1\r\nhost: test\r\nconnection: close\r\ncontent-type: application/json\r\n";
    let request = format!("{head}{headers}content-length: 1000\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("send");
    stream
}

pub(crate) async fn metric(admin: SocketAddr, name: &str) -> f64 {
    let page = http_get(admin, "/metrics").await.1;
    page.lines().find_map(|l| l.strip_prefix(name)).map_or(0.0, |v| v.trim().parse().expect("a number"))
}

fn flight(dest: &str) -> v1::GetFeaturesRequest {
    flights("", "JFK", &[("N14228", "UA", dest)])
}

/// A request that takes nothing from the cache.
fn fresh(n: usize) -> v1::GetFeaturesRequest {
    let dests = ["LAX", "SFO", "BOS", "ORD", "MIA", "ATL", "DEN", "MCO"];
    v1::GetFeaturesRequest { max_staleness: Some(Default::default()), ..flight(dests[n % dests.len()]) }
}
