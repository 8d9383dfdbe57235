//! Small tables before the cache, one a thread: what was looked up a moment ago, found again without moka's
//! book-keeping, without a lock and without a count that cores pass around (a get of moka is five times as dear).
//! Rows lie in a table's pages as they are, beside their keys, and a slot knows how much that is: those of a request are
//! brought together before any of them is looked at, so that they wait for memory together. A copy lives for some seconds, so that the cache still learns what is in use, and carries the age of
//! its row: nothing gets fresher or staler by coming from here.

use std::cell::{RefCell, RefMut};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::available_parallelism;
use std::time::Duration;

use thread_local::ThreadLocal;
use tokio::time::Instant;

use crate::cache::Entry;

/// How long a copy is found: the cache sees every entity in use that often, and knows whom to keep. Asking it for a
/// row costs as much as forty copies do.
const COPY_MS: u32 = 10_000;
/// All tables together may take a quarter of what the cache may hold.
const CAPACITY_SHARE: u64 = 4;
/// A table's pages are written round and round, and the oldest copies give way. 16 MiB are 30,000 rows of 50 numbers.
const TABLE_BYTES_MAX: u64 = 16 << 20;
const PAGE_BYTES: usize = 64 << 10;
/// A larger row costs more to copy than to look up.
const ROW_BYTES_MAX: usize = 2 << 10;
const KEY_BYTES_MAX: usize = 255;
/// Two slots for a row of 50 numbers and its key: with as many slots as rows, one row of sixteen would have no room in
/// its set.
const BYTES_PER_SLOT: usize = 256;
/// Where a page's last copy begins, and how long one may be, are numbers of 16 bits.
const _: () = assert!(PAGE_BYTES <= 1 << 16 && HEAD_BYTES + KEY_BYTES_MAX + ROW_BYTES_MAX < 1 << 16);
/// Entities whose hashes agree in the set do not push each other out at once.
const WAYS: usize = 4;
/// What is kept anew leaves its mark on one stamp, and copies under that stamp are void: 1/16,384 of them. A power
/// of two.
const STAMPS: usize = 16 << 10;
/// In place of a row's length: the store has no such entity.
const NO_ROW: u32 = u32::MAX;
/// Before each key: its length, the row's, and the number of the reading.
const HEAD_BYTES: usize = 16;

pub(crate) struct Front {
    tables: ThreadLocal<RefCell<Table>>,
    stamps: Box<[AtomicU32]>,
    /// Added to every stamp.
    all: AtomicU32,
    born: Instant,
    /// Of each table; none when the cache is too small to be worth a front.
    pages_max: usize,
}

/// The table of this thread, while it is in use.
pub(crate) struct Near<'a> {
    front: &'a Front,
    table: RefMut<'a, Table>,
    now_us: u64,
}

/// Where a copy is.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    read_us: u64,
    page: u32,
    at: u16,
    len: u16,
}

/// What the cache said a moment ago.
pub(crate) struct Copied<'a> {
    /// `None`: there is no such entity.
    pub(crate) row: Option<&'a [u8]>,
    /// Time since the read that said so began.
    pub(crate) age: Duration,
    /// Number of the reading it is of.
    pub(crate) reading: u64,
}

#[derive(Debug, Default)]
struct Table {
    sets: Box<[[Slot; WAYS]]>,
    /// Up to `pages_max`; page n is the one at n modulo `pages_max`.
    pages: Vec<Box<[u8]>>,
    /// The page that is written, counted from the beginning, and where in it.
    page: u32,
    at: usize,
}

/// Half a cache line.
#[derive(Debug)]
struct Slot {
    hash: u64,
    /// When the read began, in microseconds of the front.
    read_us: u64,
    page: u32,
    /// Where on the page, and how many bytes with the key.
    at: u16,
    len: u16,
    /// The key's stamp when the cache was asked.
    stamp: u32,
    /// When it was put here. Wraps in seven weeks, which only lets a copy live twice: its age is in `read_us`.
    put_ms: u32,
}

/// Stands for no time: nothing is kept here.
const NEVER: u64 = u64::MAX;

impl Default for Slot {
    fn default() -> Self {
        Self { hash: 0, read_us: NEVER, page: 0, at: 0, len: 0, stamp: 0, put_ms: 0 }
    }
}

impl Front {
    pub(crate) fn new(capacity_bytes: u64) -> Self {
        let threads = available_parallelism().map_or(1, usize::from) as u64;
        let table_bytes = (capacity_bytes / CAPACITY_SHARE / threads).min(TABLE_BYTES_MAX);
        Self {
            tables: ThreadLocal::new(),
            stamps: (0..STAMPS).map(|_| AtomicU32::new(0)).collect(),
            all: AtomicU32::new(0),
            born: Instant::now(),
            pages_max: table_bytes as usize / PAGE_BYTES,
        }
    }

    /// The table of this thread; `None` when the cache is too small to be worth one.
    pub(crate) fn near(&self, now: Instant) -> Option<Near<'_>> {
        if self.pages_max == 0 {
            return None;
        }
        let table = self.tables.get_or(|| RefCell::new(Table::new(self.pages_max))).try_borrow_mut().ok()?;
        Some(Near { front: self, table, now_us: self.us(now) })
    }

    fn us(&self, at: Instant) -> u64 {
        at.saturating_duration_since(self.born).as_micros() as u64
    }

    /// The store has just said something else about the key of this hash, and the cache knows it.
    pub(crate) fn forget(&self, hash: u64) {
        // Whoever asked the cache before sees another stamp than it saw then; whoever sees this one asks after.
        self.stamps[stamp(hash)].fetch_add(1, Ordering::Release);
    }

    /// The same of all keys.
    pub(crate) fn forget_all(&self) {
        self.all.fetch_add(1, Ordering::Release);
    }
}

impl Near<'_> {
    /// Where a copy of the entry of a key of this hash may be, if there is one that may still be believed.
    #[inline]
    pub(crate) fn locate(&self, hash: u64) -> Option<Place> {
        let slot = self.table.sets[self.table.set(hash)].iter().find(|slot| slot.hash == hash)?;
        let is_current = self.now_ms().wrapping_sub(slot.put_ms) < COPY_MS && slot.stamp == self.stamp(hash);
        (is_current && slot.read_us != NEVER).then(|| slot.place())
    }

    /// Appends what is there, which is nothing if it was written over.
    #[inline]
    pub(crate) fn bring(&self, place: Place, into: &mut Vec<u8>) {
        into.extend_from_slice(self.table.bytes(self.front.pages_max, place).unwrap_or_default());
    }

    /// The copy that was brought from there, if it is of this key's entry.
    #[inline]
    pub(crate) fn read<'b>(&self, place: Place, brought: &'b [u8], key: &[u8]) -> Option<Copied<'b>> {
        let (Head { row_len, reading }, own, rest) = parts(brought)?;
        if own != key {
            return None;
        }
        let row = match row_len {
            NO_ROW => None,
            len => Some(rest.get(..len as usize)?),
        };
        Some(Copied { row, age: Duration::from_micros(self.now_us.saturating_sub(place.read_us)), reading })
    }

    fn now_ms(&self) -> u32 {
        (self.now_us / 1_000) as u32
    }

    /// What the cache must be asked after, for the answer to be [`put`](Self::put).
    pub(crate) fn stamp(&self, hash: u64) -> u32 {
        // Both only grow, so their sum is the same only while both are.
        let all = self.front.all.load(Ordering::Acquire);
        self.front.stamps[stamp(hash)].load(Ordering::Acquire).wrapping_add(all)
    }

    /// Keeps a copy of what the cache said after `stamp` was read.
    pub(crate) fn put(&mut self, hash: u64, key: &[u8], entry: &Entry, stamp: u32) {
        let row = entry.row.as_deref();
        if row.map_or(0, <[u8]>::len) > ROW_BYTES_MAX || key.len() > KEY_BYTES_MAX {
            return;
        }
        let (now_ms, of) = (self.now_ms(), self.table.set(hash));
        let same = self.table.sets[of].iter().position(|slot| slot.hash == hash);
        let before = same.map(|way| self.table.sets[of][way].place());
        let Place { page, at, len, .. } = self.table.write(self.front.pages_max, key, entry, before);
        let set = &mut self.table.sets[of];
        // Else the oldest copy gives way; an empty slot is older than any.
        let age = |slot: &Slot| if slot.read_us == NEVER { u32::MAX } else { now_ms.wrapping_sub(slot.put_ms) };
        let oldest = || (0..WAYS).max_by_key(|i| age(&set[*i])).unwrap_or(0);
        let way = same.unwrap_or_else(oldest);
        set[way] = Slot { hash, read_us: self.front.us(entry.read_at()), page, at, len, stamp, put_ms: now_ms };
    }
}

impl Table {
    fn new(pages_max: usize) -> Self {
        let sets = (pages_max * PAGE_BYTES / BYTES_PER_SLOT / WAYS).next_power_of_two();
        Self { sets: (0..sets).map(|_| Default::default()).collect(), ..Self::default() }
    }

    /// The bits that do not choose the stamp choose the set.
    fn set(&self, hash: u64) -> usize {
        (hash as usize / STAMPS) & (self.sets.len() - 1)
    }

    /// A copy's bytes, unless it was written over.
    #[inline]
    fn bytes(&self, pages_max: usize, Place { page, at, len, .. }: Place) -> Option<&[u8]> {
        if self.page.wrapping_sub(page) as usize >= pages_max {
            return None;
        }
        self.pages.get(page as usize % pages_max)?.get(at.into()..usize::from(at) + usize::from(len))
    }

    /// Writes a key and its row: where it was `before` if it has not grown or shrunk, else over what is oldest. Says where.
    fn write(&mut self, pages_max: usize, key: &[u8], entry: &Entry, before: Option<Place>) -> Place {
        let row = entry.row.as_deref();
        let row_len = row.map_or(NO_ROW, |row| row.len() as u32);
        let len = HEAD_BYTES + key.len() + row.map_or(0, <[u8]>::len);
        let fits = |place: &Place| {
            let old = self.bytes(pages_max, *place).and_then(parts);
            old.is_some_and(|(head, own, _)| (own, head.row_len) == (key, row_len))
        };
        let place = before.filter(fits).unwrap_or_else(|| self.append(pages_max, len));
        let at = usize::from(place.at);
        let room = &mut self.pages[place.page as usize % pages_max][at..at + len];
        let (head, rest) = room.split_at_mut(HEAD_BYTES);
        head[..4].copy_from_slice(&(key.len() as u32).to_le_bytes());
        head[4..8].copy_from_slice(&row_len.to_le_bytes());
        head[8..].copy_from_slice(&entry.read.number.to_le_bytes());
        let (to_key, to_row) = rest.split_at_mut(key.len());
        to_key.copy_from_slice(key);
        to_row.copy_from_slice(row.unwrap_or_default());
        place
    }

    /// Room for so many bytes: some two kilobytes at most.
    fn append(&mut self, pages_max: usize, len: usize) -> Place {
        if self.pages.is_empty() || self.at + len > PAGE_BYTES {
            self.page = self.page.wrapping_add(u32::from(!self.pages.is_empty()));
            self.at = 0;
            if self.pages.len() < pages_max {
                self.pages.push(vec![0; PAGE_BYTES].into());
            }
        }
        let at = self.at as u16;
        self.at += len;
        Place { read_us: NEVER, page: self.page, at, len: len as u16 }
    }
}

impl Place {
    /// Bytes there.
    pub(crate) fn len(&self) -> usize {
        self.len.into()
    }
}

impl Slot {
    fn place(&self) -> Place {
        Place { read_us: self.read_us, page: self.page, at: self.at, len: self.len }
    }
}

/// What stands before a key, besides its length.
struct Head {
    row_len: u32,
    reading: u64,
}

/// A copy's head, its key, and what follows.
#[inline]
fn parts(copy: &[u8]) -> Option<(Head, &[u8], &[u8])> {
    let (key_len, rest) = copy.split_first_chunk()?;
    let (row_len, rest) = rest.split_first_chunk()?;
    let (reading, rest) = rest.split_first_chunk()?;
    let (key, rest) = rest.split_at_checked(u32::from_le_bytes(*key_len) as usize)?;
    Some((Head { row_len: u32::from_le_bytes(*row_len), reading: u64::from_le_bytes(*reading) }, key, rest))
}

fn stamp(hash: u64) -> usize {
    hash as usize & (STAMPS - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use tokio::time::advance;

    fn entry(text: &'static str) -> Entry {
        Entry::new(Some(Bytes::from_static(text.as_bytes())), Instant::now())
    }

    fn put(front: &Front, hash: u64, key: &[u8], entry: &Entry) {
        let mut near = front.near(Instant::now()).unwrap();
        let stamp = near.stamp(hash);
        near.put(hash, key, entry, stamp);
    }

    fn text(front: &Front, hash: u64, key: &[u8]) -> Option<String> {
        let near = front.near(Instant::now()).unwrap();
        let (place, mut brought) = (near.locate(hash)?, Vec::new());
        near.bring(place, &mut brought);
        near.read(place, &brought, key).map(|copy| String::from_utf8(copy.row.unwrap().to_vec()).unwrap())
    }

    fn is(text: &str) -> Option<String> {
        Some(text.into())
    }

    #[tokio::test(start_paused = true)]
    async fn a_copy_is_believed_for_a_blink() {
        let front = Front::new(1 << 28);
        put(&front, 7, b"k", &entry("row"));
        advance(Duration::from_millis(u64::from(COPY_MS) - 1)).await;
        assert_eq!(text(&front, 7, b"k"), is("row"));
        advance(Duration::from_millis(1)).await;
        assert_eq!(text(&front, 7, b"k"), None);
    }

    #[tokio::test(start_paused = true)]
    async fn keys_of_one_hash_are_never_taken_for_each_other() {
        let front = Front::new(1 << 28);
        put(&front, 7, b"k", &entry("row"));
        assert_eq!(text(&front, 7, b"other"), None);
        put(&front, 7, b"other", &entry("of another"));
        assert_eq!(text(&front, 7, b"other"), is("of another"));
        assert_eq!(text(&front, 7, b"k"), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_row_of_the_same_length_takes_its_own_place() {
        let front = Front::new(1 << 28);
        let put_at = |text| {
            put(&front, 7, b"k", &entry(text));
            front.near(Instant::now()).unwrap().table.at
        };
        let at = put_at("row");
        assert_eq!((put_at("two"), text(&front, 7, b"k")), (at, is("two")));
        assert_eq!((put_at("three") > at, text(&front, 7, b"k")), (true, is("three")));
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_cache_said_before_it_was_told_better_is_not_believed() {
        let front = Front::new(1 << 28);
        put(&front, 7, b"k", &entry("row"));
        front.forget(7);
        assert_eq!(text(&front, 7, b"k"), None);
        // Asked before, put after.
        let mut near = front.near(Instant::now()).unwrap();
        let stamp = near.stamp(7);
        front.forget(7);
        near.put(7, b"k", &entry("row"), stamp);
        drop(near);
        assert_eq!(text(&front, 7, b"k"), None);
        put(&front, 7, b"k", &entry("anew"));
        assert_eq!(text(&front, 7, b"k"), is("anew"));
        front.forget_all();
        assert_eq!(text(&front, 7, b"k"), None);
    }

    #[tokio::test(start_paused = true)]
    async fn the_oldest_copy_of_a_set_gives_way() {
        let front = Front::new(1 << 28);
        let sets = front.near(Instant::now()).unwrap().table.sets.len();
        let hashes: Vec<u64> = (0..=WAYS).map(|i| (i * sets * STAMPS) as u64).collect();
        for hash in &hashes {
            put(&front, *hash, b"k", &entry("row"));
            advance(Duration::from_millis(1)).await;
        }
        let found: Vec<bool> = hashes.iter().map(|hash| text(&front, *hash, b"k").is_some()).collect();
        assert_eq!(found, [false, true, true, true, true]);
    }

    #[tokio::test(start_paused = true)]
    async fn pages_are_written_round_and_round_and_what_was_written_over_is_not_found() {
        // Room for two pages.
        let threads = available_parallelism().map_or(1, usize::from);
        let front = Front::new(2 * CAPACITY_SHARE * (threads * PAGE_BYTES) as u64);
        let row = Bytes::from(vec![b'r'; 1_000]);
        let per_page = PAGE_BYTES / (HEAD_BYTES + 8 + row.len());
        let key = |n: usize| (n as u64).to_be_bytes();
        let hash = |n: usize| (n * STAMPS) as u64;
        for n in 0..10 * per_page {
            put(&front, hash(n), &key(n), &Entry::new(Some(row.clone()), Instant::now()));
            assert_eq!(text(&front, hash(n), &key(n)).unwrap().len(), 1_000);
            assert_eq!(front.near(Instant::now()).unwrap().table.pages.len(), if n < per_page { 1 } else { 2 });
            let lost = n.checked_sub(2 * per_page);
            assert!(lost.is_none_or(|lost| text(&front, hash(lost), &key(lost)).is_none()));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_too_large_is_left_to_the_cache_and_a_small_cache_has_no_front() {
        let front = Front::new(1 << 28);
        let long = [b'k'; KEY_BYTES_MAX + 1];
        put(&front, 1, &long, &entry("row"));
        assert_eq!(text(&front, 1, &long), None);
        put(&front, 2, b"k", &Entry::new(Some(Bytes::from(vec![b'r'; ROW_BYTES_MAX + 1])), Instant::now()));
        assert_eq!(text(&front, 2, b"k"), None);
        put(&front, 3, b"k", &Entry::new(None, Instant::now()));
        let near = front.near(Instant::now()).unwrap();
        assert!(near.locate(3).is_some_and(|place| {
            let mut brought = Vec::new();
            near.bring(place, &mut brought);
            near.read(place, &brought, b"k").is_some_and(|copy| copy.row.is_none())
        }));
        assert!(Front::new(0).near(Instant::now()).is_none());
    }
}
