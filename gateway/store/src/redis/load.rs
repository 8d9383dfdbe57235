//! Writes into Redis, for `weir load` and whoever else fills a store. It has connections of its own and is no
//! part of [`Redis`](crate::Redis): serving only ever reads. Promises: every node is kept busy with
//! [`CHUNKS_AHEAD`] chunks at a time, and in a cluster or behind sentinels a failover is waited for.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use ::redis::{Cmd, Pipeline, Value};
use bytes::Bytes;
use futures::future::join_all;
use futures::{StreamExt, stream};
use tokio::time::{Instant, sleep, timeout};

use super::address::{AddressError, RedisAddress, RedisLayout};
use super::cluster;
use super::dial::{Connection, DialError, Dialer, Place, within};
use super::follow::{first, from_anywhere};
use super::lane::jittered;
use super::sentinel::Sentinels;
use super::slots::{Redirect, Table, read_redirect, slot_of};
use crate::Trouble;

/// Commands per pipeline: enough that round trips do not count, few enough that a chunk of ordinary rows stays
/// below a megabyte.
pub const LOAD_CHUNK_ROWS: usize = 1_000;
/// Bytes per pipeline, for rows that are not ordinary.
const CHUNK_BYTES: usize = 1 << 20;
/// Chunks under way to one node: while it works on one, the next is already there.
const CHUNKS_AHEAD: usize = 3;
/// A server busy with a snapshot may take seconds over a chunk; a dead one must not hold the loader for ever.
const CHUNK_TIMEOUT: Duration = Duration::from_secs(30);
/// To connect, greet and log in.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a failover is waited for. Redis takes its node timeout, 15 s unless told otherwise, to begin one.
const PATIENCE: Duration = Duration::from_secs(30);
/// Pause before the second attempt at what failed (the first has none); doubles with each.
const PAUSE_MIN: Duration = Duration::from_millis(20);
/// Longest pause between attempts.
const PAUSE_MAX: Duration = Duration::from_millis(500);

/// Writes into Redis.
pub struct Loader {
    servers: Arc<Dialer>,
    way: Way,
    lines: HashMap<Place, Connection>,
    /// Scripts that every node must know.
    scripts: Vec<String>,
}

/// How the server for a key is found.
enum Way {
    One(Place),
    Cluster { seeds: Vec<Place>, table: Table },
    Sentinel { sentinels: Sentinels, master: Option<Place> },
}

/// A command that writes one key.
///
/// It may be sent again when its reply was lost, so doing it twice has to be the same as doing it once.
#[derive(Clone, Debug)]
pub struct LoadCommand {
    key: Bytes,
    cmd: Cmd,
    /// Of key and arguments.
    bytes: usize,
}

/// A script that the loader has taught to its servers.
#[derive(Clone, Debug)]
pub struct LoadScript {
    sha: String,
}

/// What a server says to a command.
#[derive(Clone, Debug, PartialEq)]
pub enum LoadReply {
    /// Nil.
    Nothing,
    /// A number.
    Integer(i64),
    /// A text or bytes; `OK` is one.
    Text(Bytes),
    /// Several.
    List(Vec<LoadReply>),
    /// It was not done.
    Refused {
        /// The kind of the refusal.
        kind: Trouble,
        /// The server's own words.
        message: String,
    },
}

/// Why rows could not be written.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The address is not one we can use.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// A server could not be reached, or what it said was no answer.
    #[error("Redis at {node} does not answer ({})", kind.name())]
    Connection {
        /// The server.
        node: String,
        /// The kind of the failure.
        kind: Trouble,
        /// What was seen of it.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A server refused a row or a script; others may be written.
    #[error("Redis refused it ({}): {message}", kind.name())]
    Refused {
        /// The kind of the refusal.
        kind: Trouble,
        /// The server's own words.
        message: String,
    },
}

impl LoadCommand {
    /// `NAME key`, to be completed with arguments.
    pub fn new(name: &str, key: &Bytes) -> Self {
        let mut cmd = ::redis::cmd(name);
        cmd.arg(&key[..]);
        Self { key: key.clone(), cmd, bytes: key.len() }
    }

    /// Runs a script on one key (`KEYS[1]`), to be completed with arguments (`ARGV`).
    pub fn script(script: &LoadScript, key: &Bytes) -> Self {
        let mut cmd = ::redis::cmd("EVALSHA");
        cmd.arg(&script.sha).arg(1).arg(&key[..]);
        Self { key: key.clone(), cmd, bytes: key.len() }
    }

    /// With one more argument.
    pub fn arg(mut self, argument: impl AsRef<[u8]>) -> Self {
        self.bytes += argument.as_ref().len();
        self.cmd.arg(argument.as_ref());
        self
    }
}

impl LoadReply {
    fn of(value: Value) -> Self {
        match value {
            Value::Nil => Self::Nothing,
            Value::Int(n) => Self::Integer(n),
            Value::Boolean(yes) => Self::Integer(yes.into()),
            Value::Okay => Self::Text(Bytes::from_static(b"OK")),
            Value::SimpleString(text) => Self::Text(text.into()),
            Value::BulkString(bytes) => Self::Text(bytes.into()),
            Value::Array(items) | Value::Set(items) => Self::List(items.into_iter().map(Self::of).collect()),
            Value::ServerError(error) => Self::Refused { kind: Trouble::of_reply(&error), message: error.to_string() },
            // What the protocol we speak has no replies of.
            _ => Self::Refused { kind: Trouble::Protocol, message: "an unknown kind of reply".to_owned() },
        }
    }
}

/// A command on its way, with its place in the batch.
struct Errand {
    place: usize,
    command: LoadCommand,
    /// Where a node of the cluster said it should go.
    redirect: Option<Redirect>,
}

/// What came of one chunk.
#[derive(Default)]
struct Returned {
    done: Vec<(usize, LoadReply)>,
    /// To be tried again.
    failed: Vec<Errand>,
    /// What the server could not be asked, or said of those that failed.
    why: Option<LoadError>,
    /// The connection is of no use any more.
    is_broken: bool,
}

impl Loader {
    /// Connects, or says why not: a loader has nothing to do without its servers.
    pub async fn connect(address: &RedisAddress) -> Result<Self, LoadError> {
        address.check()?;
        let servers = Arc::new(Dialer::to_servers(address)?);
        let mut places = Place::all_of(address);
        let way = match &address.layout {
            RedisLayout::Cluster => Way::Cluster { seeds: places, table: Table::of(vec![]) },
            RedisLayout::Sentinel { .. } => {
                Way::Sentinel { sentinels: Sentinels::of(address, servers.clone())?, master: None }
            }
            RedisLayout::Single | RedisLayout::Socket(_) => {
                Way::One(places.pop().ok_or_else(|| AddressError::new("a host is missing"))?)
            }
        };
        let mut loader = Self { servers, way, lines: HashMap::new(), scripts: vec![] };
        loader.find_way().await?;
        let places = match &loader.way {
            Way::One(place) => vec![place.clone()],
            Way::Sentinel { master, .. } => master.iter().cloned().collect(),
            Way::Cluster { table, .. } => table.places.clone(),
        };
        for place in places {
            loader.line(&place).await.map_err(|e| unanswered(&place, e))?;
        }
        Ok(loader)
    }

    /// Writes (key, packed row) pairs in place of what was there.
    pub async fn write(&mut self, rows: &[(Bytes, Bytes)]) -> Result<(), LoadError> {
        let set = rows.iter().map(|(key, row)| LoadCommand::new("SET", key).arg(row));
        for reply in self.run(set.collect()).await? {
            if let LoadReply::Refused { kind, message } = reply {
                return Err(LoadError::Refused { kind, message });
            }
        }
        Ok(())
    }

    /// Teaches a Lua script to every server there is or will be.
    pub async fn script(&mut self, text: &str) -> Result<LoadScript, LoadError> {
        let mut sha = None;
        for (place, line) in &mut self.lines {
            sha = match within(CONNECT_TIMEOUT, teach(line, text)).await {
                Ok(sha) => Some(sha),
                Err(error) if error.kind.is_silence() => return Err(unanswered(place, error)),
                Err(error) => return Err(LoadError::Refused { kind: error.kind, message: error.source.to_string() }),
            };
        }
        let nobody = || DialError { kind: Trouble::Connection, source: "there is no connection".into() };
        let sha = sha.ok_or_else(nobody).map_err(|e| unanswered(&"any node", e))?;
        self.scripts.push(text.to_owned());
        Ok(LoadScript { sha })
    }

    /// Runs these commands, each on the server that has its key; one reply for each, in order. Commands on the
    /// same key are done in their order, except that while a slot is being moved those that have to be tried
    /// again come after the others.
    pub async fn run(&mut self, commands: Vec<LoadCommand>) -> Result<Vec<LoadReply>, LoadError> {
        let mut replies = vec![LoadReply::Nothing; commands.len()];
        let errand = |(place, command)| Errand { place, command, redirect: None };
        let mut todo: Vec<Errand> = commands.into_iter().enumerate().map(errand).collect();
        let (mut pause, mut give_up) = (Duration::ZERO, None);
        while !todo.is_empty() {
            let (failed, why) = self.round(todo, &mut replies).await;
            todo = failed;
            let Some(why) = why else { continue };
            let give_up = *give_up.get_or_insert_with(|| Instant::now() + PATIENCE);
            if Instant::now() + pause >= give_up || self.is_hopeless(&why) {
                return Err(why);
            }
            sleep(jittered(pause)).await;
            pause = (pause * 2).clamp(PAUSE_MIN, PAUSE_MAX);
            // Not found is no reason to stop: it may be there the next time.
            let _ = self.find_way().await;
        }
        Ok(replies)
    }

    /// Nobody takes the place of a server that stands alone.
    fn is_hopeless(&self, why: &LoadError) -> bool {
        matches!((&self.way, why), (Way::One(_), LoadError::Connection { .. }))
    }

    /// Sends everything once. Returns what has to be sent again, and why.
    async fn round(&mut self, todo: Vec<Errand>, replies: &mut [LoadReply]) -> (Vec<Errand>, Option<LoadError>) {
        let mut failed = Vec::new();
        let mut why = None;
        let mut by_node: HashMap<Place, Vec<Errand>> = HashMap::new();
        for errand in todo {
            match self.place_of(&errand) {
                Some(place) => by_node.entry(place).or_default().push(errand),
                None => {
                    let source = "no node has its slot".into();
                    why = Some(unanswered(&"any node", DialError { kind: Trouble::NoOwner, source }));
                    failed.push(errand);
                }
            }
        }
        let mut ready = Vec::new();
        for (place, errands) in by_node {
            match self.line(&place).await {
                Ok(line) => ready.push((place, line, errands)),
                Err(error) => {
                    why = Some(unanswered(&place, error));
                    failed.extend(errands.into_iter().map(|errand| Errand { redirect: None, ..errand }));
                }
            }
        }
        let can_wait = !matches!(self.way, Way::One(_));
        let nodes = ready.into_iter().map(|(place, line, errands)| async move {
            let sent = chunks(errands).map(|chunk| send(&place, line.clone(), chunk, can_wait));
            let returned: Vec<Returned> = stream::iter(sent).buffered(CHUNKS_AHEAD).collect().await;
            (place, returned)
        });
        for (place, returned) in join_all(nodes).await {
            for chunk in returned {
                chunk.done.into_iter().for_each(|(at, reply)| replies[at] = reply);
                failed.extend(chunk.failed);
                why = chunk.why.or(why);
                if chunk.is_broken {
                    self.lines.remove(&place);
                }
            }
        }
        // As they came: chunks fail out of order.
        failed.sort_by_key(|errand| errand.place);
        (failed, why)
    }

    fn place_of(&self, errand: &Errand) -> Option<Place> {
        if let Some(redirect) = &errand.redirect {
            return Some(redirect.to.clone());
        }
        match &self.way {
            Way::One(place) => Some(place.clone()),
            Way::Sentinel { master, .. } => master.clone(),
            Way::Cluster { table, .. } => {
                table.owner(slot_of(&errand.command.key)).map(|owner| table.places[owner].clone())
            }
        }
    }

    /// The connection to this server, which knows all scripts.
    async fn line(&mut self, place: &Place) -> Result<Connection, DialError> {
        if let Some(line) = self.lines.get(place) {
            return Ok(line.clone());
        }
        let (scripts, servers) = (&self.scripts, &self.servers);
        let made = within(CONNECT_TIMEOUT, async {
            let (line, _) = servers.dial(place).await?;
            for script in scripts {
                teach(&line, script).await?;
            }
            Ok(line)
        });
        let line = made.await?;
        self.lines.insert(place.clone(), line.clone());
        Ok(line)
    }

    /// Finds out who has what.
    async fn find_way(&mut self) -> Result<(), LoadError> {
        match &mut self.way {
            Way::One(_) => {}
            Way::Cluster { seeds, table } => {
                let mut known = from_anywhere(table.places.clone());
                known.extend(from_anywhere(seeds.clone()));
                let servers = &self.servers;
                let looks = known.into_iter().map(|place| {
                    within(CONNECT_TIMEOUT, async move {
                        let (line, _) = servers.dial(&place).await?;
                        cluster::table(&line, &place).await
                    })
                });
                *table = first(looks).await.map_err(|e| unanswered(&"any node", e))?;
            }
            Way::Sentinel { sentinels, master } => {
                let found = sentinels.master(|_| false).await;
                *master = Some(found.map_err(|e| unanswered(&"the sentinels' master", e))?.master);
            }
        }
        Ok(())
    }
}

fn chunks(errands: Vec<Errand>) -> impl Iterator<Item = Vec<Errand>> {
    let mut errands = errands.into_iter().peekable();
    std::iter::from_fn(move || {
        let (mut chunk, mut bytes) = (Vec::new(), 0);
        while let Some(next) = errands.next_if(|_| chunk.len() < LOAD_CHUNK_ROWS && bytes < CHUNK_BYTES) {
            bytes += next.command.bytes;
            chunk.push(next);
        }
        (!chunk.is_empty()).then_some(chunk)
    })
}

/// Sends one chunk. `can_wait` says whether there is hope for what a server will not do right now.
async fn send(place: &Place, line: Connection, mut chunk: Vec<Errand>, can_wait: bool) -> Returned {
    let mut pipeline = Pipeline::with_capacity(chunk.len());
    let mut at = Vec::with_capacity(chunk.len());
    for errand in &mut chunk {
        if errand.redirect.take().is_some_and(|redirect| redirect.is_ask) {
            pipeline.cmd("ASKING");
        }
        at.push(pipeline.len());
        pipeline.add_command(std::mem::replace(&mut errand.command.cmd, Cmd::new()));
    }
    let mut returned = Returned::default();
    let replies = timeout(CHUNK_TIMEOUT, line.pipeline(&pipeline)).await.unwrap_or(Err(Trouble::Timeout));
    let sent: Vec<&Cmd> = pipeline.cmd_iter().collect();
    let mut again = |mut errand: Errand, at: usize| {
        errand.command.cmd = sent[at].clone();
        returned.failed.push(errand);
    };
    let mut replies = match replies {
        Ok(replies) => replies,
        Err(kind) => {
            chunk.into_iter().zip(at).for_each(|(errand, at)| again(errand, at));
            let source = "the connection was lost, or nothing came over it".into();
            returned.why = Some(unanswered(place, DialError { kind, source }));
            returned.is_broken = true;
            return returned;
        }
    };
    for (mut errand, at) in chunk.into_iter().zip(at) {
        let reply = std::mem::replace(&mut replies[at], Value::Nil);
        let Value::ServerError(error) = &reply else {
            returned.done.push((errand.place, LoadReply::of(reply)));
            continue;
        };
        let kind = Trouble::of_reply(error);
        let is_unknown_script = error.code() == "NOSCRIPT";
        // A new connection is taught all of them.
        returned.is_broken |= is_unknown_script;
        if is_unknown_script || (can_wait && may_pass(kind)) {
            errand.redirect = read_redirect(error.code(), error.details(), place);
            again(errand, at);
            returned.why = Some(LoadError::Refused { kind, message: error.to_string() });
        } else {
            returned.done.push((errand.place, LoadReply::of(reply)));
        }
    }
    returned
}

/// What a cluster or a failover says while it is under way.
fn may_pass(kind: Trouble) -> bool {
    kind.is_news_of_others()
        || matches!(kind, Trouble::TryAgain | Trouble::Loading | Trouble::NoReplicas | Trouble::Script)
}

async fn teach(line: &Connection, script: &str) -> Result<String, DialError> {
    let said = line.command(::redis::cmd("SCRIPT").arg("LOAD").arg(script)).await?;
    match LoadReply::of(said) {
        LoadReply::Text(sha) => Ok(String::from_utf8_lossy(&sha).into_owned()),
        LoadReply::Refused { kind, message } => Err(DialError { kind, source: message.into() }),
        _ => Err(DialError { kind: Trouble::Protocol, source: "SCRIPT LOAD was not answered with a digest".into() }),
    }
}

fn unanswered(node: &impl ToString, error: DialError) -> LoadError {
    LoadError::Connection { node: node.to_string(), kind: error.kind, source: error.source }
}
