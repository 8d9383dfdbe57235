//! The master that sentinels watch. Promises: nobody is believed to be the master without saying so itself, one
//! sentinel that is down or behind does not hide the others, and a new master is found when the sentinels
//! announce it, when the old one is lost or demoted, and every so often anyway.

use std::sync::Arc;
use std::time::Duration;

use ::redis::Value;
use ::redis::aio::PubSub;
use futures::StreamExt;

use super::address::{AddressError, RedisAddress, RedisLayout};
use super::dial::{CONNECT_TIMEOUT, DialError, Dialer, Place, within};
use super::follow::{Knowledge, Looked, Pace, first, from_anywhere};
use super::lane::is_master;
use super::node::{Family, Kept};
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
    sentinels: Sentinels,
    node: Knowledge<Arc<Kept>>,
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

    /// Where the master is, and the sentinel that said so. A server for which `is_trusted` is true is not asked
    /// whether it agrees.
    pub(super) async fn master(&self, is_trusted: impl Fn(&Place) -> bool) -> Result<(Place, Place), DialError> {
        let is_trusted = &is_trusted;
        let asked = from_anywhere(self.places.clone()).into_iter();
        let asked = asked.map(|sentinel| async move {
            let master = within(CONNECT_TIMEOUT, self.ask(&sentinel)).await?;
            if !is_trusted(&master) {
                within(CONNECT_TIMEOUT, self.verify(&master)).await?;
            }
            Ok((master, sentinel))
        });
        first(asked).await
    }

    async fn ask(&self, sentinel: &Place) -> Result<Place, DialError> {
        let (connection, _) = self.dialer.dial(sentinel).await?;
        let mut question = ::redis::cmd("SENTINEL");
        question.arg("GET-MASTER-ADDR-BY-NAME").arg(&self.name);
        let no = |kind, why: &str| Err(DialError { kind, source: why.into() });
        match connection.command(&question).await? {
            Value::ServerError(error) => Err(DialError { kind: Trouble::of_reply(&error), source: error.into() }),
            Value::Nil => no(Trouble::NoMaster, "the sentinel watches no master of this name"),
            reply => match ::redis::from_redis_value::<(String, u16)>(reply) {
                Ok((host, port)) if !host.is_empty() && port != 0 => Ok(Place::tcp(&host, port)),
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
    pub(super) fn new(family: Family, sentinels: Sentinels) -> Self {
        Self { family, sentinels, node: Knowledge::nothing() }
    }

    /// The master of now, or why none is known; waits while that is being found out for the first time.
    pub(super) async fn node(&self) -> Result<Arc<Kept>, Trouble> {
        self.node.settled().await
    }

    /// Why a read would fail at once, if it would.
    pub(super) fn refusal(&self) -> Option<Trouble> {
        match self.node.now()? {
            Ok(node) => node.refusal(),
            Err(trouble) => Some(trouble),
        }
    }

    /// Keeps to the master; never returns.
    pub(super) async fn follow(self: Arc<Self>) {
        let mut pace = Pace::of(LOOK_EVERY);
        let mut ear: Option<PubSub> = None;
        loop {
            let looked = match self.sentinels.master(|place| self.is_up(place)).await {
                Ok((master, sentinel)) => {
                    if ear.is_none() {
                        // Not every sentinel lets everybody subscribe; looking every so often has to do then.
                        ear = within(CONNECT_TIMEOUT, self.subscribe(&sentinel)).await.ok();
                    }
                    self.adopt(master)
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
        matches!(self.node.now(), Some(Ok(node)) if node.place == *place && node.is_up())
    }

    fn adopt(&self, master: Place) -> Looked {
        if matches!(self.node.now(), Some(Ok(node)) if node.place == master) {
            return Looked::Nothing;
        }
        tracing::info!(node = %master, "the sentinels' master is known");
        self.family.counters.topologies.add(1);
        self.node.learn(Arc::new(self.family.node(master)));
        Looked::News
    }

    fn lost(&self, error: &DialError) -> Looked {
        self.family.counters.trouble(error.kind);
        if self.node.lose(error.kind) {
            let (trouble, why) = (error.kind.name(), &error.source);
            tracing::warn!(trouble, %why, "no sentinel tells of a master; asking on");
        }
        match self.node.now() {
            Some(Ok(_)) => Looked::Nothing,
            _ if error.kind.is_configuration() => Looked::Refused,
            _ => Looked::InVain,
        }
    }
}
