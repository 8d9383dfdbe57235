//! One server that is read from. Promises: a batch is sent at most once and ends at its deadline, silence counts
//! against this node's breaker alone, and a connection whose replies cannot be trusted is used no more.

use std::ops::Deref;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::dial::{Connection, Dialer, Place};
use super::lane::{CONFIGURATION_PAUSE, Lane, LaneState, keep};
use super::resp::{self, Element, Elements, Garbage};
use super::tempo::Tempo;
use super::track::track;
use crate::alarm::timeout_at;
use crate::breaker::{Breaker, Generation, Openings, Silence};
use crate::flight::Answer;
use crate::tracking::Tracking;
use crate::{BreakerState, Counters, Trouble};

/// How long a read may go on, also when the request that began it has left. Longer than any sensible budget,
/// so that a slow answer still fills the cache; short, because a frozen server is only noticed by it.
pub(crate) const READ_LIFE: Duration = Duration::from_millis(250);
/// Keys per MGET. The server runs a command in one go: at 512 rows of half a kilobyte that is well below a
/// millisecond, so other clients' commands are not held up by our largest batch.
const MGET_KEYS_MAX: usize = 512;
/// What a key takes in a command besides itself: `$`, its length and two line ends.
const KEY_OVERHEAD_BYTES: usize = 10;
/// Connections per node at least. A runtime's own carries everything that the runtime has in flight, so that what is asked
/// at the same time goes out in one piece; another keeps reads going while it is being replaced.
const CONNECTIONS_MIN: usize = 2;
/// Pipelines under way to one node of several. Half of what a store has in flight at all: a frozen node can
/// fill its half while its breaker still thinks, and the other nodes' reads go on in the other. A node alone has
/// all of it.
pub(super) const PIPELINES_MAX: usize = 512;

/// A server as seen by reads and by the tasks that keep its connections.
pub(crate) struct Node {
    pub(super) place: Place,
    pub(super) dialer: Arc<Dialer>,
    pub(super) duty: Duty,
    pub(super) lanes: Vec<Lane>,
    /// By connection, as far as they go, where it is kept and who prefers it.
    homes: Arc<[Handle]>,
    pub(super) breaker: Arc<Breaker>,
    pub(super) counters: Arc<Counters>,
    pub(super) alarm: Arc<Alarm>,
    pub(super) tempo: Tempo,
    /// Batches that are here because another node took long.
    pub(super) hedges: AtomicUsize,
    /// When the log last called for an operator.
    called: Mutex<Option<Instant>>,
    pipelines_max: usize,
    pipelines: AtomicUsize,
}

/// What a server must be to be read from.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Duty {
    /// Whatever it says it is.
    Any,
    /// A master, by its own word: after a failover the old one comes back as a replica and would go on answering.
    Master,
    /// A replica that hears its master, by its own word.
    Replica,
    /// The same in a cluster, where a replica is told first that we know what it is.
    ClusterReplica,
}

impl Duty {
    pub(super) fn is_replica(self) -> bool {
        matches!(self, Self::Replica | Self::ClusterReplica)
    }
}

/// A node and the tasks that keep its connections, which end with it.
pub(super) struct Kept {
    node: Arc<Node>,
    _keepers: JoinSet<()>,
}

/// Rings when something happened after which another node may have the data.
#[derive(Default)]
pub(super) struct Alarm(Notify);

/// What all nodes of one store have in common.
#[derive(Clone)]
pub(super) struct Family {
    pub(super) dialer: Arc<Dialer>,
    pub(super) duty: Duty,
    pub(super) counters: Arc<Counters>,
    pub(super) openings: Arc<Openings>,
    pub(super) alarm: Arc<Alarm>,
    pub(super) pipelines_max: usize,
    /// Where to report writes; `None` = nobody wants to know.
    pub(super) tracking: Option<Arc<Tracking>>,
    /// The runtimes that ask; none = whichever this is.
    pub(super) homes: Arc<[Handle]>,
}

impl Family {
    /// The same with another duty.
    pub(super) fn with(&self, duty: Duty) -> Self {
        Self { duty, ..self.clone() }
    }

    /// Begins to connect in the background. Must be called within a tokio runtime.
    pub(super) fn node(&self, place: Place) -> Kept {
        let counters = &self.counters;
        // All replicas may be out: it is the masters that somebody must go on asking.
        let (openings, nodes) = match self.duty.is_replica() {
            true => (Arc::default(), &counters.replicas),
            false => (self.openings.clone(), &counters.masters),
        };
        let breaker = Arc::new(Breaker::sharing(openings));
        nodes.watch(&breaker);
        let node = Arc::new(Node {
            place,
            dialer: self.dialer.clone(),
            duty: self.duty,
            lanes: (0..self.homes.len().max(CONNECTIONS_MIN)).map(|_| Lane::default()).collect(),
            homes: self.homes.clone(),
            breaker,
            counters: self.counters.clone(),
            alarm: self.alarm.clone(),
            tempo: Tempo::unknown(),
            hedges: AtomicUsize::new(0),
            called: Mutex::default(),
            pipelines_max: self.pipelines_max,
            pipelines: AtomicUsize::new(0),
        });
        let mut keepers = JoinSet::new();
        for index in 0..node.lanes.len() {
            match self.homes.get(index) {
                Some(home) => keepers.spawn_on(keep(node.clone(), index), home),
                None => keepers.spawn(keep(node.clone(), index)),
            };
        }
        if let Some(tracking) = &self.tracking {
            keepers.spawn(track(node.clone(), tracking.clone()));
        }
        Kept { node, _keepers: keepers }
    }
}

impl Deref for Kept {
    type Target = Node;

    fn deref(&self) -> &Node {
        &self.node
    }
}

impl Alarm {
    pub(super) fn ring(&self) {
        self.0.notify_one();
    }

    /// Until it has rung since it was last waited for.
    pub(super) async fn rung(&self) {
        self.0.notified().await;
    }
}

impl Node {
    /// Why a read would fail at once, if it would.
    pub(super) fn refusal(&self) -> Option<Trouble> {
        if self.breaker.state() != BreakerState::Closed {
            return Some(Trouble::Breaker);
        }
        let mut why = None;
        for lane in &self.lanes {
            match &*lane.state.borrow() {
                LaneState::Up(..) | LaneState::Connecting => return None,
                LaneState::Down(trouble) => why = Some(*trouble),
            }
        }
        why
    }

    /// Whether there is a connection, which its heart beats keep true.
    pub(super) fn is_up(&self) -> bool {
        self.lanes.iter().any(|lane| matches!(&*lane.state.borrow(), LaneState::Up(..)))
    }

    /// Reads these keys by MGET; one answer for each, in order. A trouble is everybody's, and already counted.
    pub(super) async fn read(&self, keys: &[&[u8]], deadline: Instant) -> Result<Vec<Answer>, Trouble> {
        let Some(generation) = self.admitted() else { return Err(Trouble::Breaker) };
        let answers = timeout_at(deadline, self.ask(keys)).await.unwrap_or(Err(Trouble::Timeout));
        self.ended(&answers, generation);
        answers
    }

    /// Sends these commands in one go; the bytes of one reply for each, errors among them. Any other reply that does
    /// not fit means that replies no longer belong to their questions. A trouble is everybody's, and already counted.
    pub(super) async fn exchange(
        &self,
        commands: Bytes,
        count: usize,
        fits: fn(&[u8]) -> bool,
        deadline: Instant,
    ) -> Result<Vec<Bytes>, Trouble> {
        let Some(_berth) = Berth::of(&self.pipelines, self.pipelines_max) else {
            self.counters.trouble(Trouble::Busy);
            return Err(Trouble::Busy);
        };
        let Some(generation) = self.admitted() else { return Err(Trouble::Breaker) };
        let exchange = async {
            let (lane, attempt, connection) = self.connection().await?;
            let replies = connection.ask(commands, count).await;
            let replies = replies.and_then(|replies| {
                let each: Vec<Bytes> = replies.each().collect();
                let fit = each.iter().all(|reply| reply.starts_with(b"-") || fits(reply));
                if fit { Ok(each) } else { Err(Trouble::Protocol) }
            });
            if matches!(replies, Err(Trouble::Connection | Trouble::Protocol)) {
                lane.condemn(attempt);
            }
            replies
        };
        let replies = timeout_at(deadline, exchange).await.unwrap_or(Err(Trouble::Timeout));
        self.ended(&replies, generation);
        replies
    }

    /// Leave to send a batch.
    fn admitted(&self) -> Option<Generation> {
        let admitted = self.breaker.admit();
        match admitted {
            Some(_) => self.counters.store_attempts.add(1),
            None => self.counters.trouble(Trouble::Breaker),
        }
        admitted
    }

    fn ended<T>(&self, said: &Result<T, Trouble>, generation: Generation) {
        match said {
            Ok(_) => self.breaker.answered(generation),
            Err(trouble) => {
                self.counters.trouble(*trouble);
                self.failed(*trouble, generation);
            }
        }
    }

    async fn ask(&self, keys: &[&[u8]]) -> Result<Vec<Answer>, Trouble> {
        let (lane, attempt, connection) = self.connection().await?;
        let asked = self.mget(&connection, keys).await;
        if matches!(asked, Err(Trouble::Connection | Trouble::Protocol)) {
            lane.condemn(attempt);
        }
        asked
    }

    async fn mget(&self, connection: &Connection, keys: &[&[u8]]) -> Result<Vec<Answer>, Trouble> {
        let mut commands =
            Vec::with_capacity(keys.iter().map(|key| key.len() + KEY_OVERHEAD_BYTES).sum::<usize>() + 32);
        for chunk in keys.chunks(MGET_KEYS_MAX) {
            resp::begin(&mut commands, chunk.len() + 1);
            resp::push(&mut commands, b"MGET");
            chunk.iter().for_each(|key| resp::push(&mut commands, key));
        }
        let chunks = keys.chunks(MGET_KEYS_MAX);
        let replies = connection.ask(commands, chunks.len()).await?;
        let mut elements = Elements::of(replies.all());
        let mut answers = Vec::with_capacity(keys.len());
        for chunk in chunks {
            self.take(replies.all(), &mut elements, chunk.len(), &mut answers).map_err(|_| Trouble::Protocol)?;
        }
        Ok(answers)
    }

    /// One MGET's reply. A key that holds a list or a hash is nil in it, as if it were not there: it spoils no
    /// other key, and its entity is Missing.
    fn take(
        &self,
        replies: &Bytes,
        elements: &mut Elements<'_>,
        keys: usize,
        answers: &mut Vec<Answer>,
    ) -> Result<(), Garbage> {
        match elements.next()? {
            Some(Element::Array(items)) if items == keys => {
                for _ in 0..keys {
                    answers.push(match elements.next()? {
                        Some(Element::Bulk(row)) => Answer::Row(replies.slice_ref(row)),
                        Some(Element::Nil) => Answer::Nothing,
                        _ => return Err(Garbage),
                    });
                }
                Ok(())
            }
            // A server that can say what is wrong is there: this batch failed, the connection is fine.
            Some(Element::Error(line)) => {
                let trouble = Trouble::of_complaint(str::from_utf8(line).unwrap_or_default());
                self.complaint(trouble);
                answers.extend(std::iter::repeat_n(Answer::Failed(trouble), keys));
                Ok(())
            }
            // As many values as keys, or the replies no longer belong to the questions.
            _ => Err(Garbage),
        }
    }

    /// Tells values from complaints.
    pub(super) fn judged(&self, replies: Vec<Bytes>) -> Vec<Result<Bytes, Trouble>> {
        let mut said = Vec::new();
        let judge = |reply: Bytes| match resp::complaint(&reply) {
            Some(complaint) => {
                let trouble = Trouble::of_complaint(complaint);
                if !said.contains(&trouble) {
                    said.push(trouble);
                    self.complaint(trouble);
                }
                Err(trouble)
            }
            None => Ok(reply),
        };
        replies.into_iter().map(judge).collect()
    }

    /// Counts what a server said against commands of a batch; once per batch and kind.
    pub(super) fn complaint(&self, trouble: Trouble) {
        self.counters.trouble(trouble);
        if trouble.is_news_of_others() {
            self.alarm.ring();
        }
        if trouble.is_configuration() {
            self.call_operator(trouble);
        }
    }

    /// What only an operator can mend is in the log, as often as a connection is tried for it, not for every batch.
    fn call_operator(&self, trouble: Trouble) {
        let mut called = self.called.lock().unwrap_or_else(PoisonError::into_inner);
        if called.is_none_or(|last| last.elapsed() >= CONFIGURATION_PAUSE) {
            *called = Some(Instant::now());
            let (node, trouble) = (&self.place, trouble.name());
            tracing::error!(%node, trouble, "Redis refuses what we ask; somebody must mend that");
        }
    }

    /// The connection of the runtime that asks if it is up, or else any other; waits for one that is being made for the
    /// first time.
    pub(super) async fn connection(&self) -> Result<(&Lane, u64, Connection), Trouble> {
        let (others, own) = self.lanes.split_at(self.own_lane());
        loop {
            let (mut why, mut coming) = (Trouble::Connection, None);
            for lane in own.iter().chain(others) {
                match &*lane.state.borrow() {
                    LaneState::Up(attempt, connection) => return Ok((lane, *attempt, connection.clone())),
                    LaneState::Connecting => coming = Some(lane),
                    LaneState::Down(trouble) => why = *trouble,
                }
            }
            let Some(lane) = coming else { return Err(why) };
            let settled = |state: &LaneState| !matches!(state, LaneState::Connecting);
            // Fails only when the sender is gone, and the lane itself holds it.
            let _ = lane.state.subscribe().wait_for(settled).await;
        }
    }

    fn own_lane(&self) -> usize {
        if self.homes.len() < 2 {
            return 0;
        }
        let here = Handle::current().id();
        self.homes.iter().position(|home| home.id() == here).unwrap_or(0)
    }

    /// Counts silence against the breaker. When that opens it, all connections go: what is queued on them
    /// would only be answered too late, and a fresh connection is the probe.
    pub(super) fn failed(&self, trouble: Trouble, of: Generation) {
        if trouble.is_silence() || trouble.is_news_of_others() {
            self.alarm.ring();
        }
        if !trouble.is_silence() {
            return;
        }
        match self.breaker.silent(of) {
            Silence::Opened => {
                let (node, trouble) = (&self.place, trouble.name());
                tracing::warn!(%node, trouble, "Redis does not answer; not asking until it does");
                self.lanes.iter().for_each(Lane::condemn_current);
            }
            Silence::Held => self.counters.breakers_held.add(1),
            Silence::Borne => {}
        }
    }
}

/// A pipeline's place among those under way, given back when dropped.
pub(super) struct Berth<'a>(&'a AtomicUsize);

impl<'a> Berth<'a> {
    pub(super) fn of(taken: &'a AtomicUsize, max: usize) -> Option<Self> {
        let berth = Self(taken);
        // Dropped at once, and so given back, when there was none.
        (taken.fetch_add(1, Relaxed) < max).then_some(berth)
    }
}

impl Drop for Berth<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}
