//! The store stage of a request. [`Store::fetch`] never fails and waits for nothing after its deadline: it serves
//! what is fresh in the cache, reads the rest from the store in one batch, and when that takes too long serves what
//! is stale, or says what is missing and why.

mod errand;
mod known;
mod revalidate;

use std::mem::take;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use hashbrown::DefaultHashBuilder;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use weir_domain::plan::{Bound, Plan};
use weir_domain::{Gathered, Provenance};

use errand::Errand;

use crate::alarm::timeout_at;
use crate::cache::{Cache, Entry, Look, may_serve_stale, millis};
use crate::decode::{self, Found};
use crate::flight::{Answer, Boarding, Boards, Flights, Leader};
use crate::hash;
use crate::redis::Waits;
use crate::row::Row;
use crate::shape::Shape;
use crate::wanted::{HashAsk, HashFound, Hashes, Wanted};
use crate::{CacheSettings, Counters, Embedded, Redis, Trouble};

/// Batches under way at once. A healthy server has a few; a frozen one fills this within a read's life, and
/// what it bounds then is the commands queued for nobody.
const READS_IN_FLIGHT_MAX: usize = 1_024;

/// Where rows are kept.
#[derive(Clone)]
pub enum Backend {
    /// In this process.
    Embedded(Embedded),
    /// In Redis.
    Redis(Redis),
}

/// What a fetch may use.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// When to stop waiting for the store. What came by then is still to be decoded: a tenth of a millisecond for a
    /// hundred rows of fifty features.
    pub deadline: Instant,
    /// Wall clock in microseconds since the Unix epoch, against which a view's ttl is held.
    pub now_us: i64,
    /// Rows read from the store longer ago are not served: the least of the caller's and the plan's.
    pub max_stale: Option<Duration>,
}

/// Reads features. Clones are the same store.
#[derive(Clone)]
pub struct Store {
    shared: Arc<Shared>,
}

struct Shared {
    backend: Backend,
    cache: Arc<Cache>,
    flights: Arc<Flights>,
    reads: Arc<Semaphore>,
    revalidations: Arc<Semaphore>,
    counters: Arc<Counters>,
    namespace: Box<str>,
    hasher: DefaultHashBuilder,
}

impl Store {
    /// A store whose keys begin with `namespace`.
    pub fn new(backend: Backend, settings: CacheSettings, namespace: &str) -> Self {
        let hasher = DefaultHashBuilder::default();
        let counters = match &backend {
            Backend::Embedded(_) => Arc::default(),
            Backend::Redis(redis) => redis.counters().clone(),
        };
        let tracking = match &backend {
            Backend::Embedded(_) => None,
            Backend::Redis(redis) => redis.tracking().cloned(),
        };
        let cache = Arc::new(Cache::new(settings, hasher.clone(), tracking.clone()));
        let flights = Arc::new(Flights::new(hasher.clone()));
        if let Some(tracking) = tracking {
            tracking.tell(&cache, &flights);
        }
        let shared = Shared {
            backend,
            cache,
            flights,
            reads: Arc::new(Semaphore::new(READS_IN_FLIGHT_MAX)),
            revalidations: Arc::new(Semaphore::new(revalidate::REVALIDATIONS_MAX)),
            counters,
            namespace: namespace.into(),
            hasher,
        };
        Self { shared: Arc::new(shared) }
    }

    /// Fills the slots of the plan's reads and the times of each read; whether the deadline cut it short.
    ///
    /// May be dropped at any moment: a read it began goes on and fills the cache.
    pub async fn fetch(&self, plan: &Plan, bound: &Bound, limits: Limits, into: &mut Gathered) -> bool {
        let wanted = Arc::new(Wanted::of(plan, bound, &self.shared.namespace, &self.shared.hasher));
        if self.shared.fill_at_hand(plan, &wanted, limits, into) {
            return false;
        }
        let (mut found, was_cut) = match &self.shared.backend {
            Backend::Embedded(embedded) => (self.shared.memory_rows(embedded, &wanted), false),
            Backend::Redis(redis) => self.shared.through_cache(redis, &wanted, limits).await,
        };
        if wanted.has_nobody {
            found.push(Found::Hole(Provenance::Missing));
        }
        let lines: Vec<_> = found.iter().map(Found::line).collect();
        decode::fill(plan, &wanted, &lines, limits.now_us, into);
        was_cut
    }

    /// Reads rows of Feast hashes; where they are kept and how long it may take is the same as for [`fetch`](Self::fetch).
    pub async fn fetch_hashes(&self, asks: &[HashAsk], limits: Limits) -> Hashes {
        let wanted = Arc::new(Wanted::of_hashes(asks, &self.shared.hasher));
        let (found, was_cut) = match &self.shared.backend {
            // Hashes live in Redis: nobody put any in here.
            Backend::Embedded(_) => (vec![Found::Hole(Provenance::Missing); wanted.len()], false),
            Backend::Redis(redis) => self.shared.through_cache(redis, &wanted, limits).await,
        };
        let found = found.into_iter().map(|found| match found {
            Found::Row { row, provenance, age_ms } => HashFound::Row { row: row.bytes().clone(), provenance, age_ms },
            Found::Hole(provenance) => HashFound::Hole(provenance),
        });
        Hashes { found: found.collect(), rows: wanted.rows.clone(), was_cut }
    }

    /// What the store counted so far.
    pub fn counters(&self) -> &Counters {
        &self.shared.counters
    }

    /// Batches under way.
    pub fn reads_in_flight(&self) -> usize {
        READS_IN_FLIGHT_MAX - self.shared.reads.available_permits()
    }

    /// Bytes in the cache, as of its last book-keeping.
    pub fn cache_bytes(&self) -> u64 {
        self.shared.cache.bytes()
    }

    /// Rows and negatives in the cache, as of its last book-keeping.
    pub fn cache_entries(&self) -> u64 {
        self.shared.cache.entries()
    }

    /// Memory is short: the cache gives up the half of its rows that was read longest ago. Blocks for some microseconds a row.
    pub fn shrink_cache(&self) {
        self.counters().cache_shrunk.add(self.shared.cache.halve());
    }

    /// There is enough memory again.
    pub fn grow_cache(&self) {
        self.shared.cache.grow();
    }

    /// Waits for the reads that outlived their requests; at shutdown, after the last request. Takes no longer
    /// than a read may live.
    pub async fn drain(&self) {
        // Fails only when the semaphore is closed, which nobody does.
        let _ = self.shared.reads.acquire_many(READS_IN_FLIGHT_MAX as u32).await;
    }
}

/// An entity that the cache could not answer, with the row to serve if the store does not answer either.
struct Ask {
    entity: usize,
    /// Rare, and so somewhere else.
    old: Option<Box<(Row, Entry)>>,
}

impl Shared {
    fn memory_rows(&self, embedded: &Embedded, wanted: &Wanted) -> Vec<Found> {
        let rows = embedded.read((0..wanted.len()).map(|entity| wanted.key(entity)));
        let found = |(entity, row): (usize, Option<Bytes>)| match row {
            Some(bytes) => self.checked(bytes, wanted.shape(entity)),
            None => Found::Hole(Provenance::Missing),
        };
        rows.into_iter().enumerate().map(found).collect()
    }

    fn checked(&self, bytes: Bytes, shape: &Shape) -> Found {
        match shape.parse(bytes) {
            Ok(row) => Found::Row { row, provenance: Provenance::Store, age_ms: 0 },
            Err(_) => {
                self.counters.invalid_rows.add(1);
                Found::Hole(Provenance::Invalid)
            }
        }
    }

    async fn through_cache(
        self: &Arc<Self>,
        redis: &Redis,
        wanted: &Arc<Wanted>,
        limits: Limits,
    ) -> (Vec<Found>, bool) {
        let landings = self.flights.landings();
        let now = Instant::now();
        let (mut found, asks, aging) = self.look(wanted, limits, now);
        // A request without time, such as one that is degraded, is answered and leaves the store alone.
        if !aging.is_empty() && now < limits.deadline {
            self.revalidate(redis, wanted, &aging, landings, limits, now);
        }
        if asks.is_empty() {
            return (found, false);
        }
        let (boarding, reads) = match self.board(redis, wanted, &asks, landings, limits, now) {
            Ok(boarded) => boarded,
            Err(why) => {
                self.fall_back(wanted, asks, why, limits, &mut found);
                return (found, false);
            }
        };
        let all = async {
            join_all(reads).await;
            boarding.landed().await;
        };
        // Out of time is no error here: each seat is asked for what it has.
        let was_cut = timeout_at(limits.deadline, all).await.is_none();
        let mut unanswered = Vec::new();
        for (place, ask) in asks.into_iter().enumerate() {
            let entity = ask.entity;
            found[entity] = match boarding.answer(place) {
                Some(Some(Answer::Row(bytes))) => self.checked(bytes.clone(), wanted.shape(entity)),
                Some(Some(Answer::Nothing)) => Found::Hole(Provenance::Missing),
                Some(None | Some(Answer::Failed(Trouble::Timeout))) => {
                    unanswered.push(ask);
                    Found::Hole(Provenance::Late)
                }
                None | Some(Some(Answer::Failed(_))) => {
                    unanswered.push(ask);
                    Found::Hole(Provenance::Unavailable)
                }
            };
        }
        self.serve_stale(wanted, unanswered, limits, &mut found);
        (found, was_cut)
    }

    /// Finds a read for every ask, starting those that nobody does yet, one per node; or why none is started.
    fn board(
        self: &Arc<Self>,
        redis: &Redis,
        wanted: &Arc<Wanted>,
        asks: &[Ask],
        landings: u64,
        limits: Limits,
        now: Instant,
    ) -> Result<(Boarding, Vec<UnderWay>), Provenance> {
        if now >= limits.deadline {
            return Err(Provenance::Late);
        }
        if let Some(trouble) = redis.refusal() {
            self.counters.trouble(trouble);
            return Err(Provenance::Unavailable);
        }
        let permit = self.reads.clone().try_acquire_owned().ok();
        let boards = if permit.is_some() { Boards::Leading } else { Boards::Joining };
        let owners = redis.owners();
        let node_of = |entity: usize| owners.number(stored_key(wanted, entity));
        let mut boarding = self.flights.board(wanted, asks.iter().map(|ask| ask.entity), boards, node_of);
        let (seated, leaders) = (boarding.seated(), take(&mut boarding.leaders));
        if seated < asks.len() {
            self.counters.trouble(Trouble::Busy);
        }
        let led: usize = leaders.iter().map(|leader| leader.entities().len()).sum();
        self.counters.flights_joined.add(seated - led);
        let Some(permit) = permit.map(Arc::new) else { return Ok((boarding, vec![])) };
        let send = |leader: Leader| {
            let errand = Errand::of(asks, leader, owners.clone(), Waits::until(limits.deadline), permit.clone());
            self.send(errand, redis, landings, limits, now)
        };
        let reads = leaders.into_iter().filter_map(send).collect();
        Ok((boarding, reads))
    }

    /// Starts the read, unless it turns out that a flight which landed after the look into the cache has
    /// already brought what this one would: then it lands at once.
    fn send(
        self: &Arc<Self>,
        errand: Errand,
        redis: &Redis,
        landings: u64,
        limits: Limits,
        now: Instant,
    ) -> Option<UnderWay> {
        let mut brought = Vec::new();
        if self.flights.landings() != landings && !self.cache.is_none() {
            let wanted = errand.leader.wanted();
            let look = |&entity: &u32| {
                let (key, shape) = (wanted.key(entity as usize), wanted.shape(entity as usize));
                match self.cache.look(key, shape, limits.max_stale, now) {
                    Look::Fresh(row, _) => Some(Answer::Row(row.bytes().clone())),
                    Look::Negative => Some(Answer::Nothing),
                    Look::Aging(..) | Look::Old(..) | Look::Nothing => None,
                }
            };
            brought = errand.leader.entities().iter().map(look).collect();
            if brought.iter().all(Option::is_some) {
                errand.leader.land(brought.into_iter().flatten().collect());
                return None;
            }
        }
        let waits = errand.waits.clone();
        Some(UnderWay { read: Some(Box::pin(errand.run(self.clone(), redis.clone(), brought))), waits })
    }

    /// No read at all: whatever is stale, and holes for the rest.
    fn fall_back(&self, wanted: &Wanted, asks: Vec<Ask>, why: Provenance, limits: Limits, found: &mut [Found]) {
        for ask in &asks {
            found[ask.entity] = Found::Hole(why);
        }
        self.serve_stale(wanted, asks, limits, found);
    }

    /// Puts rows past their freshness where the store had no answer.
    fn serve_stale(&self, wanted: &Wanted, asks: Vec<Ask>, limits: Limits, found: &mut [Found]) {
        if asks.is_empty() {
            return;
        }
        // Not the time of the look: a row may have grown too old while the store was waited for.
        let now = Instant::now();
        for Ask { entity, old } in asks {
            let Some((row, entry)) = old.map(|old| *old) else { continue };
            let read_at = entry.read_at();
            if may_serve_stale(wanted.shape(entity), limits.max_stale, read_at, now) {
                self.counters.cache_stale.add(1);
                let age_ms = millis(now.saturating_duration_since(read_at));
                found[entity] = Found::Row { row, provenance: Provenance::Stale, age_ms };
            }
        }
    }
}

/// A read that the request which began it drives itself, which spares waking a second task and being woken by it.
/// When the request leaves, cancelled or out of time, the rest goes on in a task of its own: its followers still want
/// the rows, and so does the cache. That task ends within a read's life, holds a permit until then, and
/// [`Store::drain`] waits for the permits.
struct UnderWay {
    read: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    waits: Arc<Waits>,
}

impl Future for UnderWay {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Some(read) = self.read.as_mut() else { return Poll::Ready(()) };
        let polled = read.as_mut().poll(cx);
        if polled.is_ready() {
            self.read = None;
        }
        polled
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        // Outside of a runtime there is nobody to go on with it: then it lands as a failure.
        if let (Some(rest), Ok(runtime)) = (self.read.take(), Handle::try_current()) {
            self.waits.leave();
            runtime.spawn(rest);
        }
    }
}

/// Under which key Redis has an entity's row.
fn stored_key(wanted: &Wanted, entity: usize) -> &[u8] {
    match wanted.shape(entity) {
        Shape::Packed(_) => wanted.key(entity),
        Shape::Hash(_) => wanted.key(entity).get(hash::ID_BYTES..).unwrap_or_default(),
    }
}
