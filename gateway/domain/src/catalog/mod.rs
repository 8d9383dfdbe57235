//! The catalog as checked: entities, views, transforms, services and experiments whose names resolve,
//! whose types fit and which document themselves. Reading it from text is [`read`].

mod callers;
mod layout;
mod read;
mod read_experiments;
mod reader;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

pub use callers::{Caller, Priority};
pub use layout::{FeastKey, FeastLayout, KeyType, Layout};
pub use read::read;
pub use reader::{Keys, Mistakes, NAME_BYTES_MAX, is_name};

use crate::experiment::{BUCKETS, Experiments, bucket};
use crate::{FeatureType, Kind, Value};

/// Where in the configuration something was written.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// File name as the operator knows it.
    pub file: Arc<str>,
    /// Line, from 1.
    pub line: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// One thing wrong with the configuration, at the place to mend it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mistake {
    /// Where it stands.
    pub at: Place,
    /// What is wrong and what would be right, in one sentence.
    pub message: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.at, self.message)
    }
}

/// What something in the catalog is called, who answers for it and what it means.
#[derive(Clone, Debug, PartialEq)]
pub struct Doc {
    /// Name, unique among its kind (views and transforms share one space).
    pub name: Arc<str>,
    /// Whom to ask.
    pub owner: String,
    /// What it is, in a sentence.
    pub description: String,
    /// Where it is defined.
    pub at: Place,
}

/// A thing that features describe, known by its join keys.
#[derive(Clone, Debug, PartialEq)]
pub struct Entity {
    /// Name and papers.
    pub doc: Doc,
    /// Join keys in the order of the stored key. Without any there is one row for everybody, which only Feast stores.
    pub keys: Vec<JoinKey>,
}

/// One part of an entity's key.
#[derive(Clone, Debug, PartialEq)]
pub struct JoinKey {
    /// The column callers send.
    pub name: Arc<str>,
    /// `string`, `i64`, `bytes` or `timestamp`: the kinds that have one spelling of each value.
    pub kind: Kind,
}

/// One named, typed value of a view, of a transform's output or of a request.
#[derive(Clone, Debug, PartialEq)]
pub struct Feature {
    /// Name within its view, transform or request.
    pub name: Arc<str>,
    /// Type of its values.
    pub of: FeatureType,
    /// What stands in when there is no value.
    pub default: Option<Value>,
    /// What it means, with its unit.
    pub description: String,
}

/// Features of one entity that are stored and loaded together, as one row per entity.
#[derive(Clone, Debug, PartialEq)]
pub struct View {
    /// Name and papers.
    pub doc: Doc,
    /// Several versions of a view live side by side under one name.
    pub version: u32,
    /// Whose features these are.
    pub entity: Arc<Entity>,
    /// Parquet file relative to the configuration folder, read by the embedded store and by `weir load`.
    pub source: Option<String>,
    /// Column of `source` that holds the event time.
    pub event_time: String,
    /// Older values (by event time) are not served; `None` = never too old.
    pub ttl: Option<Duration>,
    /// How long a row may live in the cache.
    pub cache: Freshness,
    /// How the rows are stored.
    pub layout: Layout,
    /// Free labels.
    pub tags: Vec<String>,
    /// In stored order: part of the schema fingerprint.
    pub features: Vec<Feature>,
    /// Identifies (name, version, feature names and types): a stored row that carries another is not ours.
    pub fingerprint: u32,
}

/// How long a row that was read from the store may be served from the cache; not at all, unless said otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Freshness {
    /// Served without asking the store.
    pub fresh_for: Duration,
    /// For so long after that, served at once while one read in the background asks the store again.
    pub revalidate_for: Duration,
    /// Served when the store does not answer in time; never older than this.
    pub stale_for: Duration,
    /// How long "the store has no such entity" is believed.
    pub negative_for: Duration,
}

impl Freshness {
    /// Nothing is to be kept at all.
    pub fn is_never(&self) -> bool {
        self.fresh_for.is_zero() && self.stale_for.is_zero() && self.negative_for.is_zero()
    }
}

/// User code in Wasm that computes features from features.
#[derive(Clone, Debug, PartialEq)]
pub struct Transform {
    /// Name and papers.
    pub doc: Doc,
    /// Several versions live side by side under one name.
    pub version: u32,
    /// Component file relative to the configuration folder.
    pub component: String,
    /// `sha256:…` the component must have; `None` = whatever is there.
    pub digest: Option<String>,
    /// Parameter of the guest → feature reference (`view:feature`, `transform:output`, `request:name`).
    pub inputs: Vec<(Arc<str>, FeatureRef)>,
    /// What it computes.
    pub outputs: Vec<Feature>,
    /// Most time one call may take, whatever the budget.
    pub time_limit: Duration,
    /// Most memory one instance may use.
    pub memory_limit_mib: u32,
}

/// `source:feature`, as written; `source` is a view (or its alias in the service), a transform or `request`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FeatureRef {
    /// Before the colon.
    pub source: Arc<str>,
    /// After the colon.
    pub feature: Arc<str>,
}

impl FeatureRef {
    /// The source of features that come with the request.
    pub const REQUEST: &'static str = "request";

    /// Reads `source:feature`; both sides must be there.
    pub fn parse(text: &str) -> Option<Self> {
        let (source, feature) = text.split_once(':')?;
        if source.is_empty() || feature.is_empty() || feature.contains(':') {
            return None;
        }
        Some(Self { source: source.into(), feature: feature.into() })
    }
}

impl fmt::Display for FeatureRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.source, self.feature)
    }
}

/// Once per request or once per item.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// One value for the whole request, repeated on every row of the reply.
    Context,
    /// One value per item.
    Item,
}

/// A feature that the caller sends.
#[derive(Clone, Debug, PartialEq)]
pub struct RequestFeature {
    /// Name, type, default (without one the caller must send it).
    pub feature: Feature,
    /// Whether it is sent once or per item.
    pub scope: Scope,
}

/// A view read under another name, or by other columns than its own join keys.
#[derive(Clone, Debug, PartialEq)]
pub struct Read {
    /// The name features use.
    pub alias: Arc<str>,
    /// The view behind it.
    pub view: Arc<str>,
    /// Join key of the view's entity → column of the request; the others keep their name.
    pub keys: Vec<(Arc<str>, Arc<str>)>,
    /// Where it is written.
    pub at: Place,
}

/// What to do with a hole in the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnAbsent {
    /// Fill in the feature's default where it has one.
    Default,
    /// Leave it null.
    Null,
}

/// The features that one model asks for.
#[derive(Clone, Debug, PartialEq)]
pub struct Service {
    /// Name and papers.
    pub doc: Doc,
    /// Join keys sent once per request.
    pub context: Vec<Arc<str>>,
    /// Join keys sent per item.
    pub items: Vec<Arc<str>>,
    /// In the order of the reply.
    pub features: Vec<FeatureRef>,
    /// Features that come with the request.
    pub request: Vec<RequestFeature>,
    /// Views read under another name or by other columns.
    pub reads: Vec<Read>,
    /// Version of each view or transform that has several.
    pub pins: Vec<(Arc<str>, u32)>,
    /// Most time an answer may take.
    pub budget: Duration,
    /// Cached rows read from the store longer ago are not served; `None` = the view's own limits alone.
    pub max_stale: Option<Duration>,
    /// Defaults or nulls.
    pub on_absent: OnAbsent,
    /// The model that callers should use when the answer is too degraded.
    pub fallback: Option<Fallback>,
    /// Which units' answers the journal keeps.
    pub sample: Sample,
}

/// A share of all units: those whose bucket under the salt `journal` is below it. The same units whatever the
/// service, and none of an experiment's choosing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample(u32);

impl Sample {
    /// Every unit.
    pub const ALL: Self = Self(BUCKETS);

    /// The nearest whole number of buckets; `None` below the first and above the last.
    pub fn of(share: f64) -> Option<Self> {
        let buckets = (share * f64::from(BUCKETS)).round();
        (1.0..=f64::from(BUCKETS)).contains(&buckets).then_some(Self(buckets as u32))
    }

    /// Whether this unit is in the sample.
    pub fn has(self, unit: &str) -> bool {
        self == Self::ALL || bucket("journal", unit) < self.0
    }

    /// For how many units one of the sample stands.
    pub fn weight(self) -> f64 {
        f64::from(BUCKETS) / f64::from(self.0)
    }
}

/// When and to which model a caller should fall back.
#[derive(Clone, Debug, PartialEq)]
pub struct Fallback {
    /// Name of the simpler model.
    pub model: Arc<str>,
    /// Named in the answer when more than this share (in per cent) of the values is not real.
    pub above_pct: u32,
}

/// Everything that was written in the catalog's files, checked as a whole.
#[derive(Clone, Debug)]
pub struct Catalog {
    /// Hex digest over the text of all files: the version that answers and journal rows carry.
    pub version: Arc<str>,
    /// Views, several versions under one name.
    pub views: Vec<Arc<View>>,
    /// Transforms, several versions under one name.
    pub transforms: Vec<Arc<Transform>>,
    /// Services by name.
    pub services: Vec<Arc<Service>>,
    /// Callers that are known, by name.
    pub callers: Vec<Arc<Caller>>,
    /// Layers, holdouts and experiments.
    pub experiments: Experiments,
}

impl Catalog {
    /// How dear the requests of this caller are; of one that is not in the catalog as dear as most.
    pub fn priority(&self, caller: &str) -> Priority {
        let found = self.callers.binary_search_by(|known| (*known.doc.name).cmp(caller));
        found.map_or(Priority::default(), |at| self.callers[at].priority)
    }
}
