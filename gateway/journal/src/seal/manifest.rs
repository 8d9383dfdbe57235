//! The manifest of a sealed segment: `_manifest/<segment>.json`. When it is there, the segment's files are whole;
//! it says how to check them.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::publish::{Keep, publish};
use crate::segment::SegmentId;

/// Subfolder of the journal's folder. Readers of datasets skip names that begin with an underscore.
pub(crate) const FOLDER: &str = "_manifest";

/// What became of one segment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Manifest {
    /// Of this format.
    pub(crate) version: u32,
    pub(crate) segment: String,
    pub(crate) requests: u64,
    pub(crate) rows: u64,
    /// Stretches of the segment that could not be read; the segment itself is then in `quarantine/`.
    pub(crate) corrupt_frames: u64,
    /// Bytes of an unfinished frame at the segment's end: it was never acknowledged.
    pub(crate) torn_bytes: u64,
    /// Records are numbered through a run; a later segment's record with a number up to this is a repetition.
    pub(crate) last_seq: u64,
    pub(crate) files: Vec<FileEntry>,
}

/// One Parquet file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct FileEntry {
    /// Relative to the journal's folder.
    pub(crate) path: String,
    pub(crate) rows: u64,
    pub(crate) bytes: u64,
    /// Over the whole file, in hexadecimal.
    pub(crate) crc32: String,
    pub(crate) min_served_at_us: i64,
    pub(crate) max_served_at_us: i64,
}

impl Manifest {
    fn name(id: SegmentId) -> String {
        format!("{FOLDER}/{id}.json")
    }

    /// Whether the segment has been sealed.
    pub(crate) fn exists(journal: &Path, id: SegmentId) -> io::Result<bool> {
        journal.join(Self::name(id)).try_exists()
    }

    pub(crate) fn write(&self, journal: &Path, id: SegmentId) -> io::Result<()> {
        publish(journal, &Self::name(id), |file| {
            serde_json::to_writer_pretty(&mut *file, self)?;
            file.write_all(b"\n")?;
            Ok::<_, io::Error>(Keep::Yes)
        })?;
        Ok(())
    }

    /// The last record number of every sealed segment of this run. A manifest that cannot be read counts as
    /// sealed all the same (it was renamed into place whole), with no number.
    pub(crate) fn of_run(journal: &Path, run: u64) -> io::Result<Vec<(SegmentId, u64)>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(journal.join(FOLDER))? {
            let name = entry?.file_name();
            let id = name.to_str().and_then(|n| n.strip_suffix(".json")).and_then(SegmentId::parse);
            if let Some(id) = id.filter(|id| id.run == run) {
                let read = serde_json::from_slice::<Self>(&fs::read(journal.join(Self::name(id)))?);
                found.push((id, read.map_or(0, |m| m.last_seq)));
            }
        }
        Ok(found)
    }
}
