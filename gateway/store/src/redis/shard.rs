//! A master and the replicas that copy it. The master is asked; a replica is asked instead while the master is known to
//! be out, and as well, as a *hedge*, when the master takes longer than nearly all of its answers do. Promises: the
//! first answer that can be used wins and the other is dropped; of a master's batches at most a tenth are asked twice;
//! nobody is asked twice for a caller who has left, or whose time would not do; and what a replica is unsure of it does
//! not decide.
//!
//! Replicas follow their master by what it sends them, so one can be behind by what is still under way, or, cut off,
//! by as much as [`ALONE_MAX`](super::lane::ALONE_MAX).

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::node::{Berth, Kept, Node, READ_LIFE};
use super::resp;
use super::tempo::PATIENCE_MIN;
use crate::alarm::{sleep_until, timeout_at};
use crate::flight::Answer;
use crate::{BreakerState, Trouble, Withheld};

/// Hedges under way to one replica. More wait for it at once only when it, too, is slow.
const HEDGES_IN_FLIGHT_MAX: usize = 64;
/// What must not be late is aimed at this much before: an alarm is late by a tenth of a millisecond, and then somebody
/// has to be woken and to look at the rows.
const SLACK: Duration = Duration::from_micros(500);

/// Who waits for a read: somebody, until then, or until he leaves.
#[derive(Debug)]
pub(crate) struct Waits {
    until: Instant,
    has_left: AtomicBool,
}

impl Waits {
    pub(crate) fn until(until: Instant) -> Self {
        Self { until, has_left: AtomicBool::new(false) }
    }

    /// Nobody waits any more.
    pub(crate) fn leave(&self) {
        self.has_left.store(true, Relaxed);
    }

    /// Whether whoever waited is no longer there at this time.
    pub(crate) fn are_over(&self, now: Instant) -> bool {
        now > self.until || self.has_left.load(Relaxed)
    }
}

/// Whether replicas are read from at all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Replicas {
    /// In the place of a master that is slow or out.
    #[default]
    Read,
    /// Never; no connections are made to them.
    Ignored,
}

/// Nodes with the same data.
pub(super) struct Shard {
    pub(super) master: Arc<Kept>,
    pub(super) replicas: Vec<Arc<Kept>>,
    /// Whose turn it is to be asked first.
    turn: AtomicUsize,
}

/// What came of a question.
pub(super) struct Heard<T> {
    pub(super) what: Result<T, Trouble>,
    /// The replica that said so, and why the master is not heard; `None` = the master said so.
    pub(super) instead: Option<(usize, Trouble)>,
}

/// What an answer is worth that a replica gave.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Worth {
    /// As much as the master's.
    All,
    /// What is there counts, what is not is unknown: worth something if the master says nothing.
    Part,
    /// The replica is not able to answer.
    Nothing,
}

impl Shard {
    pub(super) fn new(master: Arc<Kept>, replicas: Vec<Arc<Kept>>) -> Self {
        Self { master, replicas, turn: AtomicUsize::new(0) }
    }

    /// A node that nobody stands in for.
    pub(super) fn alone(master: Arc<Kept>) -> Self {
        Self::new(master, vec![])
    }

    /// Who said what was heard.
    pub(super) fn who(&self, instead: Option<(usize, Trouble)>) -> &Kept {
        instead.and_then(|(replica, _)| self.replicas.get(replica)).unwrap_or(&self.master)
    }

    /// Whether anybody here would be asked now.
    pub(super) fn is_asked(&self) -> bool {
        self.master.breaker.state() == BreakerState::Closed || self.replicas.iter().any(|replica| replica.is_up())
    }

    /// Counts a batch of this many keys.
    pub(super) fn counted(&self, keys: usize) {
        if self.is_asked() {
            self.master.counters.store_batches.add(1);
            self.master.counters.store_keys.add(keys);
        }
    }

    /// Why a read would fail at once, if it would.
    pub(super) fn refusal(&self) -> Option<Trouble> {
        let why = self.master.refusal()?;
        self.replicas.iter().all(|replica| !replica.is_up()).then_some(why)
    }

    /// Reads these keys by MGET; one answer for each, in order.
    pub(super) async fn read(&self, keys: &[&[u8]], waits: &Waits) -> Vec<Answer> {
        let worth = |answers: &[Answer]| match answers.iter().any(|answer| matches!(answer, Answer::Failed(_))) {
            true => Worth::Nothing,
            false => Worth::All,
        };
        self.counted(keys.len());
        let deadline = Instant::now() + READ_LIFE;
        let heard = self.ask(waits, |node| node.read(keys, deadline), worth).await;
        heard.what.unwrap_or_else(|trouble| vec![Answer::Failed(trouble); keys.len()])
    }

    /// Sends these commands in one go; the bytes of one reply for each, errors among them.
    pub(super) async fn exchange(
        &self,
        commands: Bytes,
        count: usize,
        fits: fn(&[u8]) -> bool,
        deadline: Instant,
        waits: &Waits,
        worth: fn(&[Bytes]) -> Worth,
    ) -> Heard<Vec<Bytes>> {
        self.ask(waits, |node| node.exchange(commands.clone(), count, fits, deadline), worth).await
    }

    async fn ask<'a, T, F>(
        &'a self,
        waits: &Waits,
        send: impl Fn(&'a Node) -> F,
        worth: impl Fn(&[T]) -> Worth,
    ) -> Heard<Vec<T>>
    where
        F: Future<Output = Result<Vec<T>, Trouble>>,
    {
        if self.replicas.is_empty() {
            return Heard { what: send(&self.master).await, instead: None };
        }
        if let Some(out) = self.master.refusal()
            && let Ok(replica) = self.replica(None)
        {
            self.master.counters.fallbacks.add(1);
            return Heard { what: send(&self.replicas[replica]).await, instead: Some((replica, out)) };
        }
        let asked = Instant::now();
        let patience = self.master.tempo.asked(asked);
        let mut first = pin!(send(&self.master));
        let said = timeout_at(asked + self.in_time(patience, asked, waits), first.as_mut()).await;
        let mut lost = match said {
            Some(Ok(what)) => {
                self.master.tempo.answered(asked.elapsed());
                return Heard { what: Ok(what), instead: None };
            }
            // Whoever refuses or has too much to do is not helped by being asked for more.
            Some(Err(trouble)) if !trouble.is_silence() => return Heard { what: Err(trouble), instead: None },
            Some(Err(trouble)) => Some(trouble),
            None => None,
        };
        let (replica, _berth) = match self.leave(waits) {
            Ok(leave) => leave,
            Err(why) => {
                self.master.counters.withheld(why);
                let what = match lost {
                    Some(trouble) => Err(trouble),
                    None => first.await.inspect(|_| self.master.tempo.answered(asked.elapsed())),
                };
                return Heard { what, instead: None };
            }
        };
        let (node, counters) = (&self.replicas[replica], &self.master.counters);
        counters.hedges_sent.add(1);
        let asked_again = Instant::now();
        let mut second = pin!(send(node));
        let (mut part, mut is_second_over) = (None, false);
        // When to make do with what there is.
        let last = waits.until.checked_sub(SLACK).unwrap_or(waits.until);
        loop {
            tokio::select! {
                said = &mut first, if lost.is_none() => match said {
                    Ok(what) => {
                        self.master.tempo.answered(asked.elapsed());
                        return Heard { what: Ok(what), instead: None };
                    }
                    Err(trouble) => lost = Some(trouble),
                },
                said = &mut second, if !is_second_over => {
                    is_second_over = true;
                    if let Ok(what) = said {
                        node.tempo.answered(asked_again.elapsed());
                        let worth = worth(&what);
                        match worth {
                            Worth::All => lost = lost.or(Some(Trouble::Timeout)),
                            Worth::Part => {}
                            Worth::Nothing => node.tempo.rest(Instant::now()),
                        }
                        part = (worth != Worth::Nothing).then_some(what);
                    }
                }
                () = sleep_until(last), if part.is_some() && lost.is_none() => lost = Some(Trouble::Timeout),
            }
            match (lost, part.take()) {
                (Some(trouble), Some(what)) => {
                    counters.hedges_won.add(1);
                    return Heard { what: Ok(what), instead: Some((replica, trouble)) };
                }
                (Some(trouble), None) if is_second_over => return Heard { what: Err(trouble), instead: None },
                (_, kept) => part = kept,
            }
        }
    }

    /// How long to wait for the master before it is too late to ask anybody else.
    fn in_time(&self, patience: Duration, now: Instant, waits: &Waits) -> Duration {
        let needs = self.needs(&self.replicas[0]) * 2 + SLACK;
        let left = waits.until.saturating_duration_since(now).saturating_sub(needs);
        patience.min(left.max(PATIENCE_MIN))
    }

    /// What a replica typically takes: by its own answers, or while there are none by its master's.
    fn needs(&self, replica: &Node) -> Duration {
        replica.tempo.median().or_else(|| self.master.tempo.median()).unwrap_or(PATIENCE_MIN)
    }

    /// Leave to ask a replica as well.
    fn leave(&self, waits: &Waits) -> Result<(usize, Berth<'_>), Withheld> {
        let now = Instant::now();
        if waits.are_over(now) {
            return Err(Withheld::NobodyWaits);
        }
        let replica = self.replica(Some(now))?;
        let node = &self.replicas[replica];
        if now + self.needs(node) > waits.until {
            return Err(Withheld::NoTime);
        }
        let berth = Berth::of(&node.hedges, HEDGES_IN_FLIGHT_MAX).ok_or(Withheld::Busy)?;
        if !self.master.tempo.grant(now) {
            return Err(Withheld::Quota);
        }
        Ok((replica, berth))
    }

    /// A replica that can be asked, each in turn; with a time, only one that does not rest then.
    fn replica(&self, now: Option<Instant>) -> Result<usize, Withheld> {
        let count = self.replicas.len();
        let turn = self.turn.fetch_add(1, Relaxed);
        let mut why = Withheld::NoReplica;
        for replica in (0..count).map(|i| turn.wrapping_add(i) % count) {
            let node = &self.replicas[replica];
            if !node.is_up() || node.refusal().is_some() {
                continue;
            }
            if now.is_some_and(|now| node.tempo.is_resting(now)) {
                why = Withheld::Overload;
                continue;
            }
            return Ok(replica);
        }
        Err(why)
    }
}

/// Whether a replica's replies are worth the master's, where keys live on one server alone.
pub(super) fn of_one_server(replies: &[Bytes]) -> Worth {
    // A key of another type is that on both.
    let unable = |reply: &Bytes| resp::complaint(reply).is_some_and(|c| Trouble::of_complaint(c) != Trouble::WrongType);
    if replies.iter().any(unable) { Worth::Nothing } else { Worth::All }
}

/// The same in a cluster: a slot may be on its way to another master, where a key that is not here may be. A master
/// knows and says so, its replicas do not.
pub(super) fn of_cluster(replies: &[Bytes]) -> Worth {
    match of_one_server(replies) {
        Worth::All if replies.iter().any(|reply| resp::is_empty(reply)) => Worth::Part,
        worth => worth,
    }
}
