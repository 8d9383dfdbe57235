//! Records made by hand, a journal in a temporary folder, and its Parquet read back.
#![allow(dead_code, unreachable_pub, missing_docs, clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arrow_array::RecordBatch;
use arrow_array::cast::AsArray;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use weir_domain::catalog::{Doc, Entity, Feature, Freshness, JoinKey, Place, Scope, View};
use weir_domain::experiment::{Arm, Assigned, Assignment, Experiment, Range, Reason, Status};
use weir_domain::plan::{Key, Output, OutputSource, Plan, Read, ReadFeature};
use weir_domain::{Answer, Blob, Cell, Column, FeatureType, Kind, Provenance, Record, RequestId, Times, Value};
use weir_journal::{Journal, Settings};

/// 2024-02-29 12:34:56.789 UTC.
pub const SERVED_AT_US: i64 = 1_709_210_096_789_000;

pub fn settings(folder: &Path) -> Settings {
    // Rows of a test need no default-sized memory, and a folder of its own keeps tests apart.
    let queue_dir = folder.join("shm");
    fs::create_dir_all(&queue_dir).unwrap();
    Settings { queue_dir: Some(queue_dir), queue_bytes: 1 << 20, ..Settings::new(folder.join("journal")) }
}

pub fn open(folder: &Path) -> Journal {
    Journal::open(settings(folder)).unwrap()
}

fn doc(name: &str) -> Doc {
    let at = Place { file: "test.toml".into(), line: 1 };
    Doc { name: name.into(), owner: "tests".into(), description: "a test".into(), at }
}

/// Every type a feature may have, by a name of its own.
pub fn types() -> Vec<(&'static str, FeatureType)> {
    use Kind::{Bool, Bytes, F32, F64, I64, String, Timestamp};
    let one = [("b", Bool), ("i", I64), ("d", F64), ("f", F32), ("s", String), ("y", Bytes), ("t", Timestamp)];
    let list = [("lb", Bool), ("li", I64), ("ld", F64), ("lf", F32), ("ls", String), ("ly", Bytes), ("lt", Timestamp)];
    let one = one.map(|(n, k)| (n, FeatureType::One(k)));
    one.into_iter().chain(list.map(|(n, k)| (n, FeatureType::List(k)))).collect()
}

/// A plan with one context key `user`, one item key `item` and one view with these features.
pub fn plan(service: &str, catalog: &str, features: &[(&str, FeatureType)]) -> Arc<Plan> {
    let key = |name: &str, kind| JoinKey { name: name.into(), kind };
    let keys = vec![key("user", Kind::String), key("item", Kind::I64)];
    let entity = Arc::new(Entity { doc: doc("user_item"), keys: keys.clone() });
    let feature = |(name, of): &(&str, FeatureType)| Feature {
        name: (*name).into(),
        of: *of,
        default: None,
        description: "a feature".into(),
    };
    let view = Arc::new(View {
        doc: doc("stats"),
        version: 3,
        entity,
        source: None,
        event_time: "event_time".into(),
        ttl: None,
        cache: Freshness::default(),
        layout: weir_domain::catalog::Layout::Packed,
        tags: vec![],
        features: features.iter().map(feature).collect(),
        fingerprint: 1,
    });
    let outputs = features.iter().enumerate().map(|(slot, (name, of))| Output {
        name: format!("stats:{name}").into(),
        of: *of,
        slot,
        source: OutputSource::Read(0),
        default: None,
    });
    let scopes = [Scope::Context, Scope::Item];
    Arc::new(Plan {
        service: service.into(),
        catalog: catalog.into(),
        keys: keys.into_iter().zip(scopes).map(|(key, scope)| Key { key, scope }).collect(),
        request: vec![],
        reads: vec![Read {
            alias: "stats".into(),
            view,
            keys: vec![0, 1],
            scope: Scope::Item,
            features: (0..features.len()).map(|i| ReadFeature { index: i, slot: i }).collect(),
            hash: None,
        }],
        steps: vec![],
        outputs: outputs.collect(),
        slots: features.len(),
        budget: Duration::from_millis(50),
        max_stale: None,
        fallback: None,
        sample: weir_domain::catalog::Sample::ALL,
        model: None,
        needs: weir_domain::Needs::of(0),
        texts: weir_domain::plan::Texts::default(),
    })
}

/// The value that [`record`] serves in this row.
pub fn value(of: FeatureType, row: usize) -> Value {
    let one = |kind, n: usize| match kind {
        Kind::Bool => Value::Bool(n % 2 == 1),
        Kind::I64 => Value::I64(n as i64 - 7),
        Kind::F64 => Value::F64(n as f64 + 0.25),
        Kind::F32 => Value::F32(n as f32 - 0.5),
        Kind::String => Value::String(format!("é✓{n}")),
        Kind::Bytes => Value::Bytes(vec![0, 255, n as u8]),
        Kind::Timestamp => Value::Timestamp(SERVED_AT_US + n as i64),
    };
    match of {
        FeatureType::One(kind) => one(kind, row),
        FeatureType::List(kind) => Value::List(kind, (0..row).map(|n| one(kind, n)).collect()),
    }
}

/// An answer of `rows` rows: row 0 is missing everywhere, row 1 a default, the rest from the store.
pub fn record(plan: &Arc<Plan>, id: u128, rows: usize) -> Record {
    let mut user = Blob::default();
    user.push(format!("user-{id}").as_bytes());
    let cell = |output: &Output| {
        let mut column = Column::with_capacity(output.of, rows);
        let mut provenance = Vec::new();
        for row in 0..rows {
            match row {
                0 => column.push_placeholder(),
                _ => column.push(&value(output.of, row)).unwrap(),
            }
            provenance.push(match row {
                0 => Provenance::Missing,
                1 => Provenance::DefaultLate,
                _ => Provenance::Store,
            });
        }
        Cell { column, provenance }
    };
    let time = |row: usize| if row == 0 { 0 } else { SERVED_AT_US - 1000 };
    let answer = Answer {
        plan: Arc::clone(plan),
        rows,
        cells: plan.outputs.iter().map(cell).collect(),
        times: vec![Times {
            event_time_us: (0..rows).map(time).collect(),
            age_ms: (0..rows as u32).collect(),
            readings: vec![],
        }],
        assignment: Assignment::default(),
        delivered: vec![],
        fallback_model: None,
    };
    Record {
        request_id: RequestId(id),
        served_at_us: SERVED_AT_US,
        as_of_us: SERVED_AT_US - 5,
        keys: vec![Column::String(user), Column::I64((0..rows as i64).collect())],
        spent_us: 1234,
        granted_us: 50_000,
        answer,
    }
}

/// Puts the record's unit into an arm of an experiment.
pub fn expose(record: &mut Record, unit: &str, experiment: &str, arm: &str, delivered: bool) {
    let arm = Arm {
        name: arm.into(),
        weight: 10_000,
        pins: vec![],
        defaults: vec![],
        max_stale: None,
        model: None,
        params: vec![],
    };
    let experiment = Arc::new(Experiment {
        doc: doc(experiment),
        layer: "layer".into(),
        slots: Range { start: 0, end: 10_000 },
        salt: "salt".into(),
        status: Status::Running,
        services: vec![],
        coverage: 10_000,
        targeting: vec![],
        arms: vec![arm],
        forced: vec![],
    });
    record.answer.assignment.unit = Some(unit.into());
    record.answer.assignment.arms.push(Assigned { experiment, layer: 0, arm: 0, bucket: 42, reason: Reason::Split });
    record.answer.delivered.push(delivered);
}

/// Files below a folder with this ending, sorted.
pub fn files(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let Ok(entries) = fs::read_dir(folder) else { return found };
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path, ending));
        } else if path.to_string_lossy().ends_with(ending) {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// The Parquet files of a dataset, by path.
pub fn parquet(folder: &Path, dataset: &str) -> Vec<PathBuf> {
    files(&folder.join("journal").join(dataset), ".parquet")
}

pub fn read(path: &Path) -> Vec<RecordBatch> {
    let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(path).unwrap()).unwrap().build().unwrap();
    reader.map(Result::unwrap).collect()
}

/// How many rows each request has in `served`.
pub fn served(folder: &Path) -> BTreeMap<String, usize> {
    rows_of_requests(folder, "served", "request_id")
}

/// How many rows each request has in `feast`.
pub fn logged(folder: &Path) -> BTreeMap<String, usize> {
    rows_of_requests(folder, "feast", "__request_id")
}

fn rows_of_requests(folder: &Path, dataset: &str, column: &str) -> BTreeMap<String, usize> {
    let mut rows = BTreeMap::new();
    for batch in parquet(folder, dataset).iter().flat_map(|p| read(p)) {
        let ids = batch.column_by_name(column).unwrap().as_string::<i32>().clone();
        for id in ids.iter().flatten() {
            *rows.entry(id.to_owned()).or_default() += 1;
        }
    }
    rows
}
