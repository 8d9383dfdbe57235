//! The sealing thread: takes finished segments in order and turns them into Parquet, so that draining the queue
//! never waits for a compressor. A segment that the disk refuses is tried again; one that cannot be sealed is
//! put aside, and the next one has its turn.

use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::counts::{Tally, bump};
use crate::seal::{SealFault, Sealed, quarantine, seal};
use crate::segment::SegmentId;
use crate::settings::Settings;

/// A disk that refused is asked again after this.
const RETRY_AFTER: Duration = Duration::from_secs(1);

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
        self.lock().jobs.push_back(job);
        self.work.notify_one();
    }

    /// The thread ends when the list is empty, or when the disk refuses what is in it.
    pub(crate) fn close(&self) {
        self.lock().closing = true;
        self.work.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, List> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn next(&self) -> Option<Job> {
        let list = self.work.wait_while(self.lock(), |l| l.jobs.is_empty() && !l.closing);
        list.unwrap_or_else(PoisonError::into_inner).jobs.pop_front()
    }

    /// Puts a refused job back, tells whoever waits, and lets time pass. `false` when there is no time.
    fn refuse(&self, job: Job, error: &SealError) -> bool {
        let mut list = self.lock();
        list.jobs.push_front(job);
        list.tell(error);
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
                match attempt(settings, id, floor) {
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

/// Whatever is in a segment, it must not end the thread: that would be a crash loop.
fn attempt(settings: &Settings, id: SegmentId, floor: u64) -> Result<Sealed, SealFault> {
    let sealed = catch_unwind(AssertUnwindSafe(|| seal(settings, id, floor)));
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
