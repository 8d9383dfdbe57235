//! Protobuf as Feast's gRPC servers write it: values are copied from the store's bytes, not taken apart.

use prost::Message;
use weir_domain::feast::{push_time, push_varint};
use weir_proto::feast::serving::{
    FeatureList, FeatureViewMetadata, FieldStatus, GetOnlineFeaturesResponseMetadata as Metadata,
};
use weir_proto::feast::types::Value;

use crate::answer::{Answer, Column, event_time};
use crate::lookup::ViewRead;

/// Tags of `GetOnlineFeaturesResponse` and `FeatureVector`: field number and "length follows".
const METADATA: u8 = 1 << 3 | 2;
const RESULTS: u8 = 2 << 3 | 2;
const VALUES: u8 = 1 << 3 | 2;
const STATUSES: u8 = 2 << 3 | 2;
const EVENT_TIMESTAMPS: u8 = 3 << 3 | 2;

pub(crate) fn answer(answer: &Answer<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    let versions = answer.versions();
    let metadata = Metadata {
        feature_names: Some(FeatureList { val: answer.names().map(str::to_owned).collect() }),
        feature_view_metadata: versions
            .into_iter()
            .map(|(name, version)| FeatureViewMetadata { name: name.clone(), version: *version })
            .collect(),
    };
    field(&mut out, METADATA, &metadata.encode_to_vec());
    let mut vector = Vec::new();
    for (_, values) in &answer.rows.echoed {
        given(&mut vector, values, |_| FieldStatus::Present);
        field(&mut out, RESULTS, &vector);
    }
    for (read, column) in answer.lookup.reads.iter().zip(answer.columns) {
        read_columns(&mut out, answer, read, column);
    }
    for column in answer.computed {
        given(&mut vector, &column.values, |row| column.statuses.get(row).copied().unwrap_or_default());
        field(&mut out, RESULTS, &vector);
    }
    out
}

fn given(vector: &mut Vec<u8>, values: &[Value], status: impl Fn(usize) -> FieldStatus) {
    vector.clear();
    for value in values {
        field(vector, VALUES, &value.encode_to_vec());
    }
    if !values.is_empty() {
        let statuses: Vec<u8> = (0..values.len()).map(|row| status(row) as u8).collect();
        field(vector, STATUSES, &statuses);
    }
    for _ in values {
        field(vector, EVENT_TIMESTAMPS, &[]);
    }
}

fn read_columns<'a>(out: &mut Vec<u8>, answer: &Answer<'a>, read: &ViewRead, column: &Column<'a>) {
    let mut times = Vec::new();
    let mut time = Vec::new();
    for &entity in column.rows {
        let (seconds, nanos) = event_time(column.found[entity as usize]);
        time.clear();
        push_time(&mut time, seconds, nanos);
        field(&mut times, EVENT_TIMESTAMPS, &time);
    }
    let (mut vector, mut statuses) = (Vec::new(), Vec::new());
    for (feature, _) in read.columns.iter().enumerate().filter(|(_, name)| name.is_some()) {
        vector.clear();
        statuses.clear();
        for &entity in column.rows {
            let cell = answer.cell(read, column.found[entity as usize], feature);
            field(&mut vector, VALUES, cell.value.unwrap_or_default());
            statuses.push(cell.status as u8);
        }
        if !statuses.is_empty() {
            field(&mut vector, STATUSES, &statuses);
        }
        vector.extend_from_slice(&times);
        field(out, RESULTS, &vector);
    }
}

fn field(out: &mut Vec<u8>, tag: u8, content: &[u8]) {
    out.push(tag);
    push_varint(out, content.len() as u64);
    out.extend_from_slice(content);
}
