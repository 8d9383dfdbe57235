//! The latency budget of one request: what was granted, and what each stage may spend of what is left.
//! Pure: whoever holds the clock says how much time has passed.

use std::time::Duration;

use crate::Refusal;

/// Callers may ask for more time than the service's budget, but never get more than that; a deadline beyond
/// this is a missing deadline.
const GRANT_MAX: Duration = Duration::from_secs(60);

/// Kept for completing, encoding and recording the answer: measured at 0.1 ms for 100 rows of 50 features,
/// with room for a busy core.
const ENCODE_RESERVE: Duration = Duration::from_micros(500);

/// Share of a request's budget, in per cent, that the store leaves to transforms when there are any.
const TRANSFORM_SHARE_PCT: u32 = 25;

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

    /// When, counted from the request's arrival, the store stage must be over.
    pub fn store_until(self, transforms: usize) -> Duration {
        let for_transforms = if transforms == 0 { Duration::ZERO } else { self.granted * TRANSFORM_SHARE_PCT / 100 };
        self.granted.saturating_sub(ENCODE_RESERVE).saturating_sub(for_transforms)
    }

    /// What the next of `steps` transforms may take after `elapsed`: an even share, so that a slow first one does
    /// not eat the time of those behind it.
    pub fn transform_slice(self, elapsed: Duration, steps: usize) -> Duration {
        self.granted.saturating_sub(ENCODE_RESERVE).saturating_sub(elapsed) / steps.max(1) as u32
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
    fn stages_never_get_more_than_is_left() {
        let budget = Budget::grant(None, 20 * MS).unwrap();
        assert!(budget.store_until(0) < 20 * MS);
        assert!(budget.store_until(2) < budget.store_until(0));
        assert_eq!(budget.transform_slice(25 * MS, 2), Duration::ZERO);
        assert!(budget.transform_slice(10 * MS, 2) * 2 <= 10 * MS);
        let tiny = Budget::grant(Some(Duration::from_nanos(1)), 20 * MS).unwrap();
        assert_eq!(tiny.store_until(3), Duration::ZERO);
    }
}
