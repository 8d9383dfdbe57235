//! A Redis Cluster, read by our own map of its slots: keys are grouped by node, one pipeline per node, all nodes
//! at once. Promises: a node that is gone fails its own keys alone, a key is redirected at most once, and the
//! map is looked at again, in the background, whenever something says that it is old.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ::redis::Value;
use bytes::{Buf, Bytes};
use futures::future::join_all;
use tokio::time::{Instant, timeout_at};

use super::commands::Commands;
use super::dial::{CONNECT_TIMEOUT, Connection, DialError, Place, within};
use super::follow::{Knowledge, Looked, Pace, first, from_anywhere};
use super::node::{Duty, Family, Kept, READ_LIFE};
use super::resp::{self, Element, Elements};
use super::shard::{Heard, Replicas, Shard, Waits, of_cluster};
use super::slots::{Redirect, Table, read_redirect, read_slots, slot_of};
use crate::Trouble;
use crate::flight::Answer;

/// How often the map is looked at without a reason: often enough that a change which no read has run into (a
/// slot that nobody asks for) is known before it matters, rarely enough to be no load.
const LOOK_EVERY: Duration = Duration::from_secs(15);
/// Most masters of a cluster, which is also what Redis recommends. Connections to more would not be a cluster
/// but somebody making up redirects.
const NODES_MAX: usize = 1_000;
/// A node that owns no slot but was redirected to (one that slots are being moved to) keeps its connections
/// for this long after it was last asked.
const GUEST_STAYS: Duration = Duration::from_secs(60);

pub(super) struct Cluster {
    family: Family,
    replicas: Replicas,
    seeds: Vec<Place>,
    map: Knowledge<Arc<Map>>,
    /// Every node with connections of ours: those of the map, and guests.
    nodes: Mutex<HashMap<Place, Resident>>,
    /// Who last told us that a key is elsewhere, and so knows better than we do.
    knows_better: Mutex<Option<Place>>,
}

struct Resident {
    kept: Arc<Kept>,
    /// When it was last asked for what the map did not say it has.
    asked_as_guest: Option<Instant>,
}

/// Who owns which slot.
pub(super) struct Map {
    table: Table,
    /// One per place of the table.
    shards: Vec<Arc<Shard>>,
}

/// The commands of one batch that go to one node.
struct Group {
    shard: Arc<Shard>,
    bytes: Vec<u8>,
    /// Commands in `bytes`.
    count: usize,
    /// The commands' places in the batch, and in `bytes`.
    members: Vec<(usize, usize)>,
}

impl Group {
    fn of(shard: Arc<Shard>, size: usize) -> Self {
        Self { shard, bytes: Vec::new(), count: 0, members: Vec::with_capacity(size) }
    }

    /// All of them.
    fn whole(shard: Arc<Shard>, commands: &Commands) -> Self {
        let (bytes, count) = (commands.bytes().to_vec(), commands.len());
        Self { shard, bytes, count, members: (0..count).map(|member| (member, member)).collect() }
    }

    fn push(&mut self, member: usize, command: &[u8]) {
        self.members.push((member, self.count));
        self.bytes.extend_from_slice(command);
        self.count += 1;
    }
}

impl Map {
    /// Which of the shards has this key.
    pub(super) fn owner(&self, key: &[u8]) -> Option<usize> {
        self.table.owner(slot_of(key))
    }

    pub(super) fn shard(&self, owner: usize) -> Option<&Arc<Shard>> {
        self.shards.get(owner)
    }
}

impl Cluster {
    pub(super) fn new(family: Family, replicas: Replicas, seeds: Vec<Place>) -> Self {
        Self {
            family,
            replicas,
            seeds,
            map: Knowledge::nothing(),
            nodes: Mutex::default(),
            knows_better: Mutex::default(),
        }
    }

    /// Waits until every master has a connection, or until it is known why one has none.
    pub(super) async fn settled(&self) -> Result<(), Trouble> {
        for shard in &self.map.settled().await?.shards {
            shard.master.connection().await?;
        }
        Ok(())
    }

    /// Why every key would fail at once, if all would.
    pub(super) fn refusal(&self) -> Option<Trouble> {
        match self.map.now()? {
            Err(trouble) => Some(trouble),
            Ok(map) => {
                let mut why = None;
                for shard in &map.shards {
                    why = Some(shard.refusal()?);
                }
                why
            }
        }
    }

    /// Who owns which slot, if that is known.
    pub(super) fn map(&self) -> Option<Arc<Map>> {
        self.map.now().and_then(Result::ok)
    }

    /// Reads these keys, all of which this shard has if one is named; one answer for each, in order.
    pub(super) async fn read(&self, keys: &[&[u8]], of: Option<&Arc<Shard>>, waits: &Waits) -> Vec<Answer> {
        let mut gets = Commands::with_capacity(keys.len(), keys.iter().map(|key| key.len() + 24).sum());
        keys.iter().for_each(|key| gets.push("GET", key, std::iter::empty()));
        let is_row = |reply: &[u8]| reply.starts_with(b"$");
        let answer = |reply: Result<Bytes, Trouble>| match reply {
            Ok(mut reply) => match Elements::of(&reply).next() {
                Ok(Some(Element::Bulk(row))) => {
                    let (row, end) = (row.len(), resp::LINE_END_BYTES);
                    reply.advance(reply.len() - row - end);
                    reply.truncate(row);
                    Answer::Row(reply)
                }
                Ok(Some(Element::Nil)) => Answer::Nothing,
                _ => Answer::Failed(Trouble::Protocol),
            },
            // As MGET has it: a key that holds something else is not there. Here it is at least counted.
            Err(Trouble::WrongType) => Answer::Nothing,
            Err(trouble) => Answer::Failed(trouble),
        };
        let replies = match of {
            Some(shard) => {
                shard.counted(keys.len());
                let groups = vec![Group::whole(shard.clone(), &gets)];
                self.ask_groups(groups, &gets, is_row, Instant::now() + READ_LIFE, waits).await
            }
            None => self.ask(&gets, is_row, waits).await,
        };
        replies.into_iter().map(answer).collect()
    }

    /// Sends every command to the owner of its slot; one reply for each, in order. Replies other than errors that
    /// do not fit the commands end the connection they came on.
    pub(super) async fn ask(
        &self,
        commands: &Commands,
        fits: fn(&[u8]) -> bool,
        waits: &Waits,
    ) -> Vec<Result<Bytes, Trouble>> {
        let deadline = Instant::now() + READ_LIFE;
        let count = commands.len();
        let map = match timeout_at(deadline, self.map.settled()).await.unwrap_or(Err(Trouble::Timeout)) {
            Ok(map) => map,
            Err(trouble) => {
                self.family.counters.trouble(trouble);
                return vec![Err(trouble); count];
            }
        };
        self.ask_groups(self.by_owner(&map, commands), commands, fits, deadline, waits).await
    }

    async fn ask_groups(
        &self,
        groups: Vec<Group>,
        commands: &Commands,
        fits: fn(&[u8]) -> bool,
        deadline: Instant,
        waits: &Waits,
    ) -> Vec<Result<Bytes, Trouble>> {
        let mut replies = vec![Err(Trouble::NoOwner); commands.len()];
        let mut redirects = Vec::new();
        for (group, heard) in exchanged(groups, fits, deadline, waits).await {
            self.take(&group, heard, &mut replies, Some(&mut redirects));
        }
        if !redirects.is_empty() {
            let groups = self.by_redirect(redirects, commands, &mut replies);
            for (group, heard) in exchanged(groups, |_| true, deadline, waits).await {
                self.take(&group, heard, &mut replies, None);
            }
        }
        replies
    }

    /// One group per node; what nobody owns is in none.
    fn by_owner(&self, map: &Map, commands: &Commands) -> Vec<Group> {
        let count = commands.len();
        // A little more than a fair share each, so that most groups grow at most once.
        let share = count / map.shards.len().max(1) * 5 / 4 + 4;
        let mut groups: Vec<Group> = Vec::new();
        let mut group_of = vec![None; map.shards.len()];
        let mut unowned = 0;
        for member in 0..count {
            let Some(owner) = map.owner(commands.key(member)) else {
                unowned += 1;
                continue;
            };
            let group = *group_of[owner].get_or_insert_with(|| {
                groups.push(Group::of(map.shards[owner].clone(), share));
                groups.len() - 1
            });
            groups[group].push(member, commands.get(member));
        }
        let counters = &self.family.counters;
        if unowned > 0 {
            counters.trouble(Trouble::NoOwner);
            self.family.alarm.ring();
        }
        let sent = groups.iter().filter(|group| group.shard.is_asked());
        let keys: usize = sent.map(|group| group.members.len()).sum();
        counters.store_batches.add(usize::from(keys > 0));
        counters.store_keys.add(keys);
        groups
    }

    /// Puts a group's replies where they belong, and its redirects aside if they may still be followed.
    fn take(
        &self,
        group: &Group,
        heard: Heard<Vec<Bytes>>,
        replies: &mut [Result<Bytes, Trouble>],
        mut redirects: Option<&mut Vec<(usize, Redirect)>>,
    ) {
        let (instead, node) = (heard.instead, group.shard.who(heard.instead));
        let mut answered = match heard.what {
            Ok(answered) => answered,
            Err(trouble) => {
                group.members.iter().for_each(|(member, _)| replies[*member] = Err(trouble));
                return;
            }
        };
        let mut complaints = Vec::new();
        let mut has_moved = false;
        for &(member, place) in &group.members {
            let reply = std::mem::take(&mut answered[place]);
            let Some(complaint) = resp::complaint(&reply) else {
                replies[member] = match instead {
                    // What a replica does not have may be on its way to another master.
                    Some((_, trouble)) if resp::is_empty(&reply) => Err(trouble),
                    _ => Ok(reply),
                };
                continue;
            };
            let trouble = Trouble::of_complaint(complaint);
            replies[member] = Err(trouble);
            let (code, details) = complaint.split_once(' ').unwrap_or((complaint, ""));
            let redirect = read_redirect(code, Some(details), &node.place);
            has_moved |= redirect.as_ref().is_some_and(|redirect| !redirect.is_ask);
            match (redirect, redirects.as_deref_mut()) {
                (Some(redirect), Some(redirects)) => redirects.push((member, redirect)),
                _ if !complaints.contains(&trouble) => complaints.push(trouble),
                _ => {}
            }
        }
        complaints.into_iter().for_each(|trouble| node.complaint(trouble));
        if has_moved {
            *lock(&self.knows_better) = Some(node.place.clone());
            self.family.alarm.ring();
        }
    }

    /// One group per node that keys were redirected to.
    fn by_redirect(
        &self,
        redirects: Vec<(usize, Redirect)>,
        commands: &Commands,
        replies: &mut [Result<Bytes, Trouble>],
    ) -> Vec<Group> {
        self.family.counters.redirects.add(redirects.len());
        let mut groups: Vec<Group> = Vec::new();
        for (member, redirect) in redirects {
            let found = groups.iter().position(|group| group.shard.master.place == redirect.to);
            let group = match found {
                Some(found) => &mut groups[found],
                None => {
                    let Some(node) = self.guest(&redirect.to) else {
                        replies[member] = Err(Trouble::Busy);
                        self.family.counters.trouble(Trouble::Busy);
                        continue;
                    };
                    groups.push(Group::of(Arc::new(Shard::alone(node)), 4));
                    let last = groups.len() - 1;
                    &mut groups[last]
                }
            };
            if redirect.is_ask {
                // Holds for the very next command of the connection, which is in the same piece of bytes.
                group.bytes.extend_from_slice(b"*1\r\n$6\r\nASKING\r\n");
                group.count += 1;
            }
            group.push(member, commands.get(member));
        }
        groups
    }

    /// The node at this place, whether it is in the map or not; `None` when there are too many.
    fn guest(&self, place: &Place) -> Option<Arc<Kept>> {
        let mut nodes = lock(&self.nodes);
        let asked_as_guest = Some(Instant::now());
        if let Some(resident) = nodes.get_mut(place) {
            resident.asked_as_guest = asked_as_guest;
            return Some(resident.kept.clone());
        }
        if nodes.len() >= NODES_MAX {
            return None;
        }
        let kept = Arc::new(self.family.node(place.clone()));
        nodes.insert(place.clone(), Resident { kept: kept.clone(), asked_as_guest });
        Some(kept)
    }

    /// Keeps the map; never returns.
    pub(super) async fn follow(self: Arc<Self>) {
        let mut pace = Pace::of(LOOK_EVERY);
        loop {
            let looked = match self.look().await {
                Ok(table) => self.adopt(table),
                Err(error) => self.lost(&error),
            };
            pace.next(looked, self.family.alarm.rung()).await;
        }
    }

    /// Asks for the map: who knows better first, then any node, then where we came in.
    async fn look(&self) -> Result<Table, DialError> {
        let map = self.map.now().and_then(Result::ok);
        let nodes = map.map(|map| map.shards.iter().map(|shard| shard.master.clone()).collect());
        let nodes: Vec<Arc<Kept>> = nodes.unwrap_or_default();
        let mut nodes = from_anywhere(nodes);
        if let Some(place) = lock(&self.knows_better).take() {
            nodes.sort_by_key(|node| node.place != place);
        }
        let seeds = from_anywhere(self.seeds.clone());
        let seeds = seeds.into_iter().filter(|seed| nodes.iter().all(|node| node.place != *seed));
        let seeds: Vec<Place> = seeds.collect();
        let askable = nodes.into_iter().map(Askable::Node).chain(seeds.into_iter().map(Askable::Seed));
        first(askable.map(|askable| within(CONNECT_TIMEOUT, self.look_at(askable)))).await
    }

    async fn look_at(&self, askable: Askable) -> Result<Table, DialError> {
        match askable {
            Askable::Seed(place) => {
                let (connection, _) = self.family.dialer.dial(&place).await?;
                table(&connection, &place).await
            }
            Askable::Node(node) => {
                let connection = node.connection().await;
                let no = |kind| DialError { kind, source: "it has no connection".into() };
                table(&connection.map_err(no)?.2, &node.place).await
            }
        }
    }

    fn adopt(&self, table: Table) -> Looked {
        let before = self.map.now().and_then(Result::ok);
        let is_known = before.as_ref().is_some_and(|map| map.table.ranges == table.ranges);
        let now = Instant::now();
        let mut nodes = lock(&self.nodes);
        if !is_known {
            let mut kept = |place: &Place| {
                let resident = nodes.entry(place.clone());
                let new = || Resident { kept: Arc::new(self.family.node(place.clone())), asked_as_guest: None };
                resident.or_insert_with(new).kept.clone()
            };
            let masters: Vec<Arc<Kept>> = table.places.iter().map(&mut kept).collect();
            self.family.openings.resize(masters.len());
            let replicas = self.replicas_of(&table, before.as_deref());
            let is_moved = before.is_none_or(|map| !map.table.has_same_owners(&table));
            if is_moved {
                self.family.counters.topologies.add(1);
                tracing::info!(masters = masters.len(), unowned = table.unowned(), "the cluster's slots are known");
            }
            let shards = masters.into_iter().zip(replicas).map(|(master, own)| Arc::new(Shard::new(master, own)));
            self.map.learn(Arc::new(Map { shards: shards.collect(), table }));
        }
        let Some(Ok(map)) = self.map.now() else { return Looked::Nothing };
        let owners: HashSet<&Place> = map.table.places.iter().collect();
        let is_guest = |asked: Instant| now.duration_since(asked) < GUEST_STAYS;
        nodes.retain(|place, resident| owners.contains(place) || resident.asked_as_guest.is_some_and(is_guest));
        if is_known { Looked::Nothing } else { Looked::News }
    }

    /// The replicas of each master; those that were replicas before keep their connections.
    fn replicas_of(&self, table: &Table, before: Option<&Map>) -> Vec<Vec<Arc<Kept>>> {
        if self.replicas == Replicas::Ignored {
            return vec![vec![]; table.places.len()];
        }
        let family = self.family.with(Duty::ClusterReplica);
        let known: HashMap<&Place, &Arc<Kept>> = before
            .iter()
            .flat_map(|map| &map.shards)
            .flat_map(|shard| &shard.replicas)
            .map(|replica| (&replica.place, replica))
            .collect();
        let kept = |place: &Place| match known.get(place) {
            Some(replica) => (*replica).clone(),
            None => Arc::new(family.node(place.clone())),
        };
        table.replicas.iter().map(|places| places.iter().map(kept).collect()).collect()
    }

    fn lost(&self, error: &DialError) -> Looked {
        self.family.counters.trouble(error.kind);
        if self.map.lose(error.kind) {
            let (trouble, why) = (error.kind.name(), &error.source);
            tracing::warn!(trouble, %why, "no node tells the cluster's slots; asking on");
        }
        match self.map.now() {
            Some(Ok(_)) => Looked::Nothing,
            _ if error.kind.is_configuration() => Looked::Refused,
            _ => Looked::InVain,
        }
    }
}

/// Whom the map is asked of.
enum Askable {
    /// A node that has connections.
    Node(Arc<Kept>),
    /// An address of the configuration. It may be a name that leads to another node every time, so it is
    /// connected to only for this.
    Seed(Place),
}

/// Asks a node who has which slot.
pub(super) async fn table(connection: &Connection, teller: &Place) -> Result<Table, DialError> {
    // Not CLUSTER SHARDS, which is newer: every version has this one, and it names the right port by itself.
    let said = connection.command(::redis::cmd("CLUSTER").arg("SLOTS")).await?;
    if let Value::ServerError(error) = said {
        return Err(DialError { kind: Trouble::of_reply(&error), source: error.into() });
    }
    let no = |kind, why: &str| Err(DialError { kind, source: why.into() });
    match read_slots(&said, teller).map(Table::of) {
        None => no(Trouble::Protocol, "what it says of its slots is not understood"),
        // A node that was reset or has not met the others yet: what it does not know is no reason to forget.
        Some(table) if table.places.is_empty() => no(Trouble::NoOwner, "it knows of no slots"),
        Some(table) if table.places.len() > NODES_MAX => {
            no(Trouble::Protocol, "it names more masters than a cluster can have")
        }
        Some(table) => Ok(table),
    }
}

/// Asks all nodes at once; every group with the replies to its commands.
async fn exchanged(
    groups: Vec<Group>,
    fits: fn(&[u8]) -> bool,
    deadline: Instant,
    waits: &Waits,
) -> Vec<(Group, Heard<Vec<Bytes>>)> {
    let asked = groups.into_iter().map(|mut group| async move {
        let bytes = std::mem::take(&mut group.bytes).into();
        let heard = group.shard.exchange(bytes, group.count, fits, deadline, waits, of_cluster).await;
        (group, heard)
    });
    join_all(asked).await
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
