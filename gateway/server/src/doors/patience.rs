//! How long a caller is waited for: for headers that it has begun, for its first word, and over HTTP/1 for its next
//! request. The HTTP library has one timer for all of these, and none for HTTP/2.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::time::{Instant, Sleep, sleep_until};

use super::counts::Ending;
use super::limits::Limits;
use super::pulse::{Debt, Owed, Pulse};

/// Resolves when a caller has owed the same thing for too long. To be polled in every turn of the connection, which is
/// when debts change: then it needs a timer only for those that outlast a turn.
pub(super) struct Patience<'a> {
    pulse: &'a Pulse,
    limits: &'a Limits,
    debt: Debt,
    since: Instant,
    /// Never set later than something is due, and left alone while nothing is: most debts are paid long before.
    timer: Option<Pin<Box<Sleep>>>,
}

impl<'a> Patience<'a> {
    pub(super) fn with(pulse: &'a Pulse, limits: &'a Limits) -> Self {
        Self { pulse, limits, debt: pulse.debt(), since: Instant::now(), timer: None }
    }
}

impl Future for Patience<'_> {
    type Output = Ending;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Ending> {
        let this = self.get_mut();
        let debt = this.pulse.debt();
        if debt != this.debt {
            (this.debt, this.since) = (debt, Instant::now());
        }
        let (within, ending) = match debt.0 {
            Owed::Headers => (this.limits.header_timeout, Ending::Silent),
            Owed::Request => (this.limits.idle_timeout, Ending::Idle),
            Owed::Nothing => return Poll::Pending,
        };
        let due = this.since + within;
        loop {
            let timer = this.timer.get_or_insert_with(|| Box::pin(sleep_until(due)));
            if timer.deadline() > due {
                timer.as_mut().reset(due);
            }
            ready!(timer.as_mut().poll(cx));
            if timer.deadline() == due {
                return Poll::Ready(ending);
            }
            // It was set for an earlier debt.
            timer.as_mut().reset(due);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::time::Duration;

    use tokio::time::{advance, timeout};

    fn limits() -> Limits {
        Limits { header_timeout: Duration::from_secs(5), idle_timeout: Duration::from_secs(75), ..Limits::default() }
    }

    /// Whether, and as what, a connection ends within so many seconds.
    async fn ends(patience: &mut Patience<'_>, within_s: u64) -> Option<Ending> {
        timeout(Duration::from_secs(within_s), patience).await.ok()
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_word_headers_and_the_next_request_each_have_their_time() {
        let (pulse, limits) = (Arc::<Pulse>::default(), limits());
        let mut patience = Patience::with(&pulse, &limits);
        assert_eq!(ends(&mut patience, 4).await, None, "it may be silent for a while");
        pulse.begins();
        assert_eq!(ends(&mut patience, 4).await, None, "headers have their own time");
        pulse.begins();
        assert_eq!(ends(&mut patience, 2).await, Some(Ending::Silent), "which more of them does not prolong");

        let mut patience = Patience::with(&pulse, &limits);
        let asked = pulse.asked();
        assert_eq!(ends(&mut patience, 1_000).await, None, "while a request is under way nothing is owed");
        drop(asked);
        assert_eq!(ends(&mut patience, 74).await, None);
        // One that comes and goes in a single turn.
        pulse.begins();
        drop(pulse.asked());
        assert_eq!(ends(&mut patience, 74).await, None);
        pulse.begins();
        assert_eq!(ends(&mut patience, 4).await, None);
        drop(pulse.asked());
        assert_eq!(ends(&mut patience, 74).await, None);
        assert_eq!(ends(&mut patience, 2).await, Some(Ending::Idle));
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_still_reads_is_not_idle() {
        let (pulse, limits) = (Arc::<Pulse>::default(), limits());
        let mut patience = Patience::with(&pulse, &limits);
        let asked = pulse.asked();
        let unread = pulse.unread();
        drop(asked);
        assert_eq!(ends(&mut patience, 100).await, None);
        pulse.taken(unread);
        assert_eq!(ends(&mut patience, 74).await, None, "from when it was taken");
        assert_eq!(ends(&mut patience, 2).await, Some(Ending::Idle));
    }

    #[tokio::test(start_paused = true)]
    async fn a_timer_that_was_set_for_an_earlier_debt_cuts_no_later_one() {
        let (pulse, limits) = (Arc::<Pulse>::default(), limits());
        let mut patience = Patience::with(&pulse, &limits);
        assert_eq!(ends(&mut patience, 3).await, None);
        let asked = pulse.asked();
        assert_eq!(ends(&mut patience, 1).await, None);
        advance(Duration::from_secs(10)).await;
        drop(asked);
        pulse.begins();
        assert_eq!(ends(&mut patience, 4).await, None);
        assert_eq!(ends(&mut patience, 2).await, Some(Ending::Silent));
    }
}
