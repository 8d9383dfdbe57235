//! Keeps one connection of a node alive. Promises: connecting, greeting and every heartbeat have a time limit,
//! attempts back off with jitter, a refused password is not tried in a loop, and none of it happens on the
//! path of a request.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use ::redis::aio::MultiplexedConnection;
use ::redis::{AsyncConnectionConfig, Value};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use crate::redis::{Node, READ_LIFE};
use crate::{BreakerState, Trouble};

/// To connect, greet, log in and be greeted back. A frozen server leaves the attempt hanging in here and
/// answers it when it thaws, so a long limit delays no recovery.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);
/// Wait after the first failed attempt; doubles with each.
const PAUSE_MIN: Duration = Duration::from_millis(20);
/// Longest wait between attempts, before jitter takes up to half of it away: a server that is back is found
/// within half a second.
const PAUSE_MAX: Duration = Duration::from_millis(400);
/// Wait after an error that only an operator can mend.
const CONFIGURATION_PAUSE: Duration = Duration::from_secs(10);
/// How often an idle connection is tried, so that a request is not the one to find it dead.
const HEARTBEAT: Duration = Duration::from_millis(500);
/// A connection that broke sooner than this after it was made is not replaced without a pause.
const STEADY: Duration = Duration::from_secs(1);

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
    Up(u64, MultiplexedConnection),
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
pub(crate) async fn keep(node: Arc<Node>, index: usize) {
    let lane = &node.lanes[index];
    let mut pause = PAUSE_MIN;
    loop {
        let number = lane.attempt.fetch_add(1, SeqCst) + 1;
        match attempt(&node).await {
            Ok(connection) => {
                lane.state.send_replace(LaneState::Up(number, connection.clone()));
                let since = Instant::now();
                let trouble = watch_over(&node, lane, number, connection).await;
                if since.elapsed() >= STEADY {
                    pause = PAUSE_MIN;
                    lane.state.send_replace(LaneState::Connecting);
                    continue;
                }
                lane.state.send_replace(LaneState::Down(trouble));
            }
            Err(trouble) => {
                let before = lane.state.send_replace(LaneState::Down(trouble));
                let is_news = !matches!(before, LaneState::Down(known) if known == trouble);
                if trouble.is_configuration() {
                    tracing::error!(trouble = trouble.name(), "Redis refuses us; somebody must mend that");
                    sleep(CONFIGURATION_PAUSE).await;
                    continue;
                }
                if is_news {
                    tracing::warn!(trouble = trouble.name(), "cannot connect to Redis; trying on");
                }
            }
        }
        sleep(jittered(pause)).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// One attempt to connect, which is also the breaker's probe.
async fn attempt(node: &Node) -> Result<MultiplexedConnection, Trouble> {
    let breaker = &node.counters.breaker;
    let admitted = breaker.admit();
    breaker.probing();
    let connected = connect(node).await;
    match &connected {
        Ok(_) => {
            node.counters.connections.add(1);
            let was_open = breaker.state() != BreakerState::Closed;
            breaker.probed(true);
            if was_open {
                tracing::info!("Redis answers again");
            }
        }
        Err(trouble) => {
            node.counters.trouble(*trouble);
            breaker.probed(false);
            if let Some(generation) = admitted {
                node.failed(*trouble, generation);
            }
        }
    }
    connected
}

async fn connect(node: &Node) -> Result<MultiplexedConnection, Trouble> {
    // No response timeout in the library: each read has one timer around all it does, and so has each ping.
    let config = AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None);
    let greet = async {
        let connecting = node.client.get_multiplexed_async_connection_with_config(&config);
        let mut connection = connecting.await.map_err(|e| Trouble::of_error(&e))?;
        ping(&mut connection).await?;
        Ok(connection)
    };
    timeout(CONNECT_TIMEOUT, greet).await.unwrap_or(Err(Trouble::Timeout))
}

/// Returns once the connection is of no use any more, with the reason.
async fn watch_over(node: &Node, lane: &Lane, number: u64, mut connection: MultiplexedConnection) -> Trouble {
    let mut condemned = lane.condemned.subscribe();
    loop {
        if timeout(HEARTBEAT, condemned.wait_for(|last| *last >= number)).await.is_ok() {
            return Trouble::Connection;
        }
        let generation = node.counters.breaker.admit();
        if let Err(trouble) = timeout(READ_LIFE, ping(&mut connection)).await.unwrap_or(Err(Trouble::Timeout)) {
            node.counters.trouble(trouble);
            if let Some(generation) = generation {
                node.failed(trouble, generation);
            }
            return trouble;
        }
    }
}

async fn ping(connection: &mut MultiplexedConnection) -> Result<(), Trouble> {
    match connection.send_packed_command(&::redis::cmd("PING")).await {
        // Whatever else a server says (a user that may read but not ping, a full memory), it is there and
        // the reads will hear it for themselves.
        Ok(Value::ServerError(error)) => match Trouble::of_reply(&error) {
            trouble @ (Trouble::Loading | Trouble::Auth) => Err(trouble),
            _ => Ok(()),
        },
        Ok(_) => Ok(()),
        Err(error) => Err(Trouble::of_error(&error)),
    }
}

/// Between half of `pause` and all of it, so that gateways that lost one server together do not come back
/// to it together.
fn jittered(pause: Duration) -> Duration {
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
    fn jitter_takes_at_most_half_away() {
        for _ in 0..1_000 {
            let pause = jittered(PAUSE_MAX);
            assert!(pause >= PAUSE_MAX / 2 && pause <= PAUSE_MAX);
        }
    }
}
