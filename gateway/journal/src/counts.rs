//! What the journal did, in numbers. `served = kept + sampled out + dropped` and `kept + recovered = sealed + waiting`,
//! to the row; what was dropped is counted by reason.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Requests and the rows in them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// Answered requests.
    pub requests: u64,
    /// Rows of their answers.
    pub rows: u64,
}

/// Why a record was not kept. Closed, so it may be a metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DropReason {
    /// The queue had no room: the disk is slower than the traffic, or does not take anything at all.
    QueueFull,
    /// The record alone is larger than the journal takes.
    TooLarge,
    /// Its columns do not fit its plan: a bug in whoever made it.
    Misfit,
}

impl DropReason {
    /// Every reason there is.
    pub const ALL: [Self; 3] = [Self::QueueFull, Self::TooLarge, Self::Misfit];

    /// The name used as metric label.
    pub const fn name(self) -> &'static str {
        match self {
            Self::QueueFull => "queue_full",
            Self::TooLarge => "too_large",
            Self::Misfit => "misfit",
        }
    }
}

/// Everything counted since the journal was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Records taken: they survive the process from then on.
    pub kept: Counted,
    /// Records of units that are not in their service's sample.
    pub sampled_out: Counted,
    /// Records not taken, in the order of [`DropReason::ALL`].
    pub dropped: [Counted; DropReason::ALL.len()],
    /// Records that an earlier run left in its segments and its queue, sealed by this one.
    pub recovered: Counted,
    /// Records sealed into Parquet, recovered ones included.
    pub sealed: Counted,
    /// Bytes put into the queue.
    pub queued_bytes: u64,
    /// Bytes written to segments.
    pub written_bytes: u64,
    /// Group commits that succeeded.
    pub syncs: u64,
    /// Group commits that failed; the segment is sealed at once and never synced again.
    pub sync_errors: u64,
    /// Writes to a segment, or attempts to start one, that failed.
    pub write_errors: u64,
    /// Attempts to seal a segment that failed and will be repeated.
    pub seal_errors: u64,
    /// Segments sealed.
    pub segments_sealed: u64,
    /// Stretches of a segment or queue that were no readable frame.
    pub corrupt_frames: u64,
    /// Segments and queues moved to `quarantine/`.
    pub quarantined: u64,
    /// Bytes in the queue now.
    pub queue_bytes: u64,
    /// Bytes in segments that wait to be sealed now.
    pub backlog_bytes: u64,
}

impl Counts {
    /// Records not taken for this reason.
    pub fn dropped_for(&self, reason: DropReason) -> Counted {
        self.dropped[reason as usize]
    }

    /// Records not taken, whatever the reason.
    pub fn dropped_total(&self) -> Counted {
        self.dropped
            .iter()
            .fold(Counted::default(), |sum, c| Counted { requests: sum.requests + c.requests, rows: sum.rows + c.rows })
    }
}

/// The live counters behind [`Counts`].
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) kept: Pair,
    pub(crate) sampled_out: Pair,
    pub(crate) dropped: [Pair; DropReason::ALL.len()],
    pub(crate) recovered: Pair,
    pub(crate) sealed: Pair,
    pub(crate) queued_bytes: AtomicU64,
    pub(crate) written_bytes: AtomicU64,
    pub(crate) syncs: AtomicU64,
    pub(crate) sync_errors: AtomicU64,
    pub(crate) write_errors: AtomicU64,
    pub(crate) seal_errors: AtomicU64,
    pub(crate) segments_sealed: AtomicU64,
    pub(crate) corrupt_frames: AtomicU64,
    pub(crate) quarantined: AtomicU64,
    pub(crate) backlog_bytes: AtomicU64,
}

/// Requests and rows, counted together.
#[derive(Debug, Default)]
pub(crate) struct Pair {
    requests: AtomicU64,
    rows: AtomicU64,
}

impl Pair {
    pub(crate) fn add(&self, requests: u64, rows: u64) {
        self.requests.fetch_add(requests, Relaxed);
        self.rows.fetch_add(rows, Relaxed);
    }

    fn read(&self) -> Counted {
        Counted { requests: self.requests.load(Relaxed), rows: self.rows.load(Relaxed) }
    }
}

/// Adds one.
pub(crate) fn bump(counter: &AtomicU64) {
    counter.fetch_add(1, Relaxed);
}

impl Tally {
    pub(crate) fn read(&self, queue_bytes: u64) -> Counts {
        let at = |c: &AtomicU64| c.load(Relaxed);
        Counts {
            kept: self.kept.read(),
            sampled_out: self.sampled_out.read(),
            dropped: self.dropped.each_ref().map(Pair::read),
            recovered: self.recovered.read(),
            sealed: self.sealed.read(),
            queued_bytes: at(&self.queued_bytes),
            written_bytes: at(&self.written_bytes),
            syncs: at(&self.syncs),
            sync_errors: at(&self.sync_errors),
            write_errors: at(&self.write_errors),
            seal_errors: at(&self.seal_errors),
            segments_sealed: at(&self.segments_sealed),
            corrupt_frames: at(&self.corrupt_frames),
            quarantined: at(&self.quarantined),
            queue_bytes,
            backlog_bytes: at(&self.backlog_bytes),
        }
    }
}
