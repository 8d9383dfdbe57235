//! The gateway: what every request shares. One per process in production, as many as you like in a test.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use weir_domain::catalog::Catalog;
use weir_journal::Journal;

use crate::admission::Admission;
use crate::cores::Cores;
use crate::feast::Feast;
use crate::metrics::Metrics;
use crate::snapshot::Snapshot;

/// Shared by all doors.
pub struct Gateway {
    snapshot: ArcSwap<Snapshot>,
    /// Who may enter.
    pub admission: Arc<Admission>,
    /// What time it is.
    pub clock: Clock,
    /// Where answers are written down.
    pub journal: Option<Journal>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// The Feast repository that is served too.
    pub feast: Option<Arc<Feast>>,
    /// What it runs on.
    pub cores: Cores,
    /// Most bytes that the process may hold, if somebody says.
    pub memory_max: Option<u64>,
}

impl Gateway {
    /// Puts the parts together.
    pub fn new(
        snapshot: Snapshot,
        admission: Admission,
        clock: Clock,
        journal: Option<Journal>,
        feast: Option<Arc<Feast>>,
        cores: Cores,
        memory_max: Option<u64>,
    ) -> Self {
        let (snapshot, admission, metrics) = (ArcSwap::from_pointee(snapshot), Arc::new(admission), Arc::default());
        Self { snapshot, admission, clock, journal, metrics, feast, cores, memory_max }
    }

    /// What the next request is answered from.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    /// Looks something up in the catalog.
    pub(crate) fn with_catalog<T>(&self, look: impl FnOnce(&Catalog) -> T) -> T {
        look(&self.snapshot.load().catalog)
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
