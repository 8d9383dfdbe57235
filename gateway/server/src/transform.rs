//! The transform stage: runs the plan's steps in order, each with its share of what is left of the budget.
//! A step that fails leaves holes that say so; the steps behind it see them as missing inputs.

use tokio::time::Instant;
use tracing::{Instrument, debug_span};
use weir_domain::catalog::Scope;
use weir_domain::plan::{Plan, Step};
use weir_domain::{Budget, Cell, Gathered, Provenance};

use crate::gateway::Gateway;
use crate::snapshot::Snapshot;

/// Runs every step. Never fails, never outlives the budget.
pub(crate) async fn run(
    gateway: &Gateway,
    snapshot: &Snapshot,
    plan: &Plan,
    rows: usize,
    budget: Budget,
    arrived: Instant,
    into: &mut Gathered,
) {
    for (i, step) in plan.steps.iter().enumerate() {
        let rows = if step.scope == Scope::Context { 1 } else { rows };
        let slice = budget.transform_slice(arrived.elapsed(), plan.steps.len() - i);
        let span = debug_span!("transform", name = %step.transform.doc.name, version = step.transform.version);
        let outcome = call(snapshot, step, rows, slice, into).instrument(span).await;
        gateway.metrics.transformed(&step.transform.doc.name, step.transform.version, outcome);
    }
}

/// One call; returns the outcome's label.
async fn call(
    snapshot: &Snapshot,
    step: &Step,
    rows: usize,
    slice: std::time::Duration,
    into: &mut Gathered,
) -> &'static str {
    let inputs: Option<Vec<&Cell>> = step.inputs.iter().map(|slot| into.cells[*slot].as_ref()).collect();
    let called = match (snapshot.runner(step), inputs) {
        (Some(runner), Some(inputs)) => runner.call(&inputs, rows, slice).await.map_err(|f| f.name()),
        // Every step has a runner and every stage before has filled its slots: a hole here is a bug of ours.
        _ => Err("no_input"),
    };
    let outcome = called.as_ref().err().copied().unwrap_or("ok");
    match called {
        Ok(cells) => {
            for (slot, cell) in step.outputs.iter().zip(cells) {
                into.cells[*slot] = Some(cell);
            }
        }
        Err(_) => {
            for (slot, output) in step.outputs.iter().zip(&step.transform.outputs) {
                into.cells[*slot] = Some(Cell::absent(output.of, rows, Provenance::TransformError));
            }
        }
    }
    outcome
}
