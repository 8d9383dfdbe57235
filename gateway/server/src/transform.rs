//! The transform stage: runs the plan's steps in order, each with what is left of the budget less what those behind it
//! need. A step that fails, or that what is left cannot pay for, leaves holes that say so; the steps behind it see them as
//! missing inputs.

use std::time::Duration;

use tokio::time::Instant;
use tracing::{Instrument, debug_span};
use weir_domain::catalog::Scope;
use weir_domain::plan::{Plan, Step};
use weir_domain::{Cell, Gathered, Provenance};
use weir_transform::Failure;

use crate::gateway::Gateway;
use crate::snapshot::Snapshot;

/// Runs every step. Never fails, and is over at `until` but for what it takes to stop a guest.
pub(crate) async fn run(
    gateway: &Gateway,
    snapshot: &Snapshot,
    plan: &Plan,
    rows: usize,
    until: Instant,
    into: &mut Gathered,
) {
    if plan.steps.is_empty() {
        return;
    }
    let mut begun = Instant::now();
    for (i, step) in plan.steps.iter().enumerate() {
        let rows = if step.scope == Scope::Context { 1 } else { rows };
        let called = match plan.needs.step_slice(i, until.saturating_duration_since(begun)) {
            Some(slice) => {
                let span = debug_span!("transform", name = %step.transform.doc.name, version = step.transform.version);
                let called = call(snapshot, step, rows, slice, into).instrument(span).await;
                let ended = Instant::now();
                learn(plan, i, ended - begun, slice, called.as_ref().err().copied());
                begun = ended;
                called
            }
            None => Err(Failure::NoTime),
        };
        let outcome = called.as_ref().err().map_or("ok", |failure| failure.name());
        gateway.metrics.transformed(&step.transform.doc.name, step.transform.version, outcome);
        fill(step, rows, called, into);
    }
}

async fn call(
    snapshot: &Snapshot,
    step: &Step,
    rows: usize,
    slice: Duration,
    from: &Gathered,
) -> Result<Vec<Cell>, Failure> {
    let inputs: Option<Vec<&Cell>> = step.inputs.iter().map(|slot| from.cells[*slot].as_ref()).collect();
    match (snapshot.runner(step), inputs) {
        (Some(runner), Some(inputs)) => runner.call(&inputs, rows, slice).await,
        // Every step has a runner and every stage before has filled its slots: a hole here is a bug of ours.
        _ => Err(Failure::Input),
    }
}

/// What this call says about what the step needs.
fn learn(plan: &Plan, step: usize, took: Duration, slice: Duration, failure: Option<Failure>) {
    let need = &plan.needs.steps[step];
    match failure {
        Some(Failure::Slice) => {
            need.was_cut(took);
            let allowed = slice.min(plan.steps[step].transform.time_limit);
            plan.needs.overrun.took(took.saturating_sub(allowed));
        }
        // What is not run needs nothing.
        Some(Failure::NoTime | Failure::Busy | Failure::BreakerOpen) => need.was_forbidden(),
        Some(_) | None => need.took(took),
    }
}

fn fill(step: &Step, rows: usize, called: Result<Vec<Cell>, Failure>, into: &mut Gathered) {
    let why = match called {
        Ok(cells) => {
            for (slot, cell) in step.outputs.iter().zip(cells) {
                into.cells[*slot] = Some(cell);
            }
            return;
        }
        Err(Failure::NoTime) => Provenance::Late,
        Err(_) => Provenance::TransformError,
    };
    for (slot, output) in step.outputs.iter().zip(&step.transform.outputs) {
        into.cells[*slot] = Some(Cell::absent(output.of, rows, why));
    }
}
