//! Encodes an answer as `weir.v1.GetFeaturesResponse`, in place: columns are copied as blocks, no message tree
//! is built in between. A test holds it against what prost makes of the same answer.

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;
use prost::encoding::{WireType, encode_key, encoded_len_varint, key_len};
use uuid::Uuid;
use weir_domain::experiment::{Assigned, Reason};
use weir_domain::plan::{OutputSource, Read};
use weir_domain::{Answer, Column, Times, Value};
use weir_proto::v1;

use crate::pipeline::Meta;
use crate::unary::{self, PREFIX_BYTES};

/// Encodes the answer as a gRPC message, with its prefix.
pub(crate) fn answer(answer: &Answer, meta: &Meta) -> Bytes {
    let columns: Vec<usize> = answer.cells.iter().map(|cell| column_len(&cell.column)).collect();
    let names: usize = answer.plan.outputs.iter().map(|output| output.name.len()).sum();
    let times: usize = answer.times.iter().map(|times| times.event_time_us.len() * 16).sum();
    // Whatever else there is, it is small; should it not be, the buffer grows.
    let size = columns.iter().sum::<usize>() + answer.cells.len() * (answer.rows + 64) + names + times + 1_024;
    let mut out = BytesMut::with_capacity(size);
    out.put_slice(&unary::prefix(0));
    head(&mut out, answer, meta);
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
        block(&mut out, &cell.provenance, |p| [*p as u8]);
        message(&mut out, 3, values_len);
        values(&mut out, &cell.column);
        if let Some(view) = view {
            number(&mut out, 4, view);
        }
    }
    let length = out.len() - PREFIX_BYTES;
    out[..PREFIX_BYTES].copy_from_slice(&unary::prefix(length));
    out.freeze()
}

/// Everything but the columns.
fn head(out: &mut BytesMut, answer: &Answer, meta: &Meta) {
    let Answer { plan, assignment: assigned, .. } = answer;
    let mut id = Uuid::encode_buffer();
    bytes(out, 1, Uuid::from_u128(meta.request_id.0).hyphenated().encode_lower(&mut id).as_bytes());
    number(out, 2, answer.rows as u64);
    for (read, times) in plan.reads.iter().zip(&answer.times) {
        view_times(out, read, times);
    }
    for arm in &assigned.arms {
        let arm = assignment(arm);
        message(out, 5, arm.encoded_len());
        put(arm.encode(out));
    }
    for holdout in &assigned.holdouts {
        bytes(out, 6, holdout.as_bytes());
    }
    text(out, 7, answer.fallback_model.as_deref().unwrap_or_default());
    text(out, 8, plan.model.as_deref().unwrap_or_default());
    let left = meta.budget.left(meta.spent);
    let budget = v1::Budget {
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
    };
    message(out, 9, budget.encoded_len());
    put(budget.encode(out));
    text(out, 10, &plan.catalog);
}

fn view_times(out: &mut BytesMut, read: &Read, times: &Times) {
    let (event_times, ages) = (times.event_time_us.iter().map(|t| *t as u64), times.age_ms.iter().map(|a| (*a).into()));
    let version = u64::from(read.view.version);
    let text_len = |text: &str| if text.is_empty() { 0 } else { bytes_len(1, text.len()) };
    let version_len = key_len(2) + encoded_len_varint(version);
    let len = text_len(&read.alias) + version_len + packed_len(event_times.clone()) + packed_len(ages.clone());
    message(out, 4, len);
    text(out, 1, &read.alias);
    number(out, 2, version);
    varints(out, 3, event_times);
    varints(out, 4, ages);
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

#[inline]
fn varint(out: &mut BytesMut, value: u64) {
    // Nearly all of them.
    if value < 0x80 {
        return out.put_u8(value as u8);
    }
    let (mut buf, mut len, mut rest) = ([0; 10], 1, value);
    buf[0] = rest as u8 & 0x7f;
    while rest > 0x7f {
        buf[len - 1] |= 0x80;
        rest >>= 7;
        buf[len] = rest as u8 & 0x7f;
        len += 1;
    }
    out.put_slice(&buf[..len]);
}

fn message(out: &mut BytesMut, tag: u32, len: usize) {
    encode_key(tag, WireType::LengthDelimited, out);
    varint(out, len as u64);
}

fn bytes(out: &mut BytesMut, tag: u32, value: &[u8]) {
    message(out, tag, value.len());
    out.put_slice(value);
}

/// A field that is left out when it is empty.
fn text(out: &mut BytesMut, tag: u32, value: &str) {
    if !value.is_empty() {
        bytes(out, tag, value.as_bytes());
    }
}

fn number(out: &mut BytesMut, tag: u32, value: u64) {
    encode_key(tag, WireType::Varint, out);
    varint(out, value);
}

/// Values of the same width, one after another: the compiler makes it one copy.
fn block<T, const N: usize>(out: &mut BytesMut, values: &[T], to_bytes: impl Fn(&T) -> [u8; N]) {
    let start = out.len();
    out.resize(start + values.len() * N, 0);
    let (room, _) = out[start..].as_chunks_mut::<N>();
    for (room, value) in room.iter_mut().zip(values) {
        *room = to_bytes(value);
    }
}

fn message_len(tag: u32, len: usize) -> usize {
    key_len(tag) + encoded_len_varint(len as u64) + len
}

fn bytes_len(tag: u32, len: usize) -> usize {
    message_len(tag, len)
}

/// Length of a `Values` message.
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
        Column::I64(v) | Column::Timestamp(v) => packed_len(v.iter().map(|x| *x as u64)),
        Column::F64(v) => packed(v.len() * 8),
        Column::F32(v) => packed(v.len() * 4),
        Column::String(b) | Column::Bytes(b) => b.iter().map(|x| bytes_len(1, x.len())).sum(),
        Column::List(lists) => {
            packed_len(lists.ends.iter().map(|e| u64::from(*e))) + message_len(2, column_len(&lists.items))
        }
    }
}

/// Length of a packed field of variable width whose tag is below 16; none at all when it is empty.
fn packed_len(values: impl Iterator<Item = u64>) -> usize {
    match values.map(encoded_len_varint).sum() {
        0 => 0,
        len => message_len(1, len),
    }
}

/// Writes the fields of a `Values` message.
fn values(out: &mut BytesMut, column: &Column) {
    message(out, tag(column), kind_len(column));
    match column {
        Column::Bool(v) => {
            if !v.is_empty() {
                message(out, 1, v.len());
                block(out, v, |b| [u8::from(*b)]);
            }
        }
        Column::I64(v) | Column::Timestamp(v) => varints(out, 1, v.iter().map(|x| *x as u64)),
        Column::F64(v) => {
            if !v.is_empty() {
                message(out, 1, v.len() * 8);
                block(out, v, |x| x.to_le_bytes());
            }
        }
        Column::F32(v) => {
            if !v.is_empty() {
                message(out, 1, v.len() * 4);
                block(out, v, |x| x.to_le_bytes());
            }
        }
        Column::String(b) | Column::Bytes(b) => {
            for value in b.iter() {
                bytes(out, 1, value);
            }
        }
        Column::List(lists) => {
            varints(out, 1, lists.ends.iter().map(|e| u64::from(*e)));
            message(out, 2, column_len(&lists.items));
            values(out, &lists.items);
        }
    }
}

fn varints(out: &mut BytesMut, tag: u32, values: impl Iterator<Item = u64> + Clone) {
    let len = values.clone().map(encoded_len_varint).sum();
    if len > 0 {
        message(out, tag, len);
        let mut at = out.len();
        out.resize(at + len, 0);
        values.for_each(|mut value| {
            while value >= 0x80 {
                out[at] = value as u8 | 0x80;
                value >>= 7;
                at += 1;
            }
            out[at] = value as u8;
            at += 1;
        });
    }
}
