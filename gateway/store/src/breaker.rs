//! Stops asking a node that does not answer. Promises: opens after [`FAILURES_TO_OPEN`] silent reads in a row,
//! costs one atomic load per read, and no request is ever the probe: connecting anew is (see `lane`).
//!
//! Closed ─ silent reads in a row ─▶ Open ─ a connection is tried ─▶ HalfOpen ─ it answers ─▶ Closed,
//! or ─ it does not ─▶ Open.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

/// Timeouts and connection errors in a row until the node counts as gone. More than one, so that a single
/// reset connection costs only its own reads; few, because each costs somebody a whole budget.
pub(crate) const FAILURES_TO_OPEN: u64 = 3;

/// Whether a node is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Reads go through.
    Closed,
    /// Reads fail at once; nothing is sent.
    Open,
    /// Reads fail at once; a probe is under way.
    HalfOpen,
}

/// The breaker of one node, one word: 2 bits of state, 16 of failures in a row, 46 of generation.
#[derive(Debug, Default)]
pub(crate) struct Breaker(AtomicU64);

/// Counts how often the breaker has opened. A read remembers the one it began in: what became of a read from
/// before the last opening says nothing about the connections of now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Generation(u64);

impl Breaker {
    pub(crate) fn state(&self) -> State {
        parts(self.0.load(SeqCst)).0
    }

    /// Leave to read, or `None` while the breaker is not closed.
    pub(crate) fn admit(&self) -> Option<Generation> {
        let (state, _, generation) = parts(self.0.load(SeqCst));
        (state == State::Closed).then_some(Generation(generation))
    }

    /// The node answered, if only with an error.
    pub(crate) fn answered(&self, of: Generation) {
        self.change(|state, failures, generation| {
            let news = state == State::Closed && failures > 0 && generation == of.0;
            news.then_some((State::Closed, 0, generation))
        });
    }

    /// The node was silent. Returns whether that opened the breaker, which happens once per outage.
    pub(crate) fn silent(&self, of: Generation) -> bool {
        self.change(|state, failures, generation| match (state, failures + 1) {
            _ if state != State::Closed || generation != of.0 => None,
            (_, n) if n >= FAILURES_TO_OPEN => Some((State::Open, 0, generation + 1)),
            (_, n) => Some((State::Closed, n, generation)),
        })
        .is_some_and(|state| state == State::Open)
    }

    /// A probe sets out.
    pub(crate) fn probing(&self) {
        self.change(|state, _, g| (state == State::Open).then_some((State::HalfOpen, 0, g)));
    }

    /// A probe came back.
    pub(crate) fn probed(&self, answered: bool) {
        self.change(|state, _, g| match (state, answered) {
            (State::Closed, _) => None,
            (_, true) => Some((State::Closed, 0, g)),
            (_, false) => Some((State::Open, 0, g)),
        });
    }

    /// Applies `next` to (state, failures, generation) until nobody interferes; `None` leaves all as it is.
    fn change(&self, next: impl Fn(State, u64, u64) -> Option<(State, u64, u64)>) -> Option<State> {
        let update = |word: u64| {
            let (state, failures, generation) = parts(word);
            next(state, failures, generation).map(|(s, f, g)| s as u64 | f << 2 | g << 18)
        };
        let before = self.0.fetch_update(SeqCst, SeqCst, update).ok()?;
        update(before).map(|word| parts(word).0)
    }
}

fn parts(word: u64) -> (State, u64, u64) {
    let state = match word & 3 {
        0 => State::Closed,
        1 => State::Open,
        _ => State::HalfOpen,
    };
    (state, (word >> 2) & 0xffff, word >> 18)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opened() -> Breaker {
        let breaker = Breaker::default();
        let g = breaker.admit().unwrap();
        assert_eq!([breaker.silent(g), breaker.silent(g), breaker.silent(g)], [false, false, true]);
        breaker
    }

    #[test]
    fn opens_after_three_silent_reads_in_a_row_and_says_so_once() {
        let breaker = opened();
        assert_eq!(breaker.state(), State::Open);
        assert_eq!(breaker.admit(), None);
    }

    #[test]
    fn one_answer_makes_the_count_start_again() {
        let breaker = Breaker::default();
        let g = breaker.admit().unwrap();
        for _ in 0..10 {
            assert!(!breaker.silent(g) && !breaker.silent(g));
            breaker.answered(g);
        }
        assert_eq!(breaker.state(), State::Closed);
    }

    #[test]
    fn closes_when_a_probe_answers_and_only_then() {
        let breaker = opened();
        breaker.probing();
        assert_eq!((breaker.state(), breaker.admit()), (State::HalfOpen, None));
        breaker.probed(false);
        assert_eq!(breaker.state(), State::Open);
        breaker.probing();
        breaker.probed(true);
        assert!(breaker.admit().is_some());
    }

    #[test]
    fn reads_from_before_an_outage_do_not_count_after_it() {
        let breaker = Breaker::default();
        let old = breaker.admit().unwrap();
        (0..3).for_each(|_| _ = breaker.silent(old));
        breaker.probed(true);
        (0..10).for_each(|_| assert!(!breaker.silent(old)));
        assert_eq!(breaker.state(), State::Closed);
    }
}
