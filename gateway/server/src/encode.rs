//! Encodes an answer as `weir.v1.GetFeaturesResponse`, in place: columns are copied as blocks, no message tree
//! is built in between. A test holds it against what prost makes of the same answer.

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};
use weir_domain::experiment::{Assigned, Reason};
use weir_domain::plan::OutputSource;
use weir_domain::{Answer, Cell, Column, Times, Value};
use weir_proto::v1;

use crate::pipeline::Meta;

/// Encodes the answer.
pub(crate) fn answer(answer: &Answer, meta: &Meta) -> Bytes {
    let head = head(answer, meta);
    let columns: Vec<usize> = answer.cells.iter().map(values_len).collect();
    let size = head.encoded_len() + columns.iter().sum::<usize>() + answer.cells.len() * (answer.rows + 64);
    let mut out = BytesMut::with_capacity(size);
    // Field order is free in protobuf: what is small goes through prost, what is large is copied.
    put(head.encode(&mut out));
    for ((output, cell), values_len) in answer.plan.outputs.iter().zip(&answer.cells).zip(columns) {
        let view = match output.source {
            OutputSource::Read(view) => Some(view as u64),
            OutputSource::Step(_) | OutputSource::Request(_) => None,
        };
        let view_len = view.map_or(0, |v| key_len(4) + encoded_len_varint(v));
        let values_field = message_len(3, values_len);
        let len = bytes_len(1, output.name.len()) + bytes_len(2, cell.provenance.len()) + values_field + view_len;
        message(&mut out, 3, len);
        bytes(&mut out, 1, output.name.as_bytes());
        message(&mut out, 2, cell.provenance.len());
        out.extend(cell.provenance.iter().map(|p| *p as u8));
        message(&mut out, 3, values_len);
        values(&mut out, &cell.column);
        if let Some(view) = view {
            encode_key(4, WireType::Varint, &mut out);
            encode_varint(view, &mut out);
        }
    }
    out.freeze()
}

/// Everything but the columns.
fn head(answer: &Answer, meta: &Meta) -> v1::GetFeaturesResponse {
    let left = meta.budget.left(meta.spent);
    let views = answer.plan.reads.iter().zip(&answer.times).map(|(read, times)| view_times(read, times));
    v1::GetFeaturesResponse {
        request_id: meta.request_id.to_string(),
        rows: answer.rows as u32,
        columns: Vec::new(),
        views: views.collect(),
        assignments: answer.assignment.arms.iter().map(assignment).collect(),
        holdouts: answer.assignment.holdouts.iter().map(ToString::to_string).collect(),
        fallback_model: answer.fallback_model.as_deref().unwrap_or_default().to_owned(),
        model: answer.plan.model.as_deref().unwrap_or_default().to_owned(),
        budget: Some(v1::Budget {
            granted_us: meta.budget.granted().as_micros() as u32,
            total_us: meta.spent.total_us,
            plan_us: meta.spent.plan_us,
            fetch_us: meta.spent.fetch_us,
            transform_us: meta.spent.transform_us,
            answer_us: meta.spent.answer_us,
            plan_left_us: left.plan_us,
            fetch_left_us: left.fetch_us,
            transform_left_us: left.transform_us,
            answer_left_us: left.answer_us,
        }),
        catalog_version: answer.plan.catalog.to_string(),
    }
}

fn view_times(read: &weir_domain::plan::Read, times: &Times) -> v1::ViewTimes {
    v1::ViewTimes {
        name: read.alias.to_string(),
        version: read.view.version,
        event_time_us: times.event_time_us.clone(),
        age_ms: times.age_ms.clone(),
    }
}

/// An assignment as both services say it.
pub(crate) fn assignment(assigned: &Assigned) -> v1::Assignment {
    let reason = match assigned.reason {
        Reason::Split => v1::assignment::Reason::Split,
        Reason::Forced => v1::assignment::Reason::Forced,
    };
    let arm = assigned.arm();
    v1::Assignment {
        experiment: assigned.experiment.doc.name.to_string(),
        arm: arm.name.to_string(),
        bucket: assigned.bucket,
        layer: assigned.experiment.layer.to_string(),
        reason: reason.into(),
        params: arm.params.iter().map(|(name, value)| (name.to_string(), attribute(value))).collect(),
    }
}

fn attribute(value: &Value) -> v1::Attribute {
    use v1::attribute::Value as Wire;
    let value = match value {
        Value::Bool(b) => Wire::BoolValue(*b),
        Value::I64(i) | Value::Timestamp(i) => Wire::Int64Value(*i),
        Value::F64(f) => Wire::DoubleValue(*f),
        Value::F32(f) => Wire::DoubleValue(f64::from(*f)),
        Value::String(s) => Wire::StringValue(s.clone()),
        // The catalog's reader lets only scalars become parameters.
        Value::Bytes(_) | Value::List(..) => return v1::Attribute { value: None },
    };
    v1::Attribute { value: Some(value) }
}

fn put(result: Result<(), prost::EncodeError>) {
    // BytesMut grows; running out of room is the only way to fail.
    debug_assert!(result.is_ok());
}

fn message(out: &mut BytesMut, tag: u32, len: usize) {
    encode_key(tag, WireType::LengthDelimited, out);
    encode_varint(len as u64, out);
}

fn bytes(out: &mut BytesMut, tag: u32, value: &[u8]) {
    message(out, tag, value.len());
    out.put_slice(value);
}

fn message_len(tag: u32, len: usize) -> usize {
    key_len(tag) + encoded_len_varint(len as u64) + len
}

fn bytes_len(tag: u32, len: usize) -> usize {
    message_len(tag, len)
}

/// Length of a `Values` message.
fn values_len(cell: &Cell) -> usize {
    column_len(&cell.column)
}

fn column_len(column: &Column) -> usize {
    message_len(tag(column), kind_len(column))
}

fn tag(column: &Column) -> u32 {
    match column {
        Column::Bool(_) => 1,
        Column::I64(_) => 2,
        Column::F64(_) => 3,
        Column::F32(_) => 4,
        Column::String(_) => 5,
        Column::Bytes(_) => 6,
        Column::Timestamp(_) => 7,
        Column::List(_) => 8,
    }
}

/// Length of the `Bools`, `Int64s`, … message inside `Values`. An empty packed field is left out, as prost does.
fn kind_len(column: &Column) -> usize {
    let packed = |len: usize| if len == 0 { 0 } else { message_len(1, len) };
    match column {
        Column::Bool(v) => packed(v.len()),
        Column::I64(v) | Column::Timestamp(v) => packed(varints_len(v.iter().map(|x| *x as u64))),
        Column::F64(v) => packed(v.len() * 8),
        Column::F32(v) => packed(v.len() * 4),
        Column::String(b) | Column::Bytes(b) => b.iter().map(|x| bytes_len(1, x.len())).sum(),
        Column::List(lists) => {
            packed(varints_len(lists.ends.iter().map(|e| u64::from(*e)))) + message_len(2, column_len(&lists.items))
        }
    }
}

fn varints_len(values: impl Iterator<Item = u64>) -> usize {
    values.map(encoded_len_varint).sum()
}

/// Writes the fields of a `Values` message.
fn values(out: &mut BytesMut, column: &Column) {
    message(out, tag(column), kind_len(column));
    match column {
        Column::Bool(v) => {
            if !v.is_empty() {
                message(out, 1, v.len());
                out.extend(v.iter().map(|b| u8::from(*b)));
            }
        }
        Column::I64(v) | Column::Timestamp(v) => varints(out, v.iter().map(|x| *x as u64)),
        Column::F64(v) => {
            if !v.is_empty() {
                message(out, 1, v.len() * 8);
                for x in v {
                    out.put_f64_le(*x);
                }
            }
        }
        Column::F32(v) => {
            if !v.is_empty() {
                message(out, 1, v.len() * 4);
                for x in v {
                    out.put_f32_le(*x);
                }
            }
        }
        Column::String(b) | Column::Bytes(b) => {
            for value in b.iter() {
                bytes(out, 1, value);
            }
        }
        Column::List(lists) => {
            varints(out, lists.ends.iter().map(|e| u64::from(*e)));
            message(out, 2, column_len(&lists.items));
            values(out, &lists.items);
        }
    }
}

fn varints(out: &mut BytesMut, values: impl Iterator<Item = u64> + Clone) {
    let len = varints_len(values.clone());
    if len > 0 {
        message(out, 1, len);
        for value in values {
            encode_varint(value, out);
        }
    }
}
