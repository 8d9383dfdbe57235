//! The journal as the gateway sees it: open, record, seal, close.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock};
use std::thread::{self, JoinHandle};

use weir_domain::Record;
use weir_domain::plan::Plan;

use crate::counts::{Counts, DropReason, Tally};
use crate::frame::{FrameKind, Unframed};
use crate::queue::Queue;
use crate::record::{Unfit, check, encode};
use crate::recover;
use crate::schema::Schema;
use crate::sealer::{self, Job, Jobs, Reply, SealError};
use crate::settings::Settings;
use crate::writer::Writer;

/// Schemas that segments begin with. A gateway that has told more starts anew.
const SCHEMAS_MAX: usize = 256;

/// Plans whose schema is remembered, current and replaced ones. Beyond that all are looked up anew.
const PLANS_MAX: usize = 4096;

/// A thread's encoding buffer is kept up to this size.
const BUFFER_BYTES_MAX: usize = 1 << 20;

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

/// What the serving threads and the journal's own have in common.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) settings: Settings,
    pub(crate) queue: Queue,
    inbox: Mutex<Inbox>,
    /// Wakes the writer.
    pub(crate) work: Condvar,
    pub(crate) tally: Tally,
    plans: RwLock<Plans>,
}

/// Held while the queue is put into, and for as long as a flag takes.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    /// Number of the last record put in.
    seq: u64,
    /// Ids of the schemas that the writer, or whoever reads the queue after us, has been told.
    told: HashSet<u32>,
    /// The writer sleeps until it is woken.
    pub(crate) asleep: bool,
    /// The queue fills up: the writer should not wait for more.
    pub(crate) pressed: bool,
    pub(crate) seals: Vec<Reply>,
    pub(crate) closing: bool,
    /// One of the threads has ended: nothing will be sealed any more.
    ended: bool,
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

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl Shared {
    pub(crate) fn new(settings: Settings, queue: Queue, tally: Tally) -> Self {
        let (inbox, plans) = (Mutex::default(), RwLock::default());
        Self { settings, queue, inbox, work: Condvar::new(), tally, plans }
    }

    pub(crate) fn inbox(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, record: &Record) -> Result<(), DropReason> {
        check(record).map_err(|unfit| match unfit {
            Unfit::Misfit => DropReason::Misfit,
            Unfit::TooLarge => DropReason::TooLarge,
        })?;
        let schema = self.schema(&record.answer.plan);
        BUFFER.with_borrow_mut(|body| {
            body.clear();
            encode(record, schema.id, body);
            let put = self.put_body(body, &schema);
            body.shrink_to(BUFFER_BYTES_MAX);
            put
        })
    }

    fn put_body(&self, body: &[u8], schema: &Told) -> Result<(), DropReason> {
        let frame = Unframed::new(FrameKind::Record, body).ok_or(DropReason::TooLarge)?;
        let most = frame.len() + (schema.body.len() + crate::frame::HEADER) as u64;
        if most > self.queue.capacity() {
            return Err(DropReason::TooLarge);
        }
        let mut inbox = self.inbox();
        let inbox = &mut *inbox;
        let (run, seq) = (self.queue.run, inbox.seq + 1);
        let header = frame.header(run, seq);
        let put = if inbox.told.contains(&schema.id) {
            self.queue.put(&[&header, body])
        } else {
            let anew = inbox.told.len() >= SCHEMAS_MAX;
            let kind = if anew { FrameKind::SchemaReset } else { FrameKind::Schema };
            let first = Unframed::new(kind, &schema.body).ok_or(DropReason::TooLarge)?;
            let put = self.queue.put(&[&first.header(run, 0), first.body, &header, body]);
            if put {
                if anew {
                    inbox.told.clear();
                }
                inbox.told.insert(schema.id);
            }
            put
        };
        if put {
            inbox.seq = seq;
            self.tally.queued_bytes.fetch_add(frame.len(), Relaxed);
        }
        let pressed = !inbox.pressed && self.queue.used() > self.queue.capacity() / 4;
        inbox.pressed |= pressed;
        if inbox.asleep || pressed {
            inbox.asleep = false;
            self.work.notify_one();
        }
        if put { Ok(()) } else { Err(DropReason::QueueFull) }
    }

    fn schema(&self, plan: &Arc<Plan>) -> Arc<Told> {
        let at = Arc::as_ptr(plan) as usize;
        if let Some((_, told)) = self.plans.read().unwrap_or_else(PoisonError::into_inner).by_plan.get(&at) {
            return Arc::clone(told);
        }
        self.plans.write().unwrap_or_else(PoisonError::into_inner).learn(plan)
    }
}

/// The schema of each plan met so far. Plans that differ only in what is not written share one.
#[derive(Debug, Default)]
struct Plans {
    /// By address; holding the plan keeps the address from being used again.
    by_plan: HashMap<usize, (Arc<Plan>, Arc<Told>)>,
    by_text: HashMap<Vec<u8>, Arc<Told>>,
    last_id: u32,
}

/// A schema with its id and the frame body that tells both.
#[derive(Debug)]
struct Told {
    id: u32,
    body: Vec<u8>,
}

impl Plans {
    fn learn(&mut self, plan: &Arc<Plan>) -> Arc<Told> {
        if self.by_plan.len() >= PLANS_MAX {
            self.by_plan.clear();
            self.by_text.clear();
        }
        let schema = Schema::of(plan);
        let text = schema.encode(0);
        let told = match self.by_text.get(&text) {
            Some(told) => Arc::clone(told),
            None => {
                self.last_id += 1;
                let told = Arc::new(Told { id: self.last_id, body: schema.encode(self.last_id) });
                self.by_text.insert(text, Arc::clone(&told));
                told
            }
        };
        self.by_plan.insert(Arc::as_ptr(plan) as usize, (Arc::clone(plan), Arc::clone(&told)));
        told
    }
}

/// A number that sorts by time of start and that no other run has: milliseconds, then 16 random bits.
fn new_run() -> u64 {
    let id = uuid::Uuid::now_v7().as_u128();
    ((id >> 80) as u64) << 16 | (id as u64 & 0xffff)
}
