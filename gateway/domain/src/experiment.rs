//! Experiments: which arm a unit is in. A pure function of (experiments, unit, attributes), the same on every
//! machine and in one line of SQL; nothing is stored, so nothing can be lost.
//!
//! A layer splits units into 10,000 slots; experiments own disjoint slot ranges, so a unit meets at most one
//! experiment a layer. Inside an experiment another hash, with a salt of its own, picks the arm.

use std::sync::Arc;
use std::time::Duration;

use md5::{Digest, Md5};

use crate::Value;
use crate::catalog::{Doc, FeatureRef, Place};

/// Number of buckets of a layer, of an experiment and of a holdout.
pub const BUCKETS: u32 = 10_000;

/// `md5-10000`: the first four bytes of `md5(salt + "-" + unit)` as a big-endian number, modulo 10,000.
pub fn bucket(salt: &str, unit: &str) -> u32 {
    let digest = Md5::new().chain_update(salt).chain_update("-").chain_update(unit).finalize();
    u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]]) % BUCKETS
}

/// A half-open range of buckets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// First bucket inside.
    pub start: u32,
    /// First bucket behind.
    pub end: u32,
}

impl Range {
    /// Whether the bucket lies inside.
    pub fn contains(self, bucket: u32) -> bool {
        self.start <= bucket && bucket < self.end
    }

    /// Whether two ranges share a bucket.
    pub fn overlaps(self, other: Range) -> bool {
        self.start < other.end && other.start < self.end
    }
}

/// Everything about experiments in one catalog.
#[derive(Clone, Debug, Default)]
pub struct Experiments {
    /// Layers by name; at most one experiment a layer holds a unit.
    pub layers: Vec<Layer>,
    /// Units that never enter an experiment of the layers named.
    pub holdouts: Vec<Holdout>,
}

/// Experiments that exclude one another.
#[derive(Clone, Debug)]
pub struct Layer {
    /// Name, unique.
    pub name: Arc<str>,
    /// Salt of the slot hash; no experiment in the layer uses the same.
    pub salt: String,
    /// In the order of the files.
    pub experiments: Vec<Arc<Experiment>>,
    /// Where it is defined.
    pub at: Place,
}

/// Units kept out of experiments, to measure them all against nothing.
#[derive(Clone, Debug)]
pub struct Holdout {
    /// Name and papers.
    pub doc: Doc,
    /// Salt of its hash.
    pub salt: String,
    /// Units in these buckets are held out.
    pub buckets: Range,
    /// Indices of the layers it covers.
    pub layers: Vec<usize>,
}

/// Whether an experiment assigns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Checked, assigns nobody.
    Draft,
    /// Assigns.
    Running,
    /// Assigns nobody any more; its slots stay taken.
    Stopped,
}

/// A comparison of arms.
#[derive(Clone, Debug)]
pub struct Experiment {
    /// Name and papers.
    pub doc: Doc,
    /// The layer it lives in.
    pub layer: Arc<str>,
    /// Slots of the layer it owns.
    pub slots: Range,
    /// Salt of the arm hash.
    pub salt: String,
    /// Whether it assigns.
    pub status: Status,
    /// The services it concerns; empty = those that use something its arms pin.
    pub services: Vec<Arc<str>>,
    /// How many of 10,000 units of each arm take part: ramps up and down without moving a unit between arms.
    pub coverage: u32,
    /// All must hold for a unit to take part.
    pub targeting: Vec<Condition>,
    /// Arms with their weights, which sum to 10,000.
    pub arms: Vec<Arm>,
    /// Unit → index of its arm, whatever the hash says.
    pub forced: Vec<(String, usize)>,
}

/// One treatment, the control among them.
#[derive(Clone, Debug)]
pub struct Arm {
    /// Name, unique in the experiment.
    pub name: Arc<str>,
    /// Buckets of 10,000 at full coverage.
    pub weight: u32,
    /// Version of each view or transform that this arm pins.
    pub pins: Vec<(Arc<str>, u32)>,
    /// Defaults that this arm replaces.
    pub defaults: Vec<(FeatureRef, Value)>,
    /// Replaces the service's `max_stale_ms`.
    pub max_stale: Option<Duration>,
    /// Model that the caller should use.
    pub model: Option<Arc<str>>,
    /// Free parameters for the caller, by name.
    pub params: Vec<(Arc<str>, Value)>,
}

impl Experiment {
    /// The buckets of the i-th arm that take part at the current coverage.
    pub fn range(&self, arm: usize) -> Range {
        let start: u32 = self.arms[..arm].iter().map(|a| a.weight).sum();
        let width = u64::from(self.arms[arm].weight) * u64::from(self.coverage) / u64::from(BUCKETS);
        Range { start, end: start + width as u32 }
    }
}

/// One condition on an attribute. A missing attribute fulfils only `not_exists`, `ne` and `not_in`.
#[derive(Clone, Debug, PartialEq)]
pub struct Condition {
    /// Name of the attribute.
    pub attribute: String,
    /// How it is compared.
    pub op: Op,
    /// What it is compared with; one value but for `in` and `not_in`.
    pub values: Vec<Value>,
}

/// How an attribute is compared. Values of different kinds are never equal and never ordered; integers and
/// floats compare as numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Op {
    Eq,
    Ne,
    In,
    NotIn,
    Lt,
    Le,
    Gt,
    Ge,
    StartsWith,
    EndsWith,
    Exists,
    NotExists,
}

impl Op {
    /// Every operator with its spelling in the catalog.
    pub const ALL: [(&'static str, Op); 12] = [
        ("eq", Op::Eq),
        ("ne", Op::Ne),
        ("in", Op::In),
        ("not_in", Op::NotIn),
        ("lt", Op::Lt),
        ("le", Op::Le),
        ("gt", Op::Gt),
        ("ge", Op::Ge),
        ("starts_with", Op::StartsWith),
        ("ends_with", Op::EndsWith),
        ("exists", Op::Exists),
        ("not_exists", Op::NotExists),
    ];
}

/// What is known of the unit besides its name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Attributes(pub Vec<(String, Value)>);

impl Attributes {
    /// The attribute of this name; the last one wins when it is given twice.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.0.iter().rev().find(|(n, _)| n == name).map(|(_, v)| v)
    }
}

impl Condition {
    /// Whether the attributes fulfil it.
    pub fn holds(&self, attributes: &Attributes) -> bool {
        use std::cmp::Ordering::{Equal, Greater, Less};
        let found = attributes.get(&self.attribute);
        let order = |want: &[std::cmp::Ordering]| {
            found.zip(self.values.first()).and_then(|(a, b)| compare(a, b)).is_some_and(|o| want.contains(&o))
        };
        let listed = || found.is_some_and(|a| self.values.iter().any(|b| compare(a, b) == Some(Equal)));
        let text = |test: fn(&str, &str) -> bool| match (found, self.values.first()) {
            (Some(Value::String(a)), Some(Value::String(b))) => test(a, b),
            _ => false,
        };
        match self.op {
            Op::Eq | Op::In => listed(),
            Op::Ne | Op::NotIn => !listed(),
            Op::Lt => order(&[Less]),
            Op::Le => order(&[Less, Equal]),
            Op::Gt => order(&[Greater]),
            Op::Ge => order(&[Greater, Equal]),
            Op::StartsWith => text(|a, b| a.starts_with(b)),
            Op::EndsWith => text(|a, b| a.ends_with(b)),
            Op::Exists => found.is_some(),
            Op::NotExists => found.is_none(),
        }
    }
}

fn compare(a: &Value, b: &Value) -> Option<std::cmp::Ordering> {
    match (a, b) {
        (Value::I64(a), Value::I64(b)) => Some(a.cmp(b)),
        (Value::I64(a), Value::F64(b)) => (*a as f64).partial_cmp(b),
        (Value::F64(a), Value::I64(b)) => a.partial_cmp(&(*b as f64)),
        (Value::F64(a), Value::F64(b)) => a.partial_cmp(b),
        (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
        (Value::Bool(a), Value::Bool(b)) => Some(a.cmp(b)),
        _ => None,
    }
}

/// Why a unit is in an arm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The hash says so.
    Split,
    /// The catalog forces this unit.
    Forced,
}

impl Reason {
    /// The name used in replies and in the journal.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Split => "SPLIT",
            Self::Forced => "FORCED",
        }
    }
}

/// A unit's place in one experiment.
#[derive(Clone, Debug)]
pub struct Assigned {
    /// The experiment.
    pub experiment: Arc<Experiment>,
    /// Index of its layer.
    pub layer: usize,
    /// Index of the arm.
    pub arm: usize,
    /// The unit's bucket in the experiment.
    pub bucket: u32,
    /// Why this arm.
    pub reason: Reason,
}

impl Assigned {
    /// The arm itself.
    pub fn arm(&self) -> &Arm {
        &self.experiment.arms[self.arm]
    }
}

/// The unit of a request and where it stands in every experiment.
#[derive(Clone, Debug, Default)]
pub struct Assignment {
    /// Whom the experiments split by; without one nobody is assigned.
    pub unit: Option<Arc<str>>,
    /// At most one a layer, in the order of the layers.
    pub arms: Vec<Assigned>,
    /// Names of the holdouts that keep the unit out.
    pub holdouts: Vec<Arc<str>>,
}

/// Where this unit stands in every experiment.
pub fn assign(experiments: &Experiments, unit: Option<&str>, attributes: &Attributes) -> Assignment {
    let Some(unit) = unit.filter(|u| !u.is_empty()) else {
        return Assignment::default();
    };
    let mut assignment = Assignment { unit: Some(unit.into()), ..Assignment::default() };
    let mut held = vec![false; experiments.layers.len()];
    for holdout in &experiments.holdouts {
        if holdout.buckets.contains(bucket(&holdout.salt, unit)) {
            assignment.holdouts.push(Arc::clone(&holdout.doc.name));
            for layer in &holdout.layers {
                held[*layer] = true;
            }
        }
    }
    for (index, layer) in experiments.layers.iter().enumerate() {
        if held[index] || layer.experiments.is_empty() {
            continue;
        }
        if let Some(assigned) = enter(layer, index, unit, attributes) {
            assignment.arms.push(assigned);
        }
    }
    assignment
}

/// Forced units enter whatever their slot; everybody else by slot, targeting and arm bucket.
fn enter(layer: &Layer, index: usize, unit: &str, attributes: &Attributes) -> Option<Assigned> {
    let running = || layer.experiments.iter().filter(|e| e.status == Status::Running);
    for experiment in running() {
        if let Some((_, arm)) = experiment.forced.iter().find(|(u, _)| u == unit) {
            return Some(Assigned {
                experiment: Arc::clone(experiment),
                layer: index,
                arm: *arm,
                bucket: bucket(&experiment.salt, unit),
                reason: Reason::Forced,
            });
        }
    }
    let slot = bucket(&layer.salt, unit);
    let experiment = running().find(|e| e.slots.contains(slot))?;
    if !experiment.targeting.iter().all(|c| c.holds(attributes)) {
        return None;
    }
    let place = bucket(&experiment.salt, unit);
    let arm = (0..experiment.arms.len()).find(|i| experiment.range(*i).contains(place))?;
    Some(Assigned { experiment: Arc::clone(experiment), layer: index, arm, bucket: place, reason: Reason::Split })
}
