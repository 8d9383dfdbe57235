//! The store in Redis: one server, a cluster, or the master that sentinels watch, behind one type. Promises: a
//! read ends within [`READ_LIFE`] whatever the servers do, is sent at most once (once more to a replica where there is
//! one and the master is slow, and in a cluster where a node points to another), and every key gets an answer of its
//! own. Serving only reads.
//!
//! `address` and `url` say where Redis is, `dial` and `tls` get there, `mux` and `resp` speak over one connection that
//! many use, `lane` keeps it, `node` reads from one server, `shard` from a master or its replicas, by what `tempo` has
//! learnt; `cluster` (with `slots`) and `sentinel` know which server has what, and `follow` is what both
//! take; `track` hears of writes; `load` writes.

mod address;
mod cluster;
pub(crate) mod commands;
mod dial;
mod follow;
mod lane;
pub(crate) mod load;
mod mux;
mod node;
pub(crate) mod resp;
mod sentinel;
mod shard;
mod slots;
mod tempo;
mod tls;
mod track;
mod url;

use std::sync::Arc;

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

pub use address::{AddressError, RedisAddress, RedisLayout, RedisLogin, RedisTls, TlsCheck};
pub(crate) use node::READ_LIFE;
pub use shard::Replicas;
pub(crate) use shard::Waits;

use crate::breaker::Openings;
use crate::flight::Answer;
use crate::key::namespace_prefix;
use crate::tracking::Tracking;
use crate::{Counters, Trouble};
use cluster::{Cluster, Map};
use commands::Commands;
use dial::{Dialer, Place};
use node::{Alarm, Duty, Family, PIPELINES_MAX};
use sentinel::{Master, Sentinels};
use shard::{Shard, of_one_server};

/// A Redis. Clones are the same one; the last to go closes the connections.
#[derive(Clone)]
pub struct Redis {
    shared: Arc<Shared>,
}

struct Shared {
    layout: Layout,
    counters: Arc<Counters>,
    tracking: Option<Arc<Tracking>>,
    /// Aborts the tasks that follow the layout when the last clone goes.
    _followers: JoinSet<()>,
}

/// Which node has which key, as it was known once. A key that has moved since is redirected.
#[derive(Clone)]
pub(crate) struct Owners(Option<Arc<Map>>);

impl Owners {
    /// Keys with the same number are read from the same node. Who reads each node's keys on their own is not held up by
    /// another node.
    pub(crate) fn number(&self, key: &[u8]) -> usize {
        match &self.0 {
            None => 0,
            Some(map) => map.owner(key).unwrap_or(usize::MAX),
        }
    }

    fn shard(&self, number: usize) -> Option<&Arc<Shard>> {
        self.0.as_ref()?.shard(number)
    }
}

enum Layout {
    One(Shard),
    Cluster(Arc<Cluster>),
    Sentinel(Arc<Master>),
}

impl Redis {
    /// Begins to connect in the background and returns at once: an unreachable server is no reason not to
    /// start. Must be called within a tokio runtime.
    pub fn open(address: &RedisAddress) -> Result<Self, AddressError> {
        Self::open_with(address, Replicas::default())
    }

    /// The same, saying whether replicas are read from.
    pub fn open_with(address: &RedisAddress, replicas: Replicas) -> Result<Self, AddressError> {
        Self::begin(address, replicas, Arc::default(), None, Arc::default())
    }

    /// The same for requests on several runtimes, each with a connection of its own to every node. `tracked`: the namespace
    /// of stores that hear of writes by client tracking and forget at once what was written.
    pub fn open_on(
        homes: Arc<[Handle]>,
        address: &RedisAddress,
        replicas: Replicas,
        tracked: Option<&str>,
    ) -> Result<Self, AddressError> {
        let counters = Arc::<Counters>::default();
        let tracking = tracked.map(|namespace| Tracking::new(namespace_prefix(namespace), counters.clone()));
        Self::begin(address, replicas, counters, tracking.map(Arc::new), homes)
    }

    fn begin(
        address: &RedisAddress,
        replicas: Replicas,
        counters: Arc<Counters>,
        tracking: Option<Arc<Tracking>>,
        homes: Arc<[Handle]>,
    ) -> Result<Self, AddressError> {
        address.check()?;
        let mut followers = JoinSet::new();
        let is_sentinel = matches!(address.layout, RedisLayout::Sentinel { .. });
        let family = Family {
            dialer: Arc::new(Dialer::to_servers(address)?),
            duty: if is_sentinel { Duty::Master } else { Duty::Any },
            counters: counters.clone(),
            openings: Arc::new(Openings::default()),
            alarm: Arc::new(Alarm::default()),
            pipelines_max: if address.layout == RedisLayout::Cluster { PIPELINES_MAX } else { usize::MAX },
            tracking: tracking.clone(),
            homes,
        };
        let mut places = Place::all_of(address);
        let layout = match &address.layout {
            RedisLayout::Cluster => {
                let cluster = Arc::new(Cluster::new(family, replicas, places));
                followers.spawn(cluster.clone().follow());
                Layout::Cluster(cluster)
            }
            RedisLayout::Sentinel { .. } => {
                let sentinels = Sentinels::of(address, family.dialer.clone())?;
                let master = Arc::new(Master::new(family, replicas, sentinels));
                followers.spawn(master.clone().follow());
                Layout::Sentinel(master)
            }
            RedisLayout::Single | RedisLayout::Socket(_) => {
                let place = places.pop().ok_or_else(|| AddressError::new("a host is missing"))?;
                let copies = family.with(Duty::Replica);
                let copies = address.replicas.iter().map(|(host, port)| copies.node(Place::tcp(host, *port)));
                let copies = if replicas == Replicas::Read { copies.map(Arc::new).collect() } else { vec![] };
                Layout::One(Shard::new(Arc::new(family.node(place)), copies))
            }
        };
        Ok(Self { shared: Arc::new(Shared { layout, counters, tracking, _followers: followers }) })
    }

    /// Waits until connections are up, or until it is known why one is not; for start-up checks and tests.
    pub async fn settled(&self) -> Result<(), Trouble> {
        match &self.shared.layout {
            Layout::One(shard) => shard.master.connection().await.map(drop),
            Layout::Cluster(cluster) => cluster.settled().await,
            Layout::Sentinel(master) => master.shard().await?.master.connection().await.map(drop),
        }
    }

    pub(crate) fn counters(&self) -> &Arc<Counters> {
        &self.shared.counters
    }

    pub(crate) fn tracking(&self) -> Option<&Arc<Tracking>> {
        self.shared.tracking.as_ref()
    }

    /// Why a read would fail at once whatever its keys, if it would.
    pub(crate) fn refusal(&self) -> Option<Trouble> {
        match &self.shared.layout {
            Layout::One(shard) => shard.refusal(),
            Layout::Cluster(cluster) => cluster.refusal(),
            Layout::Sentinel(master) => master.refusal(),
        }
    }

    /// Which node has which key, as of now.
    pub(crate) fn owners(&self) -> Owners {
        match &self.shared.layout {
            Layout::One(_) | Layout::Sentinel(_) => Owners(None),
            Layout::Cluster(cluster) => Owners(cluster.map()),
        }
    }

    /// Reads these keys, which all have this number; one answer for each, in order.
    pub(crate) async fn read(&self, keys: &[&[u8]], owners: &Owners, number: usize, waits: &Waits) -> Vec<Answer> {
        match &self.shared.layout {
            Layout::One(shard) => shard.read(keys, waits).await,
            Layout::Cluster(cluster) => cluster.read(keys, owners.shard(number), waits).await,
            Layout::Sentinel(master) => match self.master(master).await {
                Ok(shard) => shard.read(keys, waits).await,
                Err(trouble) => vec![Answer::Failed(trouble); keys.len()],
            },
        }
    }

    /// Runs these commands, one pipeline per node and all nodes at once; the bytes of one reply for each, in order.
    /// What a server says against one of them is that one's trouble alone. They must only read, and be answered once
    /// each.
    pub(crate) async fn run(&self, commands: Commands, waits: &Waits) -> Vec<Result<Bytes, Trouble>> {
        if commands.len() == 0 {
            return vec![];
        }
        match &self.shared.layout {
            Layout::One(shard) => run_on(shard, commands, waits).await,
            Layout::Cluster(cluster) => cluster.ask(&commands, |_| true, waits).await,
            Layout::Sentinel(master) => match self.master(master).await {
                Ok(shard) => run_on(&shard, commands, waits).await,
                Err(trouble) => vec![Err(trouble); commands.len()],
            },
        }
    }

    async fn master(&self, master: &Master) -> Result<Arc<Shard>, Trouble> {
        let found = timeout(READ_LIFE, master.shard()).await.unwrap_or(Err(Trouble::Timeout));
        found.inspect_err(|trouble| self.shared.counters.trouble(*trouble))
    }
}

async fn run_on(shard: &Shard, commands: Commands, waits: &Waits) -> Vec<Result<Bytes, Trouble>> {
    let (count, deadline) = (commands.len(), Instant::now() + READ_LIFE);
    shard.counted(count);
    let heard = shard.exchange(commands.into_bytes().into(), count, |_| true, deadline, waits, of_one_server).await;
    match heard.what {
        Ok(replies) => shard.who(heard.instead).judged(replies),
        Err(trouble) => vec![Err(trouble); count],
    }
}

#[cfg(test)]
mod tests;
