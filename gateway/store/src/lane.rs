//! Keeps one connection of a node alive. Promises: connecting, greeting and every heartbeat have a time limit,
//! attempts back off with jitter, a refused password is not tried in a loop, and none of it happens on the
//! path of a request.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use ::redis::aio::MultiplexedConnection;
use ::redis::{AsyncConnectionConfig, Value};
use tokio::sync::{Notify, watch};
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

/// One connection's place in a node.
pub(crate) struct Lane {
    pub(crate) state: watch::Sender<LaneState>,
    /// Rung by whoever found the connection unusable.
    pub(crate) renew: Notify,
}

#[derive(Clone)]
pub(crate) enum LaneState {
    /// Being made, with no reason yet to think it will fail.
    Connecting,
    Up(MultiplexedConnection),
    /// Not there, for this reason; attempts go on.
    Down(Trouble),
}

impl Default for Lane {
    fn default() -> Self {
        Self { state: watch::Sender::new(LaneState::Connecting), renew: Notify::new() }
    }
}

/// Connects, watches, connects again; never returns. Dropping the future closes the connection.
pub(crate) async fn keep(node: Arc<Node>, index: usize) {
    let lane = &node.lanes[index];
    let mut pause = PAUSE_MIN;
    loop {
        match attempt(&node).await {
            Ok(connection) => {
                lane.state.send_replace(LaneState::Up(connection.clone()));
                let since = Instant::now();
                let trouble = watch_over(&node, lane, connection).await;
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
            if let Some(generation) = admitted
                && trouble.is_silence()
                && breaker.silent(generation)
            {
                node.opened(*trouble);
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
async fn watch_over(node: &Node, lane: &Lane, mut connection: MultiplexedConnection) -> Trouble {
    loop {
        if timeout(HEARTBEAT, lane.renew.notified()).await.is_ok() {
            return Trouble::Connection;
        }
        let alive = timeout(READ_LIFE, ping(&mut connection)).await.unwrap_or(Err(Trouble::Timeout));
        if let Err(trouble) = alive {
            node.counters.trouble(trouble);
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
    fn jitter_takes_at_most_half_away() {
        for _ in 0..1_000 {
            let pause = jittered(PAUSE_MAX);
            assert!(pause >= PAUSE_MAX / 2 && pause <= PAUSE_MAX);
        }
    }
}
