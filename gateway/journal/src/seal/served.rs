//! The `served` dataset: one row per row of an answer, wide, as a model's training set wants it.
//!
//! A value is null exactly where its provenance says that nothing was served; a default is written as the
//! value it stood for. `arms` is a list of structs: one SQL `unnest` (pandas: `explode`) away from a relation
//! to group by, and no name in it needs escaping.

use std::collections::HashSet;
use std::sync::Arc;

use arrow_array::builder::{Int32Builder, Int64Builder, ListBuilder, StringBuilder, TimestampMicrosecondBuilder};
use arrow_array::types::Int8Type;
use arrow_array::{
    ArrayRef, DictionaryArray, Float64Array, Int8Array, ListArray, RecordBatch, StringArray, StructArray,
};
use arrow_buffer::{OffsetBuffer, ScalarBuffer};
use arrow_schema::{ArrowError, DataType, Field, Fields, SchemaRef};
use weir_domain::Provenance;

use super::column::{Growing, data_type, item, timestamp};
use crate::record::Served;
use crate::schema::Schema;

/// Columns that every service has.
const FIXED: [&str; 12] = [
    "request_id",
    "row",
    "served_at",
    "as_of",
    "catalog_version",
    "unit",
    "arms",
    "holdouts",
    "granted_us",
    "spent_us",
    "fallback_model",
    "weight",
];

/// Names that readers take from the path.
const PARTITIONS: [&str; 3] = ["service", "dt", "hour"];

/// Rows of one service under one catalog version, gathered column by column.
#[derive(Debug)]
pub(super) struct ServedTable {
    schema: SchemaRef,
    catalog: String,
    weight: f64,
    rows: usize,
    request_id: StringBuilder,
    row: Int32Builder,
    served_at: TimestampMicrosecondBuilder,
    as_of: TimestampMicrosecondBuilder,
    catalog_version: StringBuilder,
    unit: StringBuilder,
    arms: Arms,
    holdouts: ListBuilder<StringBuilder>,
    granted_us: Int64Builder,
    spent_us: Int64Builder,
    fallback_model: StringBuilder,
    keys: Vec<Growing>,
    times: Vec<(TimestampMicrosecondBuilder, Int64Builder)>,
    cells: Vec<(Growing, Vec<i8>)>,
}

impl ServedTable {
    pub(super) fn new(schema: &Schema) -> Self {
        let time = || TimestampMicrosecondBuilder::new().with_timezone("UTC");
        Self {
            schema: arrow_schema(schema),
            catalog: schema.catalog.clone(),
            weight: schema.weight,
            rows: 0,
            request_id: StringBuilder::new(),
            row: Int32Builder::new(),
            served_at: time(),
            as_of: time(),
            catalog_version: StringBuilder::new(),
            unit: StringBuilder::new(),
            arms: Arms::default(),
            holdouts: ListBuilder::new(StringBuilder::new()).with_field(item(DataType::Utf8)),
            granted_us: Int64Builder::new(),
            spent_us: Int64Builder::new(),
            fallback_model: StringBuilder::new(),
            keys: schema.keys.iter().map(|k| Growing::new(k.of)).collect(),
            times: schema.reads.iter().map(|_| (time(), Int64Builder::new())).collect(),
            cells: schema.outputs.iter().map(|o| (Growing::new(o.of), Vec::new())).collect(),
        }
    }

    pub(super) fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    /// Rows gathered since the last [`finish`](Self::finish).
    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    pub(super) fn append(&mut self, served: Served) {
        let rows = served.rows;
        let id = served.request_id.to_string();
        for row in 0..rows {
            self.request_id.append_value(&id);
            self.row.append_value(row as i32);
            self.catalog_version.append_value(&self.catalog);
            self.unit.append_option(served.unit.as_deref());
            self.fallback_model.append_option(served.fallback_model.as_deref());
            self.arms.append(&served);
            self.holdouts.append_value(served.holdouts.iter().map(Some));
        }
        self.served_at.append_value_n(served.served_at_us, rows);
        self.as_of.append_value_n(served.as_of_us, rows);
        self.granted_us.append_value_n(i64::from(served.granted_us), rows);
        self.spent_us.append_value_n(i64::from(served.spent_us), rows);
        let all = vec![true; rows];
        for (to, key) in self.keys.iter_mut().zip(served.keys) {
            to.append(&key.broadcast(rows), &all);
        }
        for ((event_time, age), (events, ages)) in self.times.iter_mut().zip(&served.times) {
            for row in 0..rows {
                // One entry stands for all rows; no entry, or time 0, says that no row was found.
                let at = if events.len() == 1 { 0 } else { row };
                let found = events.get(at).copied().filter(|t| *t != 0);
                event_time.append_option(found);
                age.append_option(found.and_then(|_| ages.get(at)).map(|a| i64::from(*a)));
            }
        }
        for ((values, provenances), (column, provenance)) in self.cells.iter_mut().zip(&served.cells) {
            let valid: Vec<bool> = provenance.iter().map(|p| !p.is_absent()).collect();
            values.append(column, &valid);
            provenances.extend(provenance.iter().map(|p| place(*p)));
        }
        self.rows += rows;
    }

    /// What was gathered; it starts anew.
    pub(super) fn finish(&mut self) -> Result<RecordBatch, ArrowError> {
        let weights = Float64Array::from_value(self.weight, std::mem::take(&mut self.rows));
        let mut columns: Vec<ArrayRef> = vec![
            Arc::new(self.request_id.finish()),
            Arc::new(self.row.finish()),
            Arc::new(self.served_at.finish()),
            Arc::new(self.as_of.finish()),
            Arc::new(self.catalog_version.finish()),
            Arc::new(self.unit.finish()),
            self.arms.finish(),
            Arc::new(self.holdouts.finish()),
            Arc::new(self.granted_us.finish()),
            Arc::new(self.spent_us.finish()),
            Arc::new(self.fallback_model.finish()),
            Arc::new(weights),
        ];
        columns.extend(self.keys.iter_mut().map(Growing::finish));
        for (event_time, age) in &mut self.times {
            columns.push(Arc::new(event_time.finish()));
            columns.push(Arc::new(age.finish()));
        }
        let names: ArrayRef = Arc::new(StringArray::from_iter_values(Provenance::ALL.map(Provenance::name)));
        for (values, provenances) in &mut self.cells {
            columns.push(values.finish());
            let places = Int8Array::from(std::mem::take(provenances));
            columns.push(Arc::new(DictionaryArray::<Int8Type>::try_new(places, Arc::clone(&names))?));
        }
        RecordBatch::try_new(Arc::clone(&self.schema), columns)
    }
}

/// Index of a provenance in [`Provenance::ALL`], which is the dictionary.
fn place(provenance: Provenance) -> i8 {
    Provenance::ALL.iter().position(|p| *p == provenance).unwrap_or_default() as i8
}

fn arrow_schema(schema: &Schema) -> SchemaRef {
    let mut names = Names::default();
    let mut fields = Vec::new();
    let fixed = [
        DataType::Utf8,
        DataType::Int32,
        timestamp(),
        timestamp(),
        DataType::Utf8,
        DataType::Utf8,
        DataType::List(item(DataType::Struct(Arms::fields()))),
        DataType::List(item(DataType::Utf8)),
        DataType::Int64,
        DataType::Int64,
        DataType::Utf8,
        DataType::Float64,
    ];
    for (name, of) in FIXED.into_iter().zip(fixed) {
        fields.push(Field::new(name, of, matches!(name, "unit" | "fallback_model")));
    }
    for key in &schema.keys {
        let name = if names.is_taken(&key.name) { format!("key__{}", key.name) } else { key.name.clone() };
        fields.push(Field::new(names.take(name), data_type(key.of), false));
    }
    for read in &schema.reads {
        fields.push(Field::new(names.take(format!("{}__event_time", read.alias)), timestamp(), true));
        fields.push(Field::new(names.take(format!("{}__age_ms", read.alias)), DataType::Int64, true));
    }
    let provenance = DataType::Dictionary(Box::new(DataType::Int8), Box::new(DataType::Utf8));
    for output in &schema.outputs {
        let name = names.take(output.name.replacen(':', "__", 1));
        fields.push(Field::new(&name, data_type(output.of), true));
        fields.push(Field::new(names.take(format!("{name}__provenance")), provenance.clone(), false));
    }
    Arc::new(arrow_schema::Schema::new(fields))
}

/// Column names in use, in lower case: to DuckDB and Spark, `Row` and `row` are the same column.
#[derive(Debug)]
struct Names(HashSet<String>);

impl Default for Names {
    fn default() -> Self {
        Self(FIXED.into_iter().chain(PARTITIONS).map(str::to_owned).collect())
    }
}

impl Names {
    fn is_taken(&self, name: &str) -> bool {
        self.0.contains(&name.to_lowercase())
    }

    /// The name itself, or with the first number that makes it unique.
    fn take(&mut self, name: String) -> String {
        let numbered = (2..).map(|n: u32| format!("{name}__{n}"));
        let free = std::iter::once(name.clone()).chain(numbered).find(|n| !self.is_taken(n));
        let free = free.unwrap_or(name);
        self.0.insert(free.to_lowercase());
        free
    }
}

/// The column `arms`: for each row a list of (experiment, arm, bucket).
#[derive(Debug)]
struct Arms {
    offsets: Vec<i32>,
    experiment: StringBuilder,
    arm: StringBuilder,
    bucket: Int32Builder,
}

impl Default for Arms {
    fn default() -> Self {
        Self {
            offsets: vec![0],
            experiment: StringBuilder::new(),
            arm: StringBuilder::new(),
            bucket: Int32Builder::new(),
        }
    }
}

impl Arms {
    fn fields() -> Fields {
        Fields::from(vec![
            Field::new("experiment", DataType::Utf8, false),
            Field::new("arm", DataType::Utf8, false),
            Field::new("bucket", DataType::Int32, false),
        ])
    }

    fn append(&mut self, served: &Served) {
        for arm in &served.arms {
            self.experiment.append_value(&arm.experiment);
            self.arm.append_value(&arm.arm);
            self.bucket.append_value(arm.bucket as i32);
        }
        self.offsets.push(self.offsets.last().copied().unwrap_or(0) + served.arms.len() as i32);
    }

    fn finish(&mut self) -> ArrayRef {
        let offsets = OffsetBuffer::new(ScalarBuffer::from(std::mem::replace(&mut self.offsets, vec![0])));
        let columns: Vec<ArrayRef> =
            vec![Arc::new(self.experiment.finish()), Arc::new(self.arm.finish()), Arc::new(self.bucket.finish())];
        let items = StructArray::new(Self::fields(), columns, None);
        Arc::new(ListArray::new(item(DataType::Struct(Self::fields())), offsets, Arc::new(items), None))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::{KeySchema, OutputSchema};
    use weir_domain::{FeatureType, Kind};

    #[test]
    fn names_that_clash_are_told_apart() {
        let key = |name: &str| KeySchema { name: name.into(), of: FeatureType::One(Kind::I64) };
        let output = |name: &str| OutputSchema { name: name.into(), of: FeatureType::One(Kind::I64), read: None };
        let schema = Schema {
            service: "s".into(),
            catalog: "c".into(),
            weight: 1.0,
            keys: vec![key("user"), key("Row"), key("hour"), key("key__hour")],
            reads: vec![],
            outputs: vec![output("a:b__c"), output("a__b:c"), output("a:b__c__provenance"), output("a:b:c")],
        };
        let names: Vec<String> =
            arrow_schema(&schema).fields().iter().skip(FIXED.len()).map(|f| f.name().clone()).collect();
        assert_eq!(names[..4], ["user", "key__Row", "key__hour", "key__key__hour"]);
        assert_eq!(names[4..6], ["a__b__c", "a__b__c__provenance"]);
        assert_eq!(names[6..8], ["a__b__c__2", "a__b__c__2__provenance"]);
        assert_eq!(
            names[8..],
            ["a__b__c__provenance__2", "a__b__c__provenance__2__provenance", "a__b:c", "a__b:c__provenance"]
        );
        let distinct: HashSet<String> = names.iter().map(|n| n.to_lowercase()).collect();
        assert_eq!(distinct.len(), names.len());
    }
}
