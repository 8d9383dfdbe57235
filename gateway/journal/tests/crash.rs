//! A killed process loses nothing that it was told is kept, and doubles nothing.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]

mod common;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use arrow_array::cast::AsArray;
use arrow_array::types::Float64Type;
use common::{files, logged, parquet, plan, read, record, served, settings};
use weir_domain::{Column, FeatureType, Kind, RequestId};
use weir_journal::{Journal, Recorded, Settings};

/// Names the folder for the child; without it the child's test does nothing, and is ignored anyway.
const FOLDER: &str = "WEIR_JOURNAL_CRASH_FOLDER";
const FIRST_ID: &str = "WEIR_JOURNAL_CRASH_FIRST_ID";

fn hurried(folder: &Path) -> Settings {
    // Small and hasty, so that a kill meets every stage: queue, rotation, sealing of all datasets, manifests.
    Settings {
        segment_bytes: 64 << 10,
        seal_after: Duration::from_millis(20),
        fsync_every: Duration::from_millis(5),
        feast_log: true,
        ..settings(folder)
    }
}

fn narrow() -> [(&'static str, FeatureType); 2] {
    [("x", FeatureType::One(Kind::F64)), ("s", FeatureType::One(Kind::String))]
}

/// Wide enough for its rows to be named.
const WIDE: [(&str, FeatureType); 9] = {
    let f = FeatureType::One(Kind::F64);
    [("x", f), ("a", f), ("b", f), ("c", f), ("d", f), ("e", f), ("f", f), ("g", f), ("h", f)]
};

fn first_value(id: u64) -> f64 {
    (scatter(id) % 97) as f64
}

#[test]
#[ignore = "the process that the other tests kill"]
fn child_records_until_killed() {
    let folder = std::env::var(FOLDER).unwrap();
    let first: u128 = std::env::var(FIRST_ID).unwrap().parse().unwrap();
    let journal = Journal::open(hurried(Path::new(&folder))).unwrap();
    let plans = [plan("a", "v1", &narrow()), plan("b", "v1", &WIDE)];
    let mut out = std::io::stdout().lock();
    for id in first.. {
        let mut record = record(&plans[id as usize % 2], id, 1 + id as usize % 4);
        // Some rows come again, and some do not: they are named, told and forgotten.
        record.answer.cells[0].column = Column::F64(vec![first_value(id as u64); record.answer.rows]);
        if journal.record(record) == Recorded::Kept {
            writeln!(out, "\nkept {id}").unwrap();
        }
    }
}

/// Numbers without a pattern; a failing run repeats itself.
fn scatter(n: u64) -> u64 {
    (n + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40
}

/// Runs the child, kills it after some acknowledgements and some time, and returns what it acknowledged.
fn killed_child(folder: &Path, first: u128, acknowledged: usize, then: Duration) -> BTreeSet<u128> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child_records_until_killed", "--ignored", "--nocapture"])
        .env(FOLDER, folder)
        .env(FIRST_ID, first.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let (mut kept, mut line) = (BTreeSet::new(), String::new());
    let take = |line: &str, kept: &mut BTreeSet<u128>| {
        // A line without its end was cut by the kill: nobody was told.
        if let Some(id) = line.strip_suffix('\n').and_then(|l| l.strip_prefix("kept ")) {
            kept.insert(id.parse().unwrap());
        }
    };
    while kept.len() < acknowledged && out.read_line(&mut line).unwrap() > 0 {
        take(&line, &mut kept);
        line.clear();
    }
    std::thread::sleep(then);
    child.kill().unwrap();
    child.wait().unwrap();
    while out.read_line(&mut line).unwrap() > 0 {
        take(&line, &mut kept);
        line.clear();
    }
    kept
}

#[test]
fn every_acknowledged_row_is_in_parquet_exactly_once_however_often_it_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    let mut kept = BTreeSet::new();
    for round in 0..24u64 {
        // Kills in a row, without a good end between them: recovery is killed as well.
        let acknowledged = if round % 4 == 3 { 0 } else { scatter(round) as usize % 3000 };
        let then = Duration::from_micros(scatter(round + 100) % 20_000);
        kept.extend(killed_child(dir.path(), u128::from(round) << 64, acknowledged, then));
    }
    let journal = Journal::open(hurried(dir.path())).unwrap();
    journal.seal().unwrap();
    let counts = journal.counts();
    assert_eq!((counts.corrupt_frames, counts.quarantined), (0, 0));
    drop(journal);
    let served = served(dir.path());
    assert!(kept.len() > 1000, "{} acknowledged: the children hardly ran", kept.len());
    for id in &kept {
        assert!(served.contains_key(&RequestId(*id).to_string()), "request {id:x} was acknowledged and is lost");
    }
    for (id, rows) in &served {
        let low = u64::from_str_radix(&id.replace('-', "")[16..], 16).unwrap();
        assert_eq!(*rows as u64, 1 + low % 4, "rows of {id}");
    }
    for batch in parquet(dir.path(), "served").iter().flat_map(|p| read(p)) {
        let ids = batch.column_by_name("request_id").unwrap().as_string::<i32>();
        let values = batch.column_by_name("stats__x").unwrap().as_primitive::<Float64Type>();
        for (id, value) in ids.iter().zip(values) {
            let low = u64::from_str_radix(&id.unwrap().replace('-', "")[16..], 16).unwrap();
            assert!(value.is_none_or(|v| v == first_value(low)), "{value:?} in {id:?}");
        }
    }
    assert!(logged(dir.path()) == served, "what is logged for Feast is not what was served");
    // What was sealed and not acknowledged died between the two; a child may do that once.
    assert!(served.len() - kept.len() <= 24, "{} sealed, {} acknowledged", served.len(), kept.len());
    assert_eq!(files(&dir.path().join("shm"), ""), Vec::<std::path::PathBuf>::new());
}

#[test]
fn sealing_again_after_a_crash_gives_the_same_files() {
    let dir = tempfile::tempdir().unwrap();
    let kept = killed_child(dir.path(), 0, 200, Duration::ZERO);
    let wal = dir.path().join("journal/wal");
    let saved = tempfile::tempdir().unwrap();
    // What the dead process left, put back after it was sealed, as if the machine had stopped before the deletion.
    for path in files(&wal, ".seg") {
        fs::copy(&path, saved.path().join(path.file_name().unwrap())).unwrap();
    }
    Journal::open(hurried(dir.path())).unwrap().close().unwrap();
    let first: Vec<_> = parquet(dir.path(), "").into_iter().map(|p| (fs::read(&p).unwrap(), p)).collect();
    for keep_manifests in [true, false] {
        for path in files(saved.path(), ".seg") {
            let name = path.file_name().unwrap();
            if !keep_manifests {
                let json = Path::new(name).with_extension("json");
                let _ = fs::remove_file(dir.path().join("journal/_manifest").join(json));
            }
            fs::copy(&path, wal.join(name)).unwrap();
        }
        Journal::open(hurried(dir.path())).unwrap().close().unwrap();
        let again: Vec<_> = parquet(dir.path(), "").into_iter().map(|p| (fs::read(&p).unwrap(), p)).collect();
        assert!(first == again, "sealing again changed the files (manifests kept: {keep_manifests})");
    }
    let served = served(dir.path());
    assert!(kept.iter().all(|id| served.contains_key(&RequestId(*id).to_string())));
}

#[test]
fn a_queue_configured_elsewhere_is_found_by_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    let kept = killed_child(dir.path(), 0, 50, Duration::ZERO);
    let other = tempfile::tempdir().unwrap();
    let moved = Settings { queue_dir: Some(other.path().into()), ..hurried(dir.path()) };
    Journal::open(moved).unwrap().close().unwrap();
    let served = served(dir.path());
    assert!(kept.iter().all(|id| served.contains_key(&RequestId(*id).to_string())));
    assert_eq!(files(&dir.path().join("shm"), "").len(), 0);
}

/// A small file system of its own, for as long as it lives.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    /// `None` where mounting is not permitted.
    fn mount() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", "size=2m", "tmpfs"]).arg(dir.path()).output();
        mount.is_ok_and(|m| m.status.success()).then_some(Self(dir))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).output();
    }
}

#[test]
#[ignore = "mounts a small file system, which needs root"]
fn a_full_disk_costs_counted_drops_and_nothing_that_was_kept() {
    let disk = SmallDisk::mount().expect("permission to mount");
    let shm = tempfile::tempdir().unwrap();
    let settings = Settings {
        queue_dir: Some(shm.path().into()),
        queue_bytes: 256 << 10,
        segment_bytes: 256 << 10,
        ..Settings::new(disk.0.path().join("journal"))
    };
    let journal = Journal::open(settings.clone()).unwrap();
    let ballast = disk.0.path().join("ballast");
    let fill = File::create(&ballast).and_then(|mut f| f.write_all(&vec![1; 2 << 20]));
    assert!(fill.is_err(), "the disk is not full");
    let plan = plan("home", "v1", &[("x", FeatureType::One(Kind::F64))]);
    let mut next = 0;
    while journal.counts().dropped_total().requests < 100 {
        let _ = journal.record(record(&plan, next, 3));
        next += 1;
    }
    assert!(journal.seal().is_err(), "nothing can be sealed on a full disk");
    assert!(journal.counts().write_errors > 0);
    fs::remove_file(&ballast).unwrap();
    // Nobody asks for it: it goes on by itself.
    while journal.counts().queue_bytes > 0 {
        std::thread::yield_now();
    }
    journal.seal().unwrap();
    let counts = journal.counts();
    assert_eq!(counts.kept, counts.sealed);
    assert_eq!(counts.kept.requests + counts.dropped_total().requests, next as u64);
    assert_eq!((counts.corrupt_frames, counts.quarantined), (0, 0));
    assert_eq!(served(disk.0.path()).len() as u64, counts.kept.requests);

    let fill = File::create(&ballast).and_then(|mut f| f.write_all(&vec![1; 2 << 20]));
    assert!(fill.is_err(), "the disk is not full");
    for id in next..next + 100 {
        assert_eq!(journal.record(record(&plan, id, 3)), Recorded::Kept);
    }
    assert!(journal.close().is_err(), "an end on a full disk says so, and does not wait for ever");
    fs::remove_file(&ballast).unwrap();
    Journal::open(settings).unwrap().close().unwrap();
    assert_eq!(served(disk.0.path()).len() as u64, counts.kept.requests + 100);
}
