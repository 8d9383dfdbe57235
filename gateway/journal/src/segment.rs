//! Segments: append-only files of frames in `wal/`. Each starts with a header and with the schemas of everything
//! that may follow, so it can be read alone.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use crate::frame::Scan;

/// Subfolder of the journal's folder.
pub(crate) const FOLDER: &str = "wal";

const MAGIC: [u8; 8] = *b"WEIRSEG1";
const VERSION: u32 = 2;
/// Magic, version, four bytes of nothing, run, time of creation (µs), checksum of all that, four bytes of nothing.
const HEADER: usize = 40;

/// Names a segment: the run that wrote it and its number in that run. Sorts by age.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct SegmentId {
    pub(crate) run: u64,
    pub(crate) number: u32,
}

impl fmt::Display for SegmentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}-{:08}", self.run, self.number)
    }
}

impl SegmentId {
    /// Reads what `Display` writes.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        let (run, number) = name.split_once('-')?;
        let id = Self { run: u64::from_str_radix(run, 16).ok()?, number: number.parse().ok()? };
        (id.to_string() == name).then_some(id)
    }

    /// Its file in the journal's folder.
    pub(crate) fn path(self, journal: &Path) -> PathBuf {
        journal.join(FOLDER).join(format!("{self}.seg"))
    }
}

/// The segments in a journal's folder, oldest first.
pub(crate) fn list(journal: &Path) -> io::Result<Vec<SegmentId>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(journal.join(FOLDER))? {
        let name = entry?.file_name();
        let id = name.to_str().and_then(|n| n.strip_suffix(".seg")).and_then(SegmentId::parse);
        found.extend(id);
    }
    found.sort_unstable();
    Ok(found)
}

/// A segment that is being written.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) id: SegmentId,
    path: PathBuf,
    file: File,
    /// Length up to which everything is good.
    pub(crate) len: u64,
    /// Whether it holds a record, and since when.
    pub(crate) first_record: Option<Instant>,
    /// Bytes written and not yet synced, and since when.
    pub(crate) unsynced: Option<Instant>,
}

impl Segment {
    /// Starts a segment whose head is `schemas`: complete frames.
    pub(crate) fn create(journal: &Path, id: SegmentId, schemas: &[u8]) -> io::Result<Self> {
        let path = id.path(journal);
        let file = OpenOptions::new().append(true).create_new(true).open(&path)?;
        let mut segment = Self { id, path, file, len: 0, first_record: None, unsynced: None };
        let mut head = header(id.run, now_us()).to_vec();
        head.extend_from_slice(schemas);
        let begun = segment.append(&head, false).and_then(|()| sync_folder(&journal.join(FOLDER)));
        if let Err(error) = begun {
            // Nothing of value is in it, and its name must be free for the next attempt.
            let _ = fs::remove_file(&segment.path);
            return Err(error);
        }
        Ok(segment)
    }

    /// Appends complete frames: all of them or, as far as readers will see, none.
    pub(crate) fn append(&mut self, frames: &[u8], records: bool) -> io::Result<()> {
        if let Err(error) = self.file.write_all(frames) {
            // Cuts off the half that made it. Should that fail too, readers know repeated frames by their number.
            let _ = self.file.set_len(self.len);
            return Err(error);
        }
        self.len += frames.len() as u64;
        let now = Instant::now();
        self.unsynced.get_or_insert(now);
        if records {
            self.first_record.get_or_insert(now);
        }
        Ok(())
    }

    /// Group commit. After an error the kernel may have forgotten which pages are not on disk, and a second sync
    /// that succeeds would prove nothing: never call it again.
    pub(crate) fn sync(&mut self) -> io::Result<()> {
        self.file.sync_data()?;
        self.unsynced = None;
        Ok(())
    }

    /// Puts another file in the place of the segment's own: one that fails.
    #[cfg(test)]
    pub(crate) fn replace_file(&mut self, file: File) {
        self.file = file;
    }

    /// Deletes the file.
    pub(crate) fn remove(self) -> io::Result<()> {
        fs::remove_file(&self.path)
    }
}

fn header(run: u64, created_us: i64) -> [u8; HEADER] {
    let mut bytes = [0; HEADER];
    bytes[0..8].copy_from_slice(&MAGIC);
    bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
    bytes[16..24].copy_from_slice(&run.to_le_bytes());
    bytes[24..32].copy_from_slice(&created_us.to_le_bytes());
    let sum = crc32fast::hash(&bytes[..32]);
    bytes[32..36].copy_from_slice(&sum.to_le_bytes());
    bytes
}

/// What the first bytes of a segment say.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Head {
    /// Ours: frames follow.
    Good,
    /// Cut off, or never written.
    Unfinished,
    /// Of a version this program does not know.
    Foreign,
    /// Neither: frames may follow all the same.
    Damaged,
}

/// Looks at the head of a segment; the scan is over the frames behind it.
pub(crate) fn read(bytes: &[u8], run: u64) -> (Head, Scan<'_>) {
    let none = Scan::new(&[], run);
    let Some((head, frames)) = bytes.split_first_chunk::<HEADER>() else {
        return (Head::Unfinished, none);
    };
    let sum_holds = head[32..36] == crc32fast::hash(&head[..32]).to_le_bytes();
    if bytes.iter().all(|b| *b == 0) {
        (Head::Unfinished, none)
    } else if sum_holds && (head[0..8] != MAGIC || head[8..12] != VERSION.to_le_bytes()) {
        (Head::Foreign, none)
    } else if sum_holds {
        (Head::Good, Scan::new(frames, run))
    } else {
        // The run is in the file's name as well, so the frames can still be told from others'.
        (Head::Damaged, Scan::new(frames, run))
    }
}

/// Makes renames and new files in a folder last.
pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Wall clock, for people who look at a segment's header; nothing is measured with it.
#[expect(clippy::disallowed_methods, reason = "no duration, no age: a note in a header")]
fn now_us() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_micros() as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_sort_by_age_and_are_read_back() {
        let ids =
            [(1, 0), (1, 9), (1, 10), (2, 0), (u64::MAX, u32::MAX)].map(|(run, number)| SegmentId { run, number });
        let names = ids.map(|id| id.to_string());
        assert_eq!(names.clone().map(|n| SegmentId::parse(&n).unwrap()), ids);
        assert!(names[..4].is_sorted());
        for bad in ["", "-", "1-2", "0000000000000001-1", "x000000000000001-00000001"] {
            assert_eq!(SegmentId::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_head_of_another_version_is_foreign_and_a_flipped_one_damaged() {
        let good = header(5, 6);
        assert_eq!(read(&good, 5).0, Head::Good);
        for cut in 0..HEADER {
            assert_eq!(read(&good[..cut], 5).0, Head::Unfinished);
        }
        assert_eq!(read(&[0; 100], 5).0, Head::Unfinished);
        let mut flipped = good;
        flipped[9] ^= 1;
        assert_eq!(read(&flipped, 5).0, Head::Damaged);
        let sum = crc32fast::hash(&flipped[..32]);
        flipped[32..36].copy_from_slice(&sum.to_le_bytes());
        assert_eq!(read(&flipped, 5).0, Head::Foreign);
    }
}
