//! The journal as the gateway sees it: open, record, seal, close.

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::sync_channel;
use std::thread::{self, JoinHandle};

use weir_domain::Record;
use weir_domain::catalog::Sample;

use crate::counts::{Counts, DropReason, Tally};
use crate::put::Shared;
use crate::recover;
use crate::sealer::{self, Job, Jobs, SealError};
use crate::settings::Settings;
use crate::writer::Writer;

/// Writes down what was served. Shared by reference between all threads that serve; its own two threads end
/// when it is closed or dropped.
#[derive(Debug)]
pub struct Journal {
    shared: Arc<Shared>,
    jobs: Arc<Jobs>,
    writer: Option<JoinHandle<bool>>,
    sealer: Option<JoinHandle<()>>,
    /// Says that this folder is in use. Released last.
    _lock: File,
}

/// Why a journal cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Two gateways would overwrite each other's rows.
    #[error("journal folder {} is in use by another gateway{}", folder.display(), pid.map_or(String::new(), |p| format!(" (process {p})")))]
    InUse {
        /// The journal's folder.
        folder: PathBuf,
        /// The process that uses it, where known.
        pid: Option<u32>,
    },
    /// The folder cannot be created, read or written.
    #[error("cannot use journal folder {}", folder.display())]
    Folder {
        /// The journal's folder.
        folder: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The queue cannot be made, or what an earlier run left in it cannot be saved.
    #[error("cannot use journal queue {}", path.display())]
    Queue {
        /// The queue's file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// No thread could be started.
    #[error("cannot start the journal's threads")]
    Threads(#[source] io::Error),
}

/// What became of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Recorded {
    /// It survives the process from now on, and a power cut after the next group commit.
    Kept,
    /// Its unit is not in the service's sample; that is counted.
    SampledOut,
    /// It was not taken; that is counted.
    Dropped(DropReason),
}

impl Journal {
    /// Locks the folder, saves what an earlier run left in its queue, and starts. What is left in segments is
    /// sealed in the background.
    pub fn open(settings: Settings) -> Result<Self, OpenError> {
        let folder = settings.folder.clone();
        let unusable = |source| OpenError::Folder { folder: folder.clone(), source };
        let lock = recover::lock(&folder)?;
        let run = new_run();
        let tally = Tally::default();
        let queue = recover::queue(&settings, run, &tally)?;
        let (leftovers, floors) = recover::leftovers(&folder).map_err(unusable)?;
        let jobs = Arc::new(Jobs::default());
        for (id, bytes) in leftovers {
            tally.backlog_bytes.fetch_add(bytes, Relaxed);
            jobs.push(Job::Seal(id, bytes));
        }
        let shared = Arc::new(Shared::new(settings, queue, tally));
        let writer = Writer::new(Arc::clone(&shared), Arc::clone(&jobs)).map_err(unusable)?;
        let mut journal = Self { shared, jobs, writer: None, sealer: None, _lock: lock };
        journal.start(writer, floors).map_err(OpenError::Threads)?;
        Ok(journal)
    }

    fn start(&mut self, writer: Writer, floors: sealer::Floors) -> io::Result<()> {
        let (shared, jobs) = (Arc::clone(&self.shared), Arc::clone(&self.jobs));
        let ended = Ended(Arc::clone(&shared), Arc::clone(&jobs));
        let seal = move || {
            let _ended = ended;
            sealer::run(&shared.settings, shared.queue.run, &jobs, &shared.tally, floors);
        };
        self.sealer = Some(thread::Builder::new().name("journal-seal".into()).spawn(seal)?);
        let ended = Ended(Arc::clone(&self.shared), Arc::clone(&self.jobs));
        let write = move || {
            let _ended = ended;
            writer.run()
        };
        self.writer = Some(thread::Builder::new().name("journal-write".into()).spawn(write)?);
        Ok(())
    }

    /// Takes a record: copies it into shared memory. Never touches the disk and never waits for it.
    pub fn record(&self, record: Record) -> Recorded {
        let (tally, rows) = (&self.shared.tally, record.answer.rows as u64);
        if !is_sampled(&record) {
            tally.sampled_out.add(1, rows);
            return Recorded::SampledOut;
        }
        match self.shared.put(&record) {
            Ok(()) => {
                tally.kept.add(1, rows);
                Recorded::Kept
            }
            Err(reason) => {
                tally.dropped[reason as usize].add(1, rows);
                Recorded::Dropped(reason)
            }
        }
    }

    /// When it returns, everything recorded before is in Parquet, and so is what earlier runs left behind.
    pub fn seal(&self) -> Result<(), SealError> {
        let (reply, answer) = sync_channel(1);
        {
            let mut inbox = self.shared.inbox();
            if inbox.ended {
                return Err(SealError::Stopped);
            }
            inbox.seals.push(reply);
        }
        self.shared.work.notify_one();
        answer.recv().unwrap_or(Err(SealError::Stopped))
    }

    /// What it did so far.
    pub fn counts(&self) -> Counts {
        self.shared.tally.read(self.shared.queue.used())
    }

    /// The orderly end: everything recorded is in Parquet and the queue is gone. After an error nothing is lost;
    /// the next start goes on from there.
    pub fn close(mut self) -> Result<(), SealError> {
        self.end()
    }

    fn end(&mut self) -> Result<(), SealError> {
        let (reply, answer) = sync_channel(1);
        {
            let mut inbox = self.shared.inbox();
            inbox.closing = true;
            inbox.seals.push(reply);
        }
        self.shared.work.notify_one();
        // A panic was reported where it happened; what it leaves behind is found by the next start.
        let drained = self.writer.take().is_some_and(|w| w.join().unwrap_or(false));
        self.jobs.close();
        if let Some(sealer) = self.sealer.take() {
            let _ = sealer.join();
        }
        // Whoever was not answered by now will not be.
        self.shared.inbox().seals.clear();
        if drained && let Err(error) = recover::forget_queue(&self.shared.settings.folder, &self.shared.queue) {
            // It is empty, so the next start loses nothing by finding it.
            tracing::warn!(error = &error as &dyn std::error::Error, "cannot remove the journal's queue");
        }
        answer.recv().unwrap_or(Err(SealError::Stopped))
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        if self.writer.is_none() && self.sealer.is_none() {
            return;
        }
        if let Err(error) = self.end() {
            tracing::error!(error = &error as &dyn std::error::Error, "journal closed with rows not yet sealed");
        }
    }
}

/// Held by each of the journal's threads: nobody waits for a thread that is gone, even if it panicked.
struct Ended(Arc<Shared>, Arc<Jobs>);

impl Drop for Ended {
    fn drop(&mut self) {
        let mut inbox = self.0.inbox();
        inbox.ended = true;
        if thread::panicking() {
            inbox.seals.clear();
            self.1.abandon();
        }
    }
}

/// Whether the record's unit is in the sample. Who names no unit is one with each request.
fn is_sampled(record: &Record) -> bool {
    let sample = record.answer.plan.sample;
    sample == Sample::ALL
        || match record.answer.assignment.unit.as_deref() {
            Some(unit) => sample.has(unit),
            None => sample.has(&record.request_id.to_string()),
        }
}

/// A number that sorts by time of start and that no other run has: milliseconds, then 16 random bits.
fn new_run() -> u64 {
    let id = uuid::Uuid::now_v7().as_u128();
    ((id >> 80) as u64) << 16 | (id as u64 & 0xffff)
}
