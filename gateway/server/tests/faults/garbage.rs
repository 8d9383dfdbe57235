//! Fault 9: what answers is no Redis, or has lost its mind: garbage, promises of huge strings, nesting without end,
//! replies that never stop. Nothing of it is taken for a value, it costs little memory, and the connection is replaced.

use weir_domain::Provenance;

use crate::fake::{Fake, Manner};
use crate::harness::{Setup, connect, eventually, http_get};
use crate::stored::{provenances, route, unhurried};

use Provenance::{Late, Missing, Unavailable};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nonsense_is_no_value_and_is_counted_and_sense_is_heard_again() {
    let fake = Fake::start(Manner::Proper).await;
    let gateway = uncached().store(&fake.url()).start().await;
    let ask = async || {
        let reply = gateway.get(route("JFK", &["LAX", "SFO"])).await.expect("an answer");
        provenances(&reply).collect::<Vec<_>>()
    };
    let array = |items: &str, n: usize| format!("*{n}\r\n{}", items.repeat(n)).into_bytes();
    let says = |kind: &'static str, bytes: &[u8]| (kind, Manner::Says(bytes.to_vec()));
    for (kind, manner) in [
        says("protocol", b"\x16\x03\x01 what?\r\n"),
        says("protocol", b"HTTP/1.1 400 Bad Request\r\n\r\n"),
        says("protocol", &array("$-1\r\n", 3)),
        says("protocol", &array("$-1\r\n", 6)),
        says("protocol", &array(":1\r\n", 4)),
        says("protocol", b"+OK\r\n"),
        says("protocol", b"*4\r\n$9999999999999\r\nabc"),
        says("protocol", b"*4\r\n$-5\r\n"),
        says("protocol", b"*4\r\n%2\r\n"),
        // Might still become a reply, like half a string.
        says("timeout", &"*1\r\n".repeat(100_000).into_bytes()),
        ("connection", Manner::HangsUpAfter(b"*4\r\n$40\r\nabc".to_vec())),
        says("timeout", b"*4\r\n$400000000\r\nabc"),
        says("loading", b"-LOADING Redis is loading the dataset in memory\r\n"),
        says("other", b"-\xff\xfe what\r\n"),
    ] {
        let troubles = async || gateway.metric(&format!("weir_store_troubles_total{{kind=\"{kind}\"}} ")).await;
        eventually("sense", async || ask().await.iter().all(|p| *p == Missing)).await;
        let before = troubles().await;
        fake.behave(manner.clone());
        eventually(&format!("{kind}: {manner:?}"), async || {
            let said = ask().await;
            // What had been asked before it changed its mind may still be answered.
            assert!(said.iter().all(|p| [Unavailable, Late, Missing].contains(p)), "{kind}: {said:?}");
            said.iter().all(|p| *p != Missing) && troubles().await > before
        })
        .await;
        for _ in 0..5 {
            let said = ask().await;
            assert!(said.iter().all(|p| [Unavailable, Late].contains(p)), "{kind}: {said:?}");
        }
        fake.behave(Manner::Proper);
    }
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replies_without_end_cost_little_memory() {
    /// The largest reply that is taken for one has 64 MiB, and what grows is copied. The node's second connection may be at
    /// it before the first is given up.
    const GROWTH_MIB_MAX: u64 = 2 * (64 + 64) + 16;
    let fake = Fake::start(Manner::Proper).await;
    let gateway = uncached().store(&fake.url()).spawn();
    let client = connect(gateway.listen).await;
    let ask = async || {
        let reply = client.clone().get_features(route("JFK", &["LAX", "SFO"])).await.expect("an answer").into_inner();
        provenances(&reply).collect::<Vec<_>>()
    };
    let connections = async || metric(gateway.admin, "weir_store_connections_total ").await;
    for (name, head, more) in [
        ("a string", &b"*4\r\n$536870912\r\n"[..], &[b'x'; 64 << 10][..]),
        ("items", b"*16777216\r\n", &b"$1\r\nx\r\n".repeat(8 << 10)),
        ("numbers", b"*16777216\r\n", &b":1\r\n".repeat(16 << 10)),
        ("nesting", b"", &b"*1\r\n".repeat(16 << 10)),
        ("wide nesting", b"", &b"*16777216\r\n".repeat(4 << 10)),
        ("a line", b"+", &[b'x'; 64 << 10]),
    ] {
        eventually("sense", async || ask().await.iter().all(|p| *p == Missing)).await;
        let (before, made) = (forget_peak(gateway.pid()), connections().await);
        fake.behave(Manner::NeverStopsAfter(head.to_vec(), more.to_vec()));
        eventually("connections are replaced", async || {
            let said = ask().await;
            assert!(said.iter().all(|p| [Unavailable, Late, Missing].contains(p)), "{name}: {said:?}");
            connections().await >= made + 2.0
        })
        .await;
        let grown = peak_mib(gateway.pid()).saturating_sub(before);
        fake.behave(Manner::Proper);
        assert!(grown <= GROWTH_MIB_MAX, "{name}: grew by {grown} MiB");
    }
}

/// Every request asks, and nothing is kept.
fn uncached() -> Setup {
    unhurried()
        .edit("catalog/views.toml", "fresh_for_ms = 60000", "fresh_for_ms = 0")
        .edit("catalog/views.toml", "stale_for_ms = 3600000", "stale_for_ms = 0")
        .edit("catalog/views.toml", "negative_for_ms = 5000", "negative_for_ms = 0")
}

/// From here on the peak is of what comes. Returns what the process has now.
pub(crate) fn forget_peak(pid: u32) -> u64 {
    std::fs::write(format!("/proc/{pid}/clear_refs"), "5").expect("a process of ours");
    peak_mib(pid)
}

/// The most memory that a process has had.
pub(crate) fn peak_mib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a process");
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).expect("its peak");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") >> 10
}

async fn metric(admin: std::net::SocketAddr, name: &str) -> f64 {
    let page = http_get(admin, "/metrics").await.1;
    page.lines().find_map(|l| l.strip_prefix(name)).map_or(0.0, |v| v.trim().parse().expect("a number"))
}
