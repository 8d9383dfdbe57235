//! The control law: how many requests may be in flight. More while a request that is ready to run finds a core at
//! once, fewer when it has to wait for one. Pure: whoever holds the clock says how long it waited.
//!
//! Additive increase, multiplicative decrease on queueing delay, with two words from CoDel (Nichols and Jacobson, 2012):
//! what counts is the *least* delay of a while, since a burst that is worked off is no overload but a queue that does
//! not go away is; and the target is a share of what a request has to spend.

use std::collections::VecDeque;
use std::time::Duration;

/// Fewer are never admitted: what is queued behind them is not theirs, and a gateway that admits too little never finds
/// out that it could do more.
pub(super) const LIMIT_MIN: usize = 12;
/// Delays that must all be too long before the limit falls. One that is short in between: the queue was empty.
const LOOKS: usize = 3;
/// The most that one look takes away, as what is left. A queue ten times too long is cut down in two looks.
const CUT_MOST: f64 = 0.25;
/// The least that one look takes away.
const CUT_LEAST: f64 = 0.95;
/// A delay below this share of the target says that there is room for more. Between it and the target nothing moves.
const ROOM: f64 = 0.5;

/// What one look saw.
#[derive(Clone, Copy, Debug)]
pub(super) struct Look {
    /// How long a request that was ready to run waited for a core.
    pub(super) delay: Duration,
    /// How long it may.
    pub(super) target: Duration,
    /// Most of the replies left after their budget.
    pub(super) is_late: bool,
    /// Requests in flight.
    pub(super) in_flight: usize,
}

/// The limit and what it is made from.
#[derive(Debug)]
pub(super) struct Limit {
    limit: f64,
    ceiling: f64,
    delays: VecDeque<Duration>,
    is_pressed: bool,
}

impl Limit {
    /// Starts at the ceiling: what the machine can do is found out from above, so that the first burst is answered.
    pub(super) fn new(ceiling: usize) -> Self {
        let ceiling = ceiling as f64;
        Self { limit: ceiling, ceiling, delays: VecDeque::with_capacity(LOOKS), is_pressed: false }
    }

    /// Requests that may be in flight.
    pub(super) fn get(&self) -> usize {
        self.limit as usize
    }

    /// Whether requests have been waiting for too long for a while.
    pub(super) fn is_pressed(&self) -> bool {
        self.is_pressed
    }

    /// The least delay of the last looks.
    pub(super) fn delay(&self) -> Duration {
        self.delays.iter().min().copied().unwrap_or_default()
    }

    /// Learns from a look.
    pub(super) fn learn(&mut self, look: Look) {
        // Late replies are a queue somewhere behind the door.
        let delay = if look.is_late { look.delay.max(look.target * 2) } else { look.delay };
        if self.delays.len() == LOOKS {
            self.delays.pop_front();
        }
        self.delays.push_back(delay);
        let ratio = self.delay().as_secs_f64() / look.target.as_secs_f64().max(1e-6);
        let floor = self.ceiling.min(LIMIT_MIN as f64);
        self.is_pressed = self.delays.len() == LOOKS && ratio > 1.0;
        if self.is_pressed {
            // With few in flight they are not what cores are busy with: fewer of them would wait as long.
            if look.in_flight >= LIMIT_MIN {
                self.limit *= (1.0 / ratio).clamp(CUT_MOST, CUT_LEAST);
            }
        } else if ratio < ROOM {
            self.limit += self.limit.sqrt();
        }
        self.limit = self.limit.clamp(floor, self.ceiling);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOOK_MS: f64 = 10.0;
    const TARGET: Duration = Duration::from_millis(3);

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
            Self { work_ms, away_ms, in_flight: 0.0, limit: Limit::new(1_365), refused: 0.0, served: 0.0 }
        }

        /// Runs for so many looks at `load` times what the machine can do; returns the delay at the end, in ms.
        fn run(&mut self, looks: usize, load: f64) -> f64 {
            (self.refused, self.served) = (0.0, 0.0);
            let mut delay_ms = 0.0;
            // In steps of a tenth of a millisecond; a look every hundredth.
            for step in 0..looks * 100 {
                let come = load * 0.1 / self.work_ms;
                let room = (self.limit.get() as f64 - self.in_flight).clamp(0.0, come);
                self.refused += come - room;
                self.in_flight += room;
                let away = self.in_flight.min(self.away_ms / self.work_ms * load.min(1.0));
                let queued = self.in_flight - away;
                let done = (0.1 / self.work_ms).min(queued).min(self.in_flight);
                self.in_flight -= done;
                self.served += done;
                delay_ms = queued * self.work_ms;
                if step % (LOOK_MS * 10.0) as usize == 0 {
                    let delay = Duration::from_secs_f64(delay_ms / 1e3);
                    let in_flight = self.in_flight as usize;
                    self.limit.learn(Look { delay, target: TARGET, is_late: false, in_flight });
                }
            }
            delay_ms
        }

        fn served_of_capacity(&self, looks: usize) -> f64 {
            self.served * self.work_ms / (looks as f64 * LOOK_MS)
        }
    }

    #[test]
    fn under_overload_the_limit_finds_what_the_machine_can_do() {
        // Twenty thousand a second at no wait, five thousand with a store 2 ms away, five hundred large ones.
        for (work_ms, away_ms) in [(0.05, 0.0), (0.2, 2.0), (2.0, 0.0)] {
            let mut machine = Machine::new(work_ms, away_ms);
            machine.run(50, 3.0);
            let delay_ms = machine.run(100, 3.0);
            assert!(machine.served_of_capacity(100) > 0.95, "{work_ms}: {}", machine.served_of_capacity(100));
            let longest = (2.0 * TARGET.as_secs_f64() * 1e3).max(LIMIT_MIN as f64 * work_ms);
            assert!(delay_ms <= longest, "{work_ms}: {delay_ms} ms");
            assert!(machine.refused > 0.0);
        }
    }

    #[test]
    fn normal_load_is_not_refused_before_nor_half_a_second_after() {
        let mut machine = Machine::new(0.05, 1.0);
        machine.run(100, 0.9);
        assert_eq!(machine.refused, 0.0);
        machine.run(300, 3.0);
        machine.run(50, 0.9);
        machine.run(100, 0.9);
        assert_eq!(machine.refused, 0.0);
        assert!(machine.limit.get() > 1_000, "back where it began: {}", machine.limit.get());
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
    fn one_long_wait_is_no_overload_and_waiting_that_is_not_ours_takes_nothing_away() {
        let mut limit = Limit::new(1_000);
        let look = |delay_ms, in_flight| {
            let delay = Duration::from_millis(delay_ms);
            Look { delay, target: TARGET, is_late: false, in_flight }
        };
        for delay_ms in [0, 50, 50, 0, 50, 50, 0] {
            limit.learn(look(delay_ms, 500));
            assert_eq!((limit.get(), limit.is_pressed()), (1_000, false));
        }
        (0..100).for_each(|_| limit.learn(look(50, 4)));
        assert_eq!((limit.get(), limit.is_pressed()), (1_000, true));
        (0..100).for_each(|_| limit.learn(look(50, 500)));
        assert_eq!(limit.get(), LIMIT_MIN);
    }

    #[test]
    fn replies_after_their_budget_are_a_queue_too() {
        let mut limit = Limit::new(1_000);
        let look = Look { delay: Duration::ZERO, target: TARGET, is_late: true, in_flight: 900 };
        (0..20).for_each(|_| limit.learn(look));
        assert!(limit.get() < 100, "{}", limit.get());
    }

    #[test]
    fn a_small_ceiling_is_kept() {
        let mut limit = Limit::new(4);
        let look = Look { delay: TARGET * 10, target: TARGET, is_late: false, in_flight: 100 };
        (0..20).for_each(|_| limit.learn(look));
        assert_eq!(limit.get(), 4);
    }
}
