//! Domain columns gathered into Arrow columns, many requests one after another.

use std::sync::Arc;

use arrow_array::builder::{
    ArrayBuilder, BinaryBuilder, BooleanBuilder, Float32Builder, Float64Builder, Int64Builder, StringBuilder,
    TimestampMicrosecondBuilder,
};
use arrow_array::{ArrayRef, ListArray};
use arrow_buffer::{NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow_schema::{DataType, Field, FieldRef, TimeUnit};
use weir_domain::{Column, FeatureType, Kind, Lists};

/// All times in the journal: microseconds, UTC.
pub(super) fn timestamp() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

/// The Arrow type of a feature.
pub(super) fn data_type(of: FeatureType) -> DataType {
    let one = match of.kind() {
        Kind::Bool => DataType::Boolean,
        Kind::I64 => DataType::Int64,
        Kind::F64 => DataType::Float64,
        Kind::F32 => DataType::Float32,
        Kind::String => DataType::Utf8,
        Kind::Bytes => DataType::Binary,
        Kind::Timestamp => timestamp(),
    };
    match of {
        FeatureType::One(_) => one,
        FeatureType::List(_) => DataType::List(item(one)),
    }
}

/// The field of a list's items, under the name the Parquet standard gives it.
pub(super) fn item(of: DataType) -> FieldRef {
    Arc::new(Field::new("element", of, true))
}

/// A growing Arrow column.
#[derive(Debug)]
pub(super) enum Growing {
    Bool(BooleanBuilder),
    I64(Int64Builder),
    F64(Float64Builder),
    F32(Float32Builder),
    String(StringBuilder),
    Bytes(BinaryBuilder),
    Timestamp(TimestampMicrosecondBuilder),
    List { kind: Kind, offsets: Vec<i32>, valid: Vec<bool>, items: Box<Growing> },
}

impl Growing {
    pub(super) fn new(of: FeatureType) -> Self {
        match of {
            FeatureType::One(Kind::Bool) => Self::Bool(BooleanBuilder::new()),
            FeatureType::One(Kind::I64) => Self::I64(Int64Builder::new()),
            FeatureType::One(Kind::F64) => Self::F64(Float64Builder::new()),
            FeatureType::One(Kind::F32) => Self::F32(Float32Builder::new()),
            FeatureType::One(Kind::String) => Self::String(StringBuilder::new()),
            FeatureType::One(Kind::Bytes) => Self::Bytes(BinaryBuilder::new()),
            FeatureType::One(Kind::Timestamp) => {
                Self::Timestamp(TimestampMicrosecondBuilder::new().with_timezone("UTC"))
            }
            FeatureType::List(kind) => Self::List {
                kind,
                offsets: vec![0],
                valid: Vec::new(),
                items: Box::new(Self::new(FeatureType::One(kind))),
            },
        }
    }

    /// Appends a column of the same type; `valid` has one entry per value. A column of another type can not
    /// come here (the decoder made it from the same schema); it would stand as nulls.
    pub(super) fn append(&mut self, column: &Column, valid: &[bool]) {
        match (self, column) {
            (Self::Bool(to), Column::Bool(v)) => {
                for (v, valid) in v.iter().zip(valid) {
                    to.append_option(valid.then_some(*v));
                }
            }
            (Self::I64(to), Column::I64(v)) => to.append_values(v, valid),
            (Self::F64(to), Column::F64(v)) => to.append_values(v, valid),
            (Self::F32(to), Column::F32(v)) => to.append_values(v, valid),
            (Self::Timestamp(to), Column::Timestamp(v)) => to.append_values(v, valid),
            (Self::String(to), Column::String(v)) => {
                for (v, valid) in v.iter().zip(valid) {
                    to.append_option(std::str::from_utf8(v).ok().filter(|_| *valid));
                }
            }
            (Self::Bytes(to), Column::Bytes(v)) => {
                for (v, valid) in v.iter().zip(valid) {
                    to.append_option(valid.then_some(v));
                }
            }
            (Self::List { offsets, valid: mask, items, .. }, Column::List(lists)) => {
                append_lists(offsets, items, lists);
                mask.extend_from_slice(valid);
            }
            (to, _) => {
                debug_assert!(false, "a column of another type than its schema's");
                for _ in valid {
                    to.append_null();
                }
            }
        }
    }

    fn append_null(&mut self) {
        match self {
            Self::Bool(to) => to.append_null(),
            Self::I64(to) => to.append_null(),
            Self::F64(to) => to.append_null(),
            Self::F32(to) => to.append_null(),
            Self::String(to) => to.append_null(),
            Self::Bytes(to) => to.append_null(),
            Self::Timestamp(to) => to.append_null(),
            Self::List { offsets, valid, .. } => {
                offsets.push(offsets.last().copied().unwrap_or(0));
                valid.push(false);
            }
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Bool(to) => to.len(),
            Self::I64(to) => to.len(),
            Self::F64(to) => to.len(),
            Self::F32(to) => to.len(),
            Self::String(to) => to.len(),
            Self::Bytes(to) => to.len(),
            Self::Timestamp(to) => to.len(),
            Self::List { valid, .. } => valid.len(),
        }
    }

    /// The column so far; it starts anew.
    pub(super) fn finish(&mut self) -> ArrayRef {
        match self {
            Self::Bool(from) => Arc::new(from.finish()),
            Self::I64(from) => Arc::new(from.finish()),
            Self::F64(from) => Arc::new(from.finish()),
            Self::F32(from) => Arc::new(from.finish()),
            Self::String(from) => Arc::new(from.finish()),
            Self::Bytes(from) => Arc::new(from.finish()),
            Self::Timestamp(from) => Arc::new(from.finish()),
            Self::List { kind, offsets, valid, items } => {
                let offsets = OffsetBuffer::new(ScalarBuffer::from(std::mem::replace(offsets, vec![0])));
                let nulls = NullBuffer::from(std::mem::take(valid));
                let of = data_type(FeatureType::One(*kind));
                Arc::new(ListArray::new(item(of), offsets, items.finish(), Some(nulls)))
            }
        }
    }
}

fn append_lists(offsets: &mut Vec<i32>, items: &mut Growing, lists: &Lists) {
    let base = items.len() as i32;
    items.append(&lists.items, &vec![true; lists.items.len()]);
    offsets.extend(lists.ends.iter().map(|e| base + *e as i32));
}
