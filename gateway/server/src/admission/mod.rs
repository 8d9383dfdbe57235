//! Who may enter, decided when a request's headers are seen and before anything else is done for it. Three answers: in
//! full, *degraded* (from cache and defaults, with no read and no transform of its own), or not now. A request is
//! counted until its future is dropped, so that tasks that wait for a core count too: a hit in the cache never waits for
//! anything else.
//!
//! How many there may be is learned (`limit.rs`) from how long answers take, how busy the cores are, and whether fewer are
//! quicker (`trial.rs`); who makes room is decided by priority and by each caller's share (`share.rs`). Nothing waits in
//! front of the limit, and under pressure a request that has waited for a core for too much of its budget is not begun.
//! Entering and leaving are a few atomic operations.

pub(crate) mod degrade;
mod limit;
mod share;
mod tally;
mod trial;

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use weir_domain::Refusal;
use weir_domain::catalog::Priority;

use limit::{LIMIT_MIN, Limit, Look};
pub use share::Seat;
use share::Shares;
use tally::{Crowd, Tally};

use crate::memory::Pressure;

/// What is learned from is looked at this often: a few queues' length, so that what was changed shows.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Share of what requests may spend from where on answers take too long, in per cent: bytes wait before they are a request
/// and after they are an answer, which nobody sees from inside.
const TARGET_SHARE_PCT: u32 = 70;
/// What requests may spend until the first ones have said.
const GRANTED: Duration = Duration::from_millis(20);
/// Once the limit was learned, one request is degraded for so many that are answered in full: what is degraded is cheap
/// and not free, and a gateway that does nothing else has no answers.
const FULL_PER_DEGRADED: u64 = 64;
/// So many may be degraded before any is answered in full.
const DEGRADED_AHEAD: u64 = 16;
/// So many are answered in full whatever was learned: a gateway with so few is not what a machine is busy with.
const NEVER_BELOW: usize = 3;
/// The learned limit ends here, in per cent of what may be in flight at most: the rest is for those refused last.
const CEILING_PCT: usize = 66;
/// Suggested to a caller that was refused for the first time: about what a full house needs to empty.
const RETRY_AFTER: Duration = Duration::from_millis(100);
/// Longer would be an outage of its own.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(2);

/// How an admitted request is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// With everything.
    Full,
    /// From what is known already: no read, no transform.
    Degraded,
}

/// Who asks, as far as headers say.
#[derive(Clone, Copy, Debug)]
pub struct Visitor {
    /// What the catalog says about the caller.
    pub priority: Priority,
    /// Where its requests are counted.
    pub seat: Seat,
    /// Through whose doors it came.
    pub through: Through,
}

/// The doors that make a difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Through {
    /// Our own.
    Weir,
    /// Feast's. Its clients ask three times more at once when they are refused, so they are degraded for longest.
    Feast {
        /// Most time their answers may take.
        budget: Duration,
    },
}

impl Visitor {
    /// In per cent of the limit: from where on it is degraded, and refused.
    const fn bounds(&self) -> (usize, usize) {
        let (degraded, refused) = match self.priority {
            Priority::Critical => (100, 125),
            Priority::Normal => (75, 100),
            Priority::Sheddable => (50, 75),
        };
        match self.through {
            Through::Weir => (degraded, refused),
            Through::Feast { .. } => (degraded, 150),
        }
    }
}

/// Why a request is not admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crowded {
    /// There is no room for its priority.
    Limit,
    /// There is none, and its caller has more than its share.
    Share,
    /// It had waited for a core for too much of its budget.
    Wait,
    /// As many are in flight as there may ever be.
    Full,
    /// The process holds about as much memory as it may.
    Memory,
}

impl Crowded {
    /// Every reason; `as usize` is its place.
    pub const ALL: [Self; 5] = [Self::Limit, Self::Share, Self::Wait, Self::Full, Self::Memory];

    /// The metric label.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Limit => "limit",
            Self::Share => "share",
            Self::Wait => "wait",
            Self::Full => "full",
            Self::Memory => "memory",
        }
    }
}

/// Counts who is here and learns how many there may be.
#[derive(Debug)]
pub struct Admission {
    max: usize,
    ceiling: usize,
    target: Option<Duration>,
    crowd: Crowd,
    shares: Shares,
    // What was learned, for everybody to read.
    limit: AtomicUsize,
    is_pressed: AtomicBool,
    memory: AtomicU8,
    granted_us: AtomicU64,
    retry_us: AtomicU64,
    spent_us: AtomicU64,
    callers: AtomicUsize,
    // What is learned from.
    granted: Tally,
    spent: Tally,
    to_degrade: AtomicU64,
    began: Instant,
    next_look_us: AtomicU64,
    learning: Mutex<Learning>,
    degraded: [AtomicU64; Priority::ALL.len()],
    refused: [[AtomicU64; Crowded::ALL.len()]; Priority::ALL.len()],
}

#[derive(Debug)]
struct Learning {
    limit: Limit,
    refused: u64,
    /// When the last look was, and how long the cores had been busy. The first only says what the start has cost.
    last: Option<(Instant, Duration)>,
}

impl Admission {
    /// Admits at most `max` at a time. Answers that take longer than `target`, or without one a share of what they may
    /// spend, are a reason to admit fewer.
    pub fn new(max: usize, target: Option<Duration>, cores: usize, now: Instant) -> Self {
        let ceiling = (max * CEILING_PCT).div_ceil(100).max(max.min(LIMIT_MIN));
        Self {
            max,
            ceiling,
            target,
            crowd: Crowd::default(),
            shares: Shares::new(),
            limit: AtomicUsize::new(ceiling),
            is_pressed: AtomicBool::new(false),
            memory: AtomicU8::default(),
            granted_us: AtomicU64::new(GRANTED.as_micros() as u64),
            retry_us: AtomicU64::new(RETRY_AFTER.as_micros() as u64),
            spent_us: AtomicU64::new(0),
            callers: AtomicUsize::new(0),
            granted: Tally::default(),
            spent: Tally::default(),
            to_degrade: AtomicU64::new(DEGRADED_AHEAD * FULL_PER_DEGRADED),
            began: now,
            next_look_us: AtomicU64::new(0),
            learning: Mutex::new(Learning { limit: Limit::new(ceiling, cores), refused: 0, last: None }),
            degraded: Default::default(),
            refused: Default::default(),
        }
    }

    /// Where this caller's requests are counted.
    pub fn seat(&self, caller: &[u8]) -> Seat {
        self.shares.seat(caller)
    }

    /// Enters, in full or degraded, or is refused at once.
    pub fn enter(self: &Arc<Self>, visitor: Visitor, at: Instant) -> Result<Permit, Refusal> {
        let before = self.crowd.enter(visitor.priority);
        let own = self.shares.enter(visitor.seat);
        // It exists already: whatever happens next, its drop takes this request off again.
        let mut permit = Permit { admission: Arc::clone(self), visitor, at, mode: Mode::Full };
        let (limit, fair) = (self.limit.load(Relaxed), self.shares.fair());
        let is_beyond = |pct: usize| {
            let has_room = visitor.priority != Priority::Sheddable && own * 100 < fair * pct;
            before >= (limit * pct / 100).max(NEVER_BELOW) && !has_room
        };
        let (degraded, refused) = visitor.bounds();
        let memory = self.memory_pressure();
        if memory >= Pressure::Refuse || (memory == Pressure::Degrade && visitor.priority == Priority::Sheddable) {
            return Err(self.refuse(visitor, Crowded::Memory));
        }
        if memory == Pressure::Degrade {
            permit.mode = Mode::Degraded;
        }
        if before >= self.max {
            return Err(self.refuse(visitor, Crowded::Full));
        }
        if is_beyond(refused) {
            let alone = self.callers.load(Relaxed) < 2;
            return Err(self.refuse(visitor, if alone { Crowded::Limit } else { Crowded::Share }));
        }
        if is_beyond(degraded) {
            let is_native = visitor.through == Through::Weir;
            if is_native && limit < self.ceiling && !self.may_degrade() {
                return Err(self.refuse(visitor, Crowded::Limit));
            }
            permit.mode = Mode::Degraded;
        }
        Ok(permit)
    }

    /// What memory calls for, until further notice.
    pub fn press(&self, memory: Pressure) {
        self.memory.store(memory as u8, Relaxed);
    }

    /// What memory calls for.
    pub fn memory_pressure(&self) -> Pressure {
        self.memory.load(Relaxed).into()
    }

    /// Takes one of those that may be degraded, if there is one.
    fn may_degrade(&self) -> bool {
        let taken = |left: u64| left.checked_sub(FULL_PER_DEGRADED);
        self.to_degrade.fetch_update(Relaxed, Relaxed, taken).is_ok()
    }

    fn refuse(&self, visitor: Visitor, why: Crowded) -> Refusal {
        let nth = self.refused[visitor.priority as usize][why as usize].fetch_add(1, Relaxed);
        // Half to one and a half of what is suggested, spread evenly by the golden ratio: who was refused together does
        // not come back together.
        let spread = 0.5 + (nth as f64 * 0.618_033_988_749_895).fract();
        let retry_after = Duration::from_micros(self.retry_us.load(Relaxed)).mul_f64(spread);
        Refusal::Overloaded { retry_after }
    }

    /// An answer in full left: what its request might spend, and what it did.
    pub fn answered(&self, granted: Duration, spent: Duration) {
        self.granted.add(granted);
        self.spent.add(spent);
        if self.to_degrade.load(Relaxed) < DEGRADED_AHEAD * FULL_PER_DEGRADED {
            self.to_degrade.fetch_add(1, Relaxed);
        }
    }

    /// Whether it is time to look how busy the cores are, and to tell [`learn`](Self::learn). True for one caller, and then
    /// not before that look has been told and some time has passed.
    pub fn is_look_due(&self, now: Instant) -> bool {
        let next_us = self.next_look_us.load(Relaxed);
        self.us(now) >= next_us && self.next_look_us.compare_exchange(next_us, u64::MAX, Relaxed, Relaxed).is_ok()
    }

    /// Learns from how long the cores were busy since the process began, all of them together.
    pub fn learn(&self, busy: Duration, now: Instant) {
        let mut learning = self.learning.lock().unwrap_or_else(PoisonError::into_inner);
        self.next_look_us.store(self.us(now + LOOK_EVERY), Relaxed);
        let Some((last, busy_before)) = learning.last.replace((now, busy)) else { return };
        let (answers, spent) = self.spent.take();
        let (_, granted) = self.granted.take();
        if answers > 0 {
            self.granted_us.store(granted.as_micros() as u64, Relaxed);
        }
        let granted = Duration::from_micros(self.granted_us.load(Relaxed));
        let all_refused = self.refused.iter().flatten().map(|n| n.load(Relaxed)).sum();
        let refused = all_refused - std::mem::replace(&mut learning.refused, all_refused);
        let look = Look {
            since: now.saturating_duration_since(last),
            busy: busy.saturating_sub(busy_before),
            answers,
            spent: spent * answers as u32,
            refused,
            target: self.target.unwrap_or(granted * TARGET_SHARE_PCT / 100),
            granted: self.target.is_none().then_some(granted),
        };
        learning.limit.learn(look);
        let turned_away = refused as f64 / answers.max(1) as f64;
        let retry = RETRY_AFTER.mul_f64(1.0 + turned_away.min(100.0)).min(RETRY_AFTER_MAX);
        self.retry_us.store(retry.as_micros() as u64, Relaxed);
        self.limit.store(learning.limit.get(), Relaxed);
        self.is_pressed.store(learning.limit.is_pressed(), Relaxed);
        self.spent_us.store(learning.limit.spent().as_micros() as u64, Relaxed);
        self.callers.store(self.shares.divide(learning.limit.get()), Relaxed);
    }

    fn us(&self, at: Instant) -> u64 {
        at.saturating_duration_since(self.began).as_micros() as u64
    }

    /// Requests being answered right now.
    pub fn in_flight(&self) -> usize {
        self.crowd.all()
    }

    /// The same of one priority.
    pub fn in_flight_of(&self, priority: Priority) -> usize {
        self.crowd.of(priority)
    }

    /// Requests that may be, as learned.
    pub fn limit(&self) -> usize {
        self.limit.load(Relaxed)
    }

    /// How long answers in full take by now.
    pub fn spent(&self) -> Duration {
        Duration::from_micros(self.spent_us.load(Relaxed))
    }

    /// Callers with requests in flight, when that was looked at.
    pub fn callers(&self) -> usize {
        self.callers.load(Relaxed)
    }

    /// Requests that were admitted and degraded.
    pub fn degraded(&self, priority: Priority) -> u64 {
        self.degraded[priority as usize].load(Relaxed)
    }

    /// Requests that were refused.
    pub fn refused(&self, priority: Priority, why: Crowded) -> u64 {
        self.refused[priority as usize][why as usize].load(Relaxed)
    }
}

/// One request in flight; dropped when it ends, however it ends.
#[derive(Debug)]
pub struct Permit {
    admission: Arc<Admission>,
    visitor: Visitor,
    at: Instant,
    mode: Mode,
}

/// Memory for what was let in and is not here yet.
#[derive(Debug)]
pub(crate) struct Room {
    admission: Arc<Admission>,
    visitor: Visitor,
}

impl Room {
    /// Why there is none.
    pub(crate) fn refused(&self) -> Option<Refusal> {
        let is_none = self.admission.memory_pressure() >= Pressure::Refuse;
        is_none.then(|| self.admission.refuse(self.visitor, Crowded::Memory))
    }
}

impl Permit {
    /// For the body of its request.
    pub(crate) fn room(&self) -> Room {
        Room { admission: Arc::clone(&self.admission), visitor: self.visitor }
    }

    /// The request has got a core. How it is to be answered; or not at all, if it has waited for too long to be in time
    /// and others wait too. `timeout` is the caller's own.
    pub fn begin(&mut self, timeout: impl FnOnce() -> Option<Duration>, now: Instant) -> Result<Mode, Refusal> {
        let Self { admission, visitor, at, mode } = self;
        let waited = now.saturating_duration_since(*at);
        if admission.is_pressed.load(Relaxed) && admission.in_flight() > NEVER_BELOW {
            let budget = match visitor.through {
                Through::Weir => Duration::from_micros(admission.granted_us.load(Relaxed)),
                Through::Feast { budget } => budget,
            };
            let budget = timeout().map_or(budget, |timeout| timeout.min(budget));
            // What is left after half of it would be spent on an answer that is late as likely as not.
            if waited > budget / 2 {
                return Err(admission.refuse(*visitor, Crowded::Wait));
            }
            if waited > budget / 4 {
                *mode = Mode::Degraded;
            }
        }
        if *mode == Mode::Degraded {
            admission.degraded[visitor.priority as usize].fetch_add(1, Relaxed);
        }
        Ok(*mode)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.admission.crowd.leave(self.visitor.priority);
        self.admission.shares.leave(self.visitor.seat);
    }
}

#[cfg(test)]
mod tests;
