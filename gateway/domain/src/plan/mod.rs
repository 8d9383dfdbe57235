//! A plan is what a service becomes once the catalog is compiled: slots, reads, transform steps and outputs,
//! all by index. A request only binds its columns to it; nothing is looked up or formatted any more.

mod bind;
mod compile;
mod resolve;
mod texts;

use std::sync::Arc;
use std::time::Duration;

pub use bind::Bound;
pub use compile::{PlanSet, compile};
pub use texts::Texts;

use crate::catalog::{Fallback, Feature, JoinKey, KeyType, Sample, Scope, Transform, View};
use crate::feast::HashRead;
use crate::{FeatureType, Needs, Value};

/// How to answer one service under one combination of arms.
#[derive(Debug, PartialEq)]
pub struct Plan {
    /// The service's name.
    pub service: Arc<str>,
    /// The catalog's version it was compiled from.
    pub catalog: Arc<str>,
    /// Join keys the caller sends, context first; [`Bound::keys`] is in this order.
    pub keys: Vec<Key>,
    /// Features the caller sends.
    pub request: Vec<RequestSlot>,
    /// One per view (and alias) that is read.
    pub reads: Vec<Read>,
    /// Transforms in the order they must run.
    pub steps: Vec<Step>,
    /// The reply's columns.
    pub outputs: Vec<Output>,
    /// Number of slots that reads, requests and steps fill.
    pub slots: usize,
    /// Most time an answer may take.
    pub budget: Duration,
    /// Cached rows read from the store longer ago are not served.
    pub max_stale: Option<Duration>,
    /// When to tell the caller to fall back to a simpler model.
    pub fallback: Option<Fallback>,
    /// The model that an arm pins, if one does.
    pub model: Option<Arc<str>>,
    /// What its stages need, as learnt so far: the only thing in here that changes, but for the texts once.
    pub needs: Needs,
    /// What JSON says of it in every answer.
    pub texts: Texts,
    /// Which units' answers the journal keeps.
    pub sample: Sample,
}

/// A join key of the request.
#[derive(Debug, PartialEq)]
pub struct Key {
    /// Name and kind.
    pub key: JoinKey,
    /// Sent once or per item.
    pub scope: Scope,
}

/// A request feature and the slot it fills.
#[derive(Debug, PartialEq)]
pub struct RequestSlot {
    /// Name, type and default.
    pub feature: Feature,
    /// Sent once or per item.
    pub scope: Scope,
    /// The slot it fills.
    pub slot: usize,
}

/// Rows of one view to read.
#[derive(Debug, PartialEq)]
pub struct Read {
    /// The name features use: the view's own or its alias in the service.
    pub alias: Arc<str>,
    /// The view.
    pub view: Arc<View>,
    /// For each join key of the view's entity, in the entity's order: the index in [`Plan::keys`].
    pub keys: Vec<usize>,
    /// Context when every key is context: then one row serves the whole request.
    pub scope: Scope,
    /// What to take out of the row.
    pub features: Vec<ReadFeature>,
    /// Where the rows lie when they are fields of Feast's hashes.
    pub hash: Option<HashSource>,
}

/// Which hashes a read asks for, and for what in them.
#[derive(Clone, Debug, PartialEq)]
pub struct HashSource {
    /// The fields, in the order of [`Read::features`].
    pub read: Arc<HashRead>,
    /// What every row's key in the cache begins with: [`HashRead::id`], then what all names of the hashes begin with.
    pub prefix: Vec<u8>,
    /// The values that follow: index in [`Plan::keys`], and the type in Feast.
    pub parts: Vec<(usize, KeyType)>,
    /// The project, which ends every name.
    pub project: Arc<str>,
}

/// One feature of a row and the slot it fills.
#[derive(Clone, Debug, PartialEq)]
pub struct ReadFeature {
    /// Index in [`View::features`].
    pub index: usize,
    /// The slot it fills.
    pub slot: usize,
}

/// One call of a transform.
#[derive(Debug, PartialEq)]
pub struct Step {
    /// Which transform, in which version.
    pub transform: Arc<Transform>,
    /// The slot of each input, in the order of [`Transform::inputs`].
    pub inputs: Vec<usize>,
    /// The slot of each output, in the order of [`Transform::outputs`].
    pub outputs: Vec<usize>,
    /// Context when every input is context: then the batch has one row.
    pub scope: Scope,
}

/// One column of the reply.
#[derive(Debug, PartialEq)]
pub struct Output {
    /// `source:feature`, as the service names it.
    pub name: Arc<str>,
    /// Type of its values.
    pub of: FeatureType,
    /// The slot it is taken from.
    pub slot: usize,
    /// Where the slot is filled.
    pub source: OutputSource,
    /// What stands in for a hole; `None` leaves it null.
    pub default: Option<Value>,
}

/// What fills an output's slot, by index in the plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputSource {
    /// [`Plan::reads`].
    Read(usize),
    /// [`Plan::steps`].
    Step(usize),
    /// [`Plan::request`].
    Request(usize),
}
