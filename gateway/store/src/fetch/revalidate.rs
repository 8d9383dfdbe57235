//! Stale while revalidate (RFC 5861): what was just served past its freshness is read again for the next request, in
//! the background and for all who were served it together.

use std::sync::Arc;

use futures::future::join_all;
use tokio::time::Instant;

use super::errand::Errand;
use super::{Ask, Limits, Shared, stored_key};
use crate::Redis;
use crate::flight::{Boards, Leader};
use crate::redis::Waits;
use crate::wanted::Wanted;

/// Requests at once whose rows are read again, of all reads that may be under way: they give way to what somebody waits for, and what is not read again
/// now is at the next request.
pub(super) const REVALIDATIONS_MAX: usize = 64;

impl Shared {
    /// Starts reading what nobody reads yet, one batch per node, unless there are too many or the store is out.
    pub(super) fn revalidate(
        self: &Arc<Self>,
        redis: &Redis,
        wanted: &Arc<Wanted>,
        aging: &[Ask],
        landings: u64,
        limits: Limits,
        now: Instant,
    ) {
        let permits = (self.revalidations.clone().try_acquire_owned(), self.reads.clone().try_acquire_owned());
        let (Ok(own), Ok(permit), None) = (permits.0, permits.1, redis.refusal()) else {
            self.counters.revalidations_withheld.add(aging.len());
            return;
        };
        let owners = redis.owners();
        let node_of = |entity: usize| owners.number(stored_key(wanted, entity));
        let entities = aging.iter().map(|ask| ask.entity);
        let leaders = self.flights.board(wanted, entities, Boards::Leading, node_of).leaders;
        let permit = Arc::new(permit);
        let send = |leader: Leader| {
            self.counters.revalidations.add(leader.entities().len());
            let errand = Errand::of(aging, leader, owners.clone(), Waits::until(now), permit.clone());
            self.send(errand.for_later(), redis, landings, limits, now)
        };
        let reads: Vec<_> = leaders.into_iter().filter_map(send).collect();
        if !reads.is_empty() {
            tokio::spawn(async move {
                join_all(reads).await;
                drop(own);
            });
        }
    }
}
