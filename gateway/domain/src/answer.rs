//! The answer: the last pure stage. It fills in defaults, spreads context values over the rows and judges
//! whether the whole is too degraded; what it returns is encoded *and* journalled, so the two cannot differ.

use std::fmt;
use std::sync::Arc;

use crate::experiment::Assignment;
use crate::plan::Plan;
use crate::{Cell, Column, Gathered, Provenance, Times};

/// What a caller gets, whatever the encoding.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The plan it answers; its outputs name the cells.
    pub plan: Arc<Plan>,
    /// Number of rows; every cell has as many values.
    pub rows: usize,
    /// By plan output.
    pub cells: Vec<Cell>,
    /// By plan read, in the read's own scope: one entry, or one per row.
    pub times: Vec<Times>,
    /// The arms it was computed under.
    pub assignment: Assignment,
    /// For each of `assignment.arms`: whether a real value came out that something the arm pins had part in.
    pub delivered: Vec<bool>,
    /// The simpler model to use instead, because too little of this answer is real.
    pub fallback_model: Option<Arc<str>>,
}

/// Completes what was gathered.
pub fn answer(plan: Arc<Plan>, rows: usize, assignment: Assignment, gathered: Gathered) -> Answer {
    let mut gathered = gathered;
    let mut uses = vec![0usize; plan.slots];
    for output in &plan.outputs {
        uses[output.slot] += 1;
    }
    let delivered = assignment.arms.iter().map(|a| delivered(&plan, &gathered.cells, &a.arm().pins)).collect();
    let mut cells = Vec::with_capacity(plan.outputs.len());
    for output in &plan.outputs {
        uses[output.slot] -= 1;
        let slot = &mut gathered.cells[output.slot];
        let cell = if uses[output.slot] == 0 { slot.take() } else { slot.clone() };
        // A stage that never ran left no cell: the step was cut by the budget before it could say so itself.
        let cell = cell.unwrap_or_else(|| Cell::absent(output.of, 1, Provenance::Late));
        cells.push(spread(fill(cell, output.default.as_ref()), rows));
    }
    let fallback_model = fallback(&plan, &cells);
    Answer { plan, rows, cells, times: gathered.times, assignment, delivered, fallback_model }
}

fn fill(mut cell: Cell, default: Option<&crate::Value>) -> Cell {
    let Some(default) = default else { return cell };
    // To the last one: without a way out the compiler looks at many at a time, and there hardly ever is a hole.
    if !cell.provenance.iter().fold(false, |any, p| any | p.is_absent()) {
        return cell;
    }
    let mut column = Column::with_capacity(cell.column.feature_type(), cell.provenance.len());
    for (i, provenance) in cell.provenance.iter_mut().enumerate() {
        if provenance.is_absent() && column.push(default).is_ok() {
            *provenance = provenance.defaulted();
        } else {
            column.push_from(&cell.column, i);
        }
    }
    Cell { column, provenance: cell.provenance }
}

fn spread(cell: Cell, rows: usize) -> Cell {
    if cell.provenance.len() != 1 || rows == 1 {
        return cell;
    }
    let provenance = vec![cell.provenance[0]; rows];
    Cell { column: cell.column.broadcast(rows), provenance }
}

/// Follows what the arm pins from the slots it fills to the outputs, through every transform on the way.
fn delivered(plan: &Plan, cells: &[Option<Cell>], pins: &[(Arc<str>, u32)]) -> bool {
    if pins.is_empty() {
        return true;
    }
    let pinned = |source: &Arc<str>| pins.iter().any(|(name, _)| name == source);
    let real = |slot: usize| cells[slot].as_ref().is_some_and(|c| c.provenance.iter().any(|p| p.is_real()));
    // By slot: whether something pinned has part in it at all, and whether it came through as a real value.
    let (mut meant, mut came) = (vec![false; plan.slots], vec![false; plan.slots]);
    for read in plan.reads.iter().filter(|r| pinned(&r.view.doc.name)) {
        for feature in &read.features {
            meant[feature.slot] = true;
            came[feature.slot] = real(feature.slot);
        }
    }
    for step in &plan.steps {
        let itself = pinned(&step.transform.doc.name);
        let means = itself || step.inputs.iter().any(|slot| meant[*slot]);
        let comes = itself || step.inputs.iter().any(|slot| came[*slot]);
        for slot in &step.outputs {
            meant[*slot] = means;
            came[*slot] = comes && real(*slot);
        }
    }
    // An arm whose pins this service does not use has nothing to deliver here.
    let any = |slots: &[bool]| plan.outputs.iter().any(|o| slots[o.slot]);
    any(&came) || !any(&meant)
}

fn fallback(plan: &Plan, cells: &[Cell]) -> Option<Arc<str>> {
    let fallback = plan.fallback.as_ref()?;
    let (mut real, mut all) = (0u64, 0u64);
    for provenance in cells.iter().flat_map(|c| &c.provenance) {
        all += 1;
        real += u64::from(provenance.is_real());
    }
    let unreal = all - real;
    (unreal * 100 > u64::from(fallback.above_pct) * all).then(|| Arc::clone(&fallback.model))
}

/// Identifies one answered request in the reply, in the journal, in traces and in logs: a UUID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(pub u128);

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hex = format!("{:032x}", self.0);
        write!(f, "{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
    }
}

/// What the journal keeps of one answered request.
#[derive(Clone, Debug)]
pub struct Record {
    /// The request.
    pub request_id: RequestId,
    /// Wall-clock time of the answer, microseconds since the Unix epoch.
    pub served_at_us: i64,
    /// The time ages and ttl were measured from (differs from `served_at_us` only under a fixed `as_of`).
    pub as_of_us: i64,
    /// By plan key: one value (context) or one per row.
    pub keys: Vec<Column>,
    /// Time from the request's arrival to the encoded answer.
    pub spent_us: u32,
    /// The time it was granted.
    pub granted_us: u32,
    /// Exactly what was answered.
    pub answer: Answer,
}
