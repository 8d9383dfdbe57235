//! How a degraded request is answered: it has no time for the store, so what the cache does not hold is stale or
//! absent, and no transform runs for it. What is absent says that load was the reason.

use weir_domain::catalog::Scope;
use weir_domain::plan::Plan;
use weir_domain::{Cell, Gathered, Provenance};
use weir_store::{HashFound, Hashes};

/// After a fetch without time: what would have been read was shed, and so is every transform.
pub(crate) fn shed(plan: &Plan, rows: usize, gathered: &mut Gathered) {
    let told = gathered.cells.iter_mut().flatten().flat_map(|cell| &mut cell.provenance);
    told.filter(|p| **p == Provenance::Late).for_each(|p| *p = Provenance::Shed);
    for step in &plan.steps {
        let rows = if step.scope == Scope::Context { 1 } else { rows };
        for (slot, output) in step.outputs.iter().zip(&step.transform.outputs) {
            gathered.cells[*slot] = Some(Cell::absent(output.of, rows, Provenance::Shed));
        }
    }
}

/// The same for rows of Feast's hashes.
pub(crate) fn shed_hashes(hashes: &mut Hashes) {
    for found in &mut hashes.found {
        if let HashFound::Hole(Provenance::Late) = found {
            *found = HashFound::Hole(Provenance::Shed);
        }
    }
}
