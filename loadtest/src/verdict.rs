//! What was measured against what was expected.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value as Json, json};

use crate::figures::Figure;
use crate::metrics::Metrics;
use crate::scenario::Phase;
use crate::tally::{Tally, quantile_ms, share};

/// Store attempts are held against requests over this long.
const ATTEMPTS_OVER: Duration = Duration::from_secs(10);
/// Fewer requests than this say nothing of a ratio.
const ATTEMPTS_REQUESTS_MIN: f64 = 20.0;
/// Provenance of values that are what was asked for.
const REAL: [&str; 5] = ["STORE", "CACHE", "STALE", "COMPUTED", "CALLER"];

/// The gateway's counters at moments of the run.
#[derive(Debug, Default)]
pub(crate) struct Samples(pub(crate) Vec<(Duration, Metrics)>);

impl Samples {
    /// What was counted between two moments of the run.
    pub(crate) fn between(&self, from: Duration, to: Duration) -> Option<Metrics> {
        let first = self.0.iter().rev().find(|(at, _)| *at <= from).or(self.0.first())?;
        let last = self.0.iter().find(|(at, _)| *at >= to).or(self.0.last())?;
        Some(last.1.since(&first.1))
    }

    /// The most batches (those sent to a replica as well included) a request within the phase, over [`ATTEMPTS_OVER`] or the phase, whichever is shorter.
    fn attempts_per_request(&self, from: Duration, to: Duration) -> Option<f64> {
        let over = ATTEMPTS_OVER.min(to - from);
        let begins = self.0.iter().map(|(at, _)| *at).filter(|at| *at >= from && *at + over <= to).chain([from]);
        let ratios = begins.filter_map(|begin| {
            let counted = self.between(begin, begin + over)?;
            let requests = counted.sum("weir_requests_total");
            let attempts = counted.sum("weir_store_batches_total") + counted.sum("weir_store_hedges_sent_total");
            (requests >= ATTEMPTS_REQUESTS_MIN).then(|| attempts / requests)
        });
        ratios.reduce(f64::max)
    }
}

/// A phase with everything known of it.
pub(crate) struct Measured<'a> {
    pub(crate) phase: &'a Phase,
    pub(crate) rps: f64,
    /// When it began, since the run did.
    pub(crate) begin: Duration,
    pub(crate) tally: &'a Tally,
    pub(crate) samples: &'a Samples,
    /// Goodput of the ramp.
    pub(crate) peak_rps: Option<f64>,
    /// What was still under way in the gateway long after the run.
    pub(crate) orphans: Option<f64>,
}

impl Measured<'_> {
    fn counted(&self) -> Option<Metrics> {
        self.samples.between(self.begin, self.begin + self.phase.length)
    }

    fn get(&self, figure: Figure) -> Option<f64> {
        let tally = self.tally;
        match figure {
            Figure::InTimeShare => tally.in_time_share(),
            Figure::RepliedInTimeShare => tally.replied_in_time_share(),
            Figure::GoodputOfPeak => {
                // As the ramp counts it.
                let real_share = self.counted().and_then(|counted| real_share(&counted)).unwrap_or(1.0);
                self.peak_rps.map(|peak| tally.in_time as f64 * real_share / self.phase.length.as_secs_f64() / peak)
            }
            Figure::P50Ms => quantile_ms(&tally.answered_ns, 0.5),
            Figure::P99Ms => quantile_ms(&tally.answered_ns, 0.99),
            // Nobody refused is nobody refused too late.
            Figure::RefusedP99Ms => Some(quantile_ms(&tally.refused_ns, 0.99).unwrap_or(0.0)),
            Figure::RealShare => real_share(&self.counted()?),
            Figure::Untyped => (tally.looked_at > 0).then_some(tally.untyped as f64),
            Figure::StoreAttemptsPerRequest => {
                self.samples.attempts_per_request(self.begin, self.begin + self.phase.length)
            }
            Figure::Orphans => self.orphans,
            Figure::JournalledShare => {
                let rows = self.counted()?.by("weir_journal_rows_total", "outcome");
                let kept = rows.get("kept").copied().unwrap_or(0.0);
                share(kept as u64, rows.values().sum::<f64>() as u64)
            }
        }
    }

    /// The phase as it goes into the verdict, and whether everything expected of it holds.
    pub(crate) fn json(&self) -> (Json, bool) {
        let mut all_hold = true;
        let expected = self.phase.expect.iter().map(|(figure, wanted)| {
            let got = self.get(*figure);
            let holds = figure.holds(got, *wanted);
            all_hold &= holds;
            let sign = if figure.is_at_least() { "≥" } else { "≤" };
            json!({ "figure": figure.name(), "sign": sign, "wanted": wanted, "got": got, "holds": holds })
        });
        let expected: Vec<Json> = expected.collect();
        let mut json = self.tally.json(self.phase.length);
        json["name"] = self.phase.name.as_str().into();
        json["planned_rps"] = self.rps.into();
        json["expected"] = expected.into();
        if let Some(counted) = self.counted() {
            let provenance = provenance(&counted);
            json["real_share"] = real_share(&counted).into();
            json["provenance"] = json!(provenance);
            json["store_batches"] = counted.sum("weir_store_batches_total").into();
            json["store_keys"] = counted.sum("weir_store_keys_total").into();
            json["gateway_requests"] = counted.sum("weir_requests_total").into();
            json["gateway_refusals"] = json!(counted.by("weir_refusals_total", "reason"));
        }
        json["store_attempts_per_request"] = self.get(Figure::StoreAttemptsPerRequest).into();
        (json, all_hold)
    }
}

fn provenance(counted: &Metrics) -> BTreeMap<String, f64> {
    let mut values = counted.by("weir_values_total", "provenance");
    values.retain(|_, count| *count > 0.0);
    values
}

/// Values that are what was asked for, of all that were served.
pub(crate) fn real_share(counted: &Metrics) -> Option<f64> {
    let provenance = provenance(counted);
    let real: f64 = REAL.iter().filter_map(|name| provenance.get(*name)).sum();
    let all: f64 = provenance.values().sum();
    (all > 0.0).then(|| real / all)
}
