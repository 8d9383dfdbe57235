//! The control law: how many requests may be in flight. Pure: whoever holds the clock says what it saw.
//!
//! Too much is asked when two things come together: the cores have had next to nothing to rest for a while, and answers
//! take a good part of what they may. One without the other is no overload: a slow store leaves the cores idle, a stall
//! of the machine is worked off, and full cores whose answers are quick are what cores are for. Then as many are
//! admitted as are answered in a quarter of what they may spend, which follows from how many are answered (Little,
//! 1961); as soon as answers are quick again, a few more with every look.

use std::collections::VecDeque;
use std::time::Duration;

/// Fewer are never admitted: with so few in flight nobody waits for long, and a gateway that admits too little never
/// finds out that it could do more.
pub(super) const LIMIT_MIN: usize = 8;
/// Looks that are remembered. Cores that were busy for all of them, a tenth of a second, have more to do than a stall.
const LOOKS: usize = 10;
/// Looks that tell how long answers take by now.
const LOOKS_LATE: usize = 3;
/// Looks after the last cut that still count as one pressure: it takes some for the limit to find too much again.
const LOOKS_PRESSED: usize = 30;
/// Share of their time from which on cores count as full: looking for more costs a little, too.
const BUSY_SHARE: f64 = 0.9;
/// Below this share cores have room, however long answers take: it is the store that takes its time.
const IDLE_SHARE: f64 = 0.75;
/// Under pressure answers may take this share of what says that there is pressure: whoever fills the cores by waiting for
/// his own answers is left alone for longer than it takes to keep a queue short.
const HELD: f64 = 0.5;
/// What is kept in flight when it was too much, of what was too much: so far from it that it is not too much at once again.
const KEEP: f64 = 0.625;
/// With every look that finds room the limit grows by one and by this share.
const GROWTH: f64 = 1.0 / 32.0;
/// In flight at most, of what is answered in the time that an answer may take: beyond it most would be late, and from
/// one look to the next traffic may double.
const MOST: f64 = 2.0;
/// A core may always have this many in flight: a burst that it works off in some milliseconds.
const BURST_PER_CORE: usize = 32;
/// The best rate fades by this share a look: what the machine could do a minute ago it need not do now.
const FADE: f64 = 0.999;
/// Nothing is learnt from less, in seconds.
const SHORTEST_S: f64 = 1e-3;

/// What was seen since the look before.
#[derive(Clone, Copy, Debug)]
pub(super) struct Look {
    /// How long ago that was.
    pub(super) since: Duration,
    /// Time that cores had something to do, all of them together.
    pub(super) busy: Duration,
    /// Answers in full.
    pub(super) answers: u64,
    /// Time they took from their arrival, all of them together.
    pub(super) spent: Duration,
    /// How long one should take at most while cores are full.
    pub(super) target: Duration,
    /// How long one may take; `None` lets as many in flight as there is room for, until they take too long.
    pub(super) granted: Option<Duration>,
}

/// The limit and what it is made from.
#[derive(Debug)]
pub(super) struct Limit {
    limit: f64,
    ceiling: f64,
    cores: usize,
    looks: VecDeque<Look>,
    best_rate: f64,
    looks_since_cut: usize,
    spent: Duration,
}

impl Limit {
    /// Starts at the ceiling: what the machine can do is found out from above, so that the first burst is answered.
    pub(super) fn new(ceiling: usize, cores: usize) -> Self {
        let ceiling = ceiling as f64;
        let looks = VecDeque::with_capacity(LOOKS);
        Self {
            limit: ceiling,
            ceiling,
            cores,
            looks,
            best_rate: 0.0,
            looks_since_cut: LOOKS_PRESSED,
            spent: Duration::ZERO,
        }
    }

    /// Requests that may be in flight.
    pub(super) fn get(&self) -> usize {
        self.limit as usize
    }

    /// Whether more is asked than can be answered, or was a moment ago.
    pub(super) fn is_pressed(&self) -> bool {
        self.looks_since_cut < LOOKS_PRESSED
    }

    /// How long answers take by now.
    pub(super) fn spent(&self) -> Duration {
        self.spent
    }

    /// Learns from a look.
    pub(super) fn learn(&mut self, look: Look) {
        if self.looks.len() == LOOKS {
            self.looks.pop_front();
        }
        self.looks.push_back(look);
        let sum = |looks: usize, of: fn(&Look) -> f64| self.looks.iter().rev().take(looks).map(of).sum::<f64>();
        let there_was = sum(LOOKS, |look| look.since.as_secs_f64()) * self.cores as f64;
        let busy = sum(LOOKS, |look| look.busy.as_secs_f64());
        let is_busy = self.looks.len() == LOOKS && busy >= BUSY_SHARE * there_was;
        let is_idle = busy < IDLE_SHARE * there_was;
        let answers = sum(LOOKS_LATE, |look| look.answers as f64);
        let spent_s = sum(LOOKS_LATE, |look| look.spent.as_secs_f64()) / answers.max(1.0);
        let rate = answers / sum(LOOKS_LATE, |look| look.since.as_secs_f64()).max(SHORTEST_S);
        let (target_s, held_s) = (look.target.as_secs_f64(), look.target.as_secs_f64() * HELD);
        let is_slow = spent_s > if self.is_pressed() { held_s } else { target_s };
        self.looks_since_cut = self.looks_since_cut.saturating_add(1);
        // Full cores that answer nobody are the worst of all.
        if is_busy && (is_slow || answers == 0.0) {
            self.limit = self.limit.min(rate * held_s * KEEP);
            self.looks_since_cut = 0;
        } else if is_idle || !is_slow {
            self.limit += 1.0 + self.limit * GROWTH;
        }
        self.spent = Duration::from_secs_f64(spent_s);
        self.best_rate = (self.best_rate * FADE).max(look.answers as f64 / look.since.as_secs_f64().max(SHORTEST_S));
        let most = look.granted.map_or(f64::MAX, |granted| self.best_rate * granted.as_secs_f64() * MOST);
        let most = most.max((BURST_PER_CORE * self.cores) as f64);
        self.limit = self.limit.min(most).max(LIMIT_MIN as f64).min(self.ceiling);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOOK_MS: f64 = 10.0;
    const GRANTED: Duration = Duration::from_millis(10);
    const TARGET: Duration = Duration::from_millis(4);

    /// A machine that works requests off one after the other, and callers that come whether or not they are answered.
    struct Machine {
        /// Milliseconds of a core that a request takes, over the cores that there are.
        work_ms: f64,
        /// Milliseconds for which a request waits for a store, taking no core.
        away_ms: f64,
        in_flight: f64,
        limit: Limit,
        refused: f64,
        served: f64,
    }

    impl Machine {
        fn new(work_ms: f64, away_ms: f64) -> Self {
            Self { work_ms, away_ms, in_flight: 0.0, limit: Limit::new(1_352, 1), refused: 0.0, served: 0.0 }
        }

        /// Runs for so many looks at `load` times what the machine can do; returns what an answer takes at the end, in ms.
        fn run(&mut self, looks: usize, load: f64) -> f64 {
            (self.refused, self.served) = (0.0, 0.0);
            let mut takes_ms = 0.0;
            for _ in 0..looks {
                let (mut busy_ms, mut answers, mut spent_ms) = (0.0, 0.0, 0.0);
                // In steps of a tenth of a millisecond.
                for _ in 0..(LOOK_MS * 10.0) as usize {
                    let come = load * 0.1 / self.work_ms;
                    let room = (self.limit.get() as f64 - self.in_flight).clamp(0.0, come);
                    self.refused += come - room;
                    self.in_flight += room;
                    let away = self.in_flight.min(self.away_ms / self.work_ms * load.min(1.0));
                    let queued = self.in_flight - away;
                    let done = (0.1 / self.work_ms).min(queued);
                    takes_ms = queued * self.work_ms + self.away_ms;
                    self.in_flight -= done;
                    busy_ms += done * self.work_ms;
                    answers += done;
                    spent_ms += done * takes_ms;
                }
                self.served += answers;
                self.limit.learn(look(busy_ms, answers as u64, spent_ms));
            }
            takes_ms
        }

        fn served_of_capacity(&self, looks: usize) -> f64 {
            self.served * self.work_ms / (looks as f64 * LOOK_MS)
        }
    }

    fn look(busy_ms: f64, answers: u64, spent_ms: f64) -> Look {
        let time = |ms: f64| Duration::from_secs_f64(ms / 1e3);
        let (busy, spent) = (time(busy_ms), time(spent_ms));
        Look { since: time(LOOK_MS), busy, answers, spent, target: TARGET, granted: Some(GRANTED) }
    }

    #[test]
    fn under_overload_the_limit_finds_what_the_machine_can_do_in_time() {
        // Twenty thousand a second at no wait, five thousand with a store a millisecond away, a thousand large ones.
        for (work_ms, away_ms) in [(0.05, 0.0), (0.2, 1.0), (1.0, 0.0)] {
            let mut machine = Machine::new(work_ms, away_ms);
            machine.run(50, 3.0);
            let takes_ms = machine.run(100, 3.0);
            assert!(machine.served_of_capacity(100) > 0.95, "{work_ms}: {}", machine.served_of_capacity(100));
            let longest_ms = (TARGET.as_secs_f64() * 1e3).max((LIMIT_MIN + 1) as f64 * work_ms);
            assert!(takes_ms <= longest_ms, "{work_ms}: {takes_ms} ms");
            assert!(machine.refused > 0.0);
        }
    }

    #[test]
    fn normal_load_is_not_refused_before_nor_half_a_second_after() {
        let mut machine = Machine::new(0.05, 1.0);
        machine.run(100, 0.85);
        assert_eq!(machine.refused, 0.0);
        machine.run(300, 3.0);
        machine.run(50, 0.85);
        machine.run(100, 0.85);
        assert_eq!(machine.refused, 0.0);
    }

    #[test]
    fn a_burst_of_a_second_costs_what_is_beyond_the_machine_and_nothing_more() {
        let mut machine = Machine::new(0.05, 0.5);
        machine.run(100, 0.5);
        machine.run(100, 5.0);
        assert!(machine.served_of_capacity(100) > 0.95, "{}", machine.served_of_capacity(100));
        machine.run(10, 0.5);
        machine.run(10, 0.5);
        assert_eq!(machine.refused, 0.0, "a tenth of a second later all is well");
    }

    #[test]
    fn answers_that_take_long_while_cores_are_idle_and_full_cores_with_quick_answers_are_no_overload() {
        let mut limit = Limit::new(1_352, 1);
        // Two hundred a look that wait for a store for all of their time; then as many that take a core and no time.
        for (busy_ms, spent_ms) in [(8.0, 200.0 * 9.0), (10.0, 200.0 * 3.0)] {
            for _ in 0..100 {
                limit.learn(look(busy_ms, 200, spent_ms));
                assert!(!limit.is_pressed() && limit.get() >= 200, "{}", limit.get());
            }
        }
    }

    #[test]
    fn when_the_cores_have_room_again_so_has_the_gateway_however_slow_its_store() {
        let mut limit = Limit::new(1_352, 1);
        (0..20).for_each(|_| limit.learn(look(10.0, 50, 50.0 * 9.0)));
        assert!(limit.get() < 50, "{}", limit.get());
        (0..100).for_each(|_| limit.learn(look(5.0, 200, 200.0 * 9.0)));
        assert!(limit.get() >= 400 && !limit.is_pressed(), "{}", limit.get());
    }

    #[test]
    fn a_stall_of_the_machine_is_worked_off() {
        let mut limit = Limit::new(1_352, 1);
        (0..20).for_each(|_| limit.learn(look(7.0, 35, 35.0)));
        // Nobody is answered for a while, then all of those who came meanwhile.
        for (answers, spent_ms) in [(0, 0.0), (35, 35.0 * 15.0), (50, 50.0 * 12.0), (50, 50.0 * 6.0)] {
            limit.learn(look(10.0, answers, spent_ms));
            assert!(!limit.is_pressed() && limit.get() > 60, "{}", limit.get());
        }
    }

    #[test]
    fn cores_that_answer_nobody_admit_the_fewest() {
        let mut limit = Limit::new(1_352, 2);
        (0..20).for_each(|_| limit.learn(look(20.0, 0, 0.0)));
        assert_eq!((limit.get(), limit.is_pressed()), (LIMIT_MIN, true));
    }

    #[test]
    fn a_small_ceiling_is_kept() {
        let mut limit = Limit::new(4, 1);
        (0..20).for_each(|_| limit.learn(look(10.0, 1, 50.0)));
        assert_eq!(limit.get(), 4);
        (0..20).for_each(|_| limit.learn(look(1.0, 1, 0.5)));
        assert_eq!(limit.get(), 4);
    }
}
