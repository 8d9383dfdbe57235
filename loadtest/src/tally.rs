//! What became of the requests of one phase. Latencies count from the moment a request should have been sent: a server that
//! stalls is late for all that were due meanwhile, not for one.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::{Value as Json, json};

use crate::report::{DIGITS, LATENCY_MAX};

/// A reply that comes this much after the budget is still in time: the network and the caller take some of it.
pub(crate) const GRACE: Duration = Duration::from_millis(1);

/// How a request ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// With an answer.
    Answered,
    /// The gateway would not: RESOURCE_EXHAUSTED, 429.
    Refused,
    /// The gateway said that it was too late: DEADLINE_EXCEEDED, 504.
    TooLate,
    /// The caller gave up.
    TimedOut,
    /// The caller left, as planned.
    Cancelled,
    /// In another way, which is named.
    Failed(String),
}

/// Counts and histograms of a phase.
#[derive(Debug)]
pub(crate) struct Tally {
    pub(crate) due: u64,
    /// Due, but too much was under way already.
    pub(crate) dropped: u64,
    pub(crate) answered: u64,
    pub(crate) in_time: u64,
    /// Replies of any kind, in time.
    pub(crate) replied_in_time: u64,
    pub(crate) refused: u64,
    pub(crate) too_late: u64,
    pub(crate) timed_out: u64,
    pub(crate) cancelled: u64,
    pub(crate) failed: BTreeMap<String, u64>,
    pub(crate) answered_ns: Histogram<u64>,
    pub(crate) refused_ns: Histogram<u64>,
    /// From when a request should have been sent until it was.
    pub(crate) lag_ns: Histogram<u64>,
    pub(crate) looked_at: u64,
    pub(crate) untyped: u64,
    in_time_max: Duration,
}

impl Tally {
    /// An answer is in time within `budget` and [`GRACE`].
    pub(crate) fn new(budget: Duration) -> Self {
        Self {
            due: 0,
            dropped: 0,
            answered: 0,
            in_time: 0,
            replied_in_time: 0,
            refused: 0,
            too_late: 0,
            timed_out: 0,
            cancelled: 0,
            failed: BTreeMap::new(),
            answered_ns: histogram(),
            refused_ns: histogram(),
            lag_ns: histogram(),
            looked_at: 0,
            untyped: 0,
            in_time_max: budget + GRACE,
        }
    }

    /// A request is due.
    pub(crate) fn due(&mut self) {
        self.due += 1;
    }

    /// It was sent, this much too late.
    pub(crate) fn sent(&mut self, lag: Duration) {
        self.lag_ns.saturating_record(lag.as_nanos() as u64);
    }

    /// It ended, this long after it should have been sent.
    pub(crate) fn ended(&mut self, outcome: Outcome, latency: Duration) {
        let is_in_time = latency <= self.in_time_max;
        let latency_ns = latency.as_nanos() as u64;
        match outcome {
            Outcome::Answered => {
                self.answered += 1;
                self.answered_ns.saturating_record(latency_ns);
                self.in_time += u64::from(is_in_time);
            }
            Outcome::Refused => {
                self.refused += 1;
                self.refused_ns.saturating_record(latency_ns);
            }
            Outcome::TooLate => self.too_late += 1,
            Outcome::TimedOut => self.timed_out += 1,
            Outcome::Cancelled => self.cancelled += 1,
            Outcome::Failed(ref how) => *self.failed.entry(how.clone()).or_default() += 1,
        }
        let is_reply = matches!(outcome, Outcome::Answered | Outcome::Refused | Outcome::TooLate);
        self.replied_in_time += u64::from(is_reply && is_in_time);
    }

    /// Requests that came back in time, of all that were due.
    pub(crate) fn in_time_share(&self) -> Option<f64> {
        share(self.in_time, self.due - self.cancelled)
    }

    /// Replies in time, of all calls whose caller waited.
    pub(crate) fn replied_in_time_share(&self) -> Option<f64> {
        share(self.replied_in_time, self.due - self.dropped - self.cancelled)
    }

    /// Everything counted, for the verdict.
    pub(crate) fn json(&self, length: Duration) -> Json {
        let seconds = length.as_secs_f64();
        json!({
            "seconds": seconds,
            "due": self.due,
            "offered_rps": self.due as f64 / seconds,
            "dropped": self.dropped,
            "answered": self.answered,
            "goodput_rps": self.in_time as f64 / seconds,
            "refused": self.refused,
            "too_late": self.too_late,
            "timed_out": self.timed_out,
            "cancelled": self.cancelled,
            "failed": self.failed,
            "in_time_share": self.in_time_share(),
            "replied_in_time_share": self.replied_in_time_share(),
            "answered_ms": quantiles(&self.answered_ns),
            "refused_ms": quantiles(&self.refused_ns),
            "lag_ms": quantiles(&self.lag_ns),
            "looked_at": self.looked_at,
            "untyped": self.untyped,
        })
    }
}

fn histogram() -> Histogram<u64> {
    let max = LATENCY_MAX.as_nanos() as u64;
    // The bounds are constants that a histogram takes; one that resizes itself is as good.
    Histogram::new_with_max(max, DIGITS).unwrap_or_else(|_| Histogram::new(DIGITS).unwrap_or_else(|_| unreachable!()))
}

/// A part of a whole; nothing of nothing.
pub(crate) fn share(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

/// A quantile in milliseconds; nothing when nothing was recorded.
pub(crate) fn quantile_ms(histogram: &Histogram<u64>, quantile: f64) -> Option<f64> {
    (!histogram.is_empty()).then(|| histogram.value_at_quantile(quantile) as f64 / 1e6)
}

fn quantiles(histogram: &Histogram<u64>) -> Json {
    let at = |quantile| quantile_ms(histogram, quantile);
    json!({ "p50": at(0.5), "p90": at(0.9), "p99": at(0.99), "p999": at(0.999), "max": at(1.0) })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_refusal_is_a_reply_and_no_success() {
        let mut tally = Tally::new(10 * MS);
        for outcome in [Outcome::Answered, Outcome::Refused, Outcome::TimedOut, Outcome::Cancelled] {
            tally.due();
            tally.ended(outcome, 2 * MS);
        }
        assert_eq!((tally.answered, tally.in_time, tally.replied_in_time), (1, 1, 2));
        assert_eq!(tally.in_time_share(), Some(1.0 / 3.0), "a caller who left is not waiting");
        assert_eq!(tally.answered_ns.len(), 1);
    }

    #[test]
    fn the_budget_and_a_millisecond_is_in_time_and_no_more() {
        let mut tally = Tally::new(10 * MS);
        for latency in [11 * MS, 11 * MS + Duration::from_nanos(1)] {
            tally.due();
            tally.ended(Outcome::Answered, latency);
        }
        assert_eq!((tally.answered, tally.in_time), (2, 1));
    }
}
