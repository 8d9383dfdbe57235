//! What the stages of a service are known to need: each the time that all but one of a hundred of its runs stay below,
//! learnt from run to run. A stage may spend what is left of a request's time, less what those behind it need.
//!
//! An estimate is one number. A run that takes longer raises it by a sixteenth, one that does not lowers it by a
//! ninety-ninth of that: it comes to rest where one run in a hundred is longer. It follows a change upwards within some
//! tens of slow runs, is never further off than its next hundred runs, and only asks of a run whether it took longer
//! than the estimate. So a run that was cut short teaches what it can: if it had already taken longer, it counts, and
//! otherwise it says nothing.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// A longer run raises the estimate by one part in so many: steady to about ten per cent.
const RISE: u64 = 16;
/// Every other run lowers it by one part in so many: 99 for each longer one.
const FALL: u64 = RISE * 99;
/// A run that the estimate forbids lowers it by one part in so many, so that some run is tried again: where it truly
/// takes longer than there is time, about one in ten.
const FALL_UNTRIED: u64 = 128;

/// Least and most that is believed, in nanoseconds: the steps of smaller numbers are zero, and no request has longer.
const NEED_MIN_NS: u64 = 2_000;
const NEED_MAX_NS: u64 = 60_000_000_000;

/// Until the first were cut: the timer wakes a tenth of a millisecond late, and a hundred rows of fifty features that
/// just came take as long to decode.
const AFTER_STORE_AT_FIRST: Duration = Duration::from_micros(300);
/// Until the first calls: a warm instance computes a hundred rows in less.
const STEP_AT_FIRST: Duration = Duration::from_micros(500);
/// Until the first guests were stopped: their clock ticks once a millisecond.
const OVERRUN_AT_FIRST: Duration = Duration::from_millis(1);
/// Until the first answers: completing, encoding and recording 100 rows of 50 features takes 0.1 ms, with room for a
/// busy core.
const FINISH_AT_FIRST: Duration = Duration::from_micros(500);

/// What one stage needs. Told by all requests at once, without a lock: an update that another one overwrites is a run
/// that was not seen.
#[derive(Debug)]
pub struct Need(AtomicU64);

impl Need {
    /// Believed until something is learnt.
    pub const fn starting_at(first: Duration) -> Self {
        Self(AtomicU64::new(first.as_nanos() as u64))
    }

    /// What all but one in a hundred runs stay below.
    pub fn get(&self) -> Duration {
        Duration::from_nanos(self.0.load(Relaxed))
    }

    /// A run took so long.
    pub fn took(&self, run: Duration) {
        let known = self.0.load(Relaxed);
        self.set(if nanos(run) > known { known + known / RISE } else { known - known / FALL });
    }

    /// A run was stopped after so long and would have taken longer.
    pub fn was_cut(&self, after: Duration) {
        let known = self.0.load(Relaxed);
        if nanos(after) >= known {
            self.set(known + known / RISE);
        }
    }

    /// There was too little time to try.
    pub fn was_forbidden(&self) {
        let known = self.0.load(Relaxed);
        self.set(known - known / FALL_UNTRIED);
    }

    fn set(&self, ns: u64) {
        self.0.store(ns.clamp(NEED_MIN_NS, NEED_MAX_NS), Relaxed);
    }
}

/// What the stages behind the store need, of the requests of one plan. In cache lines of its own: every request writes
/// here, and reads the plan around it.
#[derive(Debug)]
#[repr(align(128))]
pub struct Needs {
    /// From the moment the store is no longer waited for until its rows are columns.
    pub after_store: Need,
    /// By step of the plan.
    pub steps: Box<[Need]>,
    /// How much longer than allowed a step takes that is stopped.
    pub overrun: Need,
    /// Completing, encoding and recording the answer.
    pub finish: Need,
}

impl Needs {
    /// Nothing is known yet.
    pub fn of(steps: usize) -> Self {
        Self {
            after_store: Need::starting_at(AFTER_STORE_AT_FIRST),
            steps: (0..steps).map(|_| Need::starting_at(STEP_AT_FIRST)).collect(),
            overrun: Need::starting_at(OVERRUN_AT_FIRST),
            finish: Need::starting_at(FINISH_AT_FIRST),
        }
    }

    /// Of everything that comes after waiting for the store.
    pub fn after_waiting(&self) -> Duration {
        self.after_store.get() + self.from_step(0) + self.finish.get()
    }

    /// Of this step and those behind it.
    pub fn from_step(&self, step: usize) -> Duration {
        self.steps.iter().skip(step).map(Need::get).sum()
    }

    /// How long this step may take when the steps have so much time left; `None` if it is not worth starting. Those
    /// behind it keep what they need, but where that is more than their even share, no more than that.
    pub fn step_slice(&self, step: usize, left: Duration) -> Option<Duration> {
        let need = self.steps.get(step)?;
        if left < need.get() {
            need.was_forbidden();
            return None;
        }
        let even_share = left / (self.steps.len() - step) as u32;
        let affordable = left.saturating_sub(self.from_step(step + 1)).max(even_share);
        // A guest that has to be stopped takes longer than allowed; one that ends as usual does not.
        Some(affordable.saturating_sub(self.overrun.get()).max(need.get().min(affordable)))
    }
}

/// What was learnt makes no plan another.
impl PartialEq for Needs {
    fn eq(&self, other: &Self) -> bool {
        self.steps.len() == other.steps.len()
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const US: Duration = Duration::from_micros(1);

    /// Evenly spread over 1 to 1,000, in no order.
    fn spread(n: u64) -> u32 {
        (n.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407) >> 33) as u32 % 1_000 + 1
    }

    #[test]
    fn an_estimate_comes_to_rest_where_one_run_in_a_hundred_is_longer() {
        for first in [US * 5, MS, MS * 500] {
            let need = Need::starting_at(first);
            (0..20_000).for_each(|n| need.took(spread(n) * US));
            let longer = (0..10_000)
                .filter(|n| {
                    let run = spread(20_000 + n) * US;
                    let is_longer = run > need.get();
                    need.took(run);
                    is_longer
                })
                .count();
            assert!((60..=150).contains(&longer), "from {first:?}: {longer} of 10,000 above {:?}", need.get());
        }
    }

    #[test]
    fn a_stage_that_slows_down_is_believed_at_once_and_one_that_recovers_in_time() {
        let need = Need::starting_at(MS);
        (0..50).for_each(|_| need.took(8 * MS));
        assert!(need.get() >= 8 * MS, "{:?}", need.get());
        (0..4_000).for_each(|_| need.took(MS));
        assert!(need.get() <= MS * 11 / 10, "{:?}", need.get());
    }

    #[test]
    fn what_was_cut_short_teaches_only_what_it_shows() {
        let need = Need::starting_at(4 * MS);
        (0..10_000).for_each(|_| need.was_cut(2 * MS));
        assert_eq!(need.get(), 4 * MS, "it may have needed less or more");
        (0..10_000).for_each(|_| need.was_cut(5 * MS));
        assert!(
            need.get() > 5 * MS && need.get() < 6 * MS,
            "{:?}: it needs more than 5 ms, how much is not known",
            need.get()
        );
    }

    #[test]
    fn what_is_not_tried_is_tried_again_and_keeps_being_forbidden_while_it_is_too_slow() {
        let needs = Needs::of(1);
        (0..100).for_each(|_| needs.steps[0].took(100 * MS));
        let tried = (0..1_000).filter(|_| {
            let slice = needs.step_slice(0, 10 * MS);
            slice.is_some_and(|slice| {
                needs.steps[0].was_cut(slice.max(10 * MS));
                true
            })
        });
        let tried = tried.count();
        assert!((20..=200).contains(&tried), "{tried} of 1,000");
    }

    #[test]
    fn a_step_gets_what_is_left_less_what_those_behind_it_need() {
        let needs = Needs::of(3);
        let overrun = needs.overrun.get();
        assert_eq!(needs.step_slice(0, 20 * MS), Some(20 * MS - 2 * STEP_AT_FIRST - overrun));
        assert_eq!(needs.step_slice(2, 20 * MS), Some(20 * MS - overrun));
        assert_eq!(needs.step_slice(0, STEP_AT_FIRST - US), None, "it would not end");
        // Too little for all of them: each in turn tries.
        assert_eq!(needs.step_slice(0, 3 * US * 400), Some(400 * US));
        assert_eq!(needs.step_slice(3, MS), None);
    }

    #[test]
    fn numbers_stay_in_their_bounds() {
        let need = Need::starting_at(Duration::ZERO);
        need.took(Duration::ZERO);
        assert_eq!(need.get(), Duration::from_nanos(NEED_MIN_NS));
        (0..1_000).for_each(|_| need.took(Duration::MAX));
        assert_eq!(need.get(), Duration::from_nanos(NEED_MAX_NS));
        (0..100_000).for_each(|_| need.took(Duration::ZERO));
        assert_eq!(need.get(), Duration::from_nanos(NEED_MIN_NS), "small steps are steps too");
    }
}
