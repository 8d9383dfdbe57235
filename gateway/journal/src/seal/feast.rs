//! The `feast` dataset: the rows of `served` in the schema of Feast's feature log, so that Feast's own code reads
//! them: column for column what Feast's `FeatureServiceLoggingSource.get_schema` gives for the same service.
//!
//! A service's folder is a log destination as it stands (`FileLoggingDestination(path=…)`), and each day below it
//! is a flat folder that Feast can load elsewhere (`write_logged_features`). The days' folders are plain dates:
//! Feast's readers make a column of every `name=value` in a path, also above the folder they were given. The
//! column `__log_date` stays in the files for the same reason: Feast's reader does not find it in the path.
//!
//! Parquet has no whole seconds, which Feast's schema wants, so its writers store milliseconds, and so do we;
//! the values are whole seconds, because a cast to Feast's schema must not fail over a fraction.

use std::collections::HashSet;
use std::sync::Arc;

use arrow_array::builder::{
    Date32Builder, Int32Builder, StringBuilder, TimestampMicrosecondBuilder, TimestampMillisecondBuilder,
};
use arrow_array::{ArrayRef, RecordBatch};
use arrow_schema::{ArrowError, DataType, Field, SchemaRef, TimeUnit};
use weir_domain::catalog::FeatureRef;
use weir_domain::{Column, FeatureType, Kind, Lists, Provenance};

use super::column::{Growing, data_type, item, timestamp};
use crate::record::Served;
use crate::schema::Schema;

/// Columns that every log has, the last ones.
const FIXED: [&str; 3] = ["__log_timestamp", "__log_date", "__request_id"];

const SECOND_US: i64 = 1_000_000;
const DAY_US: i64 = 86_400 * SECOND_US;

/// Rows of one service under one schema, gathered column by column.
#[derive(Debug)]
pub(super) struct FeastTable {
    schema: SchemaRef,
    rows: usize,
    columns: Vec<LogColumn>,
    log_timestamp: TimestampMicrosecondBuilder,
    log_date: Date32Builder,
    request_id: StringBuilder,
}

/// A column of the log, or the three of a feature.
#[derive(Debug)]
enum LogColumn {
    /// A join key, by index in [`Schema::keys`].
    Key(usize, Growing),
    /// What the caller sent, by index in [`Schema::outputs`].
    Request(usize, Growing),
    /// A feature.
    Feature(Box<FeatureColumns>),
}

/// A feature's values with the time and the status of each.
#[derive(Debug)]
struct FeatureColumns {
    /// Index in [`Schema::outputs`].
    output: usize,
    /// Index in [`Schema::reads`]; `None` for what a transform computes.
    read: Option<usize>,
    values: Growing,
    timestamps: TimestampMillisecondBuilder,
    statuses: Int32Builder,
}

impl FeastTable {
    pub(super) fn new(schema: &Schema) -> Self {
        let layout = Layout::of(schema);
        Self {
            schema: Arc::new(arrow_schema::Schema::new(layout.fields)),
            rows: 0,
            columns: layout.columns,
            log_timestamp: TimestampMicrosecondBuilder::new().with_timezone("UTC"),
            log_date: Date32Builder::new(),
            request_id: StringBuilder::new(),
        }
    }

    pub(super) fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    /// Rows gathered since the last [`finish`](Self::finish).
    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    pub(super) fn append(&mut self, served: &Served) {
        let rows = served.rows;
        for column in &mut self.columns {
            match column {
                LogColumn::Key(key, values) => {
                    let column = seconds(served.keys[*key].clone()).broadcast(rows);
                    values.append(&column, &vec![true; rows]);
                }
                LogColumn::Request(output, values) => append_values(values, &served.cells[*output]),
                LogColumn::Feature(feature) => feature.append(served),
            }
        }
        let id = served.request_id.to_string();
        for _ in 0..rows {
            self.request_id.append_value(&id);
            self.log_date.append_value(served.served_at_us.div_euclid(DAY_US) as i32);
        }
        self.log_timestamp.append_value_n(served.served_at_us, rows);
        self.rows += rows;
    }

    /// What was gathered; it starts anew.
    pub(super) fn finish(&mut self) -> Result<RecordBatch, ArrowError> {
        self.rows = 0;
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(self.schema.fields().len());
        for column in &mut self.columns {
            match column {
                LogColumn::Key(_, values) | LogColumn::Request(_, values) => columns.push(values.finish()),
                LogColumn::Feature(feature) => columns.extend([
                    feature.values.finish(),
                    Arc::new(feature.timestamps.finish()) as ArrayRef,
                    Arc::new(feature.statuses.finish()),
                ]),
            }
        }
        columns.push(Arc::new(self.log_timestamp.finish()));
        columns.push(Arc::new(self.log_date.finish()));
        columns.push(Arc::new(self.request_id.finish()));
        for (column, field) in columns.iter_mut().zip(self.schema.fields()) {
            if column.data_type() != field.data_type() {
                *column = arrow_cast::cast(column, field.data_type())?;
            }
        }
        RecordBatch::try_new(Arc::clone(&self.schema), columns)
    }
}

impl FeatureColumns {
    fn append(&mut self, served: &Served) {
        let cell = &served.cells[self.output];
        append_values(&mut self.values, cell);
        let events = self.read.and_then(|r| served.times.get(r)).map_or(&[][..], |(events, _)| events);
        for (row, provenance) in cell.1.iter().enumerate() {
            let status = status(*provenance);
            let at_us = match self.read {
                // One entry stands for all rows. No row, no time: the epoch, as Feast's server writes it.
                Some(_) => events.get(if events.len() == 1 { 0 } else { row }).copied().unwrap_or(0),
                None if status == PRESENT => served.served_at_us,
                None => 0,
            };
            self.timestamps.append_value(at_us.div_euclid(SECOND_US) * 1000);
            self.statuses.append_value(status);
        }
    }
}

/// Where the columns stand and what they hold.
#[derive(Default)]
struct Layout {
    fields: Vec<Field>,
    columns: Vec<LogColumn>,
    keys: HashSet<usize>,
    taken: HashSet<String>,
}

impl Layout {
    /// Feast goes through the views of a service: the keys of the view that did not come before, then its features.
    /// Outputs stand in the order of the views, so going through them gives the same. Keys that no output needs
    /// (an arm's may) and that Feast would not know come last.
    fn of(schema: &Schema) -> Self {
        let mut layout = Self::default();
        layout.taken.extend(FIXED.map(str::to_owned));
        for (i, output) in schema.outputs.iter().enumerate() {
            for key in output.read.and_then(|r| schema.reads.get(r)).map_or(&[][..], |read| &read.keys) {
                layout.key(schema, *key);
            }
            let values = Growing::new(output.of);
            let of = log_type(output.of);
            match output.name.split_once(':') {
                Some((FeatureRef::REQUEST, name)) => {
                    layout.add(schema, vec![(name.to_owned(), of)], LogColumn::Request(i, values));
                }
                _ => {
                    let name = output.name.replacen(':', "__", 1);
                    let fields = vec![
                        (name.clone(), of),
                        (format!("{name}__timestamp"), DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into()))),
                        (format!("{name}__status"), DataType::Int32),
                    ];
                    let (timestamps, statuses) =
                        (TimestampMillisecondBuilder::new().with_timezone("UTC"), Int32Builder::new());
                    let feature = FeatureColumns { output: i, read: output.read, values, timestamps, statuses };
                    layout.add(schema, fields, LogColumn::Feature(Box::new(feature)));
                }
            }
        }
        for key in 0..schema.keys.len() {
            layout.key(schema, key);
        }
        for (name, of) in FIXED.into_iter().zip([timestamp(), DataType::Date32, DataType::Utf8]) {
            layout.fields.push(Field::new(name, of, true));
        }
        layout
    }

    fn key(&mut self, schema: &Schema, index: usize) {
        if let Some(key) = schema.keys.get(index).filter(|_| self.keys.insert(index)) {
            self.add(schema, vec![(key.name.clone(), log_type(key.of))], LogColumn::Key(index, Growing::new(key.of)));
        }
    }

    /// In Feast's schema, too, two columns of one name are one.
    fn add(&mut self, schema: &Schema, fields: Vec<(String, DataType)>, column: LogColumn) {
        if let Some((name, _)) = fields.iter().find(|(name, _)| self.taken.contains(name)) {
            tracing::warn!(
                service = schema.service,
                column = name,
                "a second column of this name is not in Feast's log"
            );
            return;
        }
        for (name, of) in fields {
            self.taken.insert(name.clone());
            self.fields.push(Field::new(name, of, true));
        }
        self.columns.push(column);
    }
}

/// The type that Feast's schema has for a feature, as it stands in Parquet. Feast declares two widths of integers;
/// here all have the one that holds both.
fn log_type(of: FeatureType) -> DataType {
    // Without a zone, unlike all other times: so does Feast.
    const TIME: DataType = DataType::Timestamp(TimeUnit::Millisecond, None);
    match of {
        FeatureType::One(Kind::Timestamp) => TIME,
        FeatureType::List(Kind::Timestamp) => DataType::List(item(TIME)),
        other => data_type(other),
    }
}

fn append_values(to: &mut Growing, (column, provenance): &(Column, Vec<Provenance>)) {
    let valid: Vec<bool> = provenance.iter().map(|p| !p.is_absent()).collect();
    match column.feature_type().kind() {
        Kind::Timestamp => to.append(&seconds(column.clone()), &valid),
        _ => to.append(column, &valid),
    }
}

/// Times cut to whole seconds, downwards; anything else as it is.
fn seconds(column: Column) -> Column {
    match column {
        Column::Timestamp(times) => {
            Column::Timestamp(times.into_iter().map(|us| us.div_euclid(SECOND_US) * SECOND_US).collect())
        }
        Column::List(lists) => Column::List(Box::new(Lists { items: seconds(lists.items), ends: lists.ends })),
        other => other,
    }
}

/// Feast's `FieldStatus`. Numbers are its wire contract.
const INVALID: i32 = 0;
const PRESENT: i32 = 1;
const NOT_FOUND: i32 = 3;
const OUTSIDE_MAX_AGE: i32 = 4;

/// What Feast calls it. A default says what was wrong, as the hole it fills would; Feast has no word for defaults.
fn status(provenance: Provenance) -> i32 {
    match provenance {
        Provenance::Store | Provenance::Cache | Provenance::Stale | Provenance::Computed | Provenance::Caller => {
            PRESENT
        }
        Provenance::Missing | Provenance::DefaultMissing => NOT_FOUND,
        Provenance::Expired | Provenance::DefaultExpired => OUTSIDE_MAX_AGE,
        Provenance::Late
        | Provenance::DefaultLate
        | Provenance::Invalid
        | Provenance::DefaultInvalid
        | Provenance::TransformError
        | Provenance::DefaultTransform
        | Provenance::Unavailable
        | Provenance::DefaultUnavailable
        | Provenance::Shed
        | Provenance::DefaultShed => INVALID,
    }
}
