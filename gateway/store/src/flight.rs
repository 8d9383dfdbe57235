//! Single flight: whoever wants a key that is already being read waits for that read. Promises: at any time at
//! most one read per key (one more for each write to it that was heard of meanwhile), and a read that ends in any way,
//! a panic included, frees its keys and tells everyone who waits.

use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use bytes::Bytes;
use hashbrown::hash_table::Entry;
use hashbrown::{DefaultHashBuilder, HashTable};
use tokio::sync::Notify;

use crate::Trouble;
use crate::wanted::Wanted;

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
    sky: Mutex<Sky>,
    hasher: DefaultHashBuilder,
    landings: AtomicU64,
}

#[derive(Default)]
struct Sky {
    seats: HashTable<Taken>,
    numbers: Numbers,
}

/// The flights under way, by the numbers by which seats name them: that is cheaper than to share each a hundred times.
#[derive(Default)]
struct Numbers {
    flights: Vec<Option<Arc<Flight>>>,
    /// Numbers that no flight has.
    free: Vec<u32>,
}

/// The seat that is taken for a key, and which of its flight's entities that is of.
struct Taken {
    hash: u64,
    flight: u32,
    place: u32,
    entity: u32,
}

/// One batch on its way to the store and back.
struct Flight {
    /// By the request that began it.
    wanted: Arc<Wanted>,
    answers: OnceLock<Vec<Answer>>,
    landed: Notify,
}

/// What became of the keys that wanted a flight.
pub(crate) struct Boarding {
    flights: Vec<Arc<Flight>>,
    /// By key: its flight and its place there, or `None` where nobody reads it and the caller may not start a read either.
    seats: Vec<Option<(u32, u32)>>,
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
        Self { sky: Mutex::default(), hasher, landings: AtomicU64::new(0) }
    }

    /// Changes whenever a flight has landed: equal before a look into the cache and after boarding, no row
    /// can have slipped into the cache in between.
    pub(crate) fn landings(&self) -> u64 {
        self.landings.load(SeqCst)
    }

    /// Finds a seat for each of these entities. Those to which `node_of` gives the same number share a flight.
    pub(crate) fn board(
        self: &Arc<Self>,
        wanted: &Arc<Wanted>,
        entities: impl ExactSizeIterator<Item = usize>,
        how: Boards,
        node_of: impl Fn(usize) -> usize,
    ) -> Boarding {
        let keys = entities.len();
        let mut boarding = Boarding { flights: Vec::new(), seats: Vec::with_capacity(keys), leaders: Vec::new() };
        let mut sky = self.sky();
        let Sky { seats, numbers } = &mut *sky;
        for entity in entities {
            let (hash, key) = (wanted.hash(entity), wanted.key(entity));
            let is_own = |taken: &Taken| taken.hash == hash && numbers.of(taken).is_some_and(|of| of.key(taken) == key);
            let seat = match seats.entry(hash, is_own, |taken| taken.hash) {
                Entry::Occupied(taken) => numbers.of(taken.get()).map(|of| (boarding.joins(of), taken.get().place)),
                Entry::Vacant(_) if how == Boards::Joining => None,
                Entry::Vacant(seat) => {
                    let node = node_of(entity);
                    let known = boarding.leaders.iter().position(|leader| leader.node == node);
                    let led = known.unwrap_or_else(|| boarding.leads(self, numbers, wanted, node, keys));
                    let leader = &mut boarding.leaders[led];
                    let (place, entity) = (leader.entities.len() as u32, entity as u32);
                    seat.insert(Taken { hash, flight: leader.number, place, entity });
                    leader.entities.push(entity);
                    Some((leader.at, place))
                }
            };
            boarding.seats.push(seat);
        }
        drop(sky);
        boarding
    }

    /// Whoever wants the key from now on begins a read of his own: the one under way may bring the value of before.
    pub(crate) fn forget(&self, key: &[u8]) {
        let hash = self.hasher.hash_one(key);
        let Sky { seats, numbers } = &mut *self.sky();
        let is_own = |taken: &Taken| taken.hash == hash && numbers.of(taken).is_some_and(|of| of.key(taken) == key);
        if let Ok(taken) = seats.find_entry(hash, is_own) {
            taken.remove();
        }
    }

    /// Nothing panics while the lock is held, and a half-done boarding would only be a missing or a surplus
    /// entry of a flight whose guard still lives: poison means nothing here.
    fn sky(&self) -> MutexGuard<'_, Sky> {
        self.sky.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Numbers {
    fn of(&self, taken: &Taken) -> Option<&Arc<Flight>> {
        self.flights[taken.flight as usize].as_ref()
    }

    fn take(&mut self, flight: Arc<Flight>) -> u32 {
        let number = self.free.pop().unwrap_or(self.flights.len() as u32);
        if number as usize == self.flights.len() {
            self.flights.push(None);
        }
        self.flights[number as usize] = Some(flight);
        number
    }

    fn give_back(&mut self, number: u32) {
        self.flights[number as usize] = None;
        self.free.push(number);
    }
}

impl Boarding {
    fn joins(&mut self, flight: &Arc<Flight>) -> u32 {
        let known = self.flights.iter().position(|known| Arc::ptr_eq(known, flight));
        let at = known.unwrap_or(self.flights.len());
        if known.is_none() {
            self.flights.push(flight.clone());
        }
        at as u32
    }

    fn leads(
        &mut self,
        flights: &Arc<Flights>,
        numbers: &mut Numbers,
        wanted: &Arc<Wanted>,
        node: usize,
        keys: usize,
    ) -> usize {
        let flight = Arc::new(Flight { wanted: wanted.clone(), answers: OnceLock::new(), landed: Notify::new() });
        let (number, at) = (numbers.take(flight.clone()), self.joins(&flight));
        let entities = Vec::with_capacity(keys);
        self.leaders.push(Leader { flights: flights.clone(), flight, number, at, node, entities });
        self.leaders.len() - 1
    }

    /// Of the key at this place: the answer, if it is there; `None` if it has no seat.
    pub(crate) fn answer(&self, place: usize) -> Option<Option<&Answer>> {
        let (flight, place) = self.seats[place]?;
        Some(self.flights[flight as usize].answers.get().and_then(|answers| answers.get(place as usize)))
    }

    /// How many keys have a seat.
    pub(crate) fn seated(&self) -> usize {
        self.seats.iter().flatten().count()
    }

    /// Waits until all flights have landed.
    pub(crate) async fn landed(&self) {
        for flight in &self.flights {
            flight.landed().await;
        }
    }
}

impl Flight {
    fn key(&self, taken: &Taken) -> &[u8] {
        self.wanted.key(taken.entity as usize)
    }

    async fn landed(&self) {
        if self.answers.get().is_some() {
            return;
        }
        let landed = self.landed.notified();
        tokio::pin!(landed);
        // Listen first, then look: a landing in between is not missed.
        landed.as_mut().enable();
        if self.answers.get().is_none() {
            landed.await;
        }
    }
}

/// The duty to land a flight. Dropped without landing, it lands as a failure.
pub(crate) struct Leader {
    flights: Arc<Flights>,
    flight: Arc<Flight>,
    number: u32,
    /// Its place in the boarding.
    at: u32,
    node: usize,
    entities: Vec<u32>,
}

impl Leader {
    /// What is to be read: some [entities](Self::entities) of this.
    pub(crate) fn wanted(&self) -> &Wanted {
        &self.flight.wanted
    }

    /// The number of the node that has them.
    pub(crate) fn node(&self) -> usize {
        self.node
    }

    /// Which, in the order in which they boarded.
    pub(crate) fn entities(&self) -> &[u32] {
        &self.entities
    }

    /// Hands the answers, by [`entities`](Self::entities), to everyone who waits.
    pub(crate) fn land(self, answers: Vec<Answer>) {
        // Nobody else sets them: a flight has one leader. Dropping `self` does the rest.
        let _ = self.flight.answers.set(answers);
    }
}

impl Drop for Leader {
    fn drop(&mut self) {
        self.flight.answers.get_or_init(|| vec![Answer::Failed(Trouble::Other); self.entities.len()]);
        let mut sky = self.flights.sky();
        for (place, &entity) in self.entities.iter().enumerate() {
            // Forgotten keys may have a newer flight.
            let own = |taken: &Taken| (taken.flight, taken.place as usize) == (self.number, place);
            if let Ok(taken) = sky.seats.find_entry(self.flight.wanted.hash(entity as usize), own) {
                taken.remove();
            }
        }
        sky.numbers.give_back(self.number);
        // Inside the lock: whoever boards next sees the landing.
        self.flights.landings.fetch_add(1, SeqCst);
        drop(sky);
        self.flight.landed.notify_waiters();
    }
}

#[cfg(test)]
impl Flights {
    /// For whoever wants just these keys.
    pub(crate) fn boarded(self: &Arc<Self>, keys: &[&str], how: Boards, node_of: impl Fn(usize) -> usize) -> Boarding {
        self.board(&Arc::new(Wanted::of_keys(keys, &self.hasher)), 0..keys.len(), how, node_of)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flights() -> Arc<Flights> {
        Arc::new(Flights::new(DefaultHashBuilder::default()))
    }

    fn board(flights: &Arc<Flights>, keys: &[&'static str]) -> Boarding {
        flights.boarded(keys, Boards::Leading, |_| 0)
    }

    fn keys(leader: &Leader) -> Vec<String> {
        let key = |&entity: &u32| String::from_utf8(leader.wanted().key(entity as usize).to_vec()).unwrap();
        leader.entities().iter().map(key).collect()
    }

    fn one(boarding: Boarding) -> Leader {
        let [leader] = boarding.leaders.try_into().unwrap_or_else(|_| panic!("one leader"));
        leader
    }

    #[test]
    fn each_node_has_a_flight_of_its_own() {
        let flights = flights();
        let mut boarding = flights.boarded(&["a1", "b1", "a2"], Boards::Leading, |entity| entity % 2);
        let mut leaders = std::mem::take(&mut boarding.leaders).into_iter();
        let led: Vec<_> = leaders.as_slice().iter().map(keys).collect();
        assert_eq!(led, [vec!["a1", "a2"], vec!["b1"]]);
        leaders.next().unwrap().land(vec![Answer::Nothing, Answer::Row("row".into())]);
        let answers: Vec<_> = (0..3).map(|place| boarding.answer(place).unwrap()).collect();
        assert_eq!(answers, [Some(&Answer::Nothing), None, Some(&Answer::Row("row".into()))]);
    }

    #[tokio::test]
    async fn the_second_to_want_a_key_waits_for_the_first() {
        let flights = flights();
        let first = board(&flights, &["a", "b"]);
        let second = board(&flights, &["b", "c"]);
        assert_eq!(keys(&second.leaders[0]), ["c"]);
        let waiting = tokio::spawn(async move {
            second.flights[0].landed().await;
            (second.answer(0).unwrap().cloned(), second.answer(1).unwrap().cloned())
        });
        one(first).land(vec![Answer::Nothing, Answer::Row("row".into())]);
        assert_eq!(waiting.await.unwrap(), (Some(Answer::Row("row".into())), None));
        assert_eq!(keys(&one(board(&flights, &["a", "b"]))), ["a", "b"], "landed keys are free again");
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
        second.landed().await;
        assert!(crash.await.is_err() && second.leaders.is_empty());
        assert_eq!(second.answer(0), Some(Some(&Answer::Failed(Trouble::Other))));
        assert_eq!(flights.landings(), before + 1);
        assert!(board(&flights, &["a"]).leaders.len() == 1);
    }

    #[test]
    fn who_may_not_lead_can_still_join() {
        let flights = flights();
        let first = board(&flights, &["a"]);
        let second = flights.boarded(&["a", "b"], Boards::Joining, |_| 0);
        assert_eq!((second.answer(0), second.answer(1), second.leaders.len()), (Some(None), None, 0));
        drop(first);
    }
}
