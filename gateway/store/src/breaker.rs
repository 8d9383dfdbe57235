//! Stops asking a node that does not answer. Promises: opens after [`FAILURES_TO_OPEN`] silent reads in a row,
//! costs one atomic load per read, and no request is ever the probe: connecting anew is (see `lane`).
//!
//! Nodes of one cluster share [`Openings`]: when too many fall silent at once, what they have in common is us or
//! the network between, and the last ones go on being asked.
//!
//! Closed ─ silent reads in a row ─▶ Open ─ a connection is tried ─▶ HalfOpen ─ it answers ─▶ Closed,
//! or ─ it does not ─▶ Open.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};

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

/// The breaker of one node.
#[derive(Debug, Default)]
pub(crate) struct Breaker {
    /// 2 bits of state, 16 of failures in a row, 46 of generation.
    word: AtomicU64,
    openings: Arc<Openings>,
}

/// How many of the breakers that share this are not closed.
#[derive(Debug)]
pub(crate) struct Openings {
    taken: AtomicUsize,
    max: AtomicUsize,
}

/// What came of a node's silence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Silence {
    /// It is asked as before.
    Borne,
    /// The breaker opened just now.
    Opened,
    /// The breaker would have opened if not so many others were open.
    Held,
}

/// Counts how often the breaker has opened. A read remembers the one it began in: what became of a read from
/// before the last opening says nothing about the connections of now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Generation(u64);

impl Openings {
    /// For this many nodes: half of them, so that with two or more the fault that shuts out all is not possible,
    /// and a single one, which has nobody to share a fault with, may open.
    pub(crate) fn among(nodes: usize) -> Self {
        Self { taken: AtomicUsize::new(0), max: AtomicUsize::new(most_of(nodes)) }
    }

    /// There are this many nodes now.
    pub(crate) fn resize(&self, nodes: usize) {
        self.max.store(most_of(nodes), SeqCst);
    }

    fn take(&self) -> bool {
        let max = self.max.load(SeqCst);
        self.taken.fetch_update(SeqCst, SeqCst, |taken| (taken < max).then_some(taken + 1)).is_ok()
    }

    fn give_back(&self) {
        self.taken.fetch_sub(1, SeqCst);
    }
}

fn most_of(nodes: usize) -> usize {
    (nodes / 2).max(1)
}

impl Default for Openings {
    fn default() -> Self {
        Self::among(1)
    }
}

impl Breaker {
    pub(crate) fn sharing(openings: Arc<Openings>) -> Self {
        Self { word: AtomicU64::default(), openings }
    }

    pub(crate) fn state(&self) -> State {
        parts(self.word.load(SeqCst)).0
    }

    /// Leave to read, or `None` while the breaker is not closed.
    pub(crate) fn admit(&self) -> Option<Generation> {
        let (state, _, generation) = parts(self.word.load(SeqCst));
        (state == State::Closed).then_some(Generation(generation))
    }

    /// The node answered, if only with an error.
    pub(crate) fn answered(&self, of: Generation) {
        self.change(|state, failures, generation| {
            let news = state == State::Closed && failures > 0 && generation == of.0;
            news.then_some((State::Closed, 0, generation))
        });
    }

    /// The node was silent. [`Silence::Opened`] is said once per outage.
    pub(crate) fn silent(&self, of: Generation) -> Silence {
        // Taken before it is known whether it is needed, and given back if not: the word can only be changed
        // to what may be.
        let may_open = self.openings.take();
        let after = self.change(|state, failures, generation| match (state, failures + 1) {
            _ if state != State::Closed || generation != of.0 => None,
            (_, n) if n >= FAILURES_TO_OPEN && may_open => Some((State::Open, 0, generation + 1)),
            (_, n) => Some((State::Closed, n.min(FAILURES_TO_OPEN), generation)),
        });
        let silence = match after {
            Some((State::Open, ..)) => return Silence::Opened,
            Some((_, failures)) if failures >= FAILURES_TO_OPEN && !may_open => Silence::Held,
            _ => Silence::Borne,
        };
        if may_open {
            self.openings.give_back();
        }
        silence
    }

    /// A probe sets out.
    pub(crate) fn probing(&self) {
        self.change(|state, _, g| (state == State::Open).then_some((State::HalfOpen, 0, g)));
    }

    /// A probe came back.
    pub(crate) fn probed(&self, answered: bool) {
        let after = self.change(|state, _, g| match (state, answered) {
            (State::Closed, _) => None,
            (_, true) => Some((State::Closed, 0, g)),
            (_, false) => Some((State::Open, 0, g)),
        });
        if let Some((State::Closed, _)) = after {
            self.openings.give_back();
        }
    }

    /// Applies `next` to (state, failures, generation) until nobody interferes; `None` leaves all as it is.
    /// Returns the state and the failures that it led to.
    fn change(&self, next: impl Fn(State, u64, u64) -> Option<(State, u64, u64)>) -> Option<(State, u64)> {
        let update = |word: u64| {
            let (state, failures, generation) = parts(word);
            next(state, failures, generation).map(|(s, f, g)| s as u64 | f << 2 | g << 18)
        };
        let before = self.word.fetch_update(SeqCst, SeqCst, update).ok()?;
        let (state, failures, _) = parts(update(before)?);
        Some((state, failures))
    }
}

/// A node that leaves takes its opening along.
impl Drop for Breaker {
    fn drop(&mut self) {
        if self.state() != State::Closed {
            self.openings.give_back();
        }
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

    use Silence::{Borne, Held, Opened};

    fn open(breaker: &Breaker) -> [Silence; 3] {
        let g = breaker.admit().unwrap();
        [breaker.silent(g), breaker.silent(g), breaker.silent(g)]
    }

    #[test]
    fn opens_after_three_silent_reads_in_a_row_and_says_so_once() {
        let breaker = Breaker::default();
        let g = breaker.admit().unwrap();
        assert_eq!(open(&breaker), [Borne, Borne, Opened]);
        assert_eq!((breaker.state(), breaker.silent(g)), (State::Open, Borne));
        assert_eq!(breaker.admit(), None);
    }

    #[test]
    fn one_answer_makes_the_count_start_again() {
        let breaker = Breaker::default();
        let g = breaker.admit().unwrap();
        for _ in 0..10 {
            assert_eq!([breaker.silent(g), breaker.silent(g)], [Borne, Borne]);
            breaker.answered(g);
        }
        assert_eq!(breaker.state(), State::Closed);
    }

    #[test]
    fn closes_when_a_probe_answers_and_only_then() {
        let breaker = Breaker::default();
        open(&breaker);
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
        open(&breaker);
        breaker.probed(true);
        (0..10).for_each(|_| assert_eq!(breaker.silent(old), Borne));
        assert_eq!(breaker.state(), State::Closed);
    }

    #[test]
    fn of_nodes_that_share_a_fate_half_stay_closed_and_take_turns() {
        let openings = Arc::new(Openings::among(5));
        let mut nodes: Vec<Breaker> = (0..5).map(|_| Breaker::sharing(openings.clone())).collect();
        let third: Vec<Silence> = nodes.iter().map(|node| open(node)[2]).collect();
        assert_eq!(third, [Opened, Opened, Held, Held, Held]);
        let g = nodes[4].admit().unwrap();
        assert_eq!(nodes[4].silent(g), Held);
        // One is back: the next that is silent may open in its place.
        nodes[0].probed(true);
        assert_eq!((nodes[4].silent(g), nodes[4].admit()), (Opened, None));
        // One left the cluster while open.
        nodes.remove(1);
        assert_eq!(open(&nodes[1])[0], Opened);
        openings.resize(10);
        assert_eq!(open(&nodes[2])[0], Opened);
        nodes.clear();
        assert_eq!(openings.taken.load(SeqCst), 0);
    }

    #[test]
    fn a_node_alone_may_always_open() {
        let openings = Arc::new(Openings::among(1));
        openings.resize(0);
        assert_eq!(open(&Breaker::sharing(openings)), [Borne, Borne, Opened]);
    }
}
