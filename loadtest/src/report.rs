//! What a command says at its end, and the counts behind it.

use std::cell::RefCell;
use std::error::Error;
use std::io::Write;
use std::rc::Rc;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::{Value as Json, json};
use tokio::time::Instant;

/// Longer than this no call on loopback takes; the histogram saturates there.
pub(crate) const LATENCY_MAX: Duration = Duration::from_secs(60);
/// Significant digits of a latency: one per cent is finer than two runs agree.
pub(crate) const DIGITS: u8 = 2;

/// A line on stdout. Whoever reads it may have gone: that is no error of ours.
pub(crate) fn say(line: &Json) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// An error and its reasons on stderr.
pub(crate) fn complain(error: &dyn Error) {
    let mut line = format!("weir-loadtest: {error}");
    let mut source = error.source();
    while let Some(reason) = source {
        line += &format!(": {reason}");
        source = reason.source();
    }
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// What a closed loop counts; clones count together, on one thread.
#[derive(Clone)]
pub(crate) struct Tally(Rc<RefCell<Counts>>);

struct Counts {
    started: Instant,
    cpu_before: Option<Duration>,
    latencies_ns: Histogram<u64>,
    bytes: u64,
}

impl Tally {
    /// Starts the clock.
    pub(crate) fn start() -> Result<Self, Box<dyn Error>> {
        let latencies_ns = Histogram::new_with_max(LATENCY_MAX.as_nanos() as u64, DIGITS)?;
        let counts = Counts { started: Instant::now(), cpu_before: own_cpu(), latencies_ns, bytes: 0 };
        Ok(Self(Rc::new(RefCell::new(counts))))
    }

    /// One answer, to a question asked at `asked`.
    pub(crate) fn answered(&self, asked: Instant, bytes: usize) {
        let mut counts = self.0.borrow_mut();
        counts.latencies_ns.saturating_record(asked.elapsed().as_nanos() as u64);
        counts.bytes += bytes as u64;
    }

    /// Everything, as JSON. In a closed loop only the latencies of one stream at a time mean anything: with more,
    /// a slow answer holds back the very questions that would have suffered from it.
    pub(crate) fn json(&self) -> Json {
        let counts = self.0.borrow();
        let seconds = counts.started.elapsed().as_secs_f64();
        let answered = counts.latencies_ns.len();
        let micros = |quantile| counts.latencies_ns.value_at_quantile(quantile) as f64 / 1e3;
        let cpu = own_cpu().zip(counts.cpu_before).map(|(now, before)| (now - before).as_secs_f64());
        json!({
            "answered": answered,
            "seconds": seconds,
            "rps": answered as f64 / seconds,
            "bytes": counts.bytes,
            "p50_us": micros(0.5),
            "p99_us": micros(0.99),
            "cpu_share": cpu.map(|cpu| cpu / seconds),
            "cpu_us": cpu.map(|cpu| cpu * 1e6 / answered as f64),
        })
    }
}

/// Processor time of this thread so far, which in a closed loop does everything. Only Linux says it.
pub(crate) fn own_cpu() -> Option<Duration> {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    stat.split_whitespace().next()?.parse().ok().map(Duration::from_nanos)
}
