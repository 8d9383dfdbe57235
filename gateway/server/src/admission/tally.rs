//! Counters that are read as a whole: several numbers in one word, so that they are of one moment and cost one atomic
//! operation.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use weir_domain::catalog::Priority;

/// How many there are of each priority. 21 bits each: more than any limit.
#[derive(Debug, Default)]
pub(super) struct Crowd(AtomicU64);

const BITS: u32 = 21;
const MASK: u64 = (1 << BITS) - 1;

impl Crowd {
    /// One more; returns how many there were of all.
    pub(super) fn enter(&self, priority: Priority) -> usize {
        sum(self.0.fetch_add(one(priority), Relaxed))
    }

    pub(super) fn leave(&self, priority: Priority) {
        self.0.fetch_sub(one(priority), Relaxed);
    }

    pub(super) fn all(&self) -> usize {
        sum(self.0.load(Relaxed))
    }

    pub(super) fn of(&self, priority: Priority) -> usize {
        (self.0.load(Relaxed) >> (BITS * priority as u32) & MASK) as usize
    }
}

const fn one(priority: Priority) -> u64 {
    1 << (BITS * priority as u32)
}

const fn sum(word: u64) -> usize {
    ((word & MASK) + (word >> BITS & MASK) + (word >> (2 * BITS) & MASK)) as usize
}

/// Durations of up to a second since the last look: their number and their sum.
#[derive(Debug, Default)]
pub(super) struct Tally(AtomicU64);

/// Bits of the sum, in microseconds: a million seconds. The rest are for the number.
const SUM_BITS: u32 = 40;
const MOST_US: u128 = 1_000_000;

impl Tally {
    pub(super) fn add(&self, duration: Duration) {
        let us = duration.as_micros().min(MOST_US) as u64;
        self.0.fetch_add(1 << SUM_BITS | us, Relaxed);
    }

    /// How many there were since the last time, and their mean.
    pub(super) fn take(&self) -> (u64, Duration) {
        let word = self.0.swap(0, Relaxed);
        let (count, sum) = (word >> SUM_BITS, word & ((1 << SUM_BITS) - 1));
        (count, Duration::from_micros(sum / count.max(1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crowd_is_counted_by_priority() {
        let crowd = Crowd::default();
        assert_eq!(crowd.enter(Priority::Sheddable), 0);
        assert_eq!(crowd.enter(Priority::Critical), 1);
        assert_eq!(crowd.enter(Priority::Sheddable), 2);
        assert_eq!(Priority::ALL.map(|p| crowd.of(p)), [1, 0, 2]);
        crowd.leave(Priority::Critical);
        assert_eq!((crowd.all(), crowd.of(Priority::Sheddable)), (2, 2));
    }

    #[test]
    fn a_tally_is_taken_once() {
        let tally = Tally::default();
        for ms in [1, 2, 6, 3_600_000] {
            tally.add(Duration::from_millis(ms));
        }
        assert_eq!(tally.take(), (4, Duration::from_micros(252_250)));
        assert_eq!(tally.take(), (0, Duration::ZERO));
    }
}
