//! Writes rows into Feast's hashes. Promises: an older row never replaces a newer one, also when several write at once
//! (Feast asks first and writes then; here the server does both in one step), and a row is written whole or not at all.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout_at};

use crate::{LoadCommand, LoadError, LoadReply, LoadScript, Loader, RedisAddress};

/// Writes a row unless the hash holds one as new: `KEYS[1]` the hash, then seconds and nanoseconds of the event time,
/// seconds until the hash expires (0 = never), and field and value over and over, the time's field first. Times that
/// are not after 1970 never hold up a write, as in Feast. Answers 1 when it wrote.
///
/// A stored time is a protobuf `Timestamp`: `08 seconds 10 nanos`, both varints. Lua's numbers have 53 bits, so a varint
/// is read in two halves. `unpack` has room for 8,000 values at most.
const WRITE_IF_NEWER: &str = r"
local stored = redis.call('HGET', KEYS[1], ARGV[4])
if stored then
  local at, fields = 1, {0, 0}
  while at <= #stored do
    local tag = string.byte(stored, at)
    at = at + 1
    local low, high, shift = 0, 0, 0
    while true do
      local byte = string.byte(stored, at)
      if not byte then break end
      at = at + 1
      local bits = byte % 128
      if shift < 28 then low = low + bits * 2 ^ shift else high = high + bits * 2 ^ (shift - 28) end
      shift = shift + 7
      if byte < 128 then break end
    end
    if high >= 2 ^ 35 then high = high - 2 ^ 36 end
    if tag == 8 then fields[1] = high * 2 ^ 28 + low elseif tag == 16 then fields[2] = low end
  end
  local seconds, nanos = tonumber(ARGV[1]), tonumber(ARGV[2])
  local is_after_1970 = fields[1] > 0 or (fields[1] == 0 and fields[2] > 0)
  if is_after_1970 and (seconds < fields[1] or (seconds == fields[1] and nanos <= fields[2])) then return 0 end
end
local at = 4
while at <= #ARGV do
  redis.call('HSET', KEYS[1], unpack(ARGV, at, math.min(at + 3999, #ARGV)))
  at = at + 4000
end
if ARGV[3] ~= '0' then redis.call('EXPIRE', KEYS[1], ARGV[3]) end
return 1
";
/// Connections kept for the next write. Pushes come one after another from a few writers.
const IDLE_MAX: usize = 4;
/// Writes at a time, each over connections of its own, one to each node. Redis does one thing at a time: a few keep it busy,
/// and more take from those who read.
const CONNECTIONS_MAX: usize = 16;
/// Writes that may wait for their turn. Each keeps its rows in memory meanwhile, and its place among the requests in
/// flight, which are mostly reads.
const WAITING_MAX: usize = 48;

/// One view's part of one hash.
#[derive(Clone, Debug, PartialEq)]
pub struct HashWrite {
    /// The name of the hash.
    pub key: Vec<u8>,
    /// Seconds and nanoseconds of the event time.
    pub time: (i64, i32),
    /// Fields with their values, the field with the event time first.
    pub fields: Vec<(Vec<u8>, Vec<u8>)>,
}

/// How rows are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HashWriteSettings {
    /// Hashes that are written expire after this.
    pub key_ttl: Option<Duration>,
    /// Rows are written whatever the store holds.
    pub blind: bool,
}

/// Writes into the hashes of one Redis.
pub struct HashWriter {
    address: RedisAddress,
    settings: HashWriteSettings,
    idle: Mutex<Vec<Ready>>,
    turns: Semaphore,
    waiting: Semaphore,
}

/// A connection that knows the script.
struct Ready {
    loader: Loader,
    script: LoadScript,
}

impl HashWriter {
    /// Connects when there is something to write.
    pub fn new(address: RedisAddress, settings: HashWriteSettings) -> Self {
        let (turns, waiting) = (Semaphore::new(CONNECTIONS_MAX), Semaphore::new(WAITING_MAX));
        Self { address, settings, idle: Mutex::default(), turns, waiting }
    }

    /// Writes rows in their order and says how many were newer than what was there. `None` when nothing was done, because
    /// until then others were writing, or because too many were waiting for them already.
    pub async fn write_by(&self, until: Instant, rows: Vec<HashWrite>) -> Option<Result<usize, LoadError>> {
        let _turn = self.turn(until).await?;
        Some(self.write(rows).await)
    }

    /// The same for one that writes alone.
    pub async fn write(&self, rows: Vec<HashWrite>) -> Result<usize, LoadError> {
        let idle = self.idle().pop();
        let mut ready = match idle {
            Some(ready) => ready,
            None => self.connect().await?,
        };
        let commands: Vec<LoadCommand> =
            rows.into_iter().flat_map(|row| commands(&ready.script, row, self.settings)).collect();
        // On failure the connection goes: whoever writes next makes a fresh one.
        let replies = ready.loader.run(commands).await?;
        self.keep(ready);
        let mut written = 0;
        for reply in replies {
            match reply {
                LoadReply::Refused { kind, message } => return Err(LoadError::Refused { kind, message }),
                LoadReply::Integer(1) => written += 1,
                _ => {}
            }
        }
        Ok(written)
    }

    async fn turn(&self, until: Instant) -> Option<SemaphorePermit<'_>> {
        if let Ok(turn) = self.turns.try_acquire() {
            return Some(turn);
        }
        let _place = self.waiting.try_acquire().ok()?;
        timeout_at(until, self.turns.acquire()).await.ok()?.ok()
    }

    async fn connect(&self) -> Result<Ready, LoadError> {
        let mut loader = Loader::connect(&self.address).await?;
        let script = loader.script(WRITE_IF_NEWER).await?;
        Ok(Ready { loader, script })
    }

    fn keep(&self, ready: Ready) {
        let mut idle = self.idle();
        if idle.len() < IDLE_MAX {
            idle.push(ready);
        }
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Ready>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn commands(script: &LoadScript, row: HashWrite, settings: HashWriteSettings) -> Vec<LoadCommand> {
    let HashWrite { key, time: (seconds, nanos), fields } = row;
    let key = Bytes::from(key);
    let ttl = settings.key_ttl.map_or(0, |ttl| ttl.as_secs());
    let with_fields =
        |command: LoadCommand| fields.iter().fold(command, |command, (field, value)| command.arg(field).arg(value));
    if !settings.blind {
        let command = LoadCommand::script(script, &key);
        let command = command.arg(seconds.to_string()).arg(nanos.to_string()).arg(ttl.to_string());
        return vec![with_fields(command)];
    }
    let mut commands = vec![with_fields(LoadCommand::new("HSET", &key))];
    if ttl > 0 {
        commands.push(LoadCommand::new("EXPIRE", &key).arg(ttl.to_string()));
    }
    commands
}
