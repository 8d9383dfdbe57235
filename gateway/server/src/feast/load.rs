//! `weir load --feast`: a Parquet file into the hashes of a Feast view, as `feast materialize` would write them.

use std::path::Path;

use tokio::sync::mpsc;
use weir_domain::feast::{DUMMY_KEY, KeyFormat, TIME_FIELD, field, push_time};
use weir_domain::{Cell, Column, FeatureType, Kind};
use weir_feast::{Naming, OutOfRange, View, cell_value, key_part, loaded_as, stored};
use weir_journal::table::{TableError, read_table};
use weir_proto::feast::types::{Value, value::Val, value_type::Enum as ValueType};
use weir_store::{HashWrite, LoadError};

use super::Feast;
use crate::load::progress;

/// Batches read ahead of the one that is being written.
const READ_AHEAD: usize = 2;

/// Why a file was not loaded; the rows before it are in the store.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FeastLoadError {
    /// The registry has no such view.
    #[error("there is no feature view {0:?} in the registry")]
    View(String),
    /// Values of an on-demand view are computed on request, and a view without a source names no time column.
    #[error("feature view {0:?} is not loaded from files")]
    NotStored(String),
    /// No column of ours holds such values.
    #[error("{name}: values of type {of} are not loaded from Parquet")]
    Type {
        /// The feature or join key.
        name: String,
        /// Its type.
        of: &'static str,
    },
    /// The file cannot be read as this view.
    #[error("the file cannot be read")]
    Table(#[from] TableError),
    /// A row has no join key or event time.
    #[error("row {row} has no {name}")]
    Hole {
        /// Row number, from 1.
        row: usize,
        /// The join key or the time column.
        name: String,
    },
    /// A value does not fit its type.
    #[error("{name}")]
    Value {
        /// The feature or join key.
        name: String,
        /// Which value.
        source: OutOfRange,
    },
    /// The store did not take the rows.
    #[error("the store did not take the rows")]
    Store(#[from] LoadError),
}

/// How many rows there were, and how many of them were newer than what was there.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Loaded {
    pub(crate) rows: u64,
    pub(crate) written: u64,
}

/// Loads a file into a view.
pub(crate) async fn load(feast: &Feast, view: &str, file: &Path) -> Result<Loaded, FeastLoadError> {
    let current = feast.current();
    let view = current.registry.views.get(view).cloned().ok_or_else(|| FeastLoadError::View(view.to_owned()))?;
    let table = Layout::of(&view, current.options.stored_name(&view), current.naming.clone())?;
    let (send, mut batches) = mpsc::channel::<Result<Vec<HashWrite>, FeastLoadError>>(READ_AHEAD);
    let columns = table.columns.clone();
    let source = read_table(file, &columns)?;
    let bar = progress(source.rows(), &view.name);
    // Decoding and encoding takes a core: not one that waits for the store.
    let reading = tokio::task::spawn_blocking(move || {
        let mut before = 0;
        for batch in source {
            let rows = batch.map_err(FeastLoadError::from).and_then(|cells| table.rows(&cells, before));
            before += rows.as_ref().map_or(0, Vec::len);
            let is_over = rows.is_err();
            // Nobody takes any more: the store has refused.
            if send.blocking_send(rows).is_err() || is_over {
                return;
            }
        }
    });
    let mut loaded = Loaded::default();
    while let Some(batch) = batches.recv().await {
        let batch = batch?;
        let rows = batch.len() as u64;
        loaded.written += feast.writer.write(batch).await? as u64;
        loaded.rows += rows;
        bar.inc(rows);
    }
    bar.finish_and_clear();
    if let Err(panic) = reading.await {
        std::panic::resume_unwind(panic.into_panic());
    }
    Ok(loaded)
}

/// How the rows of a file become rows of hashes.
struct Layout {
    /// Join keys, event time, features.
    columns: Vec<(String, FeatureType)>,
    /// In the order of the key.
    keys: Vec<(String, ValueType)>,
    /// Name, type and field.
    features: Vec<(String, ValueType, [u8; 4])>,
    time_field: Vec<u8>,
    prefix: Vec<u8>,
    project: Vec<u8>,
}

impl Layout {
    fn of(view: &View, stored_name: String, naming: Naming) -> Result<Self, FeastLoadError> {
        let source = view.source.as_ref().filter(|_| view.computed().is_none());
        let source = source.ok_or_else(|| FeastLoadError::NotStored(view.name.clone()))?;
        let typed = |field: &weir_feast::Field| {
            let of = field.of.as_str_name();
            let loaded = loaded_as(field.of).ok_or_else(|| FeastLoadError::Type { name: field.name.clone(), of })?;
            Ok::<_, FeastLoadError>((original(&source.field_mapping, &field.name), loaded))
        };
        // The dummy is in no file: all rows of such a view are one.
        let mut keys: Vec<_> = view.entity_columns.iter().filter(|column| column.name != DUMMY_KEY).collect();
        keys.sort_by(|a, b| a.name.cmp(&b.name));
        let mut columns: Vec<_> = keys.iter().map(|column| typed(column)).collect::<Result<_, _>>()?;
        columns.push((original(&source.field_mapping, &source.timestamp_field), FeatureType::One(Kind::Timestamp)));
        for feature in &view.features {
            columns.push(typed(feature)?);
        }
        let mut keys: Vec<(String, ValueType)> = keys.iter().map(|column| (column.name.clone(), column.of)).collect();
        if keys.is_empty() {
            keys.push((DUMMY_KEY.to_owned(), ValueType::String));
        }
        let mut prefix = Vec::new();
        naming.format.push_names(&mut prefix, keys.iter().map(|(name, _)| name.as_str()));
        let features = view.features.iter().map(|f| (f.name.clone(), f.of, field(&stored_name, &f.name)));
        Ok(Self {
            columns,
            features: features.collect(),
            keys,
            time_field: format!("{TIME_FIELD}{stored_name}").into_bytes(),
            prefix,
            project: naming.project.into_bytes(),
        })
    }

    fn rows(&self, cells: &[Cell], before: usize) -> Result<Vec<HashWrite>, FeastLoadError> {
        let key_cells = self.columns.len() - 1 - self.features.len();
        let (keys, rest) = cells.split_at(key_cells.min(cells.len()));
        let Some((times, features)) = rest.split_first() else { return Ok(Vec::new()) };
        let Column::Timestamp(micros) = &times.column else { return Ok(Vec::new()) };
        (0..micros.len()).map(|row| self.row(keys, times, micros[row], features, row, before)).collect()
    }

    fn row(
        &self,
        keys: &[Cell],
        times: &Cell,
        micros: i64,
        features: &[Cell],
        row: usize,
        before: usize,
    ) -> Result<HashWrite, FeastLoadError> {
        let hole = |cell: &Cell| cell.provenance[row].is_absent();
        let missing =
            |index: usize| FeastLoadError::Hole { row: before + row + 1, name: self.columns[index].0.clone() };
        if hole(times) {
            return Err(missing(keys.len()));
        }
        let mut key = self.prefix.clone();
        if keys.is_empty() {
            push(&mut key, &Value { val: Some(Val::StringVal(String::new())) });
        }
        for (index, (cell, (name, of))) in keys.iter().zip(&self.keys).enumerate() {
            if hole(cell) {
                return Err(missing(index));
            }
            push(&mut key, &value(cell, row, *of, name, before)?);
        }
        key.extend_from_slice(&self.project);
        let (seconds, nanos) = (micros.div_euclid(1_000_000), micros.rem_euclid(1_000_000) as i32 * 1_000);
        let mut time = Vec::new();
        push_time(&mut time, seconds, nanos);
        let mut fields = Vec::with_capacity(features.len() + 1);
        fields.push((self.time_field.clone(), time));
        for (cell, (name, of, field)) in features.iter().zip(&self.features) {
            fields.push((field.to_vec(), stored(&value(cell, row, *of, name, before)?)));
        }
        Ok(HashWrite { key, time: (seconds, nanos), fields })
    }
}

fn push(key: &mut Vec<u8>, value: &Value) {
    // Values of a type that no key is made of were refused with their view's columns.
    if let Some(part) = key_part(value) {
        KeyFormat::push_part(key, part);
    }
}

fn value(cell: &Cell, row: usize, of: ValueType, name: &str, before: usize) -> Result<Value, FeastLoadError> {
    let told = |source: OutOfRange| FeastLoadError::Value {
        name: name.to_owned(),
        source: OutOfRange { row: before + source.row, ..source },
    };
    cell_value(cell, row, of).map_err(told)
}

/// The name of a column before the source's mapping.
fn original(mapping: &std::collections::BTreeMap<String, String>, name: &str) -> String {
    mapping.iter().find(|(_, to)| *to == name).map_or_else(|| name.to_owned(), |(from, _)| from.clone())
}
