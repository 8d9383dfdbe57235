//! Stops calling a guest that keeps failing: after some failures in a row it is left alone for a while,
//! then one call probes whether it has recovered.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Failures in a row that open the breaker: more than bad luck, few enough that a broken guest costs no
/// more than a handful of slices.
const FAILURES_MAX: u32 = 5;

/// How long it stays open at first: a few hundred requests' worth of slices saved.
const BACKOFF_MIN: Duration = Duration::from_millis(250);

/// The back-off doubles up to here, so that a guest that recovers is used again within half a minute.
const BACKOFF_MAX: Duration = Duration::from_secs(30);

/// Closed until too many failures follow one another.
#[derive(Default)]
pub(crate) struct Breaker {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// In a row.
    failures: u32,
    /// Set while open: no call before this moment, one probe after it.
    until: Option<Instant>,
    backoff: Duration,
    probing: bool,
}

impl Breaker {
    /// Leave to call the guest, or `None` while it is left alone.
    pub(crate) fn enter(&self) -> Option<Pass<'_>> {
        let mut state = self.lock();
        if let Some(until) = state.until {
            if state.probing || Instant::now() < until {
                return None;
            }
            state.probing = true;
            return Some(Pass { breaker: self, probe: true });
        }
        Some(Pass { breaker: self, probe: false })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Leave to make one call. Dropped without a report (the caller went away), it decides nothing and lets
/// the next caller probe.
pub(crate) struct Pass<'a> {
    breaker: &'a Breaker,
    probe: bool,
}

impl Pass<'_> {
    /// The guest answered.
    pub(crate) fn succeeded(self) {
        let mut state = self.breaker.lock();
        // A call from before the breaker opened proves nothing: only the probe closes it.
        if self.probe || state.until.is_none() {
            *state = State::default();
        }
    }

    /// The guest did not answer. Returns how long it is left alone if this opened the breaker.
    pub(crate) fn failed(self) -> Option<Duration> {
        let mut state = self.breaker.lock();
        if state.until.is_some() && !self.probe {
            return None;
        }
        state.failures = state.failures.saturating_add(1);
        if state.failures < FAILURES_MAX {
            return None;
        }
        let backoff = (state.backoff * 2).clamp(BACKOFF_MIN, BACKOFF_MAX);
        state.backoff = backoff;
        state.until = Some(Instant::now() + backoff);
        Some(backoff)
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        if self.probe {
            self.breaker.lock().probing = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fail(breaker: &Breaker) -> Option<Duration> {
        breaker.enter().unwrap().failed()
    }

    fn open(breaker: &Breaker) {
        for _ in 1..FAILURES_MAX {
            assert_eq!(fail(breaker), None);
        }
        assert_eq!(fail(breaker), Some(BACKOFF_MIN));
    }

    #[tokio::test(start_paused = true)]
    async fn it_opens_after_failures_in_a_row_and_one_success_closes_it() {
        let breaker = Breaker::default();
        open(&breaker);
        assert!(breaker.enter().is_none());
        tokio::time::advance(BACKOFF_MIN).await;
        let probe = breaker.enter().unwrap();
        assert!(breaker.enter().is_none(), "one probe at a time");
        probe.succeeded();
        assert!(breaker.enter().is_some());
        open(&breaker);
    }

    #[tokio::test(start_paused = true)]
    async fn a_success_in_between_starts_the_count_again() {
        let breaker = Breaker::default();
        for _ in 0..20 {
            for _ in 1..FAILURES_MAX {
                assert_eq!(fail(&breaker), None);
            }
            breaker.enter().unwrap().succeeded();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn each_failed_probe_doubles_the_wait_up_to_its_limit() {
        let breaker = Breaker::default();
        open(&breaker);
        let mut wait = BACKOFF_MIN;
        for _ in 0..10 {
            tokio::time::advance(wait).await;
            let next = (wait * 2).min(BACKOFF_MAX);
            assert_eq!(fail(&breaker), Some(next));
            assert!(breaker.enter().is_none());
            wait = next;
        }
        assert_eq!(wait, BACKOFF_MAX);
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_that_goes_away_leaves_the_next_caller_to_probe() {
        let breaker = Breaker::default();
        open(&breaker);
        tokio::time::advance(BACKOFF_MIN).await;
        drop(breaker.enter().unwrap());
        breaker.enter().unwrap().succeeded();
        assert!(breaker.enter().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_began_before_it_opened_does_not_close_it() {
        let breaker = Breaker::default();
        let early = breaker.enter().unwrap();
        open(&breaker);
        early.succeeded();
        assert!(breaker.enter().is_none());
    }
}
