//! What was answered through Feast's doors, for the journal: the rows that the answer was written from, as the native
//! plan of the same feature service types them. Lists of features have no schema that a log could have, and are counted
//! instead.

use std::sync::Arc;

use weir_domain::experiment::Assignment;
use weir_domain::plan::{Output, OutputSource, Plan};
use weir_domain::{Answer, Cell, Column, FeatureType, Gathered, Record};
use weir_feast::{Rows, Semantics, cell_of};
use weir_store::fill_hashes;

use super::serve::Served;
use crate::gateway::Gateway;
use crate::pipeline::Meta;

/// Why an answer is not in the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unlogged {
    /// Features were asked for by reference.
    NoService,
    /// The native catalog has no service of this name that answers the same: a view was left out of it.
    NoPlan,
    /// A join key is missing or of a type that the native catalog has no keys of.
    Keys,
}

impl Unlogged {
    /// The metric label.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::NoService => "no_service",
            Self::NoPlan => "no_plan",
            Self::Keys => "keys",
        }
    }
}

/// Hands an answer to the journal, or counts why not.
pub(crate) fn record(gateway: &Gateway, served: &Served<'_>, meta: Meta) {
    let Some(journal) = &gateway.journal else { return };
    match written(gateway, served, meta) {
        // What it does not keep, it counts.
        Ok(record) => drop(journal.record(record)),
        Err(why) => gateway.metrics.unlogged(why.name()),
    }
}

fn written(gateway: &Gateway, served: &Served<'_>, meta: Meta) -> Result<Record, Unlogged> {
    let service = served.lookup.service.as_deref().ok_or(Unlogged::NoService)?;
    let plan = served.snapshot.plans.service(service).ok_or(Unlogged::NoPlan)?.base();
    let gathered = gathered(plan, served).ok_or(Unlogged::NoPlan)?;
    let keys = plan.keys.iter().map(|key| column(served.rows, &key.key.name, FeatureType::One(key.key.kind)));
    let keys = keys.collect::<Option<Vec<Column>>>().ok_or(Unlogged::Keys)?;
    let cells = plan.outputs.iter().map(|output| cell(output, plan, &gathered, served));
    let answer = Answer {
        plan: Arc::clone(plan),
        rows: served.rows.count,
        cells: cells.collect::<Option<Vec<Cell>>>().ok_or(Unlogged::NoPlan)?,
        times: gathered.times,
        assignment: Assignment::default(),
        delivered: Vec::new(),
        fallback_model: None,
    };
    Ok(Record {
        request_id: meta.request_id,
        served_at_us: gateway.clock.wall_us(),
        as_of_us: gateway.clock.now_us(),
        keys,
        spent_us: meta.spent.total_us,
        granted_us: meta.budget.granted().as_micros() as u32,
        answer,
    })
}

/// The slots of every read of the plan, each from the read of the same fields that the answer was written from.
fn gathered(plan: &Plan, served: &Served<'_>) -> Option<Gathered> {
    let Served { lookup, hashes, .. } = served;
    let mut gathered = Gathered::default();
    for (index, read) in plan.reads.iter().enumerate() {
        let wanted = read.hash.as_ref()?;
        let same = |own: &weir_feast::ViewRead| own.hash.id == wanted.read.id && *own.named.0 == *read.alias;
        let own = lookup.reads.iter().position(same)?;
        // Feast's Python server answers what is too old like anything else, and so it is logged.
        let ttl_us = match served.semantics {
            Semantics::Python => None,
            Semantics::Strict => read.view.ttl.map(|ttl| i64::try_from(ttl.as_micros()).unwrap_or(i64::MAX)),
        };
        let oldest_us = ttl_us.map_or(i64::MIN, |ttl| served.now_us.saturating_sub(ttl));
        fill_hashes(plan, index, &hashes.rows[own], &hashes.found, oldest_us, &mut gathered);
    }
    Some(gathered)
}

fn cell(output: &Output, plan: &Plan, gathered: &Gathered, served: &Served<'_>) -> Option<Cell> {
    let cell = match output.source {
        OutputSource::Read(_) => gathered.cells.get(output.slot)?.clone()?,
        OutputSource::Request(index) => {
            let name = &plan.request.get(index)?.feature.name;
            let (_, values) = served.rows.echoed.iter().find(|(known, _)| **known == **name)?;
            cell_of(values, output.of).ok()?
        }
        OutputSource::Step(_) => {
            let computed = served.computed?;
            let at = computed.plan.outputs.iter().position(|own| own.name == output.name)?;
            computed.cells.get(at)?.clone()
        }
    };
    // One row for every row that was asked for, or it is no answer to them.
    (cell.provenance.len() == served.rows.count).then_some(cell)
}

/// A join key as it was sent.
fn column(rows: &Rows, name: &str, of: FeatureType) -> Option<Column> {
    let (_, values) = rows.echoed.iter().find(|(known, _)| known == name)?;
    let cell = cell_of(values, of).ok()?;
    (cell.provenance.len() == rows.count && cell.provenance.iter().all(|p| p.is_real())).then_some(cell.column)
}
