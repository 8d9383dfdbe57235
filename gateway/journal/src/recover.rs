//! What a journal does before it takes the first record: locks its folder and saves what an earlier process left
//! in its queue. Segments left behind are sealed later, beside the traffic; the queue must be saved at once,
//! because its place is about to be used again.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::hash::{Hash, Hasher};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::counts::{Tally, bump};
use crate::frame::{FrameKind, Scan};
use crate::journal::OpenError;
use crate::queue::{Leftover, Queue};
use crate::rows::ToldFrames;
use crate::schema::Schema;
use crate::seal::{Keep, MANIFESTS, Manifest, Summing, publish, quarantine};
use crate::sealer::Floors;
use crate::segment::{self, Segment, SegmentId};
use crate::settings::Settings;

/// Locked while a gateway uses the folder; holds its process id.
const LOCK: &str = "LOCK";
/// Holds the path of the queue: the next start finds it even when it is configured elsewhere by then.
const QUEUE: &str = "QUEUE";
/// Where Linux keeps shared memory.
const SHARED_MEMORY: &str = "/dev/shm";

/// Makes the folder ready and locks it; the lock lasts as long as the file.
pub(crate) fn lock(folder: &Path) -> Result<File, OpenError> {
    let unusable = |source| OpenError::Folder { folder: folder.to_owned(), source };
    for sub in [segment::FOLDER, MANIFESTS] {
        fs::create_dir_all(folder.join(sub)).map_err(unusable)?;
    }
    let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(folder.join(LOCK));
    let mut file = open.map_err(unusable)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(fs::TryLockError::WouldBlock) => {
            let mut text = String::new();
            let pid = file.read_to_string(&mut text).ok().and_then(|_| text.trim().parse().ok());
            return Err(OpenError::InUse { folder: folder.to_owned(), pid });
        }
        Err(fs::TryLockError::Error(error)) => return Err(unusable(error)),
    }
    let sign = |file: &mut File| -> io::Result<()> {
        file.set_len(0)?;
        file.rewind()?;
        writeln!(file, "{}", std::process::id())
    };
    sign(&mut file).map_err(unusable)?;
    Ok(file)
}

/// Saves whatever an earlier queue still holds, and makes a new one.
pub(crate) fn queue(settings: &Settings, run: u64, tally: &Tally) -> Result<Queue, OpenError> {
    let folder = &settings.folder;
    let unusable = |source| OpenError::Folder { folder: folder.clone(), source };
    let remembered = fs::read_to_string(folder.join(QUEUE)).ok().map(PathBuf::from);
    let mut places = places(settings).map_err(unusable)?;
    for path in remembered.iter().chain(places.iter().filter(|p| Some(*p) != remembered.as_ref())) {
        save(folder, path, tally).map_err(|source| OpenError::Queue { path: path.clone(), source })?;
    }
    let last = places.pop().unwrap_or_else(|| folder.join("queue"));
    let made = places.iter().find_map(|path| match Queue::create(path, settings.queue_bytes, run) {
        Ok(queue) => Some((path.clone(), queue)),
        Err(error) => {
            tracing::warn!(path = %path.display(), error = &error as &dyn std::error::Error, "no queue in shared memory, using the journal's folder");
            None
        }
    });
    let (path, queue) = match made {
        Some(made) => made,
        None => match Queue::create(&last, settings.queue_bytes, run) {
            Ok(queue) => (last, queue),
            Err(source) => return Err(OpenError::Queue { path: last, source }),
        },
    };
    let remember = |file: &mut Summing| -> io::Result<Keep> {
        file.write_all(path.as_os_str().as_encoded_bytes())?;
        Ok(Keep::Yes)
    };
    publish(folder, QUEUE, remember).map_err(unusable)?;
    if let Some(old) = remembered.filter(|old| *old != path) {
        // Saved above; a queue that somebody else uses by now was not, and stays.
        if !matches!(Queue::leftover(&old), Ok(Leftover::InUse)) {
            let _ = fs::remove_file(old);
        }
    }
    Ok(queue)
}

/// Forgets the queue, after an orderly end.
pub(crate) fn forget_queue(folder: &Path, queue: &Queue) -> io::Result<()> {
    queue.remove()?;
    fs::remove_file(folder.join(QUEUE))
}

/// The segments of earlier runs with their lengths, and the last record numbers of those that were sealed.
pub(crate) fn leftovers(folder: &Path) -> io::Result<(Vec<(SegmentId, u64)>, Floors)> {
    let (mut found, mut floors) = (Vec::new(), Floors::new());
    for id in segment::list(folder)? {
        found.push((id, fs::metadata(id.path(folder))?.len()));
        if !floors.keys().any(|known| known.run == id.run) {
            floors.extend(Manifest::of_run(folder, id.run)?);
        }
    }
    Ok((found, floors))
}

/// Where the queue may be, best first; the last is always possible.
fn places(settings: &Settings) -> io::Result<Vec<PathBuf>> {
    let folder = settings.folder.canonicalize()?;
    let about = fs::metadata(&folder)?;
    // Path and inode: containers that share memory but not disks have the same paths.
    let mut hash = Fnv(0xcbf2_9ce4_8422_2325);
    (folder.as_os_str().as_encoded_bytes(), about.dev(), about.ino()).hash(&mut hash);
    let name = format!("weir-{:016x}", hash.finish());
    let own = folder.join("queue");
    Ok(match &settings.queue_dir {
        Some(dir) => vec![dir.join(name)],
        None if Path::new(SHARED_MEMORY).is_dir() => vec![Path::new(SHARED_MEMORY).join(name), own],
        None => vec![own],
    })
}

/// FNV-1a: the same on every machine and in every version, which the standard library's hash does not promise.
struct Fnv(u64);

impl Hasher for Fnv {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// Writes what is in a dead queue, and in no segment yet, to a segment of the same run, synced.
fn save(folder: &Path, path: &Path, tally: &Tally) -> io::Result<()> {
    let (run, bytes) = match Queue::leftover(path)? {
        Leftover::Nothing => return Ok(()),
        Leftover::InUse => return Err(io::ErrorKind::ResourceBusy.into()),
        Leftover::Damaged => {
            tracing::error!(path = %path.display(), "left-over queue damaged, moved to quarantine");
            bump(&tally.corrupt_frames);
            bump(&tally.quarantined);
            return quarantine(folder, path);
        }
        Leftover::Bytes(run, bytes) => (run, bytes),
    };
    let known = Known::of(folder, run)?;
    let mut scan = Scan::new(&bytes, run);
    let mut missing = Vec::new();
    let mut records = 0;
    for frame in scan.by_ref() {
        match frame.kind {
            FrameKind::Record if frame.seq <= known.last_seq => {}
            FrameKind::Record => {
                missing.extend_from_slice(frame.raw);
                records += 1;
            }
            FrameKind::Schema | FrameKind::SchemaReset | FrameKind::Rows => missing.extend_from_slice(frame.raw),
        }
    }
    if scan.corrupt > 0 {
        tracing::error!(path = %path.display(), stretches = scan.corrupt, "left-over queue damaged");
        tally.corrupt_frames.fetch_add(scan.corrupt, std::sync::atomic::Ordering::Relaxed);
    }
    if records > 0 {
        let mut head: Vec<u8> = known.schemas.into_values().flatten().collect();
        head.extend(known.told.bytes());
        let mut segment = Segment::create(folder, SegmentId { run, number: known.next }, &head)?;
        segment.append(&missing, true)?;
        segment.sync()?;
        tracing::info!(records, segment = %segment.id, "saved the queue of an earlier run");
    }
    fs::remove_file(path)
}

/// What the segments of a run, sealed or not, already hold.
struct Known {
    last_seq: u64,
    schemas: BTreeMap<u32, Vec<u8>>,
    told: ToldFrames,
    /// A free segment number.
    next: u32,
}

impl Known {
    fn of(folder: &Path, run: u64) -> io::Result<Self> {
        let mut known = Self { last_seq: 0, schemas: BTreeMap::new(), told: ToldFrames::default(), next: 0 };
        for (id, last_seq) in Manifest::of_run(folder, run)? {
            known.last_seq = known.last_seq.max(last_seq);
            known.next = known.next.max(id.number.saturating_add(1));
        }
        for id in segment::list(folder)?.into_iter().filter(|id| id.run == run) {
            known.next = known.next.max(id.number.saturating_add(1));
            let bytes = fs::read(id.path(folder))?;
            for frame in segment::read(&bytes, run).1 {
                match frame.kind {
                    FrameKind::Record => known.last_seq = known.last_seq.max(frame.seq),
                    FrameKind::Rows => known.told.add(&frame),
                    FrameKind::Schema | FrameKind::SchemaReset => {
                        known.schemas.extend(Schema::id(frame.body).map(|id| (id, frame.raw.to_vec())));
                    }
                }
            }
        }
        Ok(known)
    }
}
