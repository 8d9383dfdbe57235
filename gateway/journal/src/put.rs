//! The way of a record into the queue. The long work, encoding and summing it, is done before the queue's lock is
//! taken; what a record needs to be read, its schema and the rows it names, goes in before it and under the same lock.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use weir_domain::Record;
use weir_domain::plan::Plan;

use crate::counts::{DropReason, Tally};
use crate::frame::{FrameKind, Unframed};
use crate::known::{self, Key};
use crate::queue::Queue;
use crate::record::{Unfit, check, encode};
use crate::rows::{Group, Name, Namer, News, Refs, SEGMENT_SHARE, Told};
use crate::schema::Schema;
use crate::sealer::Reply;
use crate::settings::Settings;

/// Schemas that segments begin with. A gateway that has told more starts anew.
const SCHEMAS_MAX: usize = 256;

/// Plans whose schema is remembered, current and replaced ones. Beyond that all are looked up anew.
const PLANS_MAX: usize = 4096;

/// A thread's encoding buffer is kept up to this size.
const BUFFER_BYTES_MAX: usize = 1 << 20;

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
    namer: Namer,
    /// Written under the inbox's lock.
    rows: RwLock<Told>,
}

/// Held while the queue is put into, and for as long as a flag takes.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    /// Number of the last record put in.
    seq: u64,
    /// Ids of the schemas that the writer, or whoever reads the queue after us, has been told.
    told: HashSet<u32>,
    /// The next schema to be told stands for all before it.
    anew: bool,
    /// Rows named since the last of them were forgotten, that were known.
    met: u64,
    /// The writer sleeps until it is woken.
    pub(crate) asleep: bool,
    /// The queue fills up: the writer should not wait for more.
    pub(crate) pressed: bool,
    pub(crate) seals: Vec<Reply>,
    pub(crate) closing: bool,
    /// One of the threads has ended: nothing will be sealed any more.
    pub(crate) ended: bool,
}

/// What a thread needs to write a record, kept from one to the next.
#[derive(Default)]
struct Scratch {
    keys: Vec<Key>,
    names: Vec<Name>,
    refs: Refs,
    body: Vec<u8>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

impl Shared {
    pub(crate) fn new(settings: Settings, queue: Queue, tally: Tally) -> Self {
        let (inbox, plans) = (Mutex::default(), RwLock::default());
        let rows = RwLock::new(Told::new(settings.segment_bytes / SEGMENT_SHARE));
        Self { settings, queue, inbox, work: Condvar::new(), tally, plans, namer: Namer::new(), rows }
    }

    pub(crate) fn inbox(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn put(&self, record: &Record) -> Result<(), DropReason> {
        check(record).map_err(|unfit| match unfit {
            Unfit::Misfit => DropReason::Misfit,
            Unfit::TooLarge => DropReason::TooLarge,
        })?;
        let plan = self.plan(&record.answer.plan);
        SCRATCH.with_borrow_mut(|scratch| {
            let put = self.put_as(record, &plan, scratch);
            scratch.body.shrink_to(BUFFER_BYTES_MAX);
            put
        })
    }

    fn put_as(&self, record: &Record, plan: &Planned, scratch: &mut Scratch) -> Result<(), DropReason> {
        let Scratch { keys, names, refs, body } = scratch;
        let (answer, shape, groups) = (&record.answer, &*plan.shape, &plan.shape.groups[..]);
        refs.clear();
        if groups.is_empty() || answer.rows == 0 || self.rows().is_resting() {
            written(record, shape, refs, body);
            return self.put_body(&mut self.inbox_for(shape), shape, &[], body);
        }
        // Without a look at the values, if the same readings were answered before.
        if !known::keys(plan.number, groups, answer, keys) {
            keys.clear();
        }
        if !keys.is_empty() && self.rows().recall(groups, keys, refs) && self.put_named(record, shape, refs, body)? {
            return Ok(());
        }
        names.clear();
        groups.iter().for_each(|group| self.namer.name(shape.id, group, &answer.cells, answer.rows, names));
        if self.rows().find(groups, names, refs) && self.put_named(record, shape, refs, body)? {
            if !keys.is_empty() {
                self.rows_mut().remember(keys, refs);
            }
            return Ok(());
        }
        // Under the queue's lock: nobody names a row before it is in the queue.
        let mut inbox = self.inbox_for(shape);
        let mut rows = self.rows_mut();
        let mut news = rows.tell(shape.id, groups, &answer.cells, names, refs);
        if !rows.has_room(&news) {
            rows.forget(std::mem::take(&mut inbox.met));
            news = rows.tell(shape.id, groups, &answer.cells, names, refs);
        }
        if !rows.has_room(&news) {
            refs.clear();
            news = News::default();
        }
        inbox.met += (names.len() - news.len()) as u64;
        written(record, shape, refs, body);
        self.put_body(&mut inbox, shape, &news.bodies, body)?;
        rows.keep(news);
        rows.remember(keys, refs);
        Ok(())
    }

    /// Puts a record all of whose rows have numbers; `false` when they were forgotten in the meantime: they are to be
    /// told once more.
    fn put_named(&self, record: &Record, shape: &Shape, refs: &Refs, body: &mut Vec<u8>) -> Result<bool, DropReason> {
        written(record, shape, refs, body);
        let mut inbox = self.inbox_for(shape);
        let is_current = self.rows().first == refs.first;
        if is_current {
            inbox.met += refs.len() as u64;
            self.put_body(&mut inbox, shape, &[], body)?;
        }
        Ok(is_current)
    }

    /// The inbox, ready to tell this schema: when too many were told, everything is told anew.
    fn inbox_for(&self, shape: &Shape) -> MutexGuard<'_, Inbox> {
        let mut inbox = self.inbox();
        if inbox.told.len() >= SCHEMAS_MAX && !inbox.told.contains(&shape.id) {
            inbox.told.clear();
            inbox.anew = true;
            let met = std::mem::take(&mut inbox.met);
            self.rows_mut().forget(met);
        }
        inbox
    }

    /// Puts a record into the queue, behind what it needs to be read: its schema, if that is not told yet, and `rows`.
    fn put_body(&self, inbox: &mut Inbox, shape: &Shape, rows: &[Vec<u8>], body: &[u8]) -> Result<(), DropReason> {
        let (run, seq) = (self.queue.run, inbox.seq + 1);
        let mut first = Vec::new();
        let frame = |kind, body| Unframed::new(kind, body).ok_or(DropReason::TooLarge);
        let record = frame(FrameKind::Record, body)?;
        let is_told = inbox.told.contains(&shape.id);
        if !is_told {
            let kind = if inbox.anew { FrameKind::SchemaReset } else { FrameKind::Schema };
            first.push(frame(kind, &shape.body)?);
        }
        for body in rows {
            first.push(frame(FrameKind::Rows, body)?);
        }
        if first.iter().map(Unframed::len).sum::<u64>() + record.len() > self.queue.capacity() {
            return Err(DropReason::TooLarge);
        }
        let headers: Vec<_> = first.iter().map(|frame| frame.header(run, 0)).collect();
        let header = record.header(run, seq);
        let mut parts: Vec<&[u8]> = Vec::with_capacity(2 * first.len() + 2);
        parts.extend(first.iter().zip(&headers).flat_map(|(frame, header)| [&header[..], frame.body]));
        parts.extend([&header[..], body]);
        let put = self.queue.put(&parts);
        if put {
            if !is_told {
                inbox.told.insert(shape.id);
                inbox.anew = false;
            }
            inbox.seq = seq;
            self.tally.queued_bytes.fetch_add(record.len(), Relaxed);
        }
        let pressed = !inbox.pressed && self.queue.used() > self.queue.capacity() / 4;
        inbox.pressed |= pressed;
        if inbox.asleep || pressed {
            inbox.asleep = false;
            self.work.notify_one();
        }
        if put { Ok(()) } else { Err(DropReason::QueueFull) }
    }

    fn rows(&self) -> RwLockReadGuard<'_, Told> {
        self.rows.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn rows_mut(&self) -> RwLockWriteGuard<'_, Told> {
        self.rows.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn plan(&self, plan: &Arc<Plan>) -> Arc<Planned> {
        let at = Arc::as_ptr(plan) as usize;
        if let Some(planned) = self.plans.read().unwrap_or_else(PoisonError::into_inner).by_plan.get(&at) {
            return Arc::clone(planned);
        }
        self.plans.write().unwrap_or_else(PoisonError::into_inner).learn(plan)
    }
}

/// The body of a record's frame.
fn written(record: &Record, shape: &Shape, refs: &Refs, body: &mut Vec<u8>) {
    body.clear();
    encode(record, shape.id, refs, body);
}

/// The schema of each plan met so far. Plans that differ only in what is not written share one.
#[derive(Debug, Default)]
struct Plans {
    /// By address; holding the plan keeps the address from being used again.
    by_plan: HashMap<usize, Arc<Planned>>,
    by_text: HashMap<Vec<u8>, Arc<Shape>>,
    last_id: u32,
    last_number: u32,
}

/// A plan, its number and its schema.
#[derive(Debug)]
struct Planned {
    _plan: Arc<Plan>,
    /// Used once: two plans of one schema may give different values in place of a row that is not there.
    number: u32,
    shape: Arc<Shape>,
}

/// A schema with its id and the frame body that tells both.
#[derive(Debug)]
struct Shape {
    id: u32,
    body: Vec<u8>,
    /// Reads whose rows are named.
    groups: Vec<Group>,
}

impl Plans {
    fn learn(&mut self, plan: &Arc<Plan>) -> Arc<Planned> {
        if self.by_plan.len() >= PLANS_MAX {
            self.by_plan.clear();
            self.by_text.clear();
        }
        let schema = Schema::of(plan);
        let text = schema.encode(0);
        let shape = match self.by_text.get(&text) {
            Some(shape) => Arc::clone(shape),
            None => {
                self.last_id += 1;
                let (body, groups) = (schema.encode(self.last_id), Group::of(plan));
                let shape = Arc::new(Shape { id: self.last_id, body, groups });
                self.by_text.insert(text, Arc::clone(&shape));
                shape
            }
        };
        self.last_number += 1;
        let planned = Arc::new(Planned { _plan: Arc::clone(plan), number: self.last_number, shape });
        self.by_plan.insert(Arc::as_ptr(plan) as usize, Arc::clone(&planned));
        planned
    }
}
