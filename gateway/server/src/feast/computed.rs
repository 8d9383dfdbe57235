//! On-demand views, which Feast computes with Python on request, by the Wasm transforms of their names: their inputs are
//! read, they run and they degrade as for any native request, and what they give is answered as Feast would.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use weir_domain::catalog::{
    Catalog, Doc, FeatureRef, Layout, OnAbsent, Place, Read, RequestFeature, Sample, Scope, Service, Transform,
};
use weir_domain::experiment::{Assignment, Experiments};
use weir_domain::plan::{self, Bound, Plan};
use weir_domain::{Answer, Cell, FeatureType, Gathered, Provenance, answer};
use weir_feast::{ComputedColumn, Lookup, Raised, Rows, Semantics, cell_of, cell_value, loaded_as, weir_name};
use weir_proto::feast::serving::FieldStatus;
use weir_proto::feast::types::{Value, value_type::Enum as ValueType};
use weir_store::Limits;

use crate::admission::{Mode, degrade};
use crate::gateway::Gateway;
use crate::snapshot::Snapshot;
use crate::transform;

/// The one service of the catalog that a computation is compiled from.
const SERVICE: &str = "on_demand";

/// How the on-demand views of a lookup are computed under one catalog.
#[derive(Debug)]
pub(crate) struct Computation {
    plan: Arc<Plan>,
    /// By key of the plan: what the columns that callers send for it may be called.
    keys: Vec<Vec<Arc<str>>>,
    columns: Vec<Output>,
}

/// A column of the answer.
#[derive(Debug)]
struct Output {
    name: String,
    of: ValueType,
    /// Index in [`Plan::outputs`].
    output: usize,
}

impl Computation {
    /// Compiles what is asked for of on-demand views; or says which cannot be computed here, and why.
    pub(crate) fn compile(catalog: &Catalog, lookup: &Lookup, budget: Duration) -> Result<Self, Raised> {
        let mut wanted = Wanted::of(catalog, budget);
        let mut columns = Vec::new();
        for computed in &lookup.computed {
            let view = &computed.view.name;
            let transform = wanted.newest(view).ok_or_else(|| cannot_compute(view))?;
            for (field, column) in &computed.outputs {
                let output =
                    transform.outputs.iter().find(|o| *o.name == *field.name || *o.name == *weir_name(&field.name));
                let output = output.ok_or_else(|| unfit(view, &format!("does not compute {}", field.name)))?;
                if loaded_as(field.of) != Some(output.of) {
                    let what =
                        format!("computes {} as {}, where Feast has {}", field.name, output.of, field.of.as_str_name());
                    return Err(unfit(view, &what));
                }
                let feature = FeatureRef { source: Arc::clone(&transform.doc.name), feature: Arc::clone(&output.name) };
                let known = wanted.service.features.iter().position(|known| *known == feature);
                let output = known.unwrap_or_else(|| {
                    wanted.service.features.push(feature);
                    wanted.service.features.len() - 1
                });
                columns.push(Output { name: column.clone(), of: field.of, output });
            }
            wanted.walk(&transform);
        }
        let views = lookup.computed.iter().map(|computed| computed.view.name.as_str()).collect::<Vec<_>>().join(", ");
        let plans = plan::compile(&wanted.catalog()).map_err(|mistakes| {
            let what = mistakes.first().map(|mistake| mistake.message.clone()).unwrap_or_default();
            unfit(&views, &format!("cannot run for any entity: {what}"))
        })?;
        let plan = plans.service(SERVICE).map(|service| Arc::clone(service.base()));
        let plan = plan.ok_or_else(|| cannot_compute(&views))?;
        let keys = (0..plan.keys.len()).map(|key| names_of(&plan, key)).collect();
        Ok(Self { plan, keys, columns })
    }

    /// Whether it was compiled from this catalog.
    pub(crate) fn is_of(&self, catalog: &Catalog) -> bool {
        self.plan.catalog == catalog.version
    }

    /// What the transforms need that run one after the other.
    pub(crate) fn need(&self) -> Duration {
        self.plan.needs.from_step(0)
    }

    /// The entities and request data of a request, as the plan wants them.
    pub(crate) fn bind(&self, rows: &Rows) -> Result<Bound, Raised> {
        let sent = |names: &[Arc<str>]| {
            let is = |column: &str, name: &str| column == name || weir_name(column) == name;
            names.iter().find_map(|name| rows.echoed.iter().find(|(column, _)| is(column, name)))
        };
        let typed = |name: &str, values: &[Value], of: FeatureType| {
            cell_of(values, of)
                .map_err(|row| Raised::value(format!("{name}: row {} is no {of}, which the transform takes", row + 1)))
        };
        let mut keys = Vec::with_capacity(self.keys.len());
        for (key, names) in self.plan.keys.iter().zip(&self.keys) {
            let name = &key.key.name;
            let (_, values) = sent(names).ok_or_else(|| {
                Raised::value(format!("the transform reads by {name}, which the entities do not have"))
            })?;
            keys.push(typed(name, values, FeatureType::One(key.key.kind))?.column);
        }
        let mut cells = vec![None; self.plan.slots];
        for slot in &self.plan.request {
            let (name, of) = (&slot.feature.name, slot.feature.of);
            cells[slot.slot] = Some(match sent(std::slice::from_ref(name)) {
                Some((_, values)) => typed(name, values, of)?,
                // Feast does not know that the transform wants it, so nobody can send it.
                None => Cell::absent(of, rows.count, Provenance::Missing),
            });
        }
        Ok(Bound { rows: rows.count, keys, max_stale: None, cells })
    }

    /// Reads what the transforms take; like any fetch it never fails, and says whether it was cut short.
    pub(crate) async fn fetch(&self, snapshot: &Snapshot, bound: &mut Bound, limits: Limits) -> (Gathered, bool) {
        let mut gathered = Gathered { cells: std::mem::take(&mut bound.cells), times: Vec::new() };
        let was_cut = snapshot.store.fetch(&self.plan, bound, limits, &mut gathered).await;
        (gathered, was_cut)
    }

    /// Runs the transforms; like any it never fails.
    pub(crate) async fn run(
        &self,
        gateway: &Gateway,
        snapshot: &Snapshot,
        rows: usize,
        until: tokio::time::Instant,
        mode: Mode,
        mut gathered: Gathered,
    ) -> Answer {
        match mode {
            Mode::Full => transform::run(gateway, snapshot, &self.plan, rows, until, &mut gathered).await,
            Mode::Degraded => degrade::shed(&self.plan, rows, &mut gathered),
        }
        answer(Arc::clone(&self.plan), rows, Assignment::default(), gathered)
    }

    /// The answer as columns of Feast's.
    pub(crate) fn columns(&self, answer: &Answer, semantics: Semantics) -> Vec<ComputedColumn> {
        let column = |output: &Output| {
            let cell = &answer.cells[output.output];
            // An integer that Feast's type cannot hold is no value of it.
            let value = |row| cell_value(cell, row, output.of).map_err(|_| Provenance::Invalid);
            let rows = (0..answer.rows).map(|row| match value(row) {
                Ok(value) => (value, status(cell.provenance[row], semantics)),
                Err(why) => (Value::default(), status(why, semantics)),
            });
            let (values, statuses) = rows.unzip();
            ComputedColumn { name: output.name.clone(), values, statuses }
        };
        self.columns.iter().map(column).collect()
    }
}

/// A null that is not known to be one has no status that says so but INVALID.
fn status(provenance: Provenance, semantics: Semantics) -> FieldStatus {
    match (provenance, semantics) {
        (Provenance::Missing, Semantics::Strict) => FieldStatus::NullValue,
        (Provenance::Missing, Semantics::Python) => FieldStatus::Present,
        (provenance, _) if provenance.is_absent() => FieldStatus::Invalid,
        _ => FieldStatus::Present,
    }
}

/// What a join key of the plan may be called in Feast: as the column is called, or the key behind it.
fn names_of(plan: &Plan, key: usize) -> Vec<Arc<str>> {
    let own = &plan.keys[key].key.name;
    let reads = plan.reads.iter().filter_map(|read| match &read.view.layout {
        Layout::Feast(layout) => Some((read, layout)),
        Layout::Packed => None,
    });
    let feast = reads.flat_map(|(read, layout)| {
        let joined = read.view.entity.keys.iter().zip(&layout.keys).zip(&read.keys);
        joined
            .filter(|((joined, _), index)| **index == key && joined.name == *own)
            .map(|((_, feast), _)| Arc::clone(&feast.name))
    });
    feast.chain([Arc::clone(own)]).collect()
}

/// A service that asks for what transforms compute, being put together.
struct Wanted<'c> {
    catalog: &'c Catalog,
    service: Service,
    seen: BTreeSet<Arc<str>>,
}

impl<'c> Wanted<'c> {
    fn of(catalog: &'c Catalog, budget: Duration) -> Self {
        let doc = Doc {
            name: SERVICE.into(),
            owner: String::new(),
            description: String::new(),
            at: Place { file: SERVICE.into(), line: 1 },
        };
        let service = Service {
            doc,
            context: Vec::new(),
            items: Vec::new(),
            features: Vec::new(),
            request: Vec::new(),
            reads: Vec::new(),
            pins: Vec::new(),
            budget,
            max_stale: None,
            on_absent: OnAbsent::Default,
            fallback: None,
            sample: Sample::ALL,
        };
        Self { catalog, service, seen: BTreeSet::new() }
    }

    /// The transform that stands in for this view, in its newest version: no unit is in an experiment here.
    fn newest(&self, view: &str) -> Option<Arc<Transform>> {
        let name = weir_name(view);
        let named = |transform: &&Arc<Transform>| *transform.doc.name == *view || *transform.doc.name == *name;
        self.catalog.transforms.iter().filter(named).max_by_key(|transform| transform.version).cloned()
    }

    /// Everything that the transform reads, and what the transforms before it read.
    fn walk(&mut self, transform: &Transform) {
        let name = &transform.doc.name;
        if !self.seen.insert(Arc::clone(name)) {
            return;
        }
        self.pin(name, transform.version, self.catalog.transforms.iter().filter(|t| t.doc.name == *name).count());
        let catalog = self.catalog;
        for (_, input) in &transform.inputs {
            let source = &input.source;
            if **source == *FeatureRef::REQUEST {
                self.request(&input.feature);
            } else if let Some(before) = self.newest(source) {
                self.walk(&before);
            } else {
                let mut reads = catalog.services.iter().flat_map(|service| &service.reads);
                match reads.find(|read| read.alias == *source) {
                    Some(read) if read.alias != read.view => self.read(&read.view, Some(read)),
                    _ => self.read(source, None),
                }
            }
        }
    }

    fn request(&mut self, name: &Arc<str>) {
        if self.service.request.iter().any(|known| known.feature.name == *name) {
            return;
        }
        let declared = self.catalog.services.iter().flat_map(|service| &service.request);
        let found = declared.map(|request| &request.feature).find(|feature| feature.name == *name);
        let request = found.map(|feature| RequestFeature { feature: feature.clone(), scope: Scope::Item });
        self.service.request.extend(request);
    }

    fn read(&mut self, view: &str, read: Option<&Read>) {
        let versions: Vec<_> = self.catalog.views.iter().filter(|v| *v.doc.name == *view).collect();
        let Some(newest) = versions.iter().max_by_key(|view| view.version) else { return };
        self.pin(&newest.doc.name, newest.version, versions.len());
        for key in &newest.entity.keys {
            let renamed = read.and_then(|read| read.keys.iter().find(|(own, _)| *own == key.name));
            let column = renamed.map_or(&key.name, |(_, column)| column);
            if !self.service.items.contains(column) {
                self.service.items.push(Arc::clone(column));
            }
        }
        if let Some(read) = read.filter(|read| !self.service.reads.iter().any(|known| known.alias == read.alias)) {
            self.service.reads.push(read.clone());
        }
    }

    fn pin(&mut self, name: &Arc<str>, version: u32, versions: usize) {
        if versions > 1 && !self.service.pins.iter().any(|(known, _)| known == name) {
            self.service.pins.push((Arc::clone(name), version));
        }
    }

    /// The catalog with this service alone.
    fn catalog(self) -> Catalog {
        Catalog {
            version: Arc::clone(&self.catalog.version),
            views: self.catalog.views.clone(),
            transforms: self.catalog.transforms.clone(),
            services: vec![Arc::new(self.service)],
            callers: Vec::new(),
            experiments: Experiments::default(),
        }
    }
}

/// On-demand views are Python inside Feast.
fn cannot_compute(view: &str) -> Raised {
    Raised::value(format!(
        "On demand feature view '{view}' is computed by Python inside Feast and cannot run here. A Wasm transform named \
         '{}' in the catalog takes its place.",
        weir_name(view)
    ))
}

/// There is a transform, but it does not do what the view does.
fn unfit(view: &str, what: &str) -> Raised {
    Raised::value(format!("The transform that stands in for the on demand feature view '{view}' {what}."))
}
