//! Who has how much of the gateway: requests in flight by caller, and the share beyond which a caller has to make room
//! for others. Bounded: callers are told apart by a hash into a fixed number of places, so that many names cost nothing.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Callers that are told apart. Two that fall into one place share one share; the hash is another in every process, so
/// that it is not the same two everywhere.
const PLACES: usize = 256;

/// Requests in flight by caller.
#[derive(Debug)]
pub(super) struct Shares {
    in_flight: Box<[AtomicUsize]>,
    fair: AtomicUsize,
    hasher: RandomState,
}

/// Where a caller's requests are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seat(usize);

impl Shares {
    pub(super) fn new() -> Self {
        let in_flight = (0..PLACES).map(|_| AtomicUsize::new(0)).collect();
        Self { in_flight, fair: AtomicUsize::new(0), hasher: RandomState::new() }
    }

    pub(super) fn seat(&self, caller: &[u8]) -> Seat {
        Seat(self.hasher.hash_one(caller) as usize % PLACES)
    }

    /// Enters; returns how many the caller had before.
    pub(super) fn enter(&self, seat: Seat) -> usize {
        self.in_flight[seat.0].fetch_add(1, Relaxed)
    }

    pub(super) fn leave(&self, seat: Seat) {
        self.in_flight[seat.0].fetch_sub(1, Relaxed);
    }

    /// What a caller may have in flight however full it is.
    pub(super) fn fair(&self) -> usize {
        self.fair.load(Relaxed)
    }

    /// Divides the limit anew among those who are here; returns how many they are.
    pub(super) fn divide(&self, limit: usize) -> usize {
        let mut wanted: Vec<usize> = self.in_flight.iter().map(|n| n.load(Relaxed)).filter(|n| *n > 0).collect();
        self.fair.store(fair_share(limit, &mut wanted), Relaxed);
        wanted.len()
    }
}

/// Max-min fairness: who wants less than an even share gets what it wants, and what it leaves is divided among the
/// others. Whoever wants most is taken to want everything.
fn fair_share(limit: usize, wanted: &mut [usize]) -> usize {
    wanted.sort_unstable();
    let mut left = limit;
    for (i, want) in wanted.iter().enumerate() {
        let even = left / (wanted.len() - i);
        if *want > even || i + 1 == wanted.len() {
            return even;
        }
        left -= want;
    }
    left
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_wants_little_gets_it_and_the_others_share_what_is_left() {
        assert_eq!(fair_share(100, &mut []), 100);
        assert_eq!(fair_share(100, &mut [3]), 100);
        assert_eq!(fair_share(100, &mut [500]), 100);
        assert_eq!(fair_share(100, &mut [5, 500]), 95);
        assert_eq!(fair_share(100, &mut [500, 5, 400]), 47);
        assert_eq!(fair_share(100, &mut [60, 60]), 50);
        assert_eq!(fair_share(100, &mut [20, 30, 10]), 70);
        assert_eq!(fair_share(3, &mut [9; 10]), 0);
    }

    #[test]
    fn shares_never_add_up_to_more_than_the_limit() {
        for seed in 0..500usize {
            let mut wanted: Vec<usize> = (0..seed % 40).map(|i| (seed * 7_919 + i * 104_729) % 97 + 1).collect();
            let limit = seed % 200;
            let fair = fair_share(limit, &mut wanted);
            let all_but_one = wanted.iter().rev().skip(1).map(|want| (*want).min(fair)).sum::<usize>();
            assert!(all_but_one + if wanted.is_empty() { 0 } else { fair } <= limit, "{limit} {fair} {wanted:?}");
        }
    }
}
