//! What hedging gives and costs: a master that stands still for 8 ms ten times a second, beside a replica that does not,
//! asked 500 times a second, each time from the moment at which it was meant to be.
//!
//!     cargo run --release -p weir-store --example hedging
#![allow(clippy::expect_used, clippy::panic, clippy::print_stdout, reason = "a measurement says what it saw, or ends")]

#[path = "../tests/common/mod.rs"]
mod common;
#[path = "../tests/common/scene.rs"]
mod scene;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use common::RedisServer;
use scene::{NAMESPACE, Reply, address, bound, freshness, in_time, plan_of, small_rows, small_view, texts};
use weir_domain::catalog::Scope;
use weir_domain::{Gathered, Provenance};
use weir_store::{Backend, CacheSettings, Loader, Redis, Replicas, Store, Withheld};

const STALL_S: &str = "0.008";
const STALL_EVERY: Duration = Duration::from_millis(100);
const ASK_EVERY: Duration = Duration::from_millis(2);
const ASKS: usize = 10_000;
const BUDGET: Duration = Duration::from_millis(100);

fn main() {
    let master = RedisServer::start_with(&["--repl-diskless-sync-delay", "0", "--enable-debug-command", "yes"]);
    let port = master.port().to_string();
    let replica = RedisServer::start_with(&["--replicaof", "127.0.0.1", &port]);
    common::wait(|| replica.command(&["INFO", "replication"]).contains("master_link_status:up"));
    let url = format!("{}/?replicas=127.0.0.1:{}", master.url(), replica.port());
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(SeqCst) {
                let began = std::time::Instant::now();
                master.command(&["DEBUG", "SLEEP", STALL_S]);
                #[allow(clippy::disallowed_methods, reason = "the pace of the stalls")]
                std::thread::sleep(STALL_EVERY.saturating_sub(began.elapsed()));
            }
        });
        for replicas in [Replicas::Ignored, Replicas::Read, Replicas::Ignored, Replicas::Read] {
            runtime.block_on(measure(&url, replicas));
        }
        is_over.store(true, SeqCst);
    });
}

async fn measure(url: &str, replicas: Replicas) {
    let redis = Redis::open_with(&address(url), replicas).expect("a usable address");
    let store = Store::new(Backend::Redis(redis.clone()), CacheSettings::default(), NAMESPACE);
    let plan =
        Arc::new(plan_of(vec![(small_view(freshness(Duration::ZERO, Duration::ZERO, Duration::ZERO)), Scope::Item)]));
    // An entity a question: otherwise those that wait share one read.
    let ids: Vec<String> = (0..1_000).map(|n| format!("e{n}")).collect();
    let rows: Vec<(&str, f64)> = ids.iter().map(|id| (id.as_str(), 1.0)).collect();
    let mut loader = Loader::connect(&address(url)).await.expect("a server to load");
    loader.write(&small_rows(&plan.reads[0].view, &rows)).await.expect("rows are written");
    redis.settled().await.expect("a connection");
    let mut pace = tokio::time::interval(ASK_EVERY);
    pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Burst);
    let mut asks = tokio::task::JoinSet::new();
    for ask in 0..ASKS {
        let meant = pace.tick().await;
        let (store, plan, id) = (store.clone(), plan.clone(), ids[ask % ids.len()].clone());
        asks.spawn(async move {
            let mut into = Gathered::default();
            store.fetch(&plan, &bound(1, vec![texts(&[id])]), in_time(BUDGET), &mut into).await;
            (meant.elapsed(), Reply::of(into).provenance[0])
        });
    }
    let answers = asks.join_all().await;
    // The first second teaches the node's time.
    let mut took: Vec<Duration> = answers.iter().skip(ASKS / 20).map(|(took, _)| *took).collect();
    took.sort_unstable();
    let at = |share: f64| took[((took.len() - 1) as f64 * share) as usize].as_micros();
    let real = answers.iter().filter(|(_, from)| *from == Provenance::Store).count();
    let counters = store.counters();
    let (attempts, batches) = (counters.store_attempts.get(), counters.store_batches.get());
    println!(
        "{replicas:?}: p50 {} p90 {} p95 {} p99 {} p99.9 {} max {} µs; real {real} of {ASKS}; {:.1} % more attempts, {} of \
         {} hedges won; withheld {:?}",
        at(0.5),
        at(0.9),
        at(0.95),
        at(0.99),
        at(0.999),
        at(1.0),
        (attempts as f64 / batches as f64 - 1.0) * 100.0,
        counters.hedges_won.get(),
        counters.hedges_sent.get(),
        Withheld::ALL.map(|why| (why.name(), counters.hedges_withheld(why))),
    );
}
