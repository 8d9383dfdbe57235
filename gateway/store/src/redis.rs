//! The store in Redis: one MGET for everything a batch wants. Promises: a read ends within [`READ_LIFE`]
//! whatever the server does, is sent at most once, and every key gets an answer of its own. Serving only reads.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use ::redis::aio::MultiplexedConnection;
use ::redis::io::tcp::TcpSettings;
use ::redis::{Client, Cmd, IntoConnectionInfo, Pipeline, Value};
use bytes::Bytes;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::breaker::Generation;
use crate::flight::Answer;
use crate::lane::{Lane, LaneState};
use crate::{BreakerState, Counters, Trouble};

/// How long a read may go on, also when the request that began it has left. Longer than any sensible budget,
/// so that a slow answer still fills the cache; short, because a frozen server is only noticed by it.
pub(crate) const READ_LIFE: Duration = Duration::from_millis(250);
/// Keys per MGET. The server runs a command in one go: at 512 rows of half a kilobyte that is well below a
/// millisecond, so other clients' commands are not held up by our largest batch.
const MGET_KEYS_MAX: usize = 512;
/// Multiplexed connections per node. One already carries everything in flight; a second keeps reads going
/// while the first is being replaced and splits the parsing of replies over two cores.
const CONNECTIONS: usize = 2;

/// One Redis server. Clones are the same server; the last one to go closes the connections.
#[derive(Clone)]
pub struct Redis {
    node: Arc<Node>,
    /// Aborts the tasks that keep the connections when the last clone goes.
    _keepers: Arc<JoinSet<()>>,
}

/// A server as seen by reads and by the tasks that keep its connections.
pub(crate) struct Node {
    pub(crate) client: Client,
    pub(crate) lanes: Vec<Lane>,
    pub(crate) counters: Arc<Counters>,
    next: AtomicUsize,
}

/// One command of a batch, and the key it is about: the key decides which node is asked.
#[allow(dead_code, reason = "one node needs no key; a cluster will")]
pub(crate) struct Command {
    pub(crate) key: Bytes,
    pub(crate) cmd: Cmd,
}

/// A store URL that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("not a Redis URL this build can use; expected redis://[user:password@]host[:port][/db] or redis+unix:///path")]
pub struct UrlError {
    source: ::redis::RedisError,
}

/// Checks a URL without connecting.
pub(crate) fn client(url: &str) -> Result<Client, UrlError> {
    let check = || {
        let info = url.into_connection_info()?;
        // Off by default in the client library, and worth 40 ms on a command that follows another.
        let tcp = TcpSettings::default().set_nodelay(true);
        // One round trip less per connection, and users without CLIENT permission need none.
        let redis = info.redis_settings().clone().set_skip_set_lib_name();
        Client::open(info.set_tcp_settings(tcp).set_redis_settings(redis))
    };
    check().map_err(|source| UrlError { source })
}

impl Redis {
    /// Begins to connect in the background and returns at once: an unreachable server is no reason not to
    /// start. Must be called within a tokio runtime.
    pub fn open(url: &str) -> Result<Self, UrlError> {
        let client = client(url)?;
        let lanes = (0..CONNECTIONS).map(|_| Lane::default()).collect();
        let node = Arc::new(Node { client, lanes, counters: Arc::default(), next: AtomicUsize::new(0) });
        let mut keepers = JoinSet::new();
        for index in 0..CONNECTIONS {
            keepers.spawn(crate::lane::keep(node.clone(), index));
        }
        Ok(Self { node, _keepers: Arc::new(keepers) })
    }

    /// Waits until a connection is up, or until it is known why none is; for start-up checks and tests.
    pub async fn settled(&self) -> Result<(), Trouble> {
        self.node.connection().await.map(drop)
    }

    pub(crate) fn counters(&self) -> &Arc<Counters> {
        &self.node.counters
    }

    /// Why a read would fail at once, if it would.
    pub(crate) fn refusal(&self) -> Option<Trouble> {
        if self.node.counters.breaker.state() != BreakerState::Closed {
            return Some(Trouble::Breaker);
        }
        let mut why = None;
        for lane in &self.node.lanes {
            match &*lane.state.borrow() {
                LaneState::Up(..) | LaneState::Connecting => return None,
                LaneState::Down(trouble) => why = Some(*trouble),
            }
        }
        why
    }

    /// Reads these keys; one answer for each, in order.
    pub(crate) async fn read(&self, keys: &[Bytes]) -> Vec<Answer> {
        let counters = &self.node.counters;
        let failed = |trouble| {
            counters.trouble(trouble);
            vec![Answer::Failed(trouble); keys.len()]
        };
        let Some(generation) = counters.breaker.admit() else { return failed(Trouble::Breaker) };
        counters.store_batches.add(1);
        counters.store_keys.add(keys.len());
        match timeout(READ_LIFE, self.node.ask(keys)).await.unwrap_or(Err(Trouble::Timeout)) {
            Ok(answers) => {
                counters.breaker.answered(generation);
                answers
            }
            Err(trouble) => {
                self.node.failed(trouble, generation);
                failed(trouble)
            }
        }
    }

    /// Runs these commands in one pipeline; one reply for each, in order. What the server says against one of
    /// them is that one's trouble alone. They must only read, and need no more than one reply each.
    #[allow(dead_code, reason = "the readers of other layouts come next")]
    pub(crate) async fn run(&self, commands: Vec<Command>) -> Vec<Result<Value, Trouble>> {
        if commands.is_empty() {
            return vec![];
        }
        let (counters, count) = (&self.node.counters, commands.len());
        let failed = |trouble| {
            counters.trouble(trouble);
            vec![Err(trouble); count]
        };
        let Some(generation) = counters.breaker.admit() else { return failed(Trouble::Breaker) };
        counters.store_batches.add(1);
        counters.store_keys.add(count);
        match timeout(READ_LIFE, self.node.pipeline(commands)).await.unwrap_or(Err(Trouble::Timeout)) {
            Ok(replies) => {
                counters.breaker.answered(generation);
                replies
            }
            Err(trouble) => {
                self.node.failed(trouble, generation);
                failed(trouble)
            }
        }
    }
}

impl Node {
    async fn pipeline(&self, commands: Vec<Command>) -> Result<Vec<Result<Value, Trouble>>, Trouble> {
        let count = commands.len();
        let mut pipeline = Pipeline::with_capacity(count);
        for command in commands {
            pipeline.add_command(command.cmd);
        }
        let (lane, attempt, mut connection) = self.connection().await?;
        let replies = connection.send_packed_commands(&pipeline, 0, count).await.map_err(|e| Trouble::of_error(&e));
        let replies = replies.and_then(|r| if r.len() == count { Ok(r) } else { Err(Trouble::Protocol) });
        if matches!(replies, Err(Trouble::Connection | Trouble::Protocol)) {
            lane.condemn(attempt);
        }
        let mut said = Vec::new();
        let results = replies?.into_iter().map(|reply| match reply {
            Value::ServerError(error) => {
                let trouble = Trouble::of_reply(&error);
                // A batch counts once for each kind, however many of its commands it befell.
                if !said.contains(&trouble) {
                    said.push(trouble);
                    self.counters.trouble(trouble);
                }
                Err(trouble)
            }
            value => Ok(value),
        });
        Ok(results.collect())
    }

    async fn ask(&self, keys: &[Bytes]) -> Result<Vec<Answer>, Trouble> {
        let (lane, attempt, mut connection) = self.connection().await?;
        let asked = self.mget(&mut connection, keys).await;
        if matches!(asked, Err(Trouble::Connection | Trouble::Protocol)) {
            lane.condemn(attempt);
        }
        asked
    }

    async fn mget(&self, connection: &mut MultiplexedConnection, keys: &[Bytes]) -> Result<Vec<Answer>, Trouble> {
        let mut answers = Vec::with_capacity(keys.len());
        if keys.len() <= MGET_KEYS_MAX {
            let reply = connection.send_packed_command(&mget(keys)).await;
            self.take(reply.map_err(|e| Trouble::of_error(&e))?, keys.len(), &mut answers)?;
            return Ok(answers);
        }
        let mut pipeline = Pipeline::new();
        for chunk in keys.chunks(MGET_KEYS_MAX) {
            pipeline.add_command(mget(chunk));
        }
        let chunks = keys.chunks(MGET_KEYS_MAX);
        let replies = connection.send_packed_commands(&pipeline, 0, chunks.len()).await;
        let replies = replies.map_err(|e| Trouble::of_error(&e))?;
        if replies.len() != chunks.len() {
            return Err(Trouble::Protocol);
        }
        for (reply, chunk) in replies.into_iter().zip(chunks) {
            self.take(reply, chunk.len(), &mut answers)?;
        }
        Ok(answers)
    }

    /// One MGET's reply. A key that holds a list or a hash is nil in it, as if it were not there: it spoils no
    /// other key, and its entity is Missing.
    fn take(&self, reply: Value, keys: usize, answers: &mut Vec<Answer>) -> Result<(), Trouble> {
        match reply {
            Value::Array(items) if items.len() == keys => {
                for item in items {
                    answers.push(match item {
                        Value::BulkString(row) => Answer::Row(row.into()),
                        Value::Nil => Answer::Nothing,
                        _ => return Err(Trouble::Protocol),
                    });
                }
                Ok(())
            }
            // A server that can say what is wrong is there: this batch failed, the connection is fine.
            Value::ServerError(error) => {
                let trouble = Trouble::of_reply(&error);
                self.counters.trouble(trouble);
                answers.extend(std::iter::repeat_n(Answer::Failed(trouble), keys));
                Ok(())
            }
            // As many values as keys, or the replies no longer belong to the questions.
            _ => Err(Trouble::Protocol),
        }
    }

    /// The next connection that is up; waits for one that is being made for the first time.
    async fn connection(&self) -> Result<(&Lane, u64, MultiplexedConnection), Trouble> {
        let first = self.next.fetch_add(1, Relaxed);
        loop {
            let (mut why, mut coming) = (Trouble::Connection, None);
            for offset in 0..self.lanes.len() {
                let lane = &self.lanes[first.wrapping_add(offset) % self.lanes.len()];
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

    /// Counts silence against the breaker. When that opens it, all connections go: what is queued on them
    /// would only be answered too late, and a fresh connection is the probe.
    pub(crate) fn failed(&self, trouble: Trouble, of: Generation) {
        if trouble.is_silence() && self.counters.breaker.silent(of) {
            tracing::warn!(trouble = trouble.name(), "Redis does not answer; not asking until it does");
            self.lanes.iter().for_each(Lane::condemn_current);
        }
    }
}

fn mget(keys: &[Bytes]) -> Cmd {
    let mut command = Cmd::with_capacity(keys.len() + 1, keys.iter().map(Bytes::len).sum::<usize>() + 4);
    command.arg("MGET");
    for key in keys {
        command.arg(&key[..]);
    }
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::common::RedisServer;

    fn commands(lines: &[&str]) -> Vec<Command> {
        let command = |line: &&str| {
            let mut words = line.split(' ');
            let mut cmd = ::redis::cmd(words.next().unwrap_or_default());
            let words: Vec<&str> = words.collect();
            cmd.arg(&words);
            Command { key: Bytes::copy_from_slice(words[0].as_bytes()), cmd }
        };
        lines.iter().map(command).collect()
    }

    fn bulk(text: &str) -> Result<Value, Trouble> {
        Ok(Value::BulkString(text.as_bytes().to_vec()))
    }

    #[tokio::test]
    async fn commands_of_one_batch_are_answered_in_order_and_fail_alone() {
        let server = RedisServer::start();
        server.command(&["HSET", "h", "a", "1", "b", "2"]);
        server.command(&["SET", "s", "text"]);
        server.command(&["ACL", "SETUSER", "reader", "on", ">pw", "~*", "+ping", "+get", "+hmget", "+hgetall"]);
        let redis = Redis::open(&server.url().replace("//", "//reader:pw@")).unwrap();
        let asked = ["HMGET h b nothing a", "GET s", "HGETALL s", "HGETALL nobody", "LRANGE s 0 1", "GET h", "GET s"];
        let replies = redis.run(commands(&asked)).await;
        let hash = Ok(Value::Array(vec![Value::BulkString(b"2".into()), Value::Nil, Value::BulkString(b"1".into())]));
        let (wrong, not_allowed) = (Err(Trouble::WrongType), Err(Trouble::Permission));
        let nobody = Ok(Value::Array(vec![]));
        assert_eq!(replies, [hash, bulk("text"), wrong.clone(), nobody, not_allowed, wrong, bulk("text")]);
        let counters = redis.counters();
        assert_eq!((counters.store_batches.get(), counters.store_keys.get()), (1, 7));
        assert_eq!((counters.troubles(Trouble::WrongType), counters.troubles(Trouble::Permission)), (1, 1));
        assert_eq!(redis.run(vec![]).await, []);
        assert_eq!(counters.store_batches.get(), 1);
    }

    #[tokio::test]
    async fn a_batch_of_commands_to_a_frozen_server_ends_in_time() {
        let server = RedisServer::start();
        let redis = Redis::open(&server.url()).unwrap();
        redis.settled().await.unwrap();
        server.freeze();
        let began = tokio::time::Instant::now();
        let mut last = redis.run(commands(&["GET a", "GET b"])).await;
        assert_eq!(last, [Err(Trouble::Timeout), Err(Trouble::Timeout)]);
        assert!(began.elapsed() < READ_LIFE * 2, "{:?}", began.elapsed());
        while last[0] != Err(Trouble::Breaker) {
            assert!(began.elapsed() < READ_LIFE * 20);
            last = redis.run(commands(&["GET a"])).await;
        }
    }

    #[test]
    fn urls_are_checked_before_anything_connects() {
        for good in ["redis://localhost", "redis://u:p@10.0.0.1:7000/3", "redis+unix:///run/redis.sock"] {
            assert!(client(good).is_ok(), "{good}");
        }
        for bad in ["", "localhost:6379", "http://localhost", "rediss://localhost", "redis://:secret@/x/y"] {
            let error = client(bad).err().unwrap_or_else(|| panic!("{bad:?} was taken"));
            assert!(!error.to_string().contains("secret"));
        }
    }
}
