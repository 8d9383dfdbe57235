//! What the store counts about itself, for the server to export. Plain atomics: reading them costs nobody
//! anything, and two stores in one process count apart.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use crate::{BreakerState, Trouble, breaker::Breaker};

/// Only ever grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, n: usize) {
        self.0.fetch_add(n as u64, Relaxed);
    }

    /// The count so far.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Everything the store counts. "Keys" are entities of a view, each counted once per request.
#[derive(Debug, Default)]
pub struct Counters {
    /// Keys answered by a fresh row of the cache.
    pub cache_hits: Counter,
    /// Keys answered by the cache knowing that there is no such entity.
    pub cache_negatives: Counter,
    /// Keys for which the store had to be asked.
    pub cache_misses: Counter,
    /// Keys answered by a row past its freshness because the store did not answer in time, or is asked again meanwhile.
    pub cache_stale: Counter,
    /// Keys that Redis said were written.
    pub invalidations: Counter,
    /// Rows that the cache forgot because of that.
    pub cache_forgotten: Counter,
    /// Rows that the cache gave up because memory was short.
    pub cache_shrunk: Counter,
    /// Times that nothing in the cache was fresh any more, because writes may not have been heard of.
    pub cache_flushes: Counter,
    /// Batches sent to the store: one for each node that has some of what a request wants.
    pub store_batches: Counter,
    /// Keys in those batches.
    pub store_keys: Counter,
    /// Keys that found their read already under way and waited for it instead of reading again.
    pub flights_joined: Counter,
    /// Keys that were served past their freshness and asked again in the background.
    pub revalidations: Counter,
    /// Keys that should have been, but too many were, or the store is out.
    pub revalidations_withheld: Counter,
    /// Rows that came too late for the request that asked for them and were kept in the cache.
    pub late_fills: Counter,
    /// Rows that are not rows of their view.
    pub invalid_rows: Counter,
    /// Batches sent to a node, those included that were sent a second time.
    pub store_attempts: Counter,
    /// Batches sent to a replica as well, because the master took long.
    pub hedges_sent: Counter,
    /// Those of them that brought what was served.
    pub hedges_won: Counter,
    /// Batches read from a replica because the master was known to be out.
    pub fallbacks: Counter,
    /// Connections that were set up.
    pub connections: Counter,
    /// Keys that were asked again from the node a cluster pointed to.
    pub redirects: Counter,
    /// Times that other nodes, or other slots of theirs, or another master were found than were known.
    pub topologies: Counter,
    /// Silent reads that would have opened a node's breaker if not too many others' had been open.
    pub breakers_held: Counter,
    /// Servers whose writes we want to hear of, and of how many we do.
    pub(crate) listeners: AtomicUsize,
    pub(crate) listeners_up: AtomicUsize,
    troubles: [Counter; Trouble::ALL.len()],
    withheld: [Counter; Withheld::ALL.len()],
    /// Servers that reads go to: one, or the masters of a cluster.
    pub masters: Nodes,
    /// Servers that stand in for them.
    pub replicas: Nodes,
}

/// Why a batch that took long was not asked again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Withheld {
    /// Whoever asked has left, or his time is over.
    NobodyWaits,
    /// A replica would not answer in the time that is left.
    NoTime,
    /// A tenth of the batches has been asked again.
    Quota,
    /// No replica is there, and close enough behind its master.
    NoReplica,
    /// The replica said a moment ago that it cannot.
    Overload,
    /// Too many hedges are under way to the replica.
    Busy,
}

impl Withheld {
    /// Every reason there is, in the order of its counters.
    pub const ALL: [Withheld; 6] =
        [Self::NobodyWaits, Self::NoTime, Self::Quota, Self::NoReplica, Self::Overload, Self::Busy];

    /// The metric label.
    pub const fn name(self) -> &'static str {
        match self {
            Self::NobodyWaits => "nobody_waits",
            Self::NoTime => "no_time",
            Self::Quota => "quota",
            Self::NoReplica => "no_replica",
            Self::Overload => "overload",
            Self::Busy => "busy",
        }
    }
}

/// Servers of one kind, known by their breakers.
#[derive(Debug, Default)]
pub struct Nodes(Mutex<Vec<Weak<Breaker>>>);

impl Counters {
    pub(crate) fn trouble(&self, kind: Trouble) {
        self.troubles[kind as usize].add(1);
    }

    /// Failed batches and failed attempts to connect, by kind.
    pub fn troubles(&self, kind: Trouble) -> u64 {
        self.troubles[kind as usize].get()
    }

    /// Servers whose writes are heard of.
    pub fn tracking_up(&self) -> usize {
        self.listeners_up.load(Relaxed)
    }

    /// Servers whose writes should be heard of and are not.
    pub fn tracking_down(&self) -> usize {
        self.listeners.load(Relaxed).saturating_sub(self.tracking_up())
    }

    pub(crate) fn withheld(&self, why: Withheld) {
        self.withheld[why as usize].add(1);
    }

    /// Batches that took long and were not asked again, by reason.
    pub fn hedges_withheld(&self, why: Withheld) -> u64 {
        self.withheld[why as usize].get()
    }

    /// How many nodes' breakers are not closed, replicas aside.
    pub fn nodes_out(&self) -> usize {
        self.masters.out()
    }

    /// Servers that reads go to, replicas aside.
    pub fn node_count(&self) -> usize {
        self.masters.count()
    }

    /// State of the node's breaker; among several nodes the worst. Always closed where there is no Redis.
    pub fn breaker(&self) -> BreakerState {
        let worst = |a: BreakerState, b: BreakerState| match (a, b) {
            (BreakerState::Open, _) | (_, BreakerState::Open) => BreakerState::Open,
            (BreakerState::HalfOpen, _) | (_, BreakerState::HalfOpen) => BreakerState::HalfOpen,
            _ => BreakerState::Closed,
        };
        self.masters.states().fold(BreakerState::Closed, worst)
    }
}

impl Nodes {
    /// A node joins; it leaves when its breaker is dropped.
    pub(crate) fn watch(&self, breaker: &Arc<Breaker>) {
        let mut nodes = self.nodes();
        nodes.retain(|node| node.strong_count() > 0);
        nodes.push(Arc::downgrade(breaker));
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.nodes().iter().filter(|node| node.strong_count() > 0).count()
    }

    /// How many are not asked because they do not answer.
    pub fn out(&self) -> usize {
        self.states().filter(|state| *state != BreakerState::Closed).count()
    }

    fn states(&self) -> impl Iterator<Item = BreakerState> {
        let nodes: Vec<_> = self.nodes().iter().filter_map(Weak::upgrade).collect();
        nodes.into_iter().map(|node| node.state())
    }

    fn nodes(&self) -> MutexGuard<'_, Vec<Weak<Breaker>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
