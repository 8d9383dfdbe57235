//! The latency budget of one request: what was granted, and what each stage may spend of what is left.
//! Pure: whoever holds the clock says how much time has passed.

use std::time::Duration;

use crate::Refusal;

/// Callers may ask for more time than the service's budget, but never get more than that; a deadline beyond
/// this is a missing deadline.
const GRANT_MAX: Duration = Duration::from_secs(60);

/// Share of what is left, in per cent, that the store gets whatever the stages behind it need: without rows they have
/// nothing to do.
const STORE_SHARE_MIN_PCT: u32 = 50;

/// Time granted to one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    granted: Duration,
}

impl Budget {
    /// The least of what the caller gives and what the service allows. A caller without any time left is refused
    /// before anything is read.
    pub fn grant(caller: Option<Duration>, service: Duration) -> Result<Self, Refusal> {
        let granted = caller.unwrap_or(GRANT_MAX).min(service).min(GRANT_MAX);
        if granted.is_zero() { Err(Refusal::DeadlineExceeded) } else { Ok(Self { granted }) }
    }

    /// All the time there is.
    pub fn granted(self) -> Duration {
        self.granted
    }

    /// When, counted from the request's arrival, waiting for the store must end: what is left after `elapsed`, less
    /// what comes after it is known to need.
    pub fn store_until(self, elapsed: Duration, after_waiting: Duration) -> Duration {
        let left = self.granted.saturating_sub(elapsed);
        let most = left * (100 - STORE_SHARE_MIN_PCT) / 100;
        self.granted.saturating_sub(after_waiting.min(most))
    }

    /// When, counted from the request's arrival, the last transform must be over.
    pub fn transforms_until(self, finish: Duration) -> Duration {
        self.granted.saturating_sub(finish)
    }

    /// What was left of the grant when each stage ended.
    pub fn left(self, spent: Spent) -> Left {
        let granted_us = u32::try_from(self.granted.as_micros()).unwrap_or(u32::MAX);
        let plan_us = granted_us.saturating_sub(spent.plan_us);
        let fetch_us = plan_us.saturating_sub(spent.fetch_us);
        let transform_us = fetch_us.saturating_sub(spent.transform_us);
        Left { plan_us, fetch_us, transform_us, answer_us: transform_us.saturating_sub(spent.answer_us) }
    }
}

/// Where a request's time went, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spent {
    /// Decode, assign, plan.
    pub plan_us: u32,
    /// Cache and store.
    pub fetch_us: u32,
    /// Wasm.
    pub transform_us: u32,
    /// Defaults and spreading.
    pub answer_us: u32,
    /// Everything so far.
    pub total_us: u32,
}

/// What was left of a request's time when each stage ended, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Left {
    /// After planning.
    pub plan_us: u32,
    /// After the cache and the store.
    pub fetch_us: u32,
    /// After the transforms.
    pub transform_us: u32,
    /// Before encoding.
    pub answer_us: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn the_least_of_caller_and_service_is_granted() {
        assert_eq!(Budget::grant(Some(5 * MS), 20 * MS).unwrap().granted(), 5 * MS);
        assert_eq!(Budget::grant(Some(500 * MS), 20 * MS).unwrap().granted(), 20 * MS);
        assert_eq!(Budget::grant(None, 20 * MS).unwrap().granted(), 20 * MS);
        assert_eq!(Budget::grant(Some(Duration::ZERO), 20 * MS), Err(Refusal::DeadlineExceeded));
    }

    #[test]
    fn the_store_gets_what_is_left_less_what_comes_after_it_needs_but_half_at_least() {
        let budget = Budget::grant(None, 20 * MS).unwrap();
        assert_eq!(budget.store_until(Duration::ZERO, 3 * MS), 17 * MS);
        assert_eq!(budget.store_until(12 * MS, 3 * MS), 17 * MS);
        assert_eq!(budget.store_until(16 * MS, 3 * MS), 18 * MS);
        assert_eq!(budget.store_until(Duration::ZERO, 30 * MS), 10 * MS);
        assert_eq!(budget.store_until(25 * MS, 3 * MS), 20 * MS);
        assert_eq!((budget.transforms_until(MS), budget.transforms_until(30 * MS)), (19 * MS, Duration::ZERO));
    }

    #[test]
    fn what_is_left_falls_from_stage_to_stage_and_not_below_nothing() {
        let budget = Budget::grant(None, MS).unwrap();
        let spent = Spent { plan_us: 100, fetch_us: 700, transform_us: 150, answer_us: 90, total_us: 1_040 };
        assert_eq!(budget.left(spent), Left { plan_us: 900, fetch_us: 200, transform_us: 50, answer_us: 0 });
    }
}
