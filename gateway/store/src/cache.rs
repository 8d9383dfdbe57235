//! Rows read from the store, kept for a while: one entry per entity holding its whole packed row. Promises:
//! bounded in bytes, nothing past a view's `stale_for` is ever given out, and only what the store said is
//! kept, never a default, an error or bytes that are not a row.
//!
//! Age is judged here, when an entry is looked up, on tokio's clock, so that a view's limits can change with
//! the catalog and time can stand still in tests. Moka only keeps the total in bounds: entries past their time
//! are evicted like any that nobody asks for.

use std::hash::BuildHasher;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use hashbrown::DefaultHashBuilder;
use tokio::time::Instant;
use weir_domain::{Provenance, Times};

use crate::decode::Line;
use crate::front::{Copied, Front, Near, Place};
use crate::row::Row;
use crate::shape::Shape;
use crate::tracking::Tracking;
use crate::wanted::Wanted;

/// What an entry costs beside its key and its row: moka's own nodes, two reference counts and the entry.
const ENTRY_OVERHEAD_BYTES: usize = 256;

/// However short memory is, so much is held: without new entries the allocator would never look for the pages of old ones.
const ROOM_BYTES_MIN: u64 = 1 << 20;

/// Counts readings. One for all caches of the process, so that no two readings are ever taken for one.
static NEXT_READING: AtomicU64 = AtomicU64::new(Times::FIRST_READING);

/// How much the cache may hold.
#[derive(Clone, Copy, Debug)]
pub struct CacheSettings {
    /// Bytes of rows, keys and book-keeping.
    pub capacity_bytes: u64,
}

impl Default for CacheSettings {
    /// 256 MiB: about 400,000 rows of 50 numbers.
    fn default() -> Self {
        Self { capacity_bytes: 256 << 20 }
    }
}

/// What the store said about an entity, and when it was asked.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    /// `None`: there is no such entity.
    pub(crate) row: Option<Bytes>,
    pub(crate) read: Arc<ReadAt>,
}

/// When the last read that said so began: the row is at least as new as that. Shared by all copies of an entry.
#[derive(Debug)]
pub(crate) struct ReadAt {
    first: Instant,
    /// Number of that reading: no other row has it.
    pub(crate) number: u64,
    /// Microseconds after `first`.
    later_us: AtomicU64,
}

impl ReadAt {
    pub(crate) fn at(&self) -> Instant {
        self.first + Duration::from_micros(self.later_us.load(Relaxed))
    }
}

impl Entry {
    pub(crate) fn new(row: Option<Bytes>, read_at: Instant) -> Self {
        let number = NEXT_READING.fetch_add(1, Relaxed);
        Self { row, read: Arc::new(ReadAt { first: read_at, number, later_us: AtomicU64::new(0) }) }
    }

    pub(crate) fn read_at(&self) -> Instant {
        self.read.at()
    }

    /// The store has said the same again: the entry is as new as that read. Far cheaper than to replace it.
    fn said_again(&self, row: &Bytes, read_at: Instant) -> bool {
        let is_same = self.row.as_ref() == Some(row);
        if is_same {
            let later = read_at.saturating_duration_since(self.read.first).as_micros();
            self.read.later_us.fetch_max(u64::try_from(later).unwrap_or(u64::MAX), Relaxed);
        }
        is_same
    }
}

/// What the cache knows about an entity.
#[derive(Debug)]
pub(crate) enum Look {
    /// A row that may be served without asking the store.
    Fresh(Row, Duration),
    /// The store said lately that there is no such entity.
    Negative,
    /// A row that may be served at once, but somebody should ask the store again, with the entry it is from.
    Aging(Row, Entry),
    /// A row to serve if the store does not answer, with the entry it is from.
    Old(Row, Entry),
    /// Nothing that could be served.
    Nothing,
}

/// What an entry is good for, by its age.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Fresh,
    Negative,
    Aging,
    Old,
    Nothing,
}

impl Standing {
    /// Unless everything that was written since is heard of, a row may have changed.
    fn of(has_row: bool, shape: &Shape, max_stale: Option<Duration>, age: Duration, is_heard: bool) -> Self {
        let limits = shape.limits();
        if max_stale.is_some_and(|max| age > max) {
            return Self::Nothing;
        }
        match has_row {
            false if is_heard && age < limits.negative_for => Self::Negative,
            true if is_heard && age < limits.fresh_for => Self::Fresh,
            true if age > limits.stale_for => Self::Nothing,
            true if is_heard && age < limits.fresh_for + limits.revalidate_for => Self::Aging,
            true => Self::Old,
            _ => Self::Nothing,
        }
    }
}

pub(crate) struct Cache {
    entries: moka::sync::Cache<Bytes, Entry, DefaultHashBuilder>,
    front: Front,
    hasher: DefaultHashBuilder,
    /// There is no room for anything.
    is_none: bool,
    /// Holding more bytes than this, it takes no entities that it does not know: memory is short.
    room_bytes: AtomicU64,
    /// What is heard of writes; without it rows are fresh for as long as their view says.
    tracking: Option<Arc<Tracking>>,
}

impl Cache {
    pub(crate) fn new(settings: CacheSettings, hasher: DefaultHashBuilder, tracking: Option<Arc<Tracking>>) -> Self {
        let weigh = |key: &Bytes, entry: &Entry| {
            let bytes = key.len() + entry.row.as_ref().map_or(0, Bytes::len) + ENTRY_OVERHEAD_BYTES;
            u32::try_from(bytes).unwrap_or(u32::MAX)
        };
        let builder = moka::sync::Cache::builder().max_capacity(settings.capacity_bytes).weigher(weigh);
        let front = Front::new(settings.capacity_bytes);
        let is_none = settings.capacity_bytes == 0;
        let (entries, room_bytes) = (builder.build_with_hasher(hasher.clone()), AtomicU64::new(u64::MAX));
        Self { entries, front, hasher, is_none, room_bytes, tracking }
    }

    /// Whether nothing is ever kept.
    pub(crate) fn is_none(&self) -> bool {
        self.is_none
    }

    /// What can be answered at once, for as long as nothing is waited for.
    pub(crate) fn at_hand(&self, max_stale: Option<Duration>, now: Instant) -> Option<AtHand<'_>> {
        let unheard_for = self.unheard().map(|until| now.saturating_duration_since(until));
        Some(AtHand { cache: self, near: self.front.near(now)?, max_stale, now, unheard_for })
    }

    /// What the cache itself knows about `key`, whose rows have this shape.
    pub(crate) fn look(&self, key: &[u8], shape: &Shape, max_stale: Option<Duration>, now: Instant) -> Look {
        if self.is_none || shape.limits().is_never() {
            return Look::Nothing;
        }
        let hash = self.hasher.hash_one(key);
        let mut near = self.front.near(now);
        let stamp = near.as_ref().map(|near| near.stamp(hash));
        let Some(entry) = self.entries.get(key) else { return Look::Nothing };
        if let (Some(near), Some(stamp)) = (&mut near, stamp) {
            near.put(hash, key, &entry, stamp);
        }
        let read_at = entry.read_at();
        let is_heard = self.unheard().is_none_or(|until| read_at > until);
        let age = now.saturating_duration_since(read_at);
        let standing = Standing::of(entry.row.is_some(), shape, max_stale, age, is_heard);
        match (standing, entry.row.clone()) {
            (Standing::Negative, _) => Look::Negative,
            (Standing::Nothing, _) | (_, None) => Look::Nothing,
            (standing, Some(row)) => {
                // One kept under another schema of the same view, before the catalog changed, is of no use any more.
                let Ok(row) = shape.parse(row) else { return Look::Nothing };
                match standing {
                    Standing::Fresh => Look::Fresh(row, age),
                    Standing::Aging => Look::Aging(row, entry),
                    _ => Look::Old(row, entry),
                }
            }
        }
    }

    /// Keeps what the store said, in copies of its own: what they were read in is larger. The caller has checked that a
    /// row has the shape.
    pub(crate) fn keep(&self, key: &[u8], shape: &Shape, row: Option<&[u8]>, read_at: Instant) {
        let limits = shape.limits();
        if limits.is_never() || self.is_none {
            return;
        }
        let is_worth_it = match row {
            Some(_) => !(limits.fresh_for.is_zero() && limits.stale_for.is_zero()),
            None => !limits.negative_for.is_zero(),
        };
        let has_room = || self.bytes() < self.room_bytes.load(Relaxed) || self.entries.contains_key(key);
        if is_worth_it && has_room() {
            self.expect_writes(key, shape);
            let entry = Entry::new(row.map(Bytes::copy_from_slice), read_at);
            self.entries.insert(Bytes::copy_from_slice(key), entry);
        } else {
            // What was known before is no longer what the store says.
            self.entries.invalidate(key);
        }
        self.forget_if_written(key, shape, read_at);
        self.front.forget(self.hasher.hash_one(key));
    }

    /// The store was asked about what is known, and this is what it said. If it is the same, the row is as new as that
    /// read, and there is nothing to [`keep`](Self::keep).
    pub(crate) fn renew(&self, key: &[u8], shape: &Shape, known: &Entry, row: &Bytes, read_at: Instant) -> bool {
        self.expect_writes(key, shape);
        let is_same = known.said_again(row, read_at);
        if is_same {
            self.front.forget(self.hasher.hash_one(key));
            self.forget_if_written(key, shape, read_at);
        }
        is_same
    }

    fn unheard(&self) -> Option<Instant> {
        self.tracking.as_ref().and_then(|tracking| tracking.unheard_until())
    }

    fn expect_writes(&self, key: &[u8], shape: &Shape) {
        if let Some(tracking) = &self.tracking {
            tracking.expect(key, shape);
        }
    }

    /// A row that was written while it was being read may have the value of before.
    fn forget_if_written(&self, key: &[u8], shape: &Shape, read_at: Instant) {
        if self.tracking.as_ref().is_some_and(|tracking| tracking.was_written_since(key, shape, read_at)) {
            self.forget(key);
        }
    }

    /// Forgets a row and its copies. Returns whether it was there.
    pub(crate) fn forget(&self, key: &[u8]) -> bool {
        let was_there = self.entries.remove(key).is_some();
        self.front.forget(self.hasher.hash_one(key));
        was_there
    }

    /// Forgets all rows.
    pub(crate) fn forget_all(&self) {
        self.entries.invalidate_all();
        self.front.forget_all();
    }

    /// Gives up the half of its entries that was read longest ago, and returns how many those were. Takes some
    /// microseconds for each entry. The allocator has their pages back when the threads that filled them ask for more,
    /// so some new entries are taken afterwards: until five eighths are there again of what was. Should none of the pages
    /// come back in the meantime, that eighth is a tenth of a process that is four fifths full.
    pub(crate) fn halve(&self) -> usize {
        let bytes = self.bytes();
        self.room_bytes.store(0, Relaxed);
        let gone = self.give_up_half();
        self.room_bytes.store((bytes / 8 * 5).max(ROOM_BYTES_MIN), Relaxed);
        gone
    }

    /// There is enough memory again: it may hold what it was made for.
    pub(crate) fn grow(&self) {
        self.room_bytes.store(u64::MAX, Relaxed);
    }

    fn give_up_half(&self) -> usize {
        let now = Instant::now();
        let age_us = |entry: &Entry| now.saturating_duration_since(entry.read_at()).as_micros() as u64;
        let mut ages_us: Vec<u64> = self.entries.iter().map(|(_, entry)| age_us(&entry)).collect();
        let half = ages_us.len().div_ceil(2);
        if half == 0 {
            return 0;
        }
        let kept = ages_us.len() - half;
        let oldest_us = *ages_us.select_nth_unstable(kept).1;
        // Of those that were read in the same microsecond some may stay.
        let old = self.entries.iter().filter(|(_, entry)| age_us(entry) >= oldest_us).take(half);
        let gone = old.map(|(key, _)| self.entries.invalidate(&*key)).count();
        self.entries.run_pending_tasks();
        gone
    }

    /// Bytes held, as weighed; moka updates it now and then.
    pub(crate) fn bytes(&self) -> u64 {
        self.entries.weighted_size()
    }

    /// Entries held; moka updates it now and then.
    pub(crate) fn entries(&self) -> u64 {
        self.entries.entry_count()
    }
}

/// Copies of what the cache knows, and what it knows itself.
pub(crate) struct AtHand<'a> {
    cache: &'a Cache,
    near: Near<'a>,
    max_stale: Option<Duration>,
    now: Instant,
    /// Since when everything that was written is heard of.
    unheard_for: Option<Duration>,
}

/// Copies, one after another.
pub(crate) struct Brought {
    pub(crate) bytes: Bytes,
    /// By entity: where its copy was, if it has one, and where in the bytes it ends.
    places: Vec<(Option<Place>, usize)>,
}

/// An entry of which there was no copy.
pub(crate) struct Uncopied {
    entry: Entry,
    /// Of the copy that may be made of it.
    stamp: u32,
}

impl AtHand<'_> {
    /// What may be copies of all entities, brought together.
    pub(crate) fn bring(&self, wanted: &Wanted) -> Brought {
        let places = (0..wanted.len()).map(|entity| self.near.locate(wanted.hash(entity)));
        let places: Vec<Option<Place>> = places.collect();
        let mut bytes = Vec::with_capacity(places.iter().flatten().map(|place| place.len()).sum());
        let end = |place: Option<Place>| {
            place.inspect(|place| self.near.bring(*place, &mut bytes));
            (place, bytes.len())
        };
        let places = places.into_iter().map(end).collect();
        Brought { bytes: bytes.into(), places }
    }

    /// What may be served of an entity without asking the store, if a copy of it was brought.
    pub(crate) fn find<'b>(&self, wanted: &Wanted, entity: usize, brought: &'b Brought) -> Option<Line<'b>> {
        let (place, end) = brought.places[entity];
        let start = if entity == 0 { 0 } else { brought.places[entity - 1].1 };
        let Copied { row, age, reading } = self.near.read(place?, &brought.bytes[start..end], wanted.key(entity))?;
        self.line(wanted.shape(entity), row, age, reading)
    }

    /// The same if the cache itself has it.
    pub(crate) fn ask(&self, wanted: &Wanted, entity: usize) -> Option<Uncopied> {
        if wanted.shape(entity).limits().is_never() {
            return None;
        }
        let stamp = self.near.stamp(wanted.hash(entity));
        let entry = self.cache.entries.get(wanted.key(entity))?;
        let uncopied = Uncopied { entry, stamp };
        self.line_of(wanted, entity, &uncopied).is_some().then_some(uncopied)
    }

    pub(crate) fn line_of<'e>(&self, wanted: &Wanted, entity: usize, of: &'e Uncopied) -> Option<Line<'e>> {
        let age = self.now.saturating_duration_since(of.entry.read_at());
        self.line(wanted.shape(entity), of.entry.row.as_deref(), age, of.entry.read.number)
    }

    /// Makes a copy.
    pub(crate) fn copy(&mut self, wanted: &Wanted, entity: usize, of: &Uncopied) {
        self.near.put(wanted.hash(entity), wanted.key(entity), &of.entry, of.stamp);
    }

    /// Only what is fresh: what has to be read again, or is of no use, is not for here.
    fn line<'r>(&self, shape: &Shape, row: Option<&'r [u8]>, age: Duration, reading: u64) -> Option<Line<'r>> {
        let is_heard = self.unheard_for.is_none_or(|since| age < since);
        match (Standing::of(row.is_some(), shape, self.max_stale, age, is_heard), row) {
            (Standing::Negative, None) => Some(Line::hole(Provenance::Missing)),
            (Standing::Fresh, Some(row)) => {
                let event_time_us = shape.check(row).ok()?;
                Some(Line { row, provenance: Provenance::Cache, event_time_us, age_ms: millis(age), reading })
            }
            _ => None,
        }
    }
}

/// As replies and the journal say it.
pub(crate) fn millis(age: Duration) -> u32 {
    u32::try_from(age.as_millis()).unwrap_or(u32::MAX)
}

/// What is left of `max_stale` and `stale_for` now: whether a row read at `read_at` may still be served.
pub(crate) fn may_serve_stale(shape: &Shape, max_stale: Option<Duration>, read_at: Instant, now: Instant) -> bool {
    let age = now.saturating_duration_since(read_at);
    age <= shape.limits().stale_for && max_stale.is_none_or(|max| age <= max)
}

#[cfg(test)]
mod tests;
