//! The sealing thread: takes finished segments in order and turns them into Parquet, so that draining the queue
//! never waits for a compressor. A segment that the disk refuses is tried again; one that cannot be sealed is
//! put aside, and the next one has its turn.
//!
//! Nobody waits for most of it, so it is done at the lowest priority, in what the requests leave of the processor.
//! When somebody does wait, or much has piled up, it is done at the priority of everything else.

use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::process::setpriority_process;

use crate::counts::{Tally, bump};
use crate::seal::{SealFault, Sealed, quarantine, seal};
use crate::segment::SegmentId;
use crate::settings::Settings;

/// A disk that refused is asked again after this.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Against a busy thread of ordinary priority this is one part in seventy of a core.
const PATIENT_NICE: i32 = 19;

/// Sealing is patient while less than this share of the bytes that may wait does wait.
const PATIENT_SHARE: u64 = 4;

/// Patience begins after this: whoever seals or closes right after the last row would otherwise wait for a thread that
/// the system seldom lets run.
const PATIENT_AFTER: Duration = Duration::from_millis(100);

/// Why not everything recorded is in Parquet. Nothing is lost by it: it stays in the queue or in its segment.
#[derive(Clone, Debug, thiserror::Error)]
pub enum SealError {
    /// The queue could not be written to a segment.
    #[error("cannot write the queue to a segment")]
    Unwritten(#[source] Arc<std::io::Error>),
    /// A segment could not be sealed.
    #[error("cannot seal a segment")]
    Unsealed(#[source] Arc<SealFault>),
    /// The journal's threads have ended.
    #[error("the journal has stopped")]
    Stopped,
}

/// Where somebody waits to hear that everything before is sealed.
pub(crate) type Reply = SyncSender<Result<(), SealError>>;

/// What the sealing thread is to do, in order.
#[derive(Debug)]
pub(crate) enum Job {
    /// Seal a segment of this many bytes.
    Seal(SegmentId, u64),
    /// Tell them that everything before is done.
    Tell(Vec<Reply>),
}

/// The jobs. The list is bounded by the disk: the writer starts no segment past `backlog_bytes_max`.
#[derive(Debug, Default)]
pub(crate) struct Jobs {
    list: Mutex<List>,
    work: Condvar,
    /// Somebody waits: there is a `Tell` in the list, or it is closing.
    awaited: AtomicBool,
}

#[derive(Debug, Default)]
struct List {
    jobs: VecDeque<Job>,
    closing: bool,
}

impl List {
    /// Answers all who wait.
    fn tell(&mut self, error: &SealError) {
        for job in &mut self.jobs {
            if let Job::Tell(replies) = job {
                replies.drain(..).for_each(|r| drop(r.send(Err(error.clone()))));
            }
        }
        self.jobs.retain(|j| matches!(j, Job::Seal(..)));
    }
}

impl Jobs {
    pub(crate) fn push(&self, job: Job) {
        let mut list = self.lock();
        list.jobs.push_back(job);
        self.look(&list);
        self.work.notify_one();
    }

    /// The thread ends when the list is empty, or when the disk refuses what is in it.
    pub(crate) fn close(&self) {
        let mut list = self.lock();
        list.closing = true;
        self.look(&list);
        self.work.notify_one();
    }

    /// Whether somebody waits for what is in the list.
    fn is_awaited(&self) -> bool {
        self.awaited.load(Relaxed)
    }

    /// Gives whoever is about to wait the time to say so.
    fn linger(&self) {
        let calm = |_: &mut List| !self.is_awaited();
        drop(self.work.wait_timeout_while(self.lock(), PATIENT_AFTER, calm));
    }

    fn look(&self, list: &List) {
        self.awaited.store(list.closing || list.jobs.iter().any(|j| matches!(j, Job::Tell(_))), Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, List> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn next(&self) -> Option<Job> {
        let list = self.work.wait_while(self.lock(), |l| l.jobs.is_empty() && !l.closing);
        let mut list = list.unwrap_or_else(PoisonError::into_inner);
        let job = list.jobs.pop_front();
        self.look(&list);
        job
    }

    /// Puts a refused job back, tells whoever waits, and lets time pass. `false` when there is no time.
    fn refuse(&self, job: Job, error: &SealError) -> bool {
        let mut list = self.lock();
        list.jobs.push_front(job);
        list.tell(error);
        self.look(&list);
        // Somebody who asks while the disk refuses wants it tried at once.
        let idle = |l: &mut List| !l.closing && !l.jobs.iter().any(|j| matches!(j, Job::Tell(_)));
        let waited = self.work.wait_timeout_while(list, RETRY_AFTER, idle);
        let mut list = waited.unwrap_or_else(PoisonError::into_inner).0;
        if list.closing {
            list.tell(error);
        }
        !list.closing
    }

    /// Nobody works here any more; whoever waits hears [`SealError::Stopped`].
    pub(crate) fn abandon(&self) {
        self.lock().tell(&SealError::Stopped);
    }
}

/// The last record number of each segment sealed earlier.
pub(crate) type Floors = BTreeMap<SegmentId, u64>;

/// Works until the jobs are closed.
pub(crate) fn run(settings: &Settings, own_run: u64, jobs: &Jobs, tally: &Tally, mut floors: Floors) {
    while let Some(job) = jobs.next() {
        match job {
            Job::Tell(replies) => replies.into_iter().for_each(|r| drop(r.send(Ok(())))),
            Job::Seal(id, bytes) => {
                let first = SegmentId { run: id.run, number: 0 };
                let floor = floors.range(first..id).map(|(_, last)| *last).max().unwrap_or(0);
                let is_hurried = || {
                    jobs.is_awaited() || tally.backlog_bytes.load(Relaxed) > settings.backlog_bytes_max / PATIENT_SHARE
                };
                jobs.linger();
                match attempt(settings, id, floor, &is_hurried) {
                    Ok(sealed) => {
                        // Only the newest of a run is of use, and a run may have many.
                        floors.retain(|known, _| known.run != id.run || *known > id);
                        floors.insert(id, sealed.last_seq.max(floor));
                        count(tally, &sealed, id, own_run);
                    }
                    Err(fault) if fault.is_passing() => {
                        bump(&tally.seal_errors);
                        tracing::error!(segment = %id, error = &fault as &dyn std::error::Error, "cannot seal, will try again");
                        if !jobs.refuse(Job::Seal(id, bytes), &SealError::Unsealed(Arc::new(fault))) {
                            return;
                        }
                        continue;
                    }
                    Err(fault) => put_aside(&settings.folder, id, &fault, tally),
                }
                tally.backlog_bytes.fetch_sub(bytes, Relaxed);
            }
        }
    }
}

/// Seals a segment, patiently as long as nothing hurries it.
fn attempt(
    settings: &Settings,
    id: SegmentId,
    floor: u64,
    is_hurried: &(dyn Fn() -> bool + Sync),
) -> Result<Sealed, SealFault> {
    if !is_hurried() {
        let patient = || {
            // Priorities belong to threads and only ever go down: hence a thread for each segment. Where this is not
            // permitted, sealing goes on as it is.
            let _ = setpriority_process(None, PATIENT_NICE);
            guarded(settings, id, floor, is_hurried)
        };
        let sealed = thread::scope(|scope| {
            let patient = thread::Builder::new().name("journal-patient".into()).spawn_scoped(scope, patient);
            patient.ok().and_then(|t| t.join().ok())
        });
        match sealed {
            None | Some(Err(SealFault::Hurried)) => {}
            Some(sealed) => return sealed,
        }
    }
    guarded(settings, id, floor, &|| false)
}

/// Whatever is in a segment, it must not end the thread: that would be a crash loop.
fn guarded(settings: &Settings, id: SegmentId, floor: u64, is_hurried: &dyn Fn() -> bool) -> Result<Sealed, SealFault> {
    let sealed = catch_unwind(AssertUnwindSafe(|| seal(settings, id, floor, is_hurried)));
    sealed.unwrap_or_else(|_| Err(SealFault::Panicked { segment: id.to_string() }))
}

fn put_aside(journal: &Path, id: SegmentId, fault: &SealFault, tally: &Tally) {
    bump(&tally.seal_errors);
    bump(&tally.corrupt_frames);
    tracing::error!(segment = %id, error = fault as &dyn std::error::Error, "cannot seal, moved to quarantine");
    match quarantine(journal, &id.path(journal)) {
        Ok(()) => bump(&tally.quarantined),
        Err(error) => tracing::error!(segment = %id, error = &error as &dyn std::error::Error, "cannot quarantine"),
    }
}

fn count(tally: &Tally, sealed: &Sealed, id: SegmentId, own_run: u64) {
    tally.sealed.add(sealed.requests, sealed.rows);
    if id.run != own_run {
        tally.recovered.add(sealed.requests, sealed.rows);
    }
    bump(&tally.segments_sealed);
    tally.corrupt_frames.fetch_add(sealed.corrupt_frames, Relaxed);
    if sealed.quarantined {
        bump(&tally.quarantined);
        tracing::error!(segment = %id, corrupt_frames = sealed.corrupt_frames, "segment damaged, moved to quarantine");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{FrameKind, Unframed};
    use crate::schema::Schema;
    use crate::segment::{self, Segment};
    use std::cell::Cell;
    use std::fs;

    /// A segment of `requests` answers that have one row and no columns.
    fn segment(folder: &Path, requests: u64) -> SegmentId {
        let id = SegmentId { run: 7, number: 0 };
        let frame = |kind, seq, body: &[u8]| [&Unframed::new(kind, body).unwrap().header(id.run, seq), body].concat();
        let schema = Schema {
            service: "s".into(),
            catalog: "c".into(),
            weight: 1.0,
            keys: vec![],
            reads: vec![],
            outputs: vec![],
        };
        let no_text = u32::MAX.to_le_bytes();
        let body =
            [&1u32.to_le_bytes()[..], &1u32.to_le_bytes(), &[0; 16 + 8 + 8 + 4 + 4], &no_text, &no_text, &[0; 8]];
        fs::create_dir_all(folder.join(segment::FOLDER)).unwrap();
        let mut segment = Segment::create(folder, id, &frame(FrameKind::Schema, 0, &schema.encode(1))).unwrap();
        for seq in 1..=requests {
            segment.append(&frame(FrameKind::Record, seq, &body.concat()), true).unwrap();
        }
        id
    }

    #[test]
    fn a_patient_seal_that_is_hurried_starts_again_and_writes_each_row_once() {
        let dir = tempfile::tempdir().unwrap();
        let (settings, id) = (Settings::new(dir.path()), segment(dir.path(), 3));
        let asked = Cell::new(0);
        let third_time = || asked.replace(asked.get() + 1) == 2;
        assert!(matches!(guarded(&settings, id, 0, &third_time), Err(SealFault::Hurried)));
        assert!(id.path(dir.path()).exists(), "it is still to be sealed");
        let hurried = AtomicBool::new(false);
        let sealed = attempt(&settings, id, 0, &|| hurried.fetch_or(true, Relaxed)).unwrap();
        assert_eq!((sealed.requests, sealed.rows, sealed.corrupt_frames), (3, 3, 0));
        assert!(!id.path(dir.path()).exists());
    }

    #[test]
    fn sealing_is_awaited_from_the_question_to_its_answer_and_at_the_end() {
        let jobs = Jobs::default();
        jobs.push(Job::Seal(SegmentId { run: 7, number: 0 }, 1));
        assert!(!jobs.is_awaited());
        jobs.push(Job::Tell(Vec::new()));
        assert!(jobs.is_awaited() && jobs.next().is_some() && jobs.is_awaited());
        assert!(jobs.next().is_some() && !jobs.is_awaited());
        jobs.close();
        assert!(jobs.is_awaited());
    }
}
