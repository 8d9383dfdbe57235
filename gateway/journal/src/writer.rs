//! The writing thread: takes frames out of the queue and appends them to the current segment, syncs it now and
//! then, and hands it over to be sealed when it is full or old. It keeps going whatever the disk does: what it
//! cannot write stays in the queue.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use crate::counts::bump;
use crate::frame::{FrameKind, Scan};
use crate::put::Shared;
use crate::rows::ToldFrames;
use crate::schema::Schema;
use crate::sealer::{Job, Jobs, Reply, SealError};
use crate::segment::{Segment, SegmentId};

/// After work the thread waits this long for more, so that a busy journal makes few and large writes, and takes the
/// processor from the requests fifty times a second and no more. What waits survives the process all the same.
const GATHER: Duration = Duration::from_millis(20);

/// A disk that refused is asked again after this.
const RETRY_AFTER: Duration = Duration::from_millis(200);

/// Taken from the queue and written in one piece (a larger single frame is taken alone).
const BATCH_BYTES: usize = 1 << 20;

pub(crate) struct Writer {
    shared: Arc<Shared>,
    jobs: Arc<Jobs>,
    /// There is always one, and it always begins with every schema that frames in the queue may still mean:
    /// after a crash it is what makes the queue readable. So the next is started before this one is given away.
    segment: Segment,
    /// A write or a sync of `segment` failed: it is neither written nor synced again.
    broken: bool,
    /// Of the last segment started, or tried to.
    number: u32,
    /// Complete schema frames by id.
    schemas: BTreeMap<u32, Vec<u8>>,
    told: ToldFrames,
    batch: Vec<u8>,
    /// The disk is not asked before.
    retry_at: Option<Instant>,
}

/// What the journal wants besides writing.
struct Orders {
    seals: Vec<Reply>,
    closing: bool,
}

impl Writer {
    pub(crate) fn new(shared: Arc<Shared>, jobs: Arc<Jobs>) -> io::Result<Self> {
        let id = SegmentId { run: shared.queue.run, number: 0 };
        let segment = Segment::create(&shared.settings.folder, id, &[])?;
        let (schemas, told, batch) = (BTreeMap::new(), ToldFrames::default(), Vec::new());
        Ok(Self { shared, jobs, segment, broken: false, number: 0, schemas, told, batch, retry_at: None })
    }

    /// Works until the journal closes; `true` when nothing is left in the queue.
    pub(crate) fn run(mut self) -> bool {
        let mut busy = false;
        loop {
            let orders = self.wait(busy);
            if self.retry_at.is_some_and(|t| t <= Instant::now()) {
                self.retry_at = None;
            }
            // Orders were read first, so everything recorded before them is below this.
            let target = self.shared.queue.head();
            let urgent = !orders.seals.is_empty() || orders.closing;
            if urgent {
                self.retry_at = None;
            }
            busy = self.shared.queue.tail() < target;
            let mut done = self.drain(target);
            if orders.closing {
                return self.finish(done.is_ok(), orders.seals);
            }
            if done.is_ok() && !orders.seals.is_empty() {
                done = self.rotate();
            }
            match done {
                Ok(()) if orders.seals.is_empty() => {}
                Ok(()) => self.jobs.push(Job::Tell(orders.seals)),
                Err(error) => {
                    let error = SealError::Unwritten(Arc::new(error));
                    orders.seals.into_iter().for_each(|r| drop(r.send(Err(error.clone()))));
                }
            }
            self.keep_time();
        }
    }

    /// Until there is work: frames in the queue, orders, or a timer.
    fn wait(&self, busy: bool) -> Orders {
        let shared = &self.shared;
        let mut inbox = shared.inbox();
        let until = self.next_timer();
        let timeout = |now: Instant| until.map(|t| t.saturating_duration_since(now));
        let now = Instant::now();
        if self.retry_at.is_some() || busy {
            // Frames alone do not wake it: the disk does not want them, or more of them are worth waiting for.
            let due = timeout(now);
            let gathering = busy && self.retry_at.is_none();
            let limit = if gathering { Some(due.map_or(GATHER, |due| due.min(GATHER))) } else { due };
            let calm = |i: &mut crate::put::Inbox| i.seals.is_empty() && !i.closing && !i.pressed;
            let waited = shared.work.wait_timeout_while(inbox, limit.unwrap_or(RETRY_AFTER), calm);
            inbox = waited.unwrap_or_else(PoisonError::into_inner).0;
        } else {
            while inbox.seals.is_empty() && !inbox.closing && shared.queue.used() == 0 {
                inbox.asleep = true;
                match timeout(Instant::now()) {
                    Some(Duration::ZERO) => break,
                    Some(limit) => {
                        let waited = shared.work.wait_timeout(inbox, limit);
                        inbox = waited.unwrap_or_else(PoisonError::into_inner).0;
                    }
                    None => inbox = shared.work.wait(inbox).unwrap_or_else(PoisonError::into_inner),
                }
            }
            inbox.asleep = false;
        }
        inbox.pressed = false;
        Orders { seals: std::mem::take(&mut inbox.seals), closing: inbox.closing }
    }

    /// When something is due though no frame comes.
    fn next_timer(&self) -> Option<Instant> {
        if self.retry_at.is_some() {
            return self.retry_at;
        }
        let settings = &self.shared.settings;
        let sync = self.segment.unsynced.filter(|_| !self.broken).map(|t| t + settings.fsync_every);
        let seal = self.segment.first_record.map(|t| t + settings.seal_after);
        sync.into_iter().chain(seal).min()
    }

    /// What the timers ask for.
    fn keep_time(&mut self) {
        let settings = &self.shared.settings;
        let past = |since: Option<Instant>, limit| since.is_some_and(|t: Instant| t.elapsed() >= limit);
        let old = past(self.segment.first_record, settings.seal_after);
        if past(self.segment.unsynced, settings.fsync_every) && !self.broken && !old {
            self.sync();
        }
        if (old || self.broken) && self.retry_at.is_none() {
            // Counted and logged there; asked again when the time comes.
            let _ = self.rotate();
        }
    }

    /// Writes everything below `target` to segments.
    fn drain(&mut self, target: u64) -> io::Result<()> {
        while self.shared.queue.tail() < target {
            if self.retry_at.is_some() {
                return Err(io::ErrorKind::ResourceBusy.into());
            }
            if self.broken || self.segment.len >= self.shared.settings.segment_bytes {
                self.rotate()?;
            }
            self.shared.queue.peek(&mut self.batch, BATCH_BYTES);
            self.write_batch()?;
        }
        Ok(())
    }

    fn write_batch(&mut self) -> io::Result<()> {
        let mut scan = Scan::new(&self.batch, self.segment.id.run);
        let (mut records, mut schemas, mut reset) = (false, Vec::new(), false);
        let mut told = Vec::new();
        for frame in scan.by_ref() {
            match frame.kind {
                FrameKind::Record => records = true,
                FrameKind::Rows => told.push(frame),
                FrameKind::Schema | FrameKind::SchemaReset => {
                    if frame.kind == FrameKind::SchemaReset {
                        schemas.clear();
                        reset = true;
                    }
                    schemas.extend(Schema::id(frame.body).map(|id| (id, frame.raw.to_vec())));
                }
            }
        }
        // A stray write into the shared memory. The bytes go to the segment as they are, and to quarantine with it.
        self.shared.tally.corrupt_frames.fetch_add(scan.corrupt, Relaxed);
        if let Err(error) = self.segment.append(&self.batch, records) {
            self.trouble(&error, "cannot write to a segment");
            self.broken = true;
            return Err(error);
        }
        if reset {
            self.schemas.clear();
        }
        self.schemas.extend(schemas);
        told.iter().for_each(|frame| self.told.add(frame));
        self.shared.queue.forget(self.batch.len());
        self.shared.tally.written_bytes.fetch_add(self.batch.len() as u64, Relaxed);
        self.retry_at = None;
        Ok(())
    }

    fn sync(&mut self) {
        match self.segment.sync() {
            Ok(()) => bump(&self.shared.tally.syncs),
            Err(error) => {
                bump(&self.shared.tally.sync_errors);
                tracing::error!(segment = %self.segment.id, error = &error as &dyn std::error::Error, "cannot sync a segment");
                // Its pages are still readable now: sealing it at once writes them to another file.
                self.broken = true;
            }
        }
    }

    /// Gives the segment away to be sealed and starts the next. A segment without records stays.
    fn rotate(&mut self) -> io::Result<()> {
        if self.segment.first_record.is_none() && !self.broken {
            return Ok(());
        }
        if !self.broken && self.segment.unsynced.is_some() {
            self.sync();
        }
        let shared = &self.shared;
        let backlog = shared.tally.backlog_bytes.load(Relaxed);
        let mut head = self.schemas.values().flatten().copied().collect::<Vec<u8>>();
        head.extend(self.told.bytes());
        // A number is used once: what a failed attempt leaves behind cannot be in the way.
        self.number += 1;
        let id = SegmentId { run: shared.queue.run, number: self.number };
        let next = if backlog > shared.settings.backlog_bytes_max {
            Err(io::ErrorKind::QuotaExceeded.into())
        } else {
            Segment::create(&shared.settings.folder, id, &head)
        };
        let next = match next {
            Ok(next) => next,
            Err(error) => {
                self.trouble(&error, "cannot start a segment");
                return Err(error);
            }
        };
        let full = std::mem::replace(&mut self.segment, next);
        self.broken = false;
        self.retry_at = None;
        give(&self.shared, &self.jobs, full);
        Ok(())
    }

    /// The orderly end: the last segment is given away without a successor.
    fn finish(mut self, drained: bool, seals: Vec<Reply>) -> bool {
        if !self.broken && self.segment.unsynced.is_some() {
            self.sync();
        }
        let Self { segment, shared, jobs, .. } = self;
        if drained {
            give(&shared, &jobs, segment);
            jobs.push(Job::Tell(seals));
        }
        // Otherwise the segment stays for the next start, which needs its schemas to read the queue.
        drained
    }

    fn trouble(&mut self, error: &io::Error, what: &'static str) {
        bump(&self.shared.tally.write_errors);
        // Once per attempt, and attempts are `RETRY_AFTER` apart.
        tracing::error!(error = error as &dyn std::error::Error, "{what}, will try again");
        self.retry_at = Some(Instant::now() + RETRY_AFTER);
    }
}

fn give(shared: &Shared, jobs: &Jobs, segment: Segment) {
    if segment.first_record.is_some() {
        shared.tally.backlog_bytes.fetch_add(segment.len, Relaxed);
        jobs.push(Job::Seal(segment.id, segment.len));
    } else if let Err(error) = segment.remove() {
        // The next start removes it.
        tracing::warn!(error = &error as &dyn std::error::Error, "cannot remove an empty segment");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::counts::{DropReason, Tally};
    use crate::frame::Unframed;
    use crate::queue::Queue;
    use crate::segment;
    use crate::settings::Settings;
    use std::fs::{self, File, OpenOptions};

    fn writer(folder: &std::path::Path) -> (Arc<Shared>, Arc<Jobs>, Writer) {
        fs::create_dir_all(folder.join(segment::FOLDER)).unwrap();
        let settings = Settings { fsync_every: Duration::ZERO, ..Settings::new(folder) };
        let queue = Queue::create(&folder.join("queue"), 1 << 16, 7).unwrap();
        let shared = Arc::new(Shared::new(settings, queue, Tally::default()));
        let jobs = Arc::new(Jobs::default());
        let writer = Writer::new(Arc::clone(&shared), Arc::clone(&jobs)).unwrap();
        (shared, jobs, writer)
    }

    fn put(shared: &Shared, kind: FrameKind, seq: u64) {
        let body = [seq as u8; 100];
        let frame = Unframed::new(kind, &body).unwrap();
        assert!(shared.queue.put(&[&frame.header(7, seq), &body]), "{:?}", DropReason::QueueFull);
    }

    /// The numbers of the frames in a segment.
    fn seqs(writer: &Writer, number: u32) -> Vec<u64> {
        let id = SegmentId { run: 7, number };
        let bytes = fs::read(id.path(&writer.shared.settings.folder)).unwrap();
        segment::read(&bytes, 7).1.map(|f| f.seq).collect()
    }

    #[test]
    fn a_failed_sync_is_never_repeated_and_the_segment_is_sealed_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let (shared, jobs, mut writer) = writer(dir.path());
        put(&shared, FrameKind::Schema, 0);
        put(&shared, FrameKind::Record, 1);
        writer.drain(shared.queue.head()).unwrap();
        // A character device takes writes and refuses to be synced.
        writer.segment.replace_file(OpenOptions::new().write(true).open("/dev/null").unwrap());
        writer.keep_time();
        let counts = shared.tally.read(0);
        assert_eq!((counts.sync_errors, counts.syncs, counts.write_errors), (1, 0, 0));
        assert!(matches!(jobs.next(), Some(Job::Seal(SegmentId { number: 0, .. }, _))));
        put(&shared, FrameKind::Record, 2);
        writer.drain(shared.queue.head()).unwrap();
        writer.keep_time();
        assert_eq!((seqs(&writer, 0), seqs(&writer, 1)), (vec![0, 1], vec![0, 2]), "the schema leads every segment");
        assert_eq!(shared.tally.read(0).syncs, 1);
    }

    #[test]
    fn a_failed_write_leaves_the_frames_in_the_queue_for_the_next_segment() {
        let dir = tempfile::tempdir().unwrap();
        let (shared, jobs, mut writer) = writer(dir.path());
        put(&shared, FrameKind::Record, 1);
        writer.drain(shared.queue.head()).unwrap();
        writer.segment.replace_file(File::options().append(true).open("/dev/full").unwrap());
        put(&shared, FrameKind::Record, 2);
        assert!(writer.drain(shared.queue.head()).is_err());
        assert!(shared.queue.used() > 0);
        assert_eq!(writer.next_timer(), writer.retry_at, "the disk is asked again soon, whatever else is due");
        writer.retry_at = None;
        writer.drain(shared.queue.head()).unwrap();
        assert_eq!((shared.queue.used(), shared.tally.read(0).write_errors), (0, 1));
        assert!(matches!(jobs.next(), Some(Job::Seal(SegmentId { number: 0, .. }, _))));
        assert_eq!((seqs(&writer, 0), seqs(&writer, 1)), (vec![1], vec![2]));
    }

    #[test]
    fn nothing_is_taken_from_the_queue_while_too_much_waits_to_be_sealed() {
        let dir = tempfile::tempdir().unwrap();
        let (shared, _, mut writer) = writer(dir.path());
        put(&shared, FrameKind::Record, 1);
        writer.drain(shared.queue.head()).unwrap();
        shared.tally.backlog_bytes.store(u64::MAX, Relaxed);
        writer.segment.len = u64::MAX;
        put(&shared, FrameKind::Record, 2);
        assert!(writer.drain(shared.queue.head()).is_err());
        shared.tally.backlog_bytes.store(0, Relaxed);
        writer.retry_at = None;
        writer.drain(shared.queue.head()).unwrap();
        assert_eq!(seqs(&writer, writer.number), [2]);
    }
}
