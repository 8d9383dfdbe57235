//! Fault 20: no file descriptors left, or as many connections as there may be. Who is inside is served as ever, who is
//! outside gets in when there is room again, and nothing spins meanwhile.

use std::net::SocketAddr;
use std::process::Command;
use std::time::Instant;

use futures::future::join_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::{connect, eventually};
use crate::stored::{route, unhurried};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_file_descriptors_those_inside_are_served_and_the_others_wait() {
    const CROWD: usize = 40;
    let gateway = unhurried().spawn();
    let mut inside = connect(gateway.listen).await;
    let mut operator = Operator::to(gateway.admin).await;
    inside.get_features(route("JFK", &["LAX"])).await.expect("an answer");
    assert_eq!(operator.metric("weir_accept_errors_total ").await, 0.0);

    let open = std::fs::read_dir(format!("/proc/{}/fd", gateway.pid())).expect("its files").count();
    limit_files(gateway.pid(), &(open + 5).to_string());
    let began = Instant::now();
    // The system takes them for us; we cannot take them from it.
    let crowd = join_all((0..CROWD).map(|_| TcpStream::connect(gateway.listen))).await;
    let mut failed = 0.0;
    for _ in 0..2_000 {
        assert_eq!(inside.get_features(route("JFK", &["LAX"])).await.expect("an answer").into_inner().rows, 1);
        failed = operator.metric("weir_accept_errors_total ").await;
        if failed >= 5.0 {
            break;
        }
    }
    assert!(failed >= 5.0, "{failed} failed");
    // It waits between attempts: 50 ms each.
    assert!(failed <= began.elapsed().as_millis() as f64 / 50.0 + 1.0, "{failed} in {:?}", began.elapsed());
    let complaints = gateway.log().iter().filter(|line| line.contains("cannot be accepted")).count();
    assert_eq!(complaints, 1, "{:#?}", gateway.log());

    drop(crowd);
    let mut outside = connect(gateway.listen).await;
    assert_eq!(outside.get_features(route("JFK", &["LAX"])).await.expect("an answer").into_inner().rows, 1);
    eventually("the crowd is gone", async || gateway_connections(gateway.admin).await <= 3.0).await;
    assert_eq!(inside.get_features(route("JFK", &["LAX"])).await.expect("an answer").into_inner().rows, 1);
}

#[tokio::test]
async fn one_connection_too_many_is_closed_at_once() {
    let gateway = unhurried().append("weir.toml", "connections_max = 3\n").start().await;
    // The harness has one.
    let mut first = connect(gateway.listen()).await;
    let second = connect(gateway.listen()).await;
    let mut reply = Vec::new();
    let mut one_more = TcpStream::connect(gateway.listen()).await.expect("connect");
    // Nothing is said, and nothing is waited for.
    let _ = one_more.read_to_end(&mut reply).await;
    assert!(reply.is_empty(), "{reply:?}");
    assert_eq!(gateway.metric("weir_connections_refused_total ").await, 1.0);
    assert_eq!(gateway.metric("weir_connections ").await, 3.0);
    for _ in 0..10 {
        assert_eq!(first.get_features(route("JFK", &["LAX"])).await.expect("an answer").into_inner().rows, 1);
    }
    drop(second);
    eventually("there is room", async || gateway.metric("weir_connections ").await == 2.0).await;
    let mut again = connect(gateway.listen()).await;
    assert_eq!(again.get_features(route("JFK", &["LAX"])).await.expect("an answer").into_inner().rows, 1);
    assert_eq!(gateway.metric(r#"weir_connections_ended_total{reason="done"} "#).await, 1.0);
    gateway.stop().await;
}

/// Takes effect at once in a process that runs.
fn limit_files(pid: u32, most: &str) {
    let limited = Command::new("prlimit").arg("--pid").arg(pid.to_string()).arg(format!("--nofile={most}")).status();
    assert!(limited.expect("run prlimit").success());
}

async fn gateway_connections(admin: SocketAddr) -> f64 {
    Operator::to(admin).await.metric("weir_connections ").await
}

/// Reads metrics over one connection that it keeps.
struct Operator(TcpStream);

impl Operator {
    async fn to(admin: SocketAddr) -> Self {
        Self(TcpStream::connect(admin).await.expect("connect"))
    }

    async fn metric(&mut self, name: &str) -> f64 {
        self.0.write_all(b"GET /metrics HTTP/1.1\r\nhost: test\r\n\r\n").await.expect("ask");
        let mut page = Vec::new();
        while !page.windows(6).any(|end| end == b"# EOF\n") {
            assert!(self.0.read_buf(&mut page).await.expect("metrics") > 0, "it was closed");
        }
        let page = String::from_utf8_lossy(&page).into_owned();
        let value =
            page.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("no {name} in {page}"));
        value.trim().parse().expect("a number")
    }
}
