//! Fault 20: memory runs out. The cache gives way first, and nobody notices but the store; when that is not enough,
//! requests are answered from what is known, then refused by their headers alone; and when there is memory again, all is
//! as before.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::Code;
use weir_domain::Provenance::{Cache, DefaultShed, Shed, Store};

use crate::harness::{connect, eventually};
use crate::overload::{metric, sent_away};
use crate::stored::{filled, provenances, route, told, unhurried};

/// A gateway of the tests holds some 20 MiB by itself.
const MAX_MIB: u64 = 128;
const MAX: &str = "memory_max_mib = 128\n[cache]\ncapacity_mib = 4096\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cache_that_has_grown_too_large_gives_way_before_anybody_is_degraded() {
    const DESTS: usize = 200_000;
    const AT_ONCE: usize = 1_000;
    let (server, setup) = filled(unhurried().append("weir.toml", MAX));
    // Long names, each with the row of one route.
    let script = "local row = redis.call('GET', ARGV[1] .. 's3:LAX') \
                  for i = 0, ARGV[2] - 1 do redis.call('SET', ARGV[1] .. 's256:' .. string.format('%s%06d', ('x'):rep(250), i), row) end";
    server.command(&["EVAL", script, "0", "flights:route@1:s3:JFK:", &DESTS.to_string()]);
    let gateway = setup.spawn();
    let mut client = connect(gateway.listen).await;
    let metric = async |name: &str| metric(gateway.admin, name).await;
    assert_eq!(metric("weir_memory_max_bytes ").await, (MAX_MIB << 20) as f64);
    for first in (0..DESTS).step_by(AT_ONCE) {
        let dests: Vec<String> = (first..first + AT_ONCE).map(|n| format!("{}{n:06}", "x".repeat(250))).collect();
        let dests: Vec<&str> = dests.iter().map(String::as_str).collect();
        let reply = client.get_features(route("JFK", &dests)).await.expect("an answer").into_inner();
        let of_route = reply.columns.iter().filter(|column| column.name.starts_with("route:"));
        let told: Vec<_> = of_route.flat_map(told).filter(|p| *p != Store).collect();
        assert!(
            told.is_empty(),
            "{:?} after {first} rows, {} bytes: {:?}",
            told[0],
            metric("weir_memory_used_bytes ").await,
            gateway.log()
        );
        let used = metric("weir_memory_used_bytes ").await;
        assert!(used < (MAX_MIB << 20) as f64, "{used} bytes after {first} rows");
    }
    // Without that, there would be nearly all in it.
    assert!(metric("weir_cache_shrunk_total ").await > 0.0);
    assert!(metric("weir_cache_entries ").await < DESTS as f64 / 2.0);
    assert!(gateway.log().iter().any(|line| line.contains("the cache shrinks")), "{:?}", gateway.log());
    eventually("there is room for rows again", async || {
        let mut client = client.clone();
        let reply = client.get_features(route("JFK", &["LAX"])).await.expect("an answer").into_inner();
        provenances(&reply).any(|p| p == Cache) && metric("weir_memory_pressure ").await == 0.0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_give_way_costs_values_then_answers_and_it_passes() {
    let (server, setup) = filled(unhurried().append("weir.toml", MAX));
    let gateway = setup.spawn();
    let mut client = connect(gateway.listen).await;
    let pressure = async || metric(gateway.admin, "weir_memory_pressure ").await;
    let known = || route("JFK", &["LAX"]);
    eventually("it is known", async || {
        let reply = client.clone().get_features(known()).await.expect("an answer").into_inner();
        provenances(&reply).any(|p| p == Cache)
    })
    .await;
    assert_eq!(pressure().await, 0.0);

    let used = async || metric(gateway.admin, "weir_memory_used_bytes ").await;
    // One at a time: those on the way are counted nowhere, and would be too many together.
    let another = async || {
        let before = used().await;
        let body = part_of_a_body(gateway.listen, BODY_BYTES - 1).await;
        for _ in 0..LOOKS {
            if used().await >= before + (BODY_BYTES / 2) as f64 {
                break;
            }
        }
        body
    };
    let mut half = part_of_a_body(gateway.listen, BODY_BYTES / 2).await;
    let mut inside = Vec::new();
    while pressure().await < 2.0 {
        // What is held is noticed a moment later.
        if used().await * 100.0 / ((MAX_MIB << 20) as f64) < 91.0 {
            inside.push(another().await);
        }
        assert!(inside.len() < 200, "they hold nothing");
    }
    let reads = server.calls("mget");
    let reply = client.get_features(route("JFK", &["BOS"])).await.expect("an answer").into_inner();
    assert!(provenances(&reply).all(|p| [Shed, DefaultShed].contains(&p)));
    assert_eq!(server.calls("mget"), reads, "a degraded request reads nothing");
    assert!(metric(gateway.admin, r#"weir_admission_degraded_total{priority="normal"} "#).await >= 1.0);

    while pressure().await < 3.0 {
        inside.push(another().await);
        assert!(inside.len() < 200, "they hold nothing");
    }
    let refused = r#"weir_admission_refused_total{priority="normal",reason="memory"} "#;
    let before = metric(gateway.admin, refused).await;
    let status = client.get_features(known()).await.expect_err("there is no memory");
    assert_eq!(status.code(), Code::ResourceExhausted);
    sent_away(&status);
    let after = metric(gateway.admin, refused).await;
    assert!(after > before);

    // Having been let in is no promise of memory, or a thousand of them would be the end of the process.
    half.write_all(&vec![b' '; BODY_BYTES / 4]).await.expect("send");
    let mut told = [0; 12];
    half.read_exact(&mut told).await.expect("an answer");
    assert_eq!(&told, b"HTTP/1.1 429");
    assert!(metric(gateway.admin, refused).await > after);

    drop(inside);
    eventually("there is enough memory again", async || pressure().await == 0.0).await;
    eventually("everything is read again", async || {
        let reply = client.clone().get_features(route("JFK", &["BOS"])).await.expect("an answer").into_inner();
        provenances(&reply).all(|p| ![Shed, DefaultShed].contains(&p))
    })
    .await;
}

/// Of each body.
const BODY_BYTES: usize = 1 << 20;

/// At what is held until a body is seen: one that was refused never is.
const LOOKS: usize = 100;

/// A request of whose body no more than this comes.
async fn part_of_a_body(to: SocketAddr, bytes: usize) -> TcpStream {
    let mut stream = TcpStream::connect(to).await.expect("connect");
    let head = "POST /v1/features HTTP/1.1\r\nhost: test\r\ncontent-type: application/json\r\n";
    let request = format!("{head}content-length: {BODY_BYTES}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("send");
    // Whoever is refused by headers alone is hung up on.
    let _ = stream.write_all(&vec![b' '; bytes]).await;
    stream
}
