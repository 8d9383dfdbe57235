//! Typed columns, as they come from Parquet, as serialized Feast values.

use prost::Message;
use weir_domain::{Cell, Column, FeatureType, Kind};
use weir_proto::feast::types::{
    BoolList, BytesList, DoubleList, FloatList, Int32List, Int64List, StringList, Value, value::Val,
    value_type::Enum as ValueType,
};

/// Microseconds, in which our timestamps are, in one second, in which Feast's are.
const MICROS: i64 = 1_000_000;

/// The type of column that values of a Feast type are loaded from; `None` for types that no column of ours holds.
pub fn loaded_as(of: ValueType) -> Option<FeatureType> {
    let one = FeatureType::One;
    let list = FeatureType::List;
    Some(match of {
        ValueType::Bytes => one(Kind::Bytes),
        ValueType::String | ValueType::Json | ValueType::Uuid | ValueType::TimeUuid | ValueType::Decimal => {
            one(Kind::String)
        }
        ValueType::Int32 | ValueType::Int64 => one(Kind::I64),
        ValueType::Double => one(Kind::F64),
        ValueType::Float => one(Kind::F32),
        ValueType::Bool => one(Kind::Bool),
        ValueType::UnixTimestamp => one(Kind::Timestamp),
        ValueType::BytesList | ValueType::BytesSet => list(Kind::Bytes),
        ValueType::StringList | ValueType::StringSet => list(Kind::String),
        ValueType::Int32List | ValueType::Int64List | ValueType::Int32Set | ValueType::Int64Set => list(Kind::I64),
        ValueType::DoubleList | ValueType::DoubleSet => list(Kind::F64),
        ValueType::FloatList | ValueType::FloatSet => list(Kind::F32),
        ValueType::BoolList | ValueType::BoolSet => list(Kind::Bool),
        ValueType::UnixTimestampList | ValueType::UnixTimestampSet => list(Kind::Timestamp),
        _ => return None,
    })
}

/// The value in this row of a column that was read [as it should be](loaded_as). A hole is a null, and so is an integer
/// that an INT32 cannot hold: the error says which row it was.
pub fn cell_value(cell: &Cell, row: usize, of: ValueType) -> Result<Value, OutOfRange> {
    if cell.provenance.get(row).is_none_or(|p| p.is_absent()) {
        return Ok(Value::default());
    }
    let small = |v: i64| i32::try_from(v).map_err(|_| OutOfRange { row, value: v });
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let val = match (&cell.column, of) {
        (Column::Bytes(v), _) => Val::BytesVal(v.get(row).to_vec()),
        (Column::String(v), ValueType::Json) => Val::JsonVal(text(v.get(row))),
        (Column::String(v), ValueType::Uuid) => Val::UuidVal(text(v.get(row))),
        (Column::String(v), ValueType::TimeUuid) => Val::TimeUuidVal(text(v.get(row))),
        (Column::String(v), ValueType::Decimal) => Val::DecimalVal(text(v.get(row))),
        (Column::String(v), _) => Val::StringVal(text(v.get(row))),
        (Column::I64(v), ValueType::Int32) => Val::Int32Val(small(v[row])?),
        (Column::I64(v), _) => Val::Int64Val(v[row]),
        (Column::F64(v), _) => Val::DoubleVal(v[row]),
        (Column::F32(v), _) => Val::FloatVal(v[row]),
        (Column::Bool(v), _) => Val::BoolVal(v[row]),
        (Column::Timestamp(v), _) => Val::UnixTimestampVal(v[row].div_euclid(MICROS)),
        (Column::List(lists), _) => {
            let start = if row == 0 { 0 } else { lists.ends[row - 1] as usize };
            return items(&lists.items, start..lists.ends[row] as usize, of, row);
        }
    };
    Ok(Value { val: Some(val) })
}

fn items(items: &Column, range: std::ops::Range<usize>, of: ValueType, row: usize) -> Result<Value, OutOfRange> {
    let small = |v: &i64| i32::try_from(*v).map_err(|_| OutOfRange { row, value: *v });
    let val = match items {
        Column::Bytes(v) => {
            let list = BytesList { val: range.map(|i| v.get(i).to_vec()).collect() };
            if of == ValueType::BytesSet { Val::BytesSetVal(list) } else { Val::BytesListVal(list) }
        }
        Column::String(v) => {
            let list = StringList { val: range.map(|i| String::from_utf8_lossy(v.get(i)).into_owned()).collect() };
            if of == ValueType::StringSet { Val::StringSetVal(list) } else { Val::StringListVal(list) }
        }
        Column::I64(v) if matches!(of, ValueType::Int32List | ValueType::Int32Set) => {
            let list = Int32List { val: v[range].iter().map(small).collect::<Result<_, _>>()? };
            if of == ValueType::Int32Set { Val::Int32SetVal(list) } else { Val::Int32ListVal(list) }
        }
        Column::I64(v) => {
            let list = Int64List { val: v[range].to_vec() };
            if of == ValueType::Int64Set { Val::Int64SetVal(list) } else { Val::Int64ListVal(list) }
        }
        Column::F64(v) => {
            let list = DoubleList { val: v[range].to_vec() };
            if of == ValueType::DoubleSet { Val::DoubleSetVal(list) } else { Val::DoubleListVal(list) }
        }
        Column::F32(v) => {
            let list = FloatList { val: v[range].to_vec() };
            if of == ValueType::FloatSet { Val::FloatSetVal(list) } else { Val::FloatListVal(list) }
        }
        Column::Bool(v) => {
            let list = BoolList { val: v[range].to_vec() };
            if of == ValueType::BoolSet { Val::BoolSetVal(list) } else { Val::BoolListVal(list) }
        }
        Column::Timestamp(v) => {
            let list = Int64List { val: v[range].iter().map(|v| v.div_euclid(MICROS)).collect() };
            if of == ValueType::UnixTimestampSet {
                Val::UnixTimestampSetVal(list)
            } else {
                Val::UnixTimestampListVal(list)
            }
        }
        // Lists of lists are not among the types that are loaded.
        Column::List(_) => return Ok(Value::default()),
    };
    Ok(Value { val: Some(val) })
}

/// An integer that the declared type cannot hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("row {} has {value}, which INT32 cannot hold", row + 1)]
pub struct OutOfRange {
    /// Which row of the batch, from 0.
    pub row: usize,
    /// The integer.
    pub value: i64,
}

/// A value's bytes, as they lie in the store; a null is no bytes at all.
pub fn stored(value: &Value) -> Vec<u8> {
    value.encode_to_vec()
}
