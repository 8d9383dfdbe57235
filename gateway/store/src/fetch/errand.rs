//! A read from one node: it goes on when the request that began it has left.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::{Ask, Shared};
use crate::cache::Entry;
use crate::flight::{Answer, Leader};
use crate::hash;
use crate::redis::{Owners, Waits};
use crate::shape::Shape;
use crate::wanted::Wanted;
use crate::{Redis, Trouble};

/// A read from one node on its way, apart from the request that began it.
pub(super) struct Errand {
    pub(super) leader: Leader,
    /// Who has what the leader reads.
    owners: Owners,
    /// By the leader's entities, what the cache holds of them; nothing at all if it holds nothing of any.
    known: Vec<Option<Entry>>,
    /// The request that began it, while it waits.
    pub(super) waits: Arc<Waits>,
    /// Nobody ever waited.
    for_later: bool,
    _permit: Arc<OwnedSemaphorePermit>,
}

impl Errand {
    /// Of those asks, by entity, that sit in the flight that `leader` leads.
    pub(super) fn of(
        asks: &[Ask],
        leader: Leader,
        owners: Owners,
        waits: Waits,
        permit: Arc<OwnedSemaphorePermit>,
    ) -> Self {
        let mut known = Vec::new();
        if asks.iter().any(|ask| ask.old.is_some()) {
            let of = |&entity: &u32| {
                let at = asks.binary_search_by_key(&(entity as usize), |ask| ask.entity).ok()?;
                asks[at].old.as_ref().map(|old| old.1.clone())
            };
            known = leader.entities().iter().map(of).collect();
        }
        Self { leader, owners, known, waits: Arc::new(waits), for_later: false, _permit: permit }
    }

    /// The same, with nobody who ever waits.
    pub(super) fn for_later(self) -> Self {
        Self { for_later: true, ..self }
    }

    /// Reads the keys of which nothing was `brought`, keeps what came, and lands.
    pub(super) async fn run(self, shared: Arc<Shared>, redis: Redis, mut brought: Vec<Option<Answer>>) {
        let (wanted, entities) = (self.leader.wanted(), self.leader.entities());
        let missing = (0..entities.len()).filter(|place| brought.get(*place).is_none_or(Option::is_none));
        let missing: Vec<usize> = missing.collect();
        let asked: Vec<usize> = missing.iter().map(|place| entities[*place] as usize).collect();
        let read_at = Instant::now();
        let read = self.read(&redis, &asked).await;
        let is_late = !self.for_later && self.waits.are_over(Instant::now());
        if is_late || !shared.cache.is_none() {
            for ((&place, &entity), answer) in missing.iter().zip(&asked).zip(&read) {
                let (key, shape) = (wanted.key(entity), wanted.shape(entity));
                match answer {
                    // Bytes that are no row of this shape are not kept: the next request looks again.
                    Answer::Row(bytes) if shape.check(bytes).is_err() => {}
                    Answer::Row(bytes) => {
                        let known = self.known.get(place).and_then(Option::as_ref);
                        if !known.is_some_and(|known| shared.cache.renew(key, shape, known, bytes, read_at)) {
                            shared.cache.keep(key, shape, Some(bytes), read_at);
                        }
                        if is_late {
                            shared.counters.late_fills.add(1);
                        }
                    }
                    Answer::Nothing => shared.cache.keep(key, shape, None, read_at),
                    Answer::Failed(_) => {}
                }
            }
        }
        if brought.is_empty() {
            return self.leader.land(read);
        }
        missing.into_iter().zip(read).for_each(|(place, answer)| brought[place] = Some(answer));
        let failed = || Answer::Failed(Trouble::Other);
        self.leader.land(brought.into_iter().map(|answer| answer.unwrap_or_else(failed)).collect());
    }

    /// The rows of these entities, each the way it is stored; rows of both kinds at the same time.
    async fn read(&self, redis: &Redis, entities: &[usize]) -> Vec<Answer> {
        let (wanted, waits) = (self.leader.wanted(), &*self.waits);
        let is_hash = |entity: usize| matches!(wanted.shape(entity), Shape::Hash(_));
        let packed = async |entities: &[usize]| {
            let keys: Vec<&[u8]> = entities.iter().map(|entity| wanted.key(*entity)).collect();
            redis.read(&keys, &self.owners, self.leader.node(), waits).await
        };
        if !entities.iter().any(|entity| is_hash(*entity)) {
            return packed(entities).await;
        }
        let (hashes, rows): (Vec<usize>, Vec<usize>) = entities.iter().partition(|entity| is_hash(**entity));
        let (own, shapes): (Vec<Bytes>, Vec<Shape>) = hashes.into_iter().map(|entity| hash_of(wanted, entity)).unzip();
        let rows = async { if rows.is_empty() { vec![] } else { packed(&rows).await } };
        let (rows, hashed) = tokio::join!(rows, hash::read(redis, &own, &shapes, waits));
        let (mut rows, mut hashed) = (rows.into_iter(), hashed.into_iter());
        let answer = |entity: &usize| if is_hash(*entity) { hashed.next() } else { rows.next() };
        entities.iter().map(answer).map(|answer| answer.unwrap_or(Answer::Failed(Trouble::Other))).collect()
    }
}

fn hash_of(wanted: &Wanted, entity: usize) -> (Bytes, Shape) {
    (Bytes::copy_from_slice(wanted.key(entity)), wanted.shape(entity).clone())
}
