//! Segments and queues of any bytes: what is readable is sealed, what is not is counted and kept aside.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::{files, open, plan, record, served};
use proptest::prelude::*;
use weir_domain::{FeatureType, Kind};
use weir_journal::{Counts, Recorded};

const RECORDS: usize = 4;

/// A small segment, as a process that died after its last write leaves it.
fn segment() -> (String, Vec<u8>) {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path());
    let plan = plan("home", "v1", &[("x", FeatureType::One(Kind::F32))]);
    for id in 0..RECORDS as u128 {
        assert_eq!(journal.record(record(&plan, id, 1)), Recorded::Kept);
    }
    while journal.counts().queue_bytes > 0 {
        std::thread::yield_now();
    }
    let path = files(&dir.path().join("journal/wal"), ".seg").remove(0);
    (path.file_name().unwrap().to_string_lossy().into_owned(), fs::read(path).unwrap())
}

/// Opens and closes a journal that finds these bytes as a segment: what it counted.
fn recovered(folder: &Path, name: &str, bytes: &[u8]) -> Counts {
    let wal = folder.join("journal/wal");
    fs::create_dir_all(&wal).unwrap();
    fs::write(wal.join(name), bytes).unwrap();
    let journal = open(folder);
    journal.seal().unwrap();
    let counts = journal.counts();
    journal.close().unwrap();
    assert_eq!(files(&wal, "").len(), 0, "nothing stays behind to be tried for ever");
    counts
}

fn quarantined(folder: &Path) -> Vec<PathBuf> {
    files(&folder.join("journal/quarantine"), "")
}

#[test]
fn every_truncation_keeps_whole_records_and_is_no_damage() {
    let (name, bytes) = segment();
    let mut seen = 0;
    for cut in 0..=bytes.len() {
        let dir = tempfile::tempdir().unwrap();
        let counts = recovered(dir.path(), &name, &bytes[..cut]);
        assert_eq!((counts.corrupt_frames, counts.quarantined), (0, 0), "cut at {cut}");
        let sealed = served(dir.path()).len();
        assert!(sealed >= seen, "cut at {cut} loses a record that a shorter file has");
        seen = sealed;
    }
    assert_eq!(seen, RECORDS);
}

#[test]
fn a_flipped_bit_costs_at_most_its_own_record_and_the_segment_is_kept() {
    let (name, bytes) = segment();
    let schema_ends = bytes.windows(4).skip(44).position(|w| w == b"WEIR").unwrap() + 44;
    for at in (0..bytes.len()).step_by(3) {
        let dir = tempfile::tempdir().unwrap();
        let mut bad = bytes.clone();
        bad[at] ^= 1 << (at % 8);
        let counts = recovered(dir.path(), &name, &bad);
        let sealed = served(dir.path()).len();
        if at >= schema_ends {
            assert_eq!(sealed, RECORDS - 1, "flip at {at}");
        } else if at < 40 {
            assert_eq!(sealed, RECORDS, "flip at {at}: the header is not needed");
        }
        if counts.corrupt_frames > 0 {
            assert_eq!(fs::read(&quarantined(dir.path())[0]).unwrap(), bad, "flip at {at}");
        }
        assert!(counts.corrupt_frames > 0 || sealed >= RECORDS - 1, "flip at {at}");
    }
}

#[test]
fn a_segment_of_another_version_is_put_aside_unread() {
    let (name, mut bytes) = segment();
    bytes[8] = 1;
    let sum = crc32fast::hash(&bytes[..32]).to_le_bytes();
    bytes[32..36].copy_from_slice(&sum);
    let dir = tempfile::tempdir().unwrap();
    let counts = recovered(dir.path(), &name, &bytes);
    assert_eq!((counts.quarantined, counts.sealed.rows), (1, 0));
    assert_eq!(fs::read(&quarantined(dir.path())[0]).unwrap(), bytes);
}

#[test]
fn zeros_end_a_segment() {
    let (name, mut bytes) = segment();
    bytes.resize(bytes.len() + 5000, 0);
    let dir = tempfile::tempdir().unwrap();
    let counts = recovered(dir.path(), &name, &bytes);
    assert_eq!((counts.sealed.requests, counts.quarantined), (RECORDS as u64, 0));
    let counts = recovered(dir.path(), &name.replace('-', "-1"), &[0; 5000]);
    assert_eq!((counts.sealed.requests, counts.quarantined), (0, 0));
}

#[test]
fn a_damaged_queue_is_put_aside_and_the_journal_opens() {
    let dir = tempfile::tempdir().unwrap();
    open(dir.path()).close().unwrap();
    let path = dir.path().join("shm/queue-of-yore");
    fs::write(&path, b"not a queue").unwrap();
    fs::write(dir.path().join("journal/QUEUE"), path.to_string_lossy().as_bytes()).unwrap();
    let journal = open(dir.path());
    assert_eq!(journal.counts().quarantined, 1);
    assert_eq!(quarantined(dir.path()).len(), 1);
    assert!(!path.exists());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes_are_never_fatal(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        let dir = tempfile::tempdir().unwrap();
        let counts = recovered(dir.path(), "0000000000000001-00000000.seg", &bytes);
        prop_assert_eq!(counts.sealed.rows, 0);
    }

    #[test]
    fn arbitrary_damage_is_never_fatal(
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..20),
        cut in any::<prop::sample::Index>(),
    ) {
        let (name, mut bytes) = segment();
        for (at, byte) in edits {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        bytes.truncate(cut.index(bytes.len()) + 1);
        let dir = tempfile::tempdir().unwrap();
        let counts = recovered(dir.path(), &name, &bytes);
        prop_assert!(counts.sealed.requests <= RECORDS as u64);
    }
}
