//! The gateway: what every request shares. One per process in production, as many as you like in a test.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use weir_domain::Refusal;
use weir_journal::Journal;

use crate::feast::Feast;
use crate::metrics::Metrics;
use crate::snapshot::Snapshot;

/// Shared by all doors.
pub struct Gateway {
    snapshot: ArcSwap<Snapshot>,
    /// Who may enter.
    pub admission: Admission,
    /// What time it is.
    pub clock: Clock,
    /// Where answers are written down.
    pub journal: Option<Journal>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// The Feast repository that is served too.
    pub feast: Option<Arc<Feast>>,
}

impl Gateway {
    /// Puts the parts together.
    pub fn new(
        snapshot: Snapshot,
        admission: Admission,
        clock: Clock,
        journal: Option<Journal>,
        metrics: Arc<Metrics>,
        feast: Option<Arc<Feast>>,
    ) -> Self {
        Self { snapshot: ArcSwap::from_pointee(snapshot), admission, clock, journal, metrics, feast }
    }

    /// What the next request is answered from.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    /// Swaps the next snapshot in; requests under way keep theirs.
    pub fn replace(&self, snapshot: Snapshot) {
        self.snapshot.store(Arc::new(snapshot));
    }
}

/// Wall-clock time, for event-time ages and timestamps only: durations are measured on the monotonic clock.
#[derive(Clone, Copy, Debug)]
pub enum Clock {
    /// The machine's.
    System,
    /// Ages and ttl are measured from a fixed instant: the data are of that day.
    Fixed {
        /// Microseconds since the Unix epoch.
        as_of_us: i64,
    },
}

impl Clock {
    /// The time from which ages and ttl are measured.
    pub fn now_us(self) -> i64 {
        match self {
            Self::System => self.wall_us(),
            Self::Fixed { as_of_us } => as_of_us,
        }
    }

    /// The time on the wall.
    #[expect(clippy::disallowed_methods, reason = "this is the one place where it enters")]
    pub fn wall_us(self) -> i64 {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_micros() as i64)
    }
}

/// Counts requests in flight and refuses those beyond the limit, before anything is done for them.
#[derive(Debug)]
pub struct Admission {
    in_flight: AtomicUsize,
    limit: usize,
}

/// Suggested to a caller that was refused: about what a full house needs to empty.
const RETRY_AFTER: Duration = Duration::from_millis(100);

impl Admission {
    /// Admits up to `limit` requests at a time.
    pub fn new(limit: usize) -> Self {
        Self { in_flight: AtomicUsize::new(0), limit }
    }

    /// Enters, or refuses at once.
    pub fn admit(&self) -> Result<Permit<'_>, Refusal> {
        let permit = Permit(&self.in_flight);
        // The permit exists already: whatever happens next, its drop takes this request off again.
        if self.in_flight.fetch_add(1, Ordering::Relaxed) >= self.limit {
            return Err(Refusal::Overloaded { retry_after: RETRY_AFTER });
        }
        Ok(permit)
    }

    /// Requests being answered right now.
    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }
}

/// One request in flight; dropped when it ends, however it ends.
#[derive(Debug)]
pub struct Permit<'a>(&'a AtomicUsize);

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_permit_is_given_back_however_its_request_ends() {
        let admission = Admission::new(2);
        let first = admission.admit().unwrap();
        let second = admission.admit().unwrap();
        assert!(matches!(admission.admit(), Err(Refusal::Overloaded { .. })));
        assert_eq!(admission.in_flight(), 2);
        drop(first);
        let third = admission.admit().unwrap();
        drop((second, third));
        assert_eq!(admission.in_flight(), 0);
    }
}
