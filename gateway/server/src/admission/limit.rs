//! The control law: how many requests may be in flight. Pure: whoever holds the clock says what it saw.
//!
//! Too much is asked when answers take a good part of what they may, for want of something that fewer requests would
//! need less of. Cores that have had next to nothing to rest for a while are such a thing. A store may be: so fewer are
//! let in for a moment, and if answers are no quicker for that, the store is slow by itself, and they are let in again.
//! Full cores whose answers are quick are what cores are for, and a stall of the machine is worked off.
//!
//! Then as many are admitted as are answered in a small part of what they may spend, which follows from how many are
//! answered (Little, 1961); as soon as answers are quick again, a few more with every look.

use std::collections::VecDeque;
use std::time::Duration;

use super::trial::{Found, Trial};

/// Fewer are never admitted: with so few in flight nobody waits for long, and a gateway that admits too little never
/// finds out that it could do more.
pub(super) const LIMIT_MIN: usize = 4;
/// Looks that are remembered. Cores that were busy for all of them, a tenth of a second, have more to do than a stall.
const LOOKS: usize = 10;
/// Looks that tell how long answers take by now.
const LOOKS_LATE: usize = 3;
/// Looks after the last cut, with nobody refused, that still count as one pressure.
const LOOKS_PRESSED: usize = 50;
/// Share of their time from which on cores count as full: looking for more costs a little, too.
const BUSY_SHARE: f64 = 0.9;
/// Below this share cores have room, however long answers take: it is the store that takes its time.
const IDLE_SHARE: f64 = 0.75;
/// Under pressure answers may take this share of what says that there is pressure: whoever fills the cores by waiting for
/// his own answers is left alone for longer than it takes to keep a queue short.
const HELD: f64 = 0.3;
/// Or so many times what they took when fewer were admitted, where the store takes more than that by itself.
const QUICK: f64 = 1.5;
/// What is kept in flight when it was too much, of what was too much: so far from it that it is not too much at once
/// again, and not so far that the cores or the store have nothing to do.
const KEEP: f64 = 0.85;
/// With every look that finds room the limit grows by one and by this share, and by a quarter of that under pressure.
const GROWTH: f64 = 1.0 / 32.0;
const GROWTH_PRESSED: f64 = 0.25;
/// A core may always have this many in flight: a burst that it works off in some milliseconds.
const BURST_PER_CORE: usize = 64;
/// What an answer costs is not learnt from fewer.
const ANSWERS_MIN: f64 = 16.0;
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
    /// Requests that were refused.
    pub(super) refused: u64,
    /// From where on they take too long.
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
    /// Answers in a second of all cores, by what one has cost.
    capacity: Option<f64>,
    looks_since_pressed: usize,
    /// Looks in a row that found answers too slow.
    looks_slow: usize,
    /// With how many the store was quick again under this pressure.
    quick: Option<Quick>,
    trial: Trial,
    spent: Duration,
}

#[derive(Clone, Copy, Debug)]
struct Quick {
    limit: f64,
    spent_s: f64,
}

impl Limit {
    /// Starts at the ceiling: what the machine can do is found out from above, so that the first burst is answered.
    pub(super) fn new(ceiling: usize, cores: usize) -> Self {
        let ceiling = ceiling as f64;
        Self {
            limit: ceiling,
            ceiling,
            cores,
            looks: VecDeque::with_capacity(LOOKS),
            capacity: None,
            looks_since_pressed: LOOKS_PRESSED,
            looks_slow: 0,
            quick: None,
            trial: Trial::default(),
            spent: Duration::ZERO,
        }
    }

    /// Requests that may be in flight.
    pub(super) fn get(&self) -> usize {
        self.limit as usize
    }

    /// Whether more is asked than can be answered, or was a moment ago.
    pub(super) fn is_pressed(&self) -> bool {
        self.looks_since_pressed < LOOKS_PRESSED
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
        let is_full = self.looks.len() == LOOKS && busy >= BUSY_SHARE * there_was;
        let is_idle = busy < IDLE_SHARE * there_was;
        let answers = sum(LOOKS_LATE, |look| look.answers as f64);
        let spent_s = sum(LOOKS_LATE, |look| look.spent.as_secs_f64()) / answers.max(1.0);
        let rate = answers / sum(LOOKS_LATE, |look| look.since.as_secs_f64()).max(SHORTEST_S);
        let all_answers = sum(LOOKS, |look| look.answers as f64);
        if all_answers >= ANSWERS_MIN && busy > 0.0 {
            self.capacity = Some(all_answers / busy * self.cores as f64);
        }

        self.spent = Duration::from_secs_f64(spent_s);
        let is_pressed = self.is_pressed();
        self.looks_since_pressed = match look.refused {
            0 => self.looks_since_pressed.saturating_add(1),
            // Whoever has to refuse finds out slowly how many more he might have let in.
            _ if is_pressed => 0,
            _ => LOOKS_PRESSED,
        };
        if !is_pressed {
            self.quick = None;
        }
        let (target_s, held_s) = (look.target.as_secs_f64(), look.target.as_secs_f64() * HELD);
        let quick_s = self.quick.map_or(0.0, |quick| quick.spent_s);
        let is_slow = spent_s > if is_pressed { held_s.max(quick_s * QUICK) } else { target_s };
        self.looks_slow = if is_slow { self.looks_slow + 1 } else { 0 };
        let is_slow_for_long = is_slow && (is_pressed || self.looks_slow >= LOOKS);
        let kept = rate * (held_s * KEEP).max(quick_s);

        // Full cores that answer nobody are the worst of all.
        if is_full && (is_slow || answers == 0.0) {
            self.trial.end();
            self.cut(kept);
        } else if is_slow_for_long && answers > 0.0 && self.trial.may_begin() {
            let looks_to_leave = spent_s / look.since.as_secs_f64().max(SHORTEST_S);
            self.trial.begin(spent_s, self.limit, looks_to_leave.ceil() as usize);
            self.cut(self.quick.map_or(kept, |quick| kept.min(quick.limit)));
        } else {
            match self.trial.look(spent_s) {
                Some(Found::Quicker) => self.quick = Some(Quick { limit: self.limit, spent_s }),
                Some(Found::NoQuicker { before }) => {
                    self.limit = before;
                    self.looks_since_pressed = LOOKS_PRESSED;
                }
                None if self.trial.is_under_way() => {}
                None if is_idle || !is_slow => {
                    let growth = 1.0 + self.limit * GROWTH;
                    self.limit += if is_pressed { growth * GROWTH_PRESSED } else { growth };
                }
                None => {}
            }
        }
        // With more in flight than the cores can answer in the time that an answer may take, the last would be late.
        let in_time = look.granted.zip(self.capacity).map_or(f64::MAX, |(granted, rate)| rate * granted.as_secs_f64());
        let most = in_time.max((BURST_PER_CORE * self.cores) as f64);
        self.limit = self.limit.min(most).max(LIMIT_MIN as f64).min(self.ceiling);
    }

    fn cut(&mut self, to: f64) {
        self.limit = self.limit.min(to).max(LIMIT_MIN as f64);
        self.looks_since_pressed = 0;
        self.looks_slow = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOOK_MS: f64 = 10.0;
    const STEP_MS: f64 = 0.1;
    const GRANTED: Duration = Duration::from_millis(10);
    const TARGET: Duration = Duration::from_millis(7);

    /// A machine that works requests off one after the other, before a store that does the same, and callers that come
    /// whether or not they are answered and are told when their time is over.
    struct Machine {
        /// Milliseconds of a core that a request takes, over the cores that there are.
        work_ms: f64,
        /// Milliseconds of the store that a request takes.
        store_ms: f64,
        /// Milliseconds for which a request waits, taking nothing.
        away_ms: f64,
        in_flight: f64,
        away: VecDeque<f64>,
        at_store: f64,
        limit: Limit,
        refused: f64,
        served: f64,
    }

    impl Machine {
        fn new(work_ms: f64, store_ms: f64, away_ms: f64) -> Self {
            let limit = Limit::new(1_352, 1);
            let away = VecDeque::from(vec![0.0; (away_ms / STEP_MS) as usize]);
            Self { work_ms, store_ms, away_ms, in_flight: 0.0, away, at_store: 0.0, limit, refused: 0.0, served: 0.0 }
        }

        /// Runs for so many looks at `load` times what the machine and its store can do; returns what an answer takes at
        /// the end, in ms.
        fn run(&mut self, looks: usize, load: f64) -> f64 {
            let slowest_ms = self.work_ms.max(self.store_ms);
            let granted_ms = GRANTED.as_secs_f64() * 1e3;
            (self.refused, self.served) = (0.0, 0.0);
            let mut takes_ms = 0.0;
            for _ in 0..looks {
                let (mut busy_ms, mut answers, mut spent_ms) = (0.0, 0.0, 0.0);
                let refused_before = self.refused;
                for _ in 0..(LOOK_MS / STEP_MS) as usize {
                    let come = load * STEP_MS / slowest_ms;
                    let room = (self.limit.get() as f64 - self.in_flight).clamp(0.0, come);
                    self.refused += come - room;
                    self.in_flight += room;
                    self.away.push_back(room);
                    self.at_store += self.away.pop_front().unwrap_or(0.0);
                    let queued = self.in_flight - self.at_store - self.away.iter().sum::<f64>();
                    takes_ms = queued * self.work_ms + self.at_store * self.store_ms + self.away_ms;
                    // Whoever has waited for all of its time at the store is answered without, and the store reads on.
                    let given_up = (self.at_store - granted_ms / self.store_ms).max(0.0);
                    let read = (STEP_MS / self.store_ms).min(self.at_store);
                    self.at_store -= read.max(given_up);
                    let done = (STEP_MS / self.work_ms).min(queued);
                    self.in_flight -= done;
                    busy_ms += done * self.work_ms;
                    answers += done;
                    spent_ms += done * takes_ms;
                    self.served += if takes_ms <= granted_ms { done } else { 0.0 };
                }
                let refused = (self.refused - refused_before) as u64;
                self.limit.learn(Look { refused, ..look(busy_ms, answers as u64, spent_ms) });
            }
            takes_ms
        }

        fn served_of_capacity(&self, looks: usize) -> f64 {
            self.served * self.work_ms.max(self.store_ms) / (looks as f64 * LOOK_MS)
        }
    }

    /// A store that is no resource of its own.
    const NO_STORE_MS: f64 = 1e-6;

    fn look(busy_ms: f64, answers: u64, spent_ms: f64) -> Look {
        let time = |ms: f64| Duration::from_secs_f64(ms / 1e3);
        let (busy, spent) = (time(busy_ms), time(spent_ms));
        Look { since: time(LOOK_MS), busy, answers, spent, refused: 0, target: TARGET, granted: Some(GRANTED) }
    }

    #[test]
    fn under_overload_the_limit_finds_what_the_machine_can_do_in_time() {
        // Twenty thousand a second at no wait, five thousand with a store a millisecond away, a thousand large ones.
        for (work_ms, away_ms) in [(0.05, 0.0), (0.2, 1.0), (1.0, 0.0)] {
            let mut machine = Machine::new(work_ms, NO_STORE_MS, away_ms);
            machine.run(50, 3.0);
            let takes_ms = machine.run(100, 3.0);
            assert!(machine.served_of_capacity(100) > 0.95, "{work_ms}: {}", machine.served_of_capacity(100));
            let longest_ms = (TARGET.as_secs_f64() * 1e3).max((LIMIT_MIN + 1) as f64 * work_ms);
            assert!(takes_ms <= longest_ms, "{work_ms}: {takes_ms} ms");
            assert!(machine.refused > 0.0);
        }
    }

    #[test]
    fn a_store_that_is_asked_for_too_much_is_asked_for_less() {
        for (work_ms, store_ms, away_ms) in [(0.05, 0.2, 0.5), (0.15, 0.2, 1.0), (0.1, 1.0, 0.0)] {
            let mut machine = Machine::new(work_ms, store_ms, away_ms);
            machine.run(50, 3.0);
            machine.run(300, 3.0);
            assert!(machine.served_of_capacity(300) > 0.9, "{store_ms}: {}", machine.served_of_capacity(300));
            assert!(machine.limit.is_pressed());
            machine.run(50, 0.8);
            machine.run(100, 0.8);
            assert_eq!(machine.refused, 0.0, "half a second later all is well");
        }
    }

    #[test]
    fn a_store_that_is_slow_by_itself_is_found_out_and_next_to_nobody_refused() {
        let mut machine = Machine::new(0.05, NO_STORE_MS, 9.0);
        machine.run(1_000, 0.5);
        let asked = 1_000.0 * LOOK_MS / 0.05 * 0.5;
        assert!(machine.refused > 0.0 && machine.refused < 0.03 * asked, "{} of {asked}", machine.refused);
        machine.run(6_000, 0.5);
        assert!(machine.refused < 0.005 * 6.0 * asked, "less and less: {} of {asked}", machine.refused);
        assert!(!machine.limit.is_pressed());
    }

    #[test]
    fn a_burst_on_a_gateway_that_has_answered_nobody_yet_is_let_in() {
        let mut limit = Limit::new(1_352, 1);
        limit.learn(look(10.0, 0, 0.0));
        assert_eq!(limit.get(), 1_352);
        limit.learn(look(10.0, 50, 50.0 * 5.0));
        assert!(limit.get() >= 64, "{}", limit.get());
    }

    #[test]
    fn normal_load_is_not_refused_before_nor_half_a_second_after() {
        let mut machine = Machine::new(0.05, NO_STORE_MS, 1.0);
        machine.run(100, 0.85);
        assert_eq!(machine.refused, 0.0);
        machine.run(300, 3.0);
        machine.run(50, 0.85);
        machine.run(100, 0.85);
        assert_eq!(machine.refused, 0.0);
    }

    #[test]
    fn a_burst_of_a_second_costs_what_is_beyond_the_machine_and_nothing_more() {
        let mut machine = Machine::new(0.05, NO_STORE_MS, 0.5);
        machine.run(100, 0.5);
        machine.run(100, 5.0);
        assert!(machine.served_of_capacity(100) > 0.95, "{}", machine.served_of_capacity(100));
        machine.run(10, 0.5);
        machine.run(10, 0.5);
        assert_eq!(machine.refused, 0.0, "a tenth of a second later all is well");
    }

    #[test]
    fn full_cores_with_quick_answers_are_no_overload() {
        let mut limit = Limit::new(1_352, 1);
        for _ in 0..100 {
            limit.learn(look(10.0, 200, 200.0 * 3.0));
            assert!(!limit.is_pressed() && limit.get() >= 190, "{}", limit.get());
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
