//! Single flight: whoever wants a key that is already being read waits for that read. Promises: at any time at
//! most one read per key (one more for each write to it that was heard of meanwhile), and a read that ends in any way,
//! a panic included, frees its keys and tells everyone who waits.

use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use bytes::Bytes;
use hashbrown::{DefaultHashBuilder, HashTable};
use tokio::sync::Notify;

use crate::Trouble;

/// What the store said about one key.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Answer {
    /// The bytes stored under it.
    Row(Bytes),
    /// Nothing is stored under it.
    Nothing,
    /// The read failed.
    Failed(Trouble),
}

/// All reads under way.
pub(crate) struct Flights {
    seats: Mutex<HashTable<Taken>>,
    hasher: DefaultHashBuilder,
    landings: AtomicU64,
}

/// The seat that is taken for a key.
struct Taken {
    hash: u64,
    key: Bytes,
    seat: Seat,
}

/// One batch on its way to the store and back.
struct Flight {
    answers: OnceLock<Vec<Answer>>,
    landed: Notify,
}

/// One key's place in a flight.
#[derive(Clone)]
pub(crate) struct Seat {
    flight: Arc<Flight>,
    index: usize,
}

/// What became of the keys that wanted a flight.
pub(crate) struct Boarding {
    /// By key: its seat, or `None` where nobody reads it and the caller may not start a read either.
    pub(crate) seats: Vec<Option<Seat>>,
    /// The reads that the caller must now do, for the keys nobody else reads: one for each node that has some of them,
    /// so that each lands when its own node has answered.
    pub(crate) leaders: Vec<Leader>,
}

/// Whether a caller may start a read of its own, or can only join others'.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Boards {
    Leading,
    Joining,
}

impl Flights {
    pub(crate) fn new(hasher: DefaultHashBuilder) -> Self {
        Self { seats: Mutex::default(), hasher, landings: AtomicU64::new(0) }
    }

    /// Changes whenever a flight has landed: equal before a look into the cache and after boarding, no row
    /// can have slipped into the cache in between.
    pub(crate) fn landings(&self) -> u64 {
        self.landings.load(SeqCst)
    }

    /// Finds a seat for each of these distinct keys, with their hashes. Those at places to which `node_of` gives the same
    /// number share a flight.
    pub(crate) fn board(
        self: &Arc<Self>,
        keys: impl Iterator<Item = (u64, Bytes)>,
        how: Boards,
        node_of: impl Fn(usize) -> usize,
    ) -> Boarding {
        let mut led: Vec<(usize, Leader)> = Vec::new();
        let mut table = self.seats();
        let seat = |(place, (hash, key)): (usize, (u64, Bytes))| {
            if let Some(taken) = table.find(hash, |taken| taken.key == key) {
                return Some(taken.seat.clone());
            }
            if how == Boards::Joining {
                return None;
            }
            let node = node_of(place);
            let known = led.iter().position(|(of, ..)| *of == node);
            let at = known.unwrap_or_else(|| {
                let flight = Arc::new(Flight { answers: OnceLock::new(), landed: Notify::new() });
                led.push((node, Leader { flights: self.clone(), flight, keys: Vec::new(), hashes: Vec::new() }));
                led.len() - 1
            });
            let (_, leader) = &mut led[at];
            let seat = Seat { flight: leader.flight.clone(), index: leader.keys.len() };
            table.insert_unique(hash, Taken { hash, key: key.clone(), seat: seat.clone() }, |taken| taken.hash);
            leader.keys.push(key);
            leader.hashes.push(hash);
            Some(seat)
        };
        let seats = keys.enumerate().map(seat).collect();
        drop(table);
        Boarding { seats, leaders: led.into_iter().map(|(_, leader)| leader).collect() }
    }

    /// Whoever wants the key from now on begins a read of his own: the one under way may bring the value of before.
    pub(crate) fn forget(&self, key: &[u8]) {
        let hash = self.hasher.hash_one(key);
        if let Ok(taken) = self.seats().find_entry(hash, |taken| taken.key == key) {
            taken.remove();
        }
    }

    /// Nothing panics while the lock is held, and a half-done boarding would only be a missing or a surplus
    /// entry of a flight whose guard still lives: poison means nothing here.
    fn seats(&self) -> MutexGuard<'_, HashTable<Taken>> {
        self.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seat {
    /// The answer, if it is there.
    pub(crate) fn answer(&self) -> Option<&Answer> {
        self.flight.answers.get()?.get(self.index)
    }

    /// The seat is in the flight that `leader` leads.
    pub(crate) fn is_led_by(&self, leader: &Leader) -> bool {
        Arc::ptr_eq(&self.flight, &leader.flight)
    }

    /// Waits until the flight has landed.
    pub(crate) async fn landed(&self) {
        if self.flight.answers.get().is_some() {
            return;
        }
        let landed = self.flight.landed.notified();
        tokio::pin!(landed);
        // Listen first, then look: a landing in between is not missed.
        landed.as_mut().enable();
        if self.flight.answers.get().is_none() {
            landed.await;
        }
    }
}

/// The duty to land a flight. Dropped without landing, it lands as a failure.
pub(crate) struct Leader {
    flights: Arc<Flights>,
    flight: Arc<Flight>,
    keys: Vec<Bytes>,
    hashes: Vec<u64>,
}

impl Leader {
    /// The keys to read.
    pub(crate) fn keys(&self) -> &[Bytes] {
        &self.keys
    }

    /// Hands the answers, by [`keys`](Self::keys), to everyone who waits.
    pub(crate) fn land(self, answers: Vec<Answer>) {
        // Nobody else sets them: a flight has one leader. Dropping `self` does the rest.
        let _ = self.flight.answers.set(answers);
    }
}

impl Drop for Leader {
    fn drop(&mut self) {
        self.flight.answers.get_or_init(|| vec![Answer::Failed(Trouble::Other); self.keys.len()]);
        let mut table = self.flights.seats();
        for (&hash, key) in self.hashes.iter().zip(&self.keys) {
            // Forgotten keys may have a newer flight.
            let own = |taken: &Taken| Arc::ptr_eq(&taken.seat.flight, &self.flight) && taken.key == key;
            if let Ok(taken) = table.find_entry(hash, own) {
                taken.remove();
            }
        }
        // Inside the lock: whoever boards next sees the landing.
        self.flights.landings.fetch_add(1, SeqCst);
        drop(table);
        self.flight.landed.notify_waiters();
    }
}

#[cfg(test)]
impl Flights {
    pub(crate) fn hashed(&self, keys: &[&'static str]) -> impl Iterator<Item = (u64, Bytes)> {
        keys.iter().map(|key| (self.hasher.hash_one(key.as_bytes()), Bytes::from_static(key.as_bytes())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flights() -> Arc<Flights> {
        Arc::new(Flights::new(DefaultHashBuilder::default()))
    }

    fn board(flights: &Arc<Flights>, keys: &[&'static str]) -> Boarding {
        flights.board(flights.hashed(keys), Boards::Leading, |_| 0)
    }

    fn one(boarding: Boarding) -> Leader {
        let [leader] = boarding.leaders.try_into().unwrap_or_else(|_| panic!("one leader"));
        leader
    }

    #[test]
    fn each_node_has_a_flight_of_its_own() {
        let flights = flights();
        let keys = flights.hashed(&["a1", "b1", "a2"]);
        let boarding = flights.board(keys, Boards::Leading, |place| place % 2);
        let led: Vec<_> = boarding.leaders.iter().map(|leader| leader.keys().to_vec()).collect();
        assert_eq!(led, [vec!["a1", "a2"], vec!["b1"]]);
        let mut leaders = boarding.leaders.into_iter();
        leaders.next().unwrap().land(vec![Answer::Nothing, Answer::Row("row".into())]);
        let answers: Vec<_> = boarding.seats.iter().map(|seat| seat.as_ref().unwrap().answer()).collect();
        assert_eq!(answers, [Some(&Answer::Nothing), None, Some(&Answer::Row("row".into()))]);
    }

    #[tokio::test]
    async fn the_second_to_want_a_key_waits_for_the_first() {
        let flights = flights();
        let first = board(&flights, &["a", "b"]);
        let second = board(&flights, &["b", "c"]);
        assert_eq!(second.leaders[0].keys(), ["c"]);
        let follower = second.seats[0].clone().unwrap();
        let waiting = tokio::spawn(async move {
            follower.landed().await;
            follower.answer().cloned()
        });
        one(first).land(vec![Answer::Nothing, Answer::Row("row".into())]);
        assert_eq!(waiting.await.unwrap(), Some(Answer::Row("row".into())));
        assert_eq!(one(board(&flights, &["a", "b"])).keys(), ["a", "b"], "landed keys are free again");
    }

    #[tokio::test]
    async fn a_leader_that_panics_frees_its_keys_and_tells_its_followers() {
        let flights = flights();
        let (first, second) = (board(&flights, &["a"]), board(&flights, &["a"]));
        let before = flights.landings();
        let crash = tokio::spawn(async move {
            let _leader = one(first);
            panic!("as a test");
        });
        let seat = second.seats[0].clone().unwrap();
        seat.landed().await;
        assert!(crash.await.is_err() && second.leaders.is_empty());
        assert_eq!(seat.answer(), Some(&Answer::Failed(Trouble::Other)));
        assert_eq!(flights.landings(), before + 1);
        assert!(board(&flights, &["a"]).leaders.len() == 1);
    }

    #[test]
    fn who_may_not_lead_can_still_join() {
        let flights = flights();
        let first = board(&flights, &["a"]);
        let second = flights.board(flights.hashed(&["a", "b"]), Boards::Joining, |_| 0);
        assert!(second.seats[0].is_some() && second.seats[1].is_none() && second.leaders.is_empty());
        drop(first);
    }
}
