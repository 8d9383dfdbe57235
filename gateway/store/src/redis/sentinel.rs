//! The master that sentinels watch, and its replicas. Promises: nobody is believed to be the master without saying so
//! itself, one sentinel that is down or behind does not hide the others, and a new master is found when the sentinels
//! announce it, when the old one is lost or demoted, and every so often anyway.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use ::redis::Value;
use ::redis::aio::PubSub;
use futures::StreamExt;

use super::address::{AddressError, RedisAddress, RedisLayout};
use super::dial::{CONNECT_TIMEOUT, DialError, Dialer, Place, within};
use super::follow::{Knowledge, Looked, Pace, first, from_anywhere};
use super::lane::is_master;
use super::node::{Duty, Family};
use super::shard::{Replicas, Shard};
use super::slots::REPLICAS_MAX;
use crate::Trouble;

/// How often the sentinels are asked without a reason, in case the one that should announce a change is gone.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Where sentinels say that a master has been replaced: "name old-host old-port new-host new-port".
const CHANNEL: &str = "+switch-master";

/// Who knows the master.
pub(super) struct Sentinels {
    places: Vec<Place>,
    /// To the sentinels.
    dialer: Dialer,
    /// To the servers they watch.
    servers: Arc<Dialer>,
    /// The name of the master.
    name: String,
}

/// The master of now.
pub(super) struct Master {
    family: Family,
    replicas: Replicas,
    sentinels: Sentinels,
    shard: Knowledge<Arc<Shard>>,
}

/// What a sentinel said.
pub(super) struct Found {
    pub(super) master: Place,
    replicas: Vec<Place>,
    sentinel: Place,
}

impl Sentinels {
    /// Those of the address; `servers` leads to the servers they watch.
    pub(super) fn of(address: &RedisAddress, servers: Arc<Dialer>) -> Result<Self, AddressError> {
        let RedisLayout::Sentinel { master, login, tls } = &address.layout else {
            return Err(AddressError::new("there are no sentinels at this address"));
        };
        let dialer = Dialer::to_sentinels(login, tls.as_ref())?;
        Ok(Self { places: Place::all_of(address), dialer, servers, name: master.clone() })
    }

    /// Where the master is. A server for which `is_trusted` is true is not asked whether it agrees.
    pub(super) async fn master(&self, is_trusted: impl Fn(&Place) -> bool) -> Result<Found, DialError> {
        let is_trusted = &is_trusted;
        let asked = from_anywhere(self.places.clone()).into_iter();
        let asked = asked.map(|sentinel| async move {
            let found = within(CONNECT_TIMEOUT, self.ask(sentinel)).await?;
            if !is_trusted(&found.master) {
                within(CONNECT_TIMEOUT, self.verify(&found.master)).await?;
            }
            Ok(found)
        });
        first(asked).await
    }

    async fn ask(&self, sentinel: Place) -> Result<Found, DialError> {
        let (connection, _) = self.dialer.dial(&sentinel).await?;
        let mut question = ::redis::cmd("SENTINEL");
        question.arg("GET-MASTER-ADDR-BY-NAME").arg(&self.name);
        let no = |kind, why: &str| Err(DialError { kind, source: why.into() });
        match connection.command(&question).await? {
            Value::ServerError(error) => Err(DialError { kind: Trouble::of_reply(&error), source: error.into() }),
            Value::Nil => no(Trouble::NoMaster, "the sentinel watches no master of this name"),
            reply => match ::redis::from_redis_value::<(String, u16)>(reply) {
                Ok((host, port)) if !host.is_empty() && port != 0 => {
                    let master = Place::tcp(&host, port);
                    let mut question = ::redis::cmd("SENTINEL");
                    // Who may not ask this does without.
                    let said = connection.command(question.arg("REPLICAS").arg(&self.name)).await?;
                    let mut replicas = read_replicas(said);
                    replicas.retain(|replica| *replica != master);
                    Ok(Found { master, replicas, sentinel })
                }
                _ => no(Trouble::Protocol, "what the sentinel says of the master is not understood"),
            },
        }
    }

    /// Asks the server itself: a sentinel that was cut off still names the master of before.
    async fn verify(&self, master: &Place) -> Result<(), DialError> {
        let (connection, _) = self.servers.dial(master).await?;
        match connection.command(&::redis::cmd("ROLE")).await? {
            // A user who may not ask has to believe the sentinel.
            Value::ServerError(error) if Trouble::of_reply(&error) == Trouble::Permission => Ok(()),
            role if is_master(&role) => Ok(()),
            _ => Err(DialError { kind: Trouble::NoMaster, source: "who is said to be the master is none".into() }),
        }
    }
}

impl Master {
    pub(super) fn new(family: Family, replicas: Replicas, sentinels: Sentinels) -> Self {
        Self { family, replicas, sentinels, shard: Knowledge::nothing() }
    }

    /// The master of now, or why none is known; waits while that is being found out for the first time.
    pub(super) async fn shard(&self) -> Result<Arc<Shard>, Trouble> {
        self.shard.settled().await
    }

    /// Why a read would fail at once, if it would.
    pub(super) fn refusal(&self) -> Option<Trouble> {
        match self.shard.now()? {
            Ok(shard) => shard.refusal(),
            Err(trouble) => Some(trouble),
        }
    }

    /// Keeps to the master; never returns.
    pub(super) async fn follow(self: Arc<Self>) {
        let mut pace = Pace::of(LOOK_EVERY);
        let mut ear: Option<PubSub> = None;
        loop {
            let looked = match self.sentinels.master(|place| self.is_up(place)).await {
                Ok(found) => {
                    if ear.is_none() {
                        // Not every sentinel lets everybody subscribe; looking every so often has to do then.
                        ear = within(CONNECT_TIMEOUT, self.subscribe(&found.sentinel)).await.ok();
                    }
                    self.adopt(found)
                }
                Err(error) => self.lost(&error),
            };
            let announced = self.announcement(&mut ear);
            let reason = async {
                tokio::select! {
                    () = announced => {}
                    () = self.family.alarm.rung() => {}
                }
            };
            pace.next(looked, reason).await;
        }
    }

    async fn subscribe(&self, sentinel: &Place) -> Result<PubSub, DialError> {
        let mut ear = self.sentinels.dialer.listen(sentinel).await?;
        ear.subscribe(CHANNEL).await?;
        Ok(ear)
    }

    /// Until this master is said to be replaced, or nobody is there any more to say so.
    async fn announcement(&self, ear: &mut Option<PubSub>) {
        let Some(open) = ear else { return std::future::pending().await };
        let mut messages = open.on_message();
        while let Some(message) = messages.next().await {
            let said = String::from_utf8_lossy(message.get_payload_bytes());
            if said.split(' ').next() == Some(&self.sentinels.name) {
                return;
            }
        }
        drop(messages);
        *ear = None;
    }

    /// Whether this is the master we use, and it does answer as one: its connections ask it all the time.
    fn is_up(&self, place: &Place) -> bool {
        matches!(self.shard.now(), Some(Ok(shard)) if shard.master.place == *place && shard.master.is_up())
    }

    fn adopt(&self, found: Found) -> Looked {
        let before = self.shard.now().and_then(Result::ok);
        let master = before.iter().map(|shard| &shard.master).find(|master| master.place == found.master);
        let wanted = if self.replicas == Replicas::Read { found.replicas } else { vec![] };
        let known = before.as_ref().map(|shard| &shard.replicas[..]).unwrap_or_default();
        if master.is_some() && known.iter().map(|replica| &replica.place).eq(&wanted) {
            return Looked::Nothing;
        }
        let is_same = master.is_some();
        let master = master.cloned().unwrap_or_else(|| {
            tracing::info!(node = %found.master, "the sentinels' master is known");
            self.family.counters.topologies.add(1);
            Arc::new(self.family.node(found.master))
        });
        let family = self.family.with(Duty::Replica);
        let kept = |place: Place| match known.iter().find(|replica| replica.place == place) {
            Some(replica) => replica.clone(),
            None => Arc::new(family.node(place)),
        };
        self.shard.learn(Arc::new(Shard::new(master, wanted.into_iter().map(kept).collect())));
        if is_same { Looked::Nothing } else { Looked::News }
    }

    fn lost(&self, error: &DialError) -> Looked {
        self.family.counters.trouble(error.kind);
        if self.shard.lose(error.kind) {
            let (trouble, why) = (error.kind.name(), &error.source);
            tracing::warn!(trouble, %why, "no sentinel tells of a master; asking on");
        }
        match self.shard.now() {
            Some(Ok(_)) => Looked::Nothing,
            _ if error.kind.is_configuration() => Looked::Refused,
            _ => Looked::InVain,
        }
    }
}

/// Replicas that are there, in a reply to SENTINEL REPLICAS: an array of arrays of names and values.
fn read_replicas(said: Value) -> Vec<Place> {
    let Ok(replicas) = ::redis::from_redis_value::<Vec<HashMap<String, String>>>(said) else { return vec![] };
    let there = |replica: &HashMap<String, String>| {
        let flags = replica.get("flags")?;
        let port = replica.get("port")?.parse().ok().filter(|port| *port != 0)?;
        let is_there = !flags.split(',').any(|flag| matches!(flag, "s_down" | "o_down" | "disconnected"));
        is_there.then_some(Place::tcp(replica.get("ip")?, port))
    };
    let mut places: Vec<Place> = replicas.iter().filter_map(there).collect();
    places.sort();
    places.truncate(REPLICAS_MAX);
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replicas_that_are_there_are_read() {
        let bulk = |text: &str| Value::BulkString(text.into());
        let replica = |port: &str, flags: &str| {
            let words = ["name", "x", "ip", "10.0.0.1", "port", port, "flags", flags, "master-link-status", "ok"];
            Value::Array(words.map(bulk).into())
        };
        let said = [replica("3", "slave"), replica("1", "s_down,slave"), replica("0", "slave"), replica("2", "slave")];
        assert_eq!(read_replicas(Value::Array(said.into())), [2, 3].map(|port| Place::tcp("10.0.0.1", port)));
        assert_eq!(read_replicas(Value::Nil), []);
        assert_eq!(read_replicas(Value::Array(vec![Value::Int(1)])), []);
    }
}
