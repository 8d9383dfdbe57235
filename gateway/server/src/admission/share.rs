//! Who has how much of the gateway: requests in flight by caller, and the share beyond which a caller has to make room
//! for others. Bounded: a count-min sketch tells callers apart, so that many names cost nothing.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Places in each of two rows. Every caller has one in both and is taken to have the lesser of their counts: a quiet
/// caller is counted for a noisy one if it shares both places with it, one time in 65,536. The hash is another in every
/// process, so that it is not the same two everywhere.
const PLACES: usize = 256;

/// Requests in flight by caller.
#[derive(Debug)]
pub(super) struct Shares {
    in_flight: [Box<[AtomicUsize]>; 2],
    fair: AtomicUsize,
    hasher: RandomState,
}

/// Where a caller's requests are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seat([u8; 2]);

impl Shares {
    pub(super) fn new() -> Self {
        let row = || (0..PLACES).map(|_| AtomicUsize::new(0)).collect();
        Self { in_flight: [row(), row()], fair: AtomicUsize::new(0), hasher: RandomState::new() }
    }

    pub(super) fn seat(&self, caller: &[u8]) -> Seat {
        let [first, second, ..] = self.hasher.hash_one(caller).to_le_bytes();
        Seat([first, second])
    }

    /// Enters; returns how many the caller had before, or more.
    pub(super) fn enter(&self, seat: Seat) -> usize {
        let [first, second] = self.places(seat).map(|place| place.fetch_add(1, Relaxed));
        first.min(second)
    }

    pub(super) fn leave(&self, seat: Seat) {
        for place in self.places(seat) {
            place.fetch_sub(1, Relaxed);
        }
    }

    fn places(&self, Seat([first, second]): Seat) -> [&AtomicUsize; 2] {
        [&self.in_flight[0][usize::from(first)], &self.in_flight[1][usize::from(second)]]
    }

    /// What a caller may have in flight however full it is.
    pub(super) fn fair(&self) -> usize {
        self.fair.load(Relaxed)
    }

    /// Divides the limit anew among those who are here; returns how many they are.
    pub(super) fn divide(&self, limit: usize) -> usize {
        let mut wanted: Vec<usize> = self.in_flight[0].iter().map(|n| n.load(Relaxed)).filter(|n| *n > 0).collect();
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
    fn who_shares_one_place_with_a_crowd_is_not_taken_for_it() {
        let shares = Shares::new();
        for crowd in [Seat([7, 9]), Seat([8, 10])] {
            assert_eq!([shares.enter(crowd), shares.enter(crowd), shares.enter(crowd)], [0, 1, 2]);
        }
        assert_eq!([shares.enter(Seat([7, 1])), shares.enter(Seat([1, 9]))], [0, 0]);
        shares.leave(Seat([7, 1]));
        shares.leave(Seat([1, 9]));
        assert_eq!((shares.enter(Seat([7, 9])), shares.divide(100)), (3, 2));
        assert_eq!(shares.enter(Seat([7, 10])), 3, "counted for more than it has, never for less");
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
