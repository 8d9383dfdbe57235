//! Measures how late deadlines fire, ours and tokio's, and what one costs that is called off:
//! `cargo run --release -p weir-store --example lateness`.
#![allow(clippy::print_stdout, reason = "it prints what it measures")]

use std::pin::pin;
use std::task::{Context, Waker};
use std::time::Duration;

use tokio::time::Instant;
use weir_store::alarm;

/// Waits by deadline and kind.
const WAITS: usize = 400;
/// Deadlines that are armed and called off, while [`OTHERS`] wait.
const CALLED_OFF: u32 = 200_000;
const OTHERS: u64 = 100;
const MS: Duration = Duration::from_millis(1);

#[tokio::main(worker_threads = 2)]
async fn main() {
    // As requests do: on a worker, not on the thread that started the runtime.
    let _ = tokio::spawn(measure()).await;
}

async fn measure() {
    println!("a deadline of, fires late by (µs)      p50      p99      max");
    for ms in 1..=5 {
        let (mut own, mut wheel) = (Vec::new(), Vec::new());
        // Taking turns, so that both see the same machine.
        for n in 0..WAITS {
            let wait = ms * MS + Duration::from_micros(n as u64 * 37 % 1_000);
            let at = Instant::now() + wait;
            alarm::sleep_until(at).await;
            own.push(at.elapsed());
            let at = Instant::now() + wait;
            tokio::time::sleep_until(at).await;
            wheel.push(at.elapsed());
        }
        for (kind, mut late) in [("alarm", own), ("tokio", wheel)] {
            late.sort_unstable();
            let at = |share: f64| late[((WAITS - 1) as f64 * share) as usize].as_micros();
            println!("{ms} to {} ms, {kind:<24} {:>8} {:>8} {:>8}", ms + 1, at(0.5), at(0.99), at(1.0));
        }
    }
    let others: Vec<_> = (0..OTHERS)
        .map(|n| tokio::spawn(alarm::sleep_until(Instant::now() + 2 * MS * 1_000 + n as u32 * MS)))
        .collect();
    tokio::task::yield_now().await;
    let mut cx = Context::from_waker(Waker::noop());
    let at = Instant::now() + 1_000 * MS;
    let begun = Instant::now();
    for _ in 0..CALLED_OFF {
        let _ = pin!(alarm::sleep_until(at)).poll(&mut cx);
    }
    println!("armed and called off: {} ns each", (begun.elapsed() / CALLED_OFF).as_nanos());
    others.iter().for_each(tokio::task::JoinHandle::abort);
}
