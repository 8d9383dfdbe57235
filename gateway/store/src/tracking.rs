//! What Redis tells of writes, and what follows from it. Promises: once a write has been heard of, no row read before
//! it is served from the cache or to a request that comes later, also when it is still being read or just being kept;
//! and what may have changed unheard is not fresh.
//!
//! A packed row's key is its key in the cache. A Feast hash is kept in as many rows as there are sets of fields read
//! of it: those sets are few and remembered, so that a write to the hash finds all its rows.

use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed, Ordering::SeqCst, fence};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, Weak};
use std::time::Duration;

use hashbrown::{DefaultHashBuilder, HashSet};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::Counters;
use crate::cache::Cache;
use crate::flight::Flights;
use crate::hash::ID_BYTES;
use crate::shape::Shape;

/// Times of the last writes heard of, by the keys' hashes. They only matter while a row is on its way into the cache,
/// for a millisecond or so: at 100,000 writes a second one row in a hundred shares its place with another's write, and
/// is read once more. 64 KiB.
const WRITES: usize = 8 << 10;
/// Sets of fields of Feast's hashes that are remembered. Services have some dozens; callers who make up lists of
/// features may have any number, and then everything is forgotten and learnt again.
const HASH_READS_MAX: usize = 1_024;

/// Which writes are to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    /// Those to keys of our own, which begin with the namespace.
    Namespace,
    /// All: the keys of Feast's hashes begin with the entity.
    Everything,
}

pub(crate) struct Tracking {
    prefix: String,
    hasher: DefaultHashBuilder,
    origin: Instant,
    /// Nanoseconds after `origin`, by hash of the key.
    written_ns: Box<[AtomicU64]>,
    /// What was read until then may have changed unheard.
    unheard_ns: AtomicU64,
    hash_reads: RwLock<HashSet<[u8; ID_BYTES]>>,
    reach: watch::Sender<Reach>,
    /// Who is told: a store's cache, and its reads under way.
    keepers: RwLock<Vec<(Weak<Cache>, Weak<Flights>)>>,
    counters: Arc<Counters>,
}

impl Tracking {
    /// Of keys that begin with `prefix`, until others are read.
    pub(crate) fn new(prefix: String, counters: Arc<Counters>) -> Self {
        Self {
            prefix,
            hasher: DefaultHashBuilder::default(),
            origin: Instant::now(),
            written_ns: (0..WRITES).map(|_| AtomicU64::new(0)).collect(),
            unheard_ns: AtomicU64::new(0),
            hash_reads: RwLock::default(),
            reach: watch::Sender::new(Reach::Namespace),
            keepers: RwLock::default(),
            counters,
        }
    }

    /// From now on these forget what was written.
    pub(crate) fn tell(&self, cache: &Arc<Cache>, flights: &Arc<Flights>) {
        let mut keepers = self.keepers.write().unwrap_or_else(PoisonError::into_inner);
        keepers.push((Arc::downgrade(cache), Arc::downgrade(flights)));
    }

    /// Which writes are to be told, and word of when that changes.
    pub(crate) fn reach(&self) -> watch::Receiver<Reach> {
        self.reach.subscribe()
    }

    /// What the keys begin with whose writes are to be told; `None` = all.
    pub(crate) fn prefix(&self, reach: Reach) -> Option<&str> {
        (reach == Reach::Namespace).then_some(&self.prefix)
    }

    /// Redis says that this key was written, or is gone.
    pub(crate) fn written(&self, key: &[u8]) {
        self.written_ns[self.place(key)].fetch_max(self.ns(Instant::now()), SeqCst);
        fence(SeqCst);
        let reads = self.hash_reads.read().unwrap_or_else(PoisonError::into_inner);
        let rows = reads.iter().map(|id| [id, key].concat());
        let mut forgotten = 0;
        for (cache, flights) in self.keepers().iter() {
            let (Some(cache), Some(flights)) = (cache.upgrade(), flights.upgrade()) else { continue };
            let mut forget = |row: &[u8]| {
                flights.forget(row);
                forgotten += usize::from(cache.forget(row));
            };
            forget(key);
            rows.clone().for_each(|row| forget(&row));
        }
        self.counters.cache_forgotten.add(forgotten);
        self.counters.invalidations.add(1);
    }

    /// Writes may have happened that were not told, up to now: whatever was read before is not fresh.
    pub(crate) fn unheard(&self) {
        self.unheard_ns.fetch_max(self.ns(Instant::now()), SeqCst);
        self.counters.cache_flushes.add(1);
    }

    /// Until when what was read may have changed without our hearing of it.
    pub(crate) fn unheard_until(&self) -> Option<Instant> {
        let ns = self.unheard_ns.load(Relaxed).checked_sub(1)?;
        Some(self.origin + Duration::from_nanos(ns))
    }

    /// Whether a write to the row's key, or to one that shares its place, was heard of since then. Of a row that was
    /// put anywhere before asking, either this tells, or the write that comes finds it there.
    pub(crate) fn was_written_since(&self, key: &[u8], shape: &Shape, since: Instant) -> bool {
        fence(SeqCst);
        self.ns(since) <= self.written_ns[self.place(store_key(key, shape))].load(SeqCst)
    }

    /// A row is about to be kept: writes to its hash will have to find it.
    pub(crate) fn expect(&self, key: &[u8], shape: &Shape) {
        let limits = shape.limits();
        let is_never_fresh = limits.fresh_for.is_zero() && limits.negative_for.is_zero();
        let (Shape::Hash(_), Some(id)) = (shape, key.first_chunk::<ID_BYTES>()) else { return };
        if is_never_fresh || self.hash_reads.read().unwrap_or_else(PoisonError::into_inner).contains(id) {
            return;
        }
        let mut reads = self.hash_reads.write().unwrap_or_else(PoisonError::into_inner);
        if reads.len() >= HASH_READS_MAX {
            reads.clear();
            self.unheard();
            self.keepers().iter().filter_map(|(cache, _)| cache.upgrade()).for_each(|cache| cache.forget_all());
        }
        reads.insert(*id);
        drop(reads);
        self.reach.send_if_modified(|reach| std::mem::replace(reach, Reach::Everything) == Reach::Namespace);
    }

    fn place(&self, key: &[u8]) -> usize {
        self.hasher.hash_one(key) as usize % WRITES
    }

    /// Never 0, which is "not yet".
    fn ns(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.origin).as_nanos()).unwrap_or(u64::MAX).saturating_add(1)
    }

    fn keepers(&self) -> RwLockReadGuard<'_, Vec<(Weak<Cache>, Weak<Flights>)>> {
        self.keepers.read().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Under which key the row lies in the store.
fn store_key<'k>(key: &'k [u8], shape: &Shape) -> &'k [u8] {
    match shape {
        Shape::Packed(_) => key,
        Shape::Hash(_) => key.get(ID_BYTES..).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::CacheSettings;
    use crate::cache::Look;
    use crate::flight::Boards;
    use bytes::Bytes;
    use tokio::time::advance;
    use weir_domain::catalog::Freshness;
    use weir_domain::feast::{HashRead, HashRow};

    const SECOND: Duration = Duration::from_secs(1);

    struct Scene {
        tracking: Arc<Tracking>,
        cache: Arc<Cache>,
        flights: Arc<Flights>,
    }

    fn scene() -> Scene {
        let tracking = Arc::new(Tracking::new("n:".to_owned(), Arc::default()));
        let hasher = DefaultHashBuilder::default();
        let cache = Arc::new(Cache::new(CacheSettings::default(), hasher.clone(), Some(tracking.clone())));
        let flights = Arc::new(Flights::new(hasher));
        tracking.tell(&cache, &flights);
        Scene { tracking, cache, flights }
    }

    /// A row of one field of the hash "h", and its key.
    fn hash(field: &str, fresh_for: Duration) -> (Shape, Bytes) {
        let cache = Freshness { fresh_for, stale_for: 60 * SECOND, negative_for: fresh_for, ..Freshness::default() };
        let read = HashRead::new("view", [field], 2, cache);
        let key = [&read.id[..], b"h"].concat().into();
        (Shape::Hash(Arc::new(read)), key)
    }

    impl Scene {
        fn keep(&self, (shape, key): &(Shape, Bytes), row: Option<&Bytes>, read_at: Instant) {
            self.cache.keep(key, shape, row.map(|row| &row[..]), read_at);
        }

        fn look(&self, (shape, key): &(Shape, Bytes)) -> &'static str {
            match self.cache.look(key, shape, None, Instant::now()) {
                Look::Fresh(..) => "fresh",
                Look::Negative => "negative",
                Look::Old(..) => "old",
                Look::Aging(..) => "aging",
                Look::Nothing => "nothing",
            }
        }
    }

    fn row() -> Bytes {
        HashRow::pack(None, &[Some(b"value")]).unwrap().into()
    }

    #[tokio::test(start_paused = true)]
    async fn a_write_finds_every_row_of_a_hash_and_its_copies() {
        let scene = scene();
        let rows = ["x", "y"].map(|field| hash(field, 10 * SECOND));
        rows.iter().for_each(|row_of| scene.keep(row_of, Some(&row()), Instant::now()));
        advance(SECOND).await;
        assert_eq!(rows.each_ref().map(|row| scene.look(row)), ["fresh"; 2], "and now there are copies");
        scene.tracking.written(b"another");
        assert_eq!(rows.each_ref().map(|row| scene.look(row)), ["fresh"; 2]);
        scene.tracking.written(b"h");
        assert_eq!(rows.each_ref().map(|row| scene.look(row)), ["nothing"; 2]);
        assert_eq!(
            (scene.tracking.counters.invalidations.get(), scene.tracking.counters.cache_forgotten.get()),
            (2, 2)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_written_after_its_read_began_is_not_kept() {
        let (scene, row_of) = (scene(), hash("x", 10 * SECOND));
        let began = Instant::now();
        advance(SECOND).await;
        scene.tracking.written(b"h");
        scene.keep(&row_of, Some(&row()), began);
        assert_eq!(scene.look(&row_of), "nothing");
        scene.keep(&row_of, None, began);
        assert_eq!(scene.look(&row_of), "nothing");
        advance(SECOND).await;
        scene.keep(&row_of, Some(&row()), Instant::now());
        assert_eq!(scene.look(&row_of), "fresh");
    }

    #[tokio::test(start_paused = true)]
    async fn a_row_that_becomes_fresh_by_being_said_again_is_tracked_too() {
        let (scene, never, later) = (scene(), hash("x", Duration::ZERO), hash("x", 10 * SECOND));
        scene.keep(&never, Some(&row()), Instant::now());
        assert_eq!(*scene.tracking.reach().borrow(), Reach::Namespace, "rows that are never fresh need no tracking");
        advance(20 * SECOND).await;
        // The catalog has changed meanwhile.
        let (shape, key) = &later;
        let known = || match scene.cache.look(key, shape, None, Instant::now()) {
            Look::Old(_, entry) => entry,
            other => panic!("an old row: {other:?}"),
        };
        let began = Instant::now();
        let entry = known();
        scene.tracking.written(b"h");
        assert!(scene.cache.renew(key, shape, &entry, &row(), began));
        assert_eq!(scene.look(&later), "nothing");
        assert_eq!(*scene.tracking.reach().borrow(), Reach::Everything);
    }

    #[tokio::test(start_paused = true)]
    async fn what_may_have_changed_unheard_is_old_and_not_forgotten() {
        let (scene, row_of, nobody) = (scene(), hash("x", 10 * SECOND), hash("y", 10 * SECOND));
        scene.keep(&row_of, Some(&row()), Instant::now());
        scene.keep(&nobody, None, Instant::now());
        advance(SECOND).await;
        assert_eq!((scene.look(&row_of), scene.look(&nobody)), ("fresh", "negative"));
        scene.tracking.unheard();
        assert_eq!((scene.look(&row_of), scene.look(&nobody)), ("old", "nothing"));
        let Look::Old(_, entry) = scene.cache.look(&row_of.1, &row_of.0, None, Instant::now()) else { panic!("old") };
        // A read that was under way then proves nothing; a later one does.
        assert!(scene.cache.renew(&row_of.1, &row_of.0, &entry, &row(), Instant::now()));
        assert_eq!(scene.look(&row_of), "old");
        advance(SECOND).await;
        assert!(scene.cache.renew(&row_of.1, &row_of.0, &entry, &row(), Instant::now()));
        assert_eq!(scene.look(&row_of), "fresh");
    }

    #[tokio::test(start_paused = true)]
    async fn more_sets_of_fields_than_are_remembered_cost_what_is_cached() {
        let scene = scene();
        let rows: Vec<_> = (0..=HASH_READS_MAX).map(|n| hash(&n.to_string(), 10 * SECOND)).collect();
        for row_of in &rows {
            advance(Duration::from_micros(1)).await;
            scene.keep(row_of, Some(&row()), Instant::now());
        }
        assert_eq!((scene.look(&rows[0]), scene.tracking.counters.cache_flushes.get()), ("nothing", 1));
        assert_eq!(scene.tracking.hash_reads.read().unwrap().len(), 1);
    }

    #[tokio::test]
    async fn who_asks_after_a_write_does_not_wait_for_a_read_from_before() {
        let scene = scene();
        let board = || scene.flights.boarded(&["k"], Boards::Leading, |_| 0).leaders.pop();
        let first = board().unwrap();
        assert!(board().is_none());
        scene.tracking.written(b"k");
        let second = board().unwrap();
        drop(first);
        assert!(board().is_none(), "the second read is still under way");
        drop(second);
        assert!(board().is_some());
    }
}
