//! A store over a real Redis with one small view, and ways to ask it: what the tests of this crate share.
#![allow(dead_code, unreachable_pub, reason = "every test binary uses another part of it")]

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;
use weir_domain::catalog::{Doc, Entity, Feature, Freshness, JoinKey, Place, Scope, View};
use weir_domain::plan::{Bound, Key, Plan, Read, ReadFeature};
use weir_domain::{Cell, Column, FeatureType, Gathered, Kind, Provenance, Value};
use weir_store::{Backend, CacheSettings, Limits, Loader, Redis, RedisAddress, Store, entity_keys, pack_rows};

use crate::common::RedisServer;

pub const NAMESPACE: &str = "test";
/// The event time of every row, and the wall clock of every request unless a test says otherwise.
pub const NOW_US: i64 = 1_400_000_000_000_000;
/// A budget that only a broken store exceeds.
pub const AMPLE: Duration = Duration::from_secs(5);

pub const fn seconds(s: u64) -> Duration {
    Duration::from_secs(s)
}

/// A view of an entity with one text key; features are named f0, f1 …
pub fn view(types: &[FeatureType]) -> View {
    let doc = |name: &str| Doc {
        name: name.into(),
        owner: "tests".into(),
        description: "made by hand".into(),
        at: Place { file: "test.toml".into(), line: 1 },
    };
    let feature = |(i, of): (usize, &FeatureType)| Feature {
        name: format!("f{i}").into(),
        of: *of,
        default: None,
        description: "a feature".into(),
    };
    View {
        doc: doc("view"),
        version: 1,
        entity: Arc::new(Entity { doc: doc("entity"), keys: vec![JoinKey { name: "id".into(), kind: Kind::String }] }),
        source: None,
        event_time: "ts".into(),
        ttl: None,
        cache: Freshness {
            fresh_for: seconds(60),
            revalidate_for: Duration::ZERO,
            stale_for: seconds(600),
            negative_for: seconds(60),
        },
        layout: weir_domain::catalog::Layout::Packed,
        tags: vec![],
        features: types.iter().enumerate().map(feature).collect(),
        fingerprint: 0x0bad_cafe,
    }
}

/// One f64 per entity, the view of most tests.
pub fn small_view(cache: Freshness) -> View {
    View { cache, ..view(&[FeatureType::One(Kind::F64)]) }
}

pub const fn freshness(fresh: Duration, stale: Duration, negative: Duration) -> Freshness {
    Freshness { fresh_for: fresh, revalidate_for: Duration::ZERO, stale_for: stale, negative_for: negative }
}

/// Reads all features of each view, one join key per view: the i-th read takes the i-th key.
pub fn plan_of(reads: Vec<(View, Scope)>) -> Plan {
    let key = |(i, (_, scope)): (usize, &(View, Scope))| Key {
        key: JoinKey { name: format!("id{i}").into(), kind: Kind::String },
        scope: *scope,
    };
    let keys = reads.iter().enumerate().map(key).collect();
    let mut slots = 0;
    let read = |(i, (view, scope)): (usize, (View, Scope))| {
        let features = (0..view.features.len()).map(|index| ReadFeature { index, slot: slots + index }).collect();
        slots += view.features.len();
        Read { alias: view.doc.name.clone(), view: Arc::new(view), keys: vec![i], scope, features, hash: None }
    };
    let reads = reads.into_iter().enumerate().map(read).collect();
    Plan {
        service: "service".into(),
        catalog: "1".into(),
        keys,
        request: vec![],
        reads,
        steps: vec![],
        outputs: vec![],
        slots,
        budget: seconds(1),
        max_stale: None,
        fallback: None,
        sample: weir_domain::catalog::Sample::ALL,
        model: None,
        needs: weir_domain::Needs::of(0),
        texts: weir_domain::plan::Texts::default(),
    }
}

pub fn texts<S: AsRef<str>>(values: &[S]) -> Column {
    let mut column = Column::with_capacity(FeatureType::One(Kind::String), values.len());
    for value in values {
        column.push(&Value::String(value.as_ref().into())).expect("a text column");
    }
    column
}

pub fn bound(rows: usize, keys: Vec<Column>) -> Bound {
    Bound { rows, keys, max_stale: None, cells: vec![] }
}

pub fn address(url: &str) -> RedisAddress {
    url.parse().expect("a good URL")
}

pub fn in_time(budget: Duration) -> Limits {
    Limits { deadline: Instant::now() + budget, now_us: NOW_US, max_stale: None }
}

/// Packed rows of [`small_view`] under their keys.
pub fn small_rows<S: AsRef<str>>(view: &View, rows: &[(S, f64)]) -> Vec<(Bytes, Bytes)> {
    let ids: Vec<&str> = rows.iter().map(|(id, _)| id.as_ref()).collect();
    let column = Column::F64(rows.iter().map(|(_, x)| *x).collect());
    let cell = Cell { column, provenance: vec![Provenance::Store; rows.len()] };
    let packed = pack_rows(view, &[cell], &vec![NOW_US; rows.len()]).expect("rows of the view");
    entity_keys(NAMESPACE, view, &[texts(&ids)]).into_iter().zip(packed).collect()
}

/// Under which key the plan's first view keeps an entity.
pub fn key_of(plan: &Plan, id: &str) -> Bytes {
    entity_keys(NAMESPACE, &plan.reads[0].view, &[texts(&[id])]).remove(0)
}

/// A store over its own Redis, and a plan that reads one view per item.
pub struct Scene {
    pub server: RedisServer,
    pub redis: Redis,
    pub store: Store,
    pub plan: Arc<Plan>,
}

impl Scene {
    /// Over [`small_view`] with this freshness.
    pub async fn with(cache: Freshness) -> Self {
        let scene = Self::over(RedisServer::start(), small_view(cache), "");
        scene.redis.settled().await.expect("a fresh server answers");
        scene
    }

    /// Does not wait for the connection. `login` is `user:password@`, or nothing.
    pub fn over(server: RedisServer, view: View, login: &str) -> Self {
        let url = server.url().replace("redis://", &format!("redis://{login}"));
        let redis = Redis::open(&address(&url)).expect("a usable address");
        let store = Store::new(Backend::Redis(redis.clone()), CacheSettings::default(), NAMESPACE);
        Self { server, redis, store, plan: Arc::new(plan_of(vec![(view, Scope::Item)])) }
    }

    pub fn view(&self) -> &View {
        &self.plan.reads[0].view
    }

    pub async fn load<S: AsRef<str>>(&self, rows: &[(S, f64)]) {
        let mut loader = Loader::connect(&address(&self.server.url())).await.expect("a server to load");
        loader.write(&small_rows(self.view(), rows)).await.expect("rows are written");
    }

    pub fn key(&self, id: &str) -> Bytes {
        key_of(&self.plan, id)
    }

    pub async fn ask<S: AsRef<str>>(&self, ids: &[S], budget: Duration) -> Reply {
        self.ask_within(ids, in_time(budget)).await
    }

    pub async fn ask_within<S: AsRef<str>>(&self, ids: &[S], limits: Limits) -> Reply {
        let mut into = Gathered::default();
        self.store.fetch(&self.plan, &bound(ids.len(), vec![texts(ids)]), limits, &mut into).await;
        Reply::of(into)
    }

    /// The provenance of one entity.
    pub async fn why(&self, id: &str, budget: Duration) -> Provenance {
        self.ask(&[id], budget).await.provenance[0]
    }
}

/// The first slot of an answer, which holds an f64.
#[derive(Debug, PartialEq)]
pub struct Reply {
    pub values: Vec<f64>,
    pub provenance: Vec<Provenance>,
    pub age_ms: Vec<u32>,
    pub readings: Vec<u64>,
}

impl Reply {
    pub fn of(into: Gathered) -> Self {
        let cell = into.cells[0].clone().expect("the slot is filled");
        let Column::F64(values) = cell.column else { panic!("an f64 column") };
        let times = &into.times[0];
        let (age_ms, readings) = (times.age_ms.clone(), times.readings.clone());
        Self { values, provenance: cell.provenance, age_ms, readings }
    }
}
