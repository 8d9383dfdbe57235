//! A small table before the cache: what was looked up a moment ago, found again without moka's book-keeping (a
//! get of moka is five times as dear). A copy lives for a blink, so that the cache still learns what is in use,
//! and carries the age of its row: nothing gets fresher or staler by coming from here.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use crate::cache::Entry;

/// How long a copy is believed to be what the cache holds. Rows read anew replace their copy at once; this bounds
/// what a race of both may leave behind, and lets the cache see every entity in use four times a second.
const COPY_FOR: Duration = Duration::from_millis(250);
/// The front may pin a quarter of what the cache may hold: one slot of at most 2 KiB for each 8 KiB.
const CAPACITY_BYTES_PER_SLOT: u64 = 8 << 10;
const ROW_BYTES_MAX: usize = 2 << 10;
/// 64 sets of each of 64 shards at four ways: 3 MiB of slots, and the hot entities of most services.
const SLOTS_MAX: u64 = 32 << 10;
/// Longer keys go to the cache: an inline key spares a pointer to follow.
const KEY_BYTES_MAX: usize = 47;
/// Entities whose hashes agree in the set do not push each other out at once.
const WAYS: usize = 4;
/// So that cores seldom meet at one lock; a power of two.
const SHARDS: usize = 64;

pub(crate) struct Front {
    /// Empty when the cache is too small to be worth a front.
    shards: Box<[Mutex<Box<[Set]>>]>,
}

type Set = [Option<Slot>; WAYS];

struct Slot {
    hash: u64,
    key: InlineKey,
    entry: Entry,
    until: Instant,
}

struct InlineKey {
    len: u8,
    bytes: [u8; KEY_BYTES_MAX],
}

impl InlineKey {
    fn of(key: &[u8]) -> Option<Self> {
        let mut bytes = [0; KEY_BYTES_MAX];
        bytes.get_mut(..key.len())?.copy_from_slice(key);
        Some(Self { len: key.len() as u8, bytes })
    }

    fn is(&self, key: &[u8]) -> bool {
        &self.bytes[..usize::from(self.len)] == key
    }
}

impl Front {
    pub(crate) fn new(capacity_bytes: u64) -> Self {
        let slots = (capacity_bytes / CAPACITY_BYTES_PER_SLOT).min(SLOTS_MAX) as usize;
        let sets = slots / SHARDS / WAYS;
        let shards = if sets == 0 { 0 } else { SHARDS };
        let shard = || Mutex::new((0..sets).map(|_| Set::default()).collect());
        Self { shards: (0..shards).map(|_| shard()).collect() }
    }

    /// The copy of `key`'s entry, if there is one that may still be believed.
    pub(crate) fn get(&self, hash: u64, key: &[u8], now: Instant) -> Option<Entry> {
        let mut shard = self.shard(hash)?;
        let slot = set(&mut shard, hash).iter().flatten().find(|s| s.hash == hash && s.key.is(key))?;
        (now < slot.until).then(|| slot.entry.clone())
    }

    /// Keeps a copy of what the cache said.
    pub(crate) fn put(&self, hash: u64, key: &[u8], entry: &Entry, now: Instant) {
        if entry.row.as_ref().map_or(0, Bytes::len) > ROW_BYTES_MAX {
            return;
        }
        let (Some(key), Some(mut shard)) = (InlineKey::of(key), self.shard(hash)) else { return };
        let set = set(&mut shard, hash);
        let same = set.iter().position(|s| s.as_ref().is_some_and(|s| s.hash == hash));
        // Else the oldest copy gives way; an empty slot is older than any.
        let oldest = || (0..WAYS).min_by_key(|i| set[*i].as_ref().map(|s| s.until)).unwrap_or(0);
        let way = same.unwrap_or_else(oldest);
        set[way] = Some(Slot { hash, key, entry: entry.clone(), until: now + COPY_FOR });
    }

    /// The store has just said something else about `key`.
    pub(crate) fn forget(&self, hash: u64) {
        if let Some(mut shard) = self.shard(hash) {
            for slot in set(&mut shard, hash) {
                if slot.as_ref().is_some_and(|s| s.hash == hash) {
                    *slot = None;
                }
            }
        }
    }

    fn shard(&self, hash: u64) -> Option<MutexGuard<'_, Box<[Set]>>> {
        let shard = self.shards.get(hash as usize % SHARDS)?;
        Some(shard.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The bits that do not choose the shard choose the set.
fn set(shard: &mut [Set], hash: u64) -> &mut Set {
    let sets = shard.len() as u64;
    &mut shard[((hash / SHARDS as u64) % sets) as usize]
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::advance;

    fn entry(text: &'static str) -> Entry {
        Entry::new(Some(Bytes::from_static(text.as_bytes())), Instant::now())
    }

    fn text(entry: Option<Entry>) -> Option<Bytes> {
        entry.and_then(|e| e.row)
    }

    #[tokio::test(start_paused = true)]
    async fn a_copy_is_believed_for_a_blink() {
        let front = Front::new(1 << 28);
        front.put(7, b"k", &entry("row"), Instant::now());
        assert_eq!(text(front.get(7, b"k", Instant::now())), Some(Bytes::from_static(b"row")));
        advance(COPY_FOR).await;
        assert!(front.get(7, b"k", Instant::now()).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn keys_of_one_hash_are_never_taken_for_each_other() {
        let (front, now) = (Front::new(1 << 28), Instant::now());
        front.put(7, b"k", &entry("row"), now);
        assert!(front.get(7, b"other", now).is_none());
        front.put(7, b"other", &entry("of another"), now);
        assert_eq!(text(front.get(7, b"other", now)), Some(Bytes::from_static(b"of another")));
        assert!(front.get(7, b"k", now).is_none());
        front.forget(7);
        assert!(front.get(7, b"other", now).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn the_oldest_copy_of_a_set_gives_way() {
        // One set a shard, so that hashes that agree in their shard meet.
        let front = Front::new(CAPACITY_BYTES_PER_SLOT * (SHARDS * WAYS) as u64);
        let hashes: Vec<u64> = (0..=WAYS as u64).map(|i| i * SHARDS as u64).collect();
        for hash in &hashes {
            front.put(*hash, b"k", &entry("row"), Instant::now());
            advance(Duration::from_millis(1)).await;
        }
        let found: Vec<bool> = hashes.iter().map(|h| front.get(*h, b"k", Instant::now()).is_some()).collect();
        assert_eq!(found, [false, true, true, true, true]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_too_large_is_left_to_the_cache_and_a_small_cache_has_no_front() {
        let (front, now) = (Front::new(1 << 28), Instant::now());
        front.put(1, &[b'k'; KEY_BYTES_MAX + 1], &entry("row"), now);
        assert!(front.get(1, &[b'k'; KEY_BYTES_MAX + 1], now).is_none());
        let large = Entry::new(Some(Bytes::from(vec![0; ROW_BYTES_MAX + 1])), now);
        front.put(2, b"k", &large, now);
        assert!(front.get(2, b"k", now).is_none());
        let none = Front::new(0);
        none.put(3, b"k", &entry("row"), now);
        assert!(none.get(3, b"k", now).is_none());
    }
}
