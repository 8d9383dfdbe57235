//! One instance of a component and what it may use: memory through [`Limits`], time through epochs. Every
//! way in which guest code can end is classed here, in [`ending`].

use std::sync::Weak;

use wasmtime::{PoolConcurrencyLimitError, ResourceLimiter, Store, Trap, UpdateDeadline};

use crate::Failure;

mod contract {
    #![allow(missing_docs, unreachable_pub)]
    wasmtime::component::bindgen!({
        path: "../../plugins/wit",
        world: "transform",
        // Inputs are lowered straight from our buffers; outputs arrive in vectors of their own.
        ownership: Borrowing { duplicate_if_necessary: true },
    });
}

pub(crate) use contract::TransformPre;
pub(crate) use contract::weir::transform::types::{
    BatchParam, BatchResult, Field as DescribedField, Kind, Schema as Described,
};

/// Elements of a guest's tables together: function pointers, of which a large guest has some thousands.
const TABLE_ELEMENTS_MAX: usize = 20_000;

/// A live instance.
pub(crate) struct Guest {
    store: Store<Limits>,
    exports: contract::Transform,
    /// Memory right after it was made.
    first_bytes: usize,
    /// Calls made so far.
    pub(crate) calls: u32,
}

/// How long a guest may run.
#[derive(Clone, Debug)]
pub(crate) struct Patience {
    pub(crate) ticks: u64,
    /// Ends with whoever waits for the answer, and the call at the next tick; `None` = he cannot leave.
    pub(crate) caller: Option<Weak<()>>,
}

/// What one instance may take from its host.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Allowance {
    /// Linear memory.
    pub(crate) memory_bytes: usize,
    /// Everything one call hands back.
    pub(crate) output_bytes: usize,
}

impl Guest {
    /// Instantiates, which may already run guest code: `patience` bounds it and the first call together.
    pub(crate) fn new(pre: &TransformPre<Limits>, allow: Allowance, patience: Patience) -> Result<Self, Ending> {
        let limits =
            Limits { memory_max: allow.memory_bytes, memory_bytes: 0, refused: false, patience: patience.clone() };
        let mut store = Store::new(pre.engine(), limits);
        store.limiter(|limits| limits);
        store.set_hostcall_fuel(allow.output_bytes);
        store.epoch_deadline_callback(|mut store| Ok(store.data_mut().tick()));
        be_patient(&mut store, patience);
        match pre.instantiate(&mut store) {
            Ok(exports) => {
                let first_bytes = store.data().memory_bytes;
                Ok(Self { store, exports, first_bytes, calls: 0 })
            }
            Err(error) => Err(ending(error, store.data())),
        }
    }

    /// Asks a new instance for the schema.
    pub(crate) fn describe(&mut self) -> Result<Described, Ending> {
        let described = self.exports.call_describe(&mut self.store);
        described.map_err(|error| ending(error, self.store.data()))
    }

    /// Computes one batch. After an error other than [`Failure::Refused`] the instance is spent.
    pub(crate) fn call(&mut self, batch: BatchParam<'_>, patience: Patience) -> Result<BatchResult, Ending> {
        if self.calls > 0 {
            be_patient(&mut self.store, patience);
        }
        self.calls = self.calls.saturating_add(1);
        match self.exports.call_transform(&mut self.store, batch) {
            Ok(Ok(batch)) => Ok(batch),
            Ok(Err(message)) => Err(Ending { failure: Failure::Refused, detail: message }),
            Err(error) => Err(ending(error, self.store.data())),
        }
    }

    /// Linear memory it holds; memory never shrinks.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.store.data().memory_bytes
    }

    /// Linear memory it holds beyond what it began with.
    pub(crate) fn grown_bytes(&self) -> usize {
        self.memory_bytes().saturating_sub(self.first_bytes)
    }
}

/// How guest code ended without an answer: the class for programs, the detail for the operator's log.
#[derive(Debug)]
pub(crate) struct Ending {
    pub(crate) failure: Failure,
    pub(crate) detail: String,
}

fn ending(error: wasmtime::Error, limits: &Limits) -> Ending {
    let failure = if error.is::<PoolConcurrencyLimitError>() {
        Failure::Busy
    } else {
        match error.downcast_ref::<Trap>() {
            Some(Trap::Interrupt) => Failure::Slice,
            // A guest that is refused memory usually aborts: the trap is only the symptom.
            _ if limits.refused => Failure::Memory,
            Some(_) => Failure::Trap,
            // No trap: the host could not read what came back.
            None => Failure::Output,
        }
    };
    Ending { failure, detail: format!("{error:#}") }
}

/// A guest whose caller may leave is looked after at every tick, another one when its time is over.
fn be_patient(store: &mut Store<Limits>, patience: Patience) {
    let looked_after = patience.caller.is_some();
    store.set_epoch_deadline(if looked_after { 1 } else { patience.ticks });
    store.data_mut().patience = Patience { ticks: if looked_after { patience.ticks } else { 1 }, ..patience };
}

/// Counts and caps the memory of one instance, and ends its calls.
pub(crate) struct Limits {
    /// With the ticks that are left.
    patience: Patience,
    memory_max: usize,
    memory_bytes: usize,
    refused: bool,
}

impl Limits {
    fn tick(&mut self) -> UpdateDeadline {
        let Patience { ticks, caller } = &mut self.patience;
        *ticks = ticks.saturating_sub(1);
        let has_left = caller.as_ref().is_some_and(|caller| caller.strong_count() == 0);
        if *ticks == 0 || has_left { UpdateDeadline::Interrupt } else { UpdateDeadline::Continue(1) }
    }
}

impl ResourceLimiter for Limits {
    fn memory_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        let total = self.memory_bytes.saturating_sub(current).saturating_add(desired);
        if total > self.memory_max {
            self.refused = true;
            return Ok(false);
        }
        self.memory_bytes = total;
        Ok(true)
    }

    fn table_growing(&mut self, _: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        let allowed = desired <= TABLE_ELEMENTS_MAX;
        self.refused |= !allowed;
        Ok(allowed)
    }
}
