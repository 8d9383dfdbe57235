//! The queue between the request path and the disk: a ring of bytes in shared memory. What is in it belongs to
//! the kernel, so it outlives the process; putting something in is a copy and waits for nothing.
//!
//! The file: one page of header (magic, version, run, capacity, head, tail), then `capacity` bytes. `head` and
//! `tail` count bytes ever put in and taken out. `head` moves only when the bytes below it are in place: a process
//! killed in the middle of a copy leaves the queue as it was before.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use memmap2::{MmapOptions, MmapRaw};
use rustix::fs::{FallocateFlags, fallocate};

use crate::frame::{HEADER, claimed_len};

const PAGE: u64 = 4096;
const MAGIC: [u8; 8] = *b"WEIRQUE1";
// Byte positions in the header; head and tail on cache lines of their own.
const AT_RUN: usize = 8;
const AT_CAPACITY: usize = 16;
const AT_HEAD: usize = 64;
const AT_TAIL: usize = 128;

/// The ring. Many may put (one at a time: [`put`](Self::put) wants exclusive use, which the journal's lock
/// gives), one may take.
#[derive(Debug)]
pub(crate) struct Queue {
    map: MmapRaw,
    capacity: u64,
    /// The run whose frames are in it.
    pub(crate) run: u64,
    path: PathBuf,
    /// Holds the lock that says a living process uses this file.
    _file: File,
}

/// What an earlier process left in its queue.
#[derive(Debug, PartialEq)]
pub(crate) enum Leftover {
    /// There is no queue.
    Nothing,
    /// Another process uses it.
    InUse,
    /// Not a queue, or not one that makes sense.
    Damaged,
    /// The run and the bytes that were not taken out yet.
    Bytes(u64, Vec<u8>),
}

impl Queue {
    /// Makes an empty queue at `path`, replacing what is there. All its memory is reserved now: a store into the
    /// mapping can not find the file system full later (that would be a SIGBUS).
    pub(crate) fn create(path: &Path, bytes: u64, run: u64) -> io::Result<Self> {
        let capacity = bytes.max(PAGE).next_multiple_of(PAGE);
        let fresh = path.with_extension("new");
        // Left by a process that died right here.
        let _ = fs::remove_file(&fresh);
        // Rows are nobody else's business, and in a folder open to all the name may be somebody's link.
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&fresh)?;
        let made = || -> io::Result<MmapRaw> {
            file.try_lock().map_err(io::Error::from)?;
            fallocate(&file, FallocateFlags::empty(), 0, PAGE + capacity)?;
            MmapOptions::new().map_raw(&file)
        };
        let map = match made() {
            Ok(map) => map,
            Err(error) => {
                let _ = fs::remove_file(&fresh);
                return Err(error);
            }
        };
        let queue = Self { map, capacity, run, path: path.to_owned(), _file: file };
        queue.word(AT_RUN).store(run, Ordering::Relaxed);
        queue.word(AT_CAPACITY).store(capacity, Ordering::Relaxed);
        queue.word(0).store(u64::from_ne_bytes(MAGIC), Ordering::Release);
        fs::rename(&fresh, path)?;
        Ok(queue)
    }

    /// Reads what is left in the queue at `path`. Plain reads: the file is dead, or in use and left alone.
    pub(crate) fn leftover(path: &Path) -> io::Result<Leftover> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Leftover::Nothing),
            Err(error) => return Err(error),
        };
        match file.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => return Ok(Leftover::InUse),
            Err(fs::TryLockError::Error(error)) => return Err(error),
        }
        let bytes = fs::read(path)?;
        Ok(untaken(&bytes).map_or(Leftover::Damaged, |(run, bytes)| Leftover::Bytes(run, bytes)))
    }

    /// Puts the parts in as one piece; `false`, and nothing has changed, when there is no room. One caller at a time.
    pub(crate) fn put(&self, parts: &[&[u8]]) -> bool {
        let len: u64 = parts.iter().map(|p| p.len() as u64).sum();
        let head = self.word(AT_HEAD).load(Ordering::Relaxed);
        let tail = self.word(AT_TAIL).load(Ordering::Acquire);
        if len > self.capacity - (head - tail) {
            return false;
        }
        let mut at = head;
        for part in parts {
            self.copy_in(at, part);
            at += part.len() as u64;
        }
        self.word(AT_HEAD).store(at, Ordering::Release);
        true
    }

    /// Copies whole frames out, oldest first: at least one if there is one, then as many as fit into `bytes_max`.
    /// They stay in the queue until [`forget`](Self::forget).
    pub(crate) fn peek(&self, out: &mut Vec<u8>, bytes_max: usize) {
        out.clear();
        let mut at = self.word(AT_TAIL).load(Ordering::Relaxed);
        let head = self.word(AT_HEAD).load(Ordering::Acquire);
        while head - at >= HEADER as u64 {
            let start = out.len();
            self.copy_out(at, HEADER as u64, out);
            let Some(header) = out[start..].first_chunk::<HEADER>() else { break };
            // Only a stray write into this mapping could make this false; the rest is then passed on as it is.
            let body = claimed_len(header).min(head - at - HEADER as u64);
            if start > 0 && start + HEADER + body as usize > bytes_max {
                out.truncate(start);
                break;
            }
            self.copy_out(at + HEADER as u64, body, out);
            at += HEADER as u64 + body;
        }
    }

    /// Frees the oldest `len` bytes, which [`peek`](Self::peek) has returned.
    pub(crate) fn forget(&self, len: usize) {
        let tail = self.word(AT_TAIL).load(Ordering::Relaxed);
        self.word(AT_TAIL).store(tail + len as u64, Ordering::Release);
    }

    /// Bytes in it.
    pub(crate) fn used(&self) -> u64 {
        // Tail first: read the other way round, it could overtake the head seen before.
        let tail = self.word(AT_TAIL).load(Ordering::Acquire);
        self.word(AT_HEAD).load(Ordering::Acquire).saturating_sub(tail)
    }

    /// Bytes it can hold.
    pub(crate) fn capacity(&self) -> u64 {
        self.capacity
    }

    /// Position behind the newest byte, to wait for everything put in so far.
    pub(crate) fn head(&self) -> u64 {
        self.word(AT_HEAD).load(Ordering::Acquire)
    }

    /// Position of the oldest byte.
    pub(crate) fn tail(&self) -> u64 {
        self.word(AT_TAIL).load(Ordering::Acquire)
    }

    /// Removes the file, for an orderly end.
    pub(crate) fn remove(&self) -> io::Result<()> {
        fs::remove_file(&self.path)
    }

    fn word(&self, at: usize) -> &AtomicU64 {
        debug_assert!(at.is_multiple_of(8) && at + 8 <= PAGE as usize);
        #[expect(unsafe_code, reason = "the header's words are shared with whoever recovers the file")]
        // SAFETY: `at` is one of the constants above: inside the mapping's first page and 8-aligned (a mapping
        // is page-aligned). Within this process the words are only ever touched as atomics, and the mapping
        // lives as long as `self`.
        unsafe {
            AtomicU64::from_ptr(self.map.as_mut_ptr().add(at).cast())
        }
    }

    /// The at most two stretches of the ring that hold `len` bytes from position `at`: (offset, length).
    fn stretches(&self, at: u64, len: u64) -> [(usize, usize); 2] {
        debug_assert!(len <= self.capacity);
        let start = at % self.capacity;
        let first = len.min(self.capacity - start);
        [((PAGE + start) as usize, first as usize), (PAGE as usize, (len - first) as usize)]
    }

    fn copy_in(&self, at: u64, bytes: &[u8]) {
        let mut from = bytes;
        for (offset, len) in self.stretches(at, bytes.len() as u64) {
            let (now, later) = from.split_at(len);
            #[expect(unsafe_code, reason = "the mapping is written by one thread while another reads beside it")]
            // SAFETY: `stretches` stays inside the mapping (PAGE + capacity bytes). The bytes from head to
            // tail + capacity are the putter's alone (`put` checked that these are among them, and its caller
            // excludes other putters); the taker reads only below head, which moves after this copy.
            unsafe {
                std::ptr::copy_nonoverlapping(now.as_ptr(), self.map.as_mut_ptr().add(offset), len);
            }
            from = later;
        }
    }

    fn copy_out(&self, at: u64, len: u64, out: &mut Vec<u8>) {
        for (offset, len) in self.stretches(at, len) {
            #[expect(unsafe_code, reason = "the mapping is written by one thread while another reads beside it")]
            // SAFETY: inside the mapping as above, and between tail and head, where nobody writes until `forget`,
            // which only the taker itself calls. The slice ends with this statement.
            let bytes = unsafe { std::slice::from_raw_parts(self.map.as_ptr().add(offset), len) };
            out.extend_from_slice(bytes);
        }
    }
}

/// The run and the bytes between tail and head of a queue's file, or `None` when it makes no sense.
fn untaken(file: &[u8]) -> Option<(u64, Vec<u8>)> {
    let word = |at: usize| file.get(at..)?.first_chunk().map(|w| u64::from_ne_bytes(*w));
    let ring = file.get(PAGE as usize..)?;
    let (capacity, head, tail) = (word(AT_CAPACITY)?, word(AT_HEAD)?, word(AT_TAIL)?);
    let len = head.checked_sub(tail)?;
    if word(0)? != u64::from_ne_bytes(MAGIC) || ring.len() as u64 != capacity || capacity == 0 || len > capacity {
        return None;
    }
    let start = (tail % capacity) as usize;
    let first = (len as usize).min(ring.len() - start);
    let mut bytes = ring[start..start + first].to_vec();
    bytes.extend_from_slice(&ring[..len as usize - first]);
    Some((word(AT_RUN)?, bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{FrameKind, Scan, Unframed};

    fn put(queue: &Queue, seq: u64, len: usize) -> bool {
        let body = vec![seq as u8; len];
        let frame = Unframed::new(FrameKind::Record, &body).unwrap();
        queue.put(&[&frame.header(queue.run, seq), &body])
    }

    #[test]
    fn what_goes_in_comes_out_in_order_around_the_end_of_the_ring() {
        let dir = tempfile::tempdir().unwrap();
        let queue = Queue::create(&dir.path().join("q"), 4096, 9).unwrap();
        let (mut seq, mut seen, mut out) = (0, 0, Vec::new());
        for round in 0..500 {
            while put(&queue, seq + 1, (round * 37 + seq as usize * 11) % 900) {
                seq += 1;
            }
            queue.peek(&mut out, 1500);
            assert!(!out.is_empty());
            for frame in Scan::new(&out, 9) {
                seen += 1;
                assert_eq!(frame.seq, seen);
                assert!(frame.body.iter().all(|b| *b == seen as u8));
            }
            queue.forget(out.len());
        }
        assert!(seq > 500 && seen > 500);
    }

    #[test]
    fn a_full_queue_takes_nothing_and_keeps_what_it_has() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("q");
        let queue = Queue::create(&path, 4096, 9).unwrap();
        assert!(put(&queue, 1, 3000));
        assert!(!put(&queue, 2, 3000));
        assert!(!put(&queue, 2, 1 << 20));
        drop(queue);
        let Leftover::Bytes(9, bytes) = Queue::leftover(&path).unwrap() else { panic!("a leftover") };
        assert_eq!(Scan::new(&bytes, 9).map(|f| f.seq).collect::<Vec<_>>(), [1]);
    }

    #[test]
    fn a_queue_in_use_is_left_alone_and_a_damaged_one_is_said_to_be() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("q");
        assert_eq!(Queue::leftover(&path).unwrap(), Leftover::Nothing);
        let queue = Queue::create(&path, 4096, 9).unwrap();
        assert_eq!(Queue::leftover(&path).unwrap(), Leftover::InUse);
        drop(queue);
        let good = fs::read(&path).unwrap();
        for (at, byte) in [(0, 0), (AT_CAPACITY, 1), (AT_TAIL, 1), (AT_HEAD + 6, 1)] {
            let mut bad = good.clone();
            bad[at] = byte;
            fs::write(&path, bad).unwrap();
            assert_eq!(Queue::leftover(&path).unwrap(), Leftover::Damaged, "byte {at}");
        }
        fs::write(&path, []).unwrap();
        assert_eq!(Queue::leftover(&path).unwrap(), Leftover::Damaged);
    }
}
