//! The figures a scenario can hold a gateway to. A closed list: each has one name, in scenario files and verdicts alike,
//! and one direction in which it is good.

/// What is expected of a phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Figure {
    /// Requests that were answered within the budget and a millisecond, of all that were due.
    InTimeShare,
    /// Replies (answers, refusals and the server's own "too late") within the budget and a millisecond, of all calls that
    /// were not abandoned by the caller.
    RepliedInTimeShare,
    /// Answers in time a second, each counting by the share of its values that are real, divided by what the ramp found.
    GoodputOfPeak,
    /// Median latency of answers.
    P50Ms,
    /// 99th percentile of the latency of answers, from the moment they should have been sent.
    P99Ms,
    /// 99th percentile of the latency of refusals.
    RefusedP99Ms,
    /// Values that are STORE, CACHE, STALE, COMPUTED or CALLER, of all that were served.
    RealShare,
    /// Values without a provenance that the protocol knows, in the replies that were looked at.
    Untyped,
    /// The most batches that were sent to the store in a stretch of up to ten seconds, divided by the requests answered in it.
    StoreAttemptsPerRequest,
    /// Requests and reads that were still under way in the gateway when nobody waited any more.
    Orphans,
    /// Served rows that the journal kept.
    JournalledShare,
}

impl Figure {
    /// All of them.
    pub(crate) const ALL: [Self; 11] = [
        Self::InTimeShare,
        Self::RepliedInTimeShare,
        Self::GoodputOfPeak,
        Self::P50Ms,
        Self::P99Ms,
        Self::RefusedP99Ms,
        Self::RealShare,
        Self::Untyped,
        Self::StoreAttemptsPerRequest,
        Self::Orphans,
        Self::JournalledShare,
    ];

    /// Its name in files.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::InTimeShare => "in_time_share",
            Self::RepliedInTimeShare => "replied_in_time_share",
            Self::GoodputOfPeak => "goodput_of_peak",
            Self::P50Ms => "p50_ms",
            Self::P99Ms => "p99_ms",
            Self::RefusedP99Ms => "refused_p99_ms",
            Self::RealShare => "real_share",
            Self::Untyped => "untyped",
            Self::StoreAttemptsPerRequest => "store_attempts_per_request",
            Self::Orphans => "orphans",
            Self::JournalledShare => "journalled_share",
        }
    }

    /// Whether less is worse.
    pub(crate) fn is_at_least(self) -> bool {
        use Figure::{GoodputOfPeak, InTimeShare, JournalledShare, RealShare, RepliedInTimeShare};
        matches!(self, InTimeShare | RepliedInTimeShare | GoodputOfPeak | RealShare | JournalledShare)
    }

    /// Whether what was measured is good enough. What could not be measured is not.
    pub(crate) fn holds(self, got: Option<f64>, wanted: f64) -> bool {
        got.is_some_and(|got| if self.is_at_least() { got >= wanted } else { got <= wanted })
    }
}
