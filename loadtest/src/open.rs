//! The open loop: requests are sent when they are due, whether or not earlier ones were answered, and their latency counts
//! from then. So a server that is slow for a moment is seen by everybody who would have come in that moment.

use std::cell::{Cell, RefCell};
use std::io::{IsTerminal, Write};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Notify;
use tokio::task::spawn_local;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use crate::caller::Callers;
use crate::pace::Pacer;
use crate::random::Random;
use crate::scenario::{Arrivals, Asks};
use crate::tally::{Outcome, Tally};

/// Before the first request is due: time to get there.
const RUN_UP: Duration = Duration::from_millis(20);
/// What is due within this time is sent together, on one connection: waking up for each request alone would cost more than
/// the request, on a core that Redis wants too. It is late by as much at most, and that counts.
const TURN: Duration = Duration::from_micros(200);
/// A loop that is late still lets replies in after this many requests.
const SENDS_PER_TURN: u32 = 8;
/// How often a terminal is told.
const TELL_EVERY: Duration = Duration::from_millis(500);
/// When the last callers have given up there is nobody to wait for, or something is broken here.
const DRAIN: Duration = Duration::from_secs(2);

/// Even traffic for a while.
#[derive(Clone, Debug)]
pub(crate) struct Stretch {
    pub(crate) name: String,
    pub(crate) length: Duration,
    pub(crate) rps: f64,
    pub(crate) arrivals: Arrivals,
}

/// Looks at replies: gets the request's number among the bodies, when it was due, and the reply; returns how many values
/// have no provenance.
pub(crate) type Look = Rc<dyn Fn(usize, Instant, &[u8]) -> u64>;

/// Whom to ask, what, and how closely to look at the replies.
pub(crate) struct Traffic {
    pub(crate) asks: Asks,
    pub(crate) callers: Rc<Callers>,
    pub(crate) bodies: Rc<[Bytes]>,
    pub(crate) look: Look,
    /// Every so many replies are looked at: decoding takes time that the load then lacks.
    pub(crate) look_every: u64,
}

/// What all calls of a run write to.
struct Run {
    tallies: RefCell<Vec<Tally>>,
    in_flight: Cell<usize>,
    is_idle: Notify,
}

impl Traffic {
    /// Asks the first so many bodies, one after the other, so that what can be warm is.
    pub(crate) async fn warm(&self, bodies: usize) -> Result<(), crate::Failed> {
        let mut last = None;
        for body in self.bodies.iter().take(bodies) {
            self.callers.turn();
            let called = timeout(self.asks.give_up(), self.callers.call(body.clone(), false)).await;
            if let Ok((outcome @ Outcome::Failed(_), _)) = called {
                last = Some(outcome);
            }
        }
        match last {
            Some(Outcome::Failed(how)) if how.starts_with("grpc-status") || how.starts_with("HTTP 4") => {
                Err(format!("the gateway does not answer what the scenario asks: {how}").into())
            }
            _ => Ok(()),
        }
    }

    /// Sends what the stretches plan, without a pause between them, and returns what became of it when the last caller has
    /// his reply or has given up. Must run in a `LocalSet`. `started` is told when the first stretch begins.
    pub(crate) async fn drive(
        &self,
        stretches: &[Stretch],
        started: impl FnOnce(Instant),
    ) -> Result<Vec<Tally>, crate::Failed> {
        let tallies = stretches.iter().map(|_| Tally::new(self.asks.budget)).collect();
        let run = Rc::new(Run { tallies: RefCell::new(tallies), in_flight: Cell::new(0), is_idle: Notify::new() });
        let pacer = Pacer::new()?;
        let mut random = Random::new(self.asks.seed);
        let mut number = 0usize;
        let mut begin = Instant::now() + RUN_UP;
        let mut tell = Tell::new(begin);
        let mut last_turn = Instant::now();
        started(begin);
        for (index, stretch) in stretches.iter().enumerate() {
            let mut at = Duration::ZERO;
            let mut turn = 0;
            loop {
                let gap_s = match stretch.arrivals {
                    Arrivals::Constant => 1.0 / stretch.rps,
                    Arrivals::Poisson => random.gap_s(stretch.rps),
                };
                at += Duration::from_secs_f64(gap_s);
                if at >= stretch.length {
                    break;
                }
                let due = begin + at;
                let now = Instant::now();
                if now < due {
                    turn = 0;
                    tell.maybe(now, stretch, at, &run, index);
                    pacer.until(due.max(last_turn + TURN)).await?;
                    last_turn = Instant::now();
                    self.callers.turn();
                } else {
                    turn += 1;
                    if turn % SENDS_PER_TURN == 0 {
                        tell.maybe(now, stretch, at, &run, index);
                        tokio::task::yield_now().await;
                        self.callers.turn();
                    }
                }
                let cancelled =
                    self.asks.cancel.filter(|(share, _)| random.fraction() < *share).map(|(_, after)| after);
                self.send(&run, Due { index, due, number, cancelled });
                number += 1;
            }
            begin += stretch.length;
        }
        tell.end();
        let patience = Instant::now() + self.asks.give_up + DRAIN;
        while run.in_flight.get() > 0 {
            if timeout_at(patience, run.is_idle.notified()).await.is_err() {
                return Err(format!("{} calls never ended", run.in_flight.get()).into());
            }
        }
        Ok(run.tallies.take())
    }

    fn send(&self, run: &Rc<Run>, due: Due) {
        let mut tallies = run.tallies.borrow_mut();
        let tally = &mut tallies[due.index];
        tally.due();
        if run.in_flight.get() >= self.asks.in_flight_max {
            tally.dropped += 1;
            return;
        }
        tally.sent(due.due.elapsed());
        drop(tallies);
        run.in_flight.set(run.in_flight.get() + 1);
        let body = due.number % self.bodies.len();
        let keep = (due.number as u64).is_multiple_of(self.look_every);
        let (callers, bytes) = (Rc::clone(&self.callers), self.bodies[body].clone());
        let (run, look, give_up) = (Rc::clone(run), Rc::clone(&self.look), due.due + self.asks.give_up());
        spawn_local(async move {
            let call = timeout_at(give_up, callers.call(bytes, keep));
            let ended = match due.cancelled {
                None => call.await,
                Some(after) => tokio::select! {
                    ended = call => ended,
                    () = sleep_until(Instant::now() + after) => Ok((Outcome::Cancelled, None)),
                },
            };
            let latency = due.due.elapsed();
            let (outcome, reply) = ended.unwrap_or((Outcome::TimedOut, None));
            let untyped = reply.filter(|_| outcome == Outcome::Answered).map(|reply| look(body, due.due, &reply));
            let tally = &mut run.tallies.borrow_mut()[due.index];
            tally.ended(outcome, latency);
            tally.looked_at += u64::from(untyped.is_some());
            tally.untyped += untyped.unwrap_or(0);
            run.in_flight.set(run.in_flight.get() - 1);
            if run.in_flight.get() == 0 {
                run.is_idle.notify_one();
            }
        });
    }
}

impl Asks {
    /// When a caller gives up: with its deadline, if it has one.
    fn give_up(&self) -> Duration {
        self.timeout.unwrap_or(self.give_up).min(self.give_up)
    }
}

/// A request of the plan.
struct Due {
    /// Of its stretch.
    index: usize,
    due: Instant,
    number: usize,
    cancelled: Option<Duration>,
}

/// One line on a terminal, over and over.
struct Tell {
    next: Option<Instant>,
}

impl Tell {
    fn new(begin: Instant) -> Self {
        Self { next: std::io::stderr().is_terminal().then_some(begin) }
    }

    fn maybe(&mut self, now: Instant, stretch: &Stretch, at: Duration, run: &Run, index: usize) {
        if self.next.is_none_or(|next| now < next) {
            return;
        }
        self.next = Some(now + TELL_EVERY);
        let tally = &run.tallies.borrow()[index];
        let _ = write!(
            std::io::stderr(),
            "\r\x1b[K{} {:.1}/{:.1} s at {:.0} rps: {} answered, {} in time, {} refused, {} dropped, {} in flight",
            stretch.name,
            at.as_secs_f64(),
            stretch.length.as_secs_f64(),
            stretch.rps,
            tally.answered,
            tally.in_time,
            tally.refused,
            tally.dropped,
            run.in_flight.get(),
        );
    }

    fn end(&self) {
        if self.next.is_some() {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}
