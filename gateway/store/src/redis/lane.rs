//! Keeps one connection of a node alive. Promises: connecting, greeting and every heartbeat have a time limit,
//! attempts back off with jitter, a refused password is not tried in a loop, and none of it happens on the
//! path of a request.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use ::redis::Value;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use super::dial::{CONNECT_TIMEOUT, Closed, Connection, DialError, within};
use super::node::{Duty, Node, READ_LIFE};
use crate::{BreakerState, Trouble};

/// Wait after the first failed attempt; doubles with each.
const PAUSE_MIN: Duration = Duration::from_millis(20);
/// Longest wait between attempts, before jitter takes up to half of it away: a server that is back is found
/// within half a second.
const PAUSE_MAX: Duration = Duration::from_millis(400);
/// Wait after an error that only an operator can mend.
pub(super) const CONFIGURATION_PAUSE: Duration = Duration::from_secs(10);
/// How often an idle connection is tried, so that a request is not the one to find it dead.
pub(super) const HEARTBEAT: Duration = Duration::from_millis(500);
/// A connection that broke sooner than this after it was made is not replaced without a pause.
pub(super) const STEADY: Duration = Duration::from_secs(1);

/// A replica whose master is gone is read from for this long: what was written until then it has nearly all, and a
/// failover takes some seconds. Later somebody else may have become the master without telling it.
pub(super) const ALONE_MAX: Duration = Duration::from_secs(10);

/// One connection's place in a node. Attempts are numbered, so that a read which fails late condemns the
/// connection it used and not the one that has taken its place.
pub(crate) struct Lane {
    pub(crate) state: watch::Sender<LaneState>,
    /// The attempt under way, or the one whose connection is up.
    attempt: AtomicU64,
    /// Connections up to this attempt are of no use.
    condemned: watch::Sender<u64>,
}

#[derive(Clone)]
pub(crate) enum LaneState {
    /// Being made, with no reason yet to think it will fail.
    Connecting,
    /// Made by the attempt of this number.
    Up(u64, Connection),
    /// Not there, for this reason; attempts go on.
    Down(Trouble),
}

impl Default for Lane {
    fn default() -> Self {
        let state = watch::Sender::new(LaneState::Connecting);
        Self { state, attempt: AtomicU64::new(0), condemned: watch::Sender::new(0) }
    }
}

impl Lane {
    /// The connection made by this attempt was found unusable.
    pub(crate) fn condemn(&self, attempt: u64) {
        self.condemned.send_if_modified(|last| {
            let is_news = attempt > *last;
            *last = attempt.max(*last);
            is_news
        });
    }

    /// Whatever is up or about to be is to be replaced.
    pub(crate) fn condemn_current(&self) {
        self.condemn(self.attempt.load(SeqCst));
    }
}

/// Connects, watches, connects again; never returns. Dropping the future closes the connection.
pub(super) async fn keep(node: Arc<Node>, index: usize) {
    let lane = &node.lanes[index];
    let mut pause = PAUSE_MIN;
    loop {
        let number = lane.attempt.fetch_add(1, SeqCst) + 1;
        match attempt(&node).await {
            Ok((connection, closed, link)) => {
                lane.state.send_replace(LaneState::Up(number, connection.clone()));
                let since = Instant::now();
                let trouble = watch_over(&node, lane, number, connection, closed, link).await;
                if since.elapsed() >= STEADY {
                    pause = PAUSE_MIN;
                    lane.state.send_replace(LaneState::Connecting);
                    continue;
                }
                lane.state.send_replace(LaneState::Down(trouble));
            }
            Err(error) => {
                let trouble = error.kind;
                let before = lane.state.send_replace(LaneState::Down(trouble));
                let is_news = !matches!(before, LaneState::Down(known) if known == trouble);
                let is_replica = node.duty.is_replica();
                let (node, trouble_name, why) = (&node.place, trouble.name(), &error.source);
                if trouble.is_configuration() {
                    // No answer needs a replica.
                    if !is_replica {
                        tracing::error!(%node, trouble = trouble_name, %why, "Redis refuses us; somebody must mend that");
                    } else if is_news {
                        tracing::warn!(%node, trouble = trouble_name, %why, "a replica refuses us and is not read from");
                    }
                    sleep(CONFIGURATION_PAUSE).await;
                    continue;
                }
                if is_news {
                    tracing::warn!(%node, trouble = trouble_name, %why, "cannot connect to Redis; trying on");
                }
            }
        }
        sleep(jittered(pause)).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// One attempt to connect, which is also the breaker's probe.
async fn attempt(node: &Node) -> Result<(Connection, Closed, Link), DialError> {
    let breaker = &node.breaker;
    let admitted = breaker.admit();
    breaker.probing();
    let connected = within(CONNECT_TIMEOUT, connect(node)).await;
    match &connected {
        Ok(_) => {
            node.counters.connections.add(1);
            let was_open = breaker.state() != BreakerState::Closed;
            breaker.probed(true);
            if was_open {
                tracing::info!(node = %node.place, "Redis answers again");
            }
        }
        Err(error) => {
            node.counters.trouble(error.kind);
            breaker.probed(false);
            match admitted {
                Some(generation) => node.failed(error.kind, generation),
                None => node.alarm.ring(),
            }
        }
    }
    connected
}

async fn connect(node: &Node) -> Result<(Connection, Closed, Link), DialError> {
    let (connection, closed) = node.dialer.dial(&node.place).await?;
    if node.duty == Duty::ClusterReplica
        && let Value::ServerError(error) = connection.command(&::redis::cmd("READONLY")).await?
    {
        return Err(DialError { kind: Trouble::of_reply(&error), source: error.into() });
    }
    let mut link = Link::default();
    greet(node, &connection, &mut link).await?;
    Ok((connection, closed, link))
}

/// Returns once the connection is of no use any more, with the reason.
async fn watch_over(
    node: &Node,
    lane: &Lane,
    number: u64,
    connection: Connection,
    closed: Closed,
    mut link: Link,
) -> Trouble {
    let mut condemned = lane.condemned.subscribe();
    let end = async {
        tokio::select! {
            _ = condemned.wait_for(|last| *last >= number) => {}
            _ = closed => {
                // Nobody may have been waiting for a reply: then this is the first to notice.
                node.counters.trouble(Trouble::Connection);
                node.alarm.ring();
            }
        }
    };
    tokio::pin!(end);
    loop {
        if timeout(HEARTBEAT, &mut end).await.is_ok() {
            return Trouble::Connection;
        }
        let generation = node.breaker.admit();
        if let Err(error) = within(READ_LIFE, greet(node, &connection, &mut link)).await {
            node.counters.trouble(error.kind);
            if let Some(generation) = generation {
                node.failed(error.kind, generation);
            }
            return error.kind;
        }
    }
}

/// Asks whether the server is there, and whether it is what it should be.
async fn greet(node: &Node, connection: &Connection, link: &mut Link) -> Result<(), DialError> {
    let question = if node.duty == Duty::Any { "PING" } else { "ROLE" };
    let said = connection.command(&::redis::cmd(question)).await?;
    let no = |kind, why: &str| Err(DialError { kind, source: why.into() });
    match (said, node.duty) {
        // What a replica does not say of itself is not guessed: nobody would know how old its data are.
        (Value::ServerError(error), duty) if duty.is_replica() => {
            Err(DialError { kind: Trouble::of_reply(&error), source: error.into() })
        }
        // Whatever else a server says (a user that may read but not ping, a full memory), it is there and
        // the reads will hear it for themselves.
        (Value::ServerError(error), _) => match Trouble::of_reply(&error) {
            trouble @ (Trouble::Loading | Trouble::Auth) => Err(DialError { kind: trouble, source: error.into() }),
            _ => Ok(()),
        },
        (said, Duty::Master) if !is_master(&said) => no(Trouble::ReadOnly, "it is no master any more"),
        (said, duty) if duty.is_replica() && !link.holds(&said, Instant::now()) => {
            no(Trouble::NotReplica, "it is no replica that has heard from its master lately")
        }
        _ => Ok(()),
    }
}

/// What one connection has heard of a replica's link to its master.
#[derive(Debug, Default)]
struct Link {
    last_up: Option<Instant>,
}

impl Link {
    /// Whether the replica may be read from, by its reply to ROLE. One that has not yet been heard of with a master, or
    /// that copies everything anew, may have nothing or anything.
    fn holds(&mut self, role: &Value, now: Instant) -> bool {
        let Value::Array(items) = role else { return false };
        let text = |item: &Value| matches!(item, Value::BulkString(text) if text == b"slave");
        self.last_up = match (&items[..], self.last_up) {
            ([role, _, _, Value::BulkString(state), ..], last_up) if text(role) => match &state[..] {
                b"connected" => Some(now),
                b"connect" | b"connecting" | b"handshake" => last_up.filter(|up| now - *up < ALONE_MAX),
                _ => None,
            },
            _ => None,
        };
        self.last_up.is_some()
    }
}

/// Whether a reply to ROLE is that of a master.
pub(super) fn is_master(role: &Value) -> bool {
    match role {
        Value::Array(items) => matches!(items.first(), Some(Value::BulkString(role)) if role == b"master"),
        _ => false,
    }
}

/// Between half of `pause` and all of it, so that gateways that lost one server together do not come back
/// to it together.
pub(super) fn jittered(pause: Duration) -> Duration {
    // std seeds every RandomState differently, which is all the randomness this needs.
    let share = RandomState::new().hash_one(0) % 512;
    pause / 2 + pause * (share as u32) / 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_failure_condemns_only_the_connection_it_used() {
        let lane = Lane::default();
        lane.attempt.store(2, SeqCst);
        lane.condemn(1);
        assert_eq!(*lane.condemned.borrow(), 1);
        lane.condemn_current();
        lane.condemn(1);
        assert_eq!(*lane.condemned.borrow(), 2);
    }

    #[test]
    fn a_replica_is_believed_while_it_hears_its_master_and_a_little_longer() {
        let bulk = |text: &str| Value::BulkString(text.into());
        let of = |state: &str| Value::Array(vec![bulk("slave"), bulk("h"), Value::Int(1), bulk(state), Value::Int(7)]);
        let (mut link, start) = (Link::default(), Instant::now());
        assert!(!link.holds(&of("connect"), start), "it may just have started, with nothing in it");
        assert!(link.holds(&of("connected"), start));
        assert!(
            link.holds(&of("connect"), start + ALONE_MAX / 2) && link.holds(&of("handshake"), start + ALONE_MAX / 2)
        );
        assert!(!link.holds(&of("connect"), start + ALONE_MAX));
        assert!(link.holds(&of("connected"), start) && !link.holds(&of("sync"), start));
        assert!(!link.holds(&of("connect"), start), "it was copying");
        let master = Value::Array(vec![bulk("master"), Value::Int(0), Value::Array(vec![])]);
        assert!(link.holds(&of("connected"), start) && !link.holds(&master, start) && !link.holds(&Value::Nil, start));
    }

    #[test]
    fn jitter_takes_at_most_half_away() {
        for _ in 0..1_000 {
            let pause = jittered(PAUSE_MAX);
            assert!(pause >= PAUSE_MAX / 2 && pause <= PAUSE_MAX);
        }
    }
}
