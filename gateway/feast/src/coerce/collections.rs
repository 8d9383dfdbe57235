//! Lists and sets of scalars.
//!
//! The first row that has any elements is checked, element by element; the other rows go straight to protobuf, which
//! is more lenient in places and complains in its own words.

use std::borrow::Cow;

use weir_proto::feast::types::value_type::Enum as ValueType;
use weir_proto::feast::types::{BoolList, BytesList, DoubleList, FloatList, Int32List, Int64List, StringList};
use weir_proto::feast::types::{Value, value::Val};

use super::py::Py;
use super::{NO_TIME, json, number, proto, set, type_error};
use crate::Raised;

/// Rows of a list type: missing elements become the type's zero.
pub(super) fn lists(values: &[Py<'_>], of: ValueType) -> Result<Vec<Value>, Raised> {
    let rows: Vec<_> = values.iter().map(|value| filled(value, of)).collect();
    rows_to_values(&rows, of)
}

/// Rows of a set type: lists lose their duplicates, missing elements stay missing.
pub(super) fn sets(values: &[Py<'_>], of: ValueType) -> Result<Vec<Value>, Raised> {
    let rows = values.iter().map(|value| {
        Ok(match value {
            Py::List(items) | Py::Array(_, items) => Cow::Owned(Py::List(set::of(items)?)),
            other => Cow::Borrowed(other),
        })
    });
    rows_to_values(&rows.collect::<Result<Vec<_>, Raised>>()?, of)
}

fn filled<'v, 'a>(value: &'v Py<'a>, of: ValueType) -> Cow<'v, Py<'a>> {
    let zero = || match of {
        ValueType::Int32List | ValueType::Int64List => Py::Int(0),
        ValueType::FloatList | ValueType::DoubleList => Py::Float(0.0),
        ValueType::BoolList => Py::Bool(false),
        ValueType::BytesList => Py::Bytes(Cow::Borrowed(b"")),
        ValueType::UnixTimestampList => Py::NpInt(NO_TIME),
        _ => Py::Str(Cow::Borrowed("")),
    };
    match value {
        Py::List(items) if !items.contains(&Py::None) => Cow::Borrowed(value),
        Py::List(items) | Py::Array(_, items) => {
            let filled = items.iter().map(|item| match item {
                Py::None => zero(),
                // `tolist()` makes Python's scalars of numpy's, but leaves arrays inside an array of objects alone.
                Py::Array(..) => item.clone(),
                other => other.to_python(),
            });
            Cow::Owned(Py::List(filled.collect()))
        }
        other => Cow::Borrowed(other),
    }
}

fn rows_to_values(rows: &[Cow<'_, Py<'_>>], of: ValueType) -> Result<Vec<Value>, Raised> {
    if let Some(sample) = rows.iter().find(|row| row.is_something()) {
        if let Py::Bytes(_) = &**sample {
            return from_json_bytes(rows, sample, of);
        }
        check(sample, of)?;
    }
    rows.iter()
        .map(|row| match &**row {
            Py::None => Ok(Value::default()),
            row => Ok(Value { val: Some(one(row, of)?) }),
        })
        .collect()
}

/// What a checked element's type must be: its name in complaints.
fn wanted(of: ValueType) -> &'static str {
    match of {
        ValueType::FloatList | ValueType::FloatSet => "numpy.float32",
        ValueType::DoubleList | ValueType::DoubleSet => "numpy.float64",
        ValueType::Int32List | ValueType::Int32Set | ValueType::Int64List | ValueType::Int64Set => "numpy.int64",
        ValueType::UnixTimestampList | ValueType::UnixTimestampSet => "numpy.datetime64",
        ValueType::BoolList | ValueType::BoolSet => "numpy.bool",
        ValueType::BytesList | ValueType::BytesSet => "numpy.bytes_",
        _ => "numpy.str_",
    }
}

fn check(sample: &Py<'_>, of: ValueType) -> Result<(), Raised> {
    let wanted = wanted(of);
    let fits = |item: &Py<'_>| match item {
        Py::None => true,
        Py::Int(_) | Py::Big(_) | Py::NpInt(_) => matches!(wanted, "numpy.int64" | "numpy.datetime64"),
        Py::Float(_) | Py::NpFloat(_) => matches!(wanted, "numpy.float32" | "numpy.float64"),
        Py::Str(_) => wanted == "numpy.str_",
        Py::Bool(_) | Py::NpBool(_) => wanted == "numpy.bool",
        Py::Bytes(_) => wanted == "numpy.bytes_",
        _ => false,
    };
    match sample.items()?.iter().find(|item| !fits(item)) {
        Some(item) => Err(misfit(item, wanted)),
        None => Ok(()),
    }
}

fn misfit(item: &Py<'_>, wanted: &str) -> Raised {
    type_error(format!("Value \"{}\" is of type <class '{}'> not of type <class '{wanted}'>", item.str(), item.class()))
}

fn one(row: &Py<'_>, of: ValueType) -> Result<Val, Raised> {
    let ints64 = |of: &str| Ok(Int64List { val: proto::repeated(row, |item| proto::int64(of, item))? });
    let ints32 = |of: &str| Ok(Int32List { val: proto::repeated(row, |item| proto::int32(of, item))? });
    let floats = || Ok(FloatList { val: proto::repeated(row, proto::single)? });
    let doubles = || Ok(DoubleList { val: proto::repeated(row, proto::double)? });
    let strings = || Ok(StringList { val: proto::repeated(row, proto::string)? });
    let bytes = || Ok(BytesList { val: proto::repeated(row, proto::bytes)? });
    let texts = || Ok(StringList { val: row.items()?.iter().map(|item| item.str().into_owned()).collect() });
    let bools = || Ok(BoolList { val: row.items()?.iter().map(Py::truth).collect::<Result<_, Raised>>()? });
    Ok(match of {
        ValueType::Int32List => Val::Int32ListVal(ints32("Int32List.val")?),
        ValueType::Int32Set => Val::Int32SetVal(ints32("Int32Set.val")?),
        ValueType::Int64List => Val::Int64ListVal(ints64("Int64List.val")?),
        ValueType::Int64Set => Val::Int64SetVal(ints64("Int64Set.val")?),
        ValueType::FloatList => Val::FloatListVal(floats()?),
        ValueType::FloatSet => Val::FloatSetVal(floats()?),
        ValueType::DoubleList => Val::DoubleListVal(doubles()?),
        ValueType::DoubleSet => Val::DoubleSetVal(doubles()?),
        ValueType::BoolList => Val::BoolListVal(bools()?),
        ValueType::BoolSet => Val::BoolSetVal(bools()?),
        ValueType::BytesList => Val::BytesListVal(bytes()?),
        ValueType::BytesSet => Val::BytesSetVal(bytes()?),
        ValueType::UnixTimestampList => Val::UnixTimestampListVal(times(row, "Int64List.val")?),
        ValueType::UnixTimestampSet => Val::UnixTimestampSetVal(times(row, "Int64Set.val")?),
        ValueType::UuidList => Val::UuidListVal(texts()?),
        ValueType::UuidSet => Val::UuidSetVal(texts()?),
        ValueType::TimeUuidList => Val::TimeUuidListVal(texts()?),
        ValueType::TimeUuidSet => Val::TimeUuidSetVal(texts()?),
        ValueType::DecimalList => Val::DecimalListVal(texts()?),
        ValueType::DecimalSet => Val::DecimalSetVal(texts()?),
        ValueType::StringSet => Val::StringSetVal(strings()?),
        _ => Val::StringListVal(strings()?),
    })
}

fn times(row: &Py<'_>, field: &str) -> Result<Int64List, Raised> {
    let seconds = row.items()?.iter().map(seconds).collect::<Result<Vec<_>, _>>()?;
    Ok(Int64List { val: seconds.iter().map(|s| proto::int64(field, s)).collect::<Result<_, _>>()? })
}

/// A point in time as seconds: any float counts as missing.
pub(super) fn seconds(value: &Py<'_>) -> Result<Py<'static>, Raised> {
    match value {
        Py::Float(_) | Py::NpFloat(_) => Ok(Py::Int(NO_TIME)),
        other => number::int(other),
    }
}

/// Rows that are bytes hold JSON arrays.
fn from_json_bytes(rows: &[Cow<'_, Py<'_>>], sample: &Py<'_>, of: ValueType) -> Result<Vec<Value>, Raised> {
    match of {
        ValueType::BytesList => return Err(wrong_bytes(sample, "ValueType.BYTES_LIST")),
        ValueType::BytesSet => return Err(wrong_bytes(sample, "ValueType.BYTES_SET")),
        _ => {}
    }
    if !matches!(parsed(sample)?, Py::List(_)) {
        return Err(misfit(sample, wanted(of)));
    }
    let is_set = of.as_str_name().ends_with("_SET");
    let rows = rows.iter().map(|row| if is_set && **row == Py::None { Ok(Py::None) } else { parsed(row) });
    let rows = rows.collect::<Result<Vec<_>, _>>()?;
    // Straight to protobuf, without the conversions that other rows get; but a bool is made of anything.
    rows.iter()
        .map(|row| match row {
            Py::None => Ok(Value::default()),
            row => {
                let val = match of {
                    ValueType::UnixTimestampSet | ValueType::UnixTimestampList => {
                        let val = proto::repeated(row, |item| {
                            proto::int64(if is_set { "Int64Set.val" } else { "Int64List.val" }, item)
                        })?;
                        // The server's table names the plain integer field for lists of timestamps.
                        if is_set {
                            Val::UnixTimestampSetVal(Int64List { val })
                        } else {
                            Val::Int64ListVal(Int64List { val })
                        }
                    }
                    ValueType::UuidList
                    | ValueType::UuidSet
                    | ValueType::TimeUuidList
                    | ValueType::TimeUuidSet
                    | ValueType::DecimalList
                    | ValueType::DecimalSet => {
                        proto::repeated(row, proto::string)?;
                        one(row, of)?
                    }
                    _ => one(row, of)?,
                };
                Ok(Value { val: Some(val) })
            }
        })
        .collect()
}

fn wrong_bytes(sample: &Py<'_>, wanted: &str) -> Raised {
    type_error(format!("Value \"{}\" is of type <class 'bytes'> not of type {wanted}", sample.str()))
}

fn parsed(row: &Py<'_>) -> Result<Py<'static>, Raised> {
    match row {
        Py::Str(text) => json::loads(text),
        Py::Bytes(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => json::loads(text),
            Err(e) => Err(proto::no_utf8(bytes, e)),
        },
        other => Err(type_error(format!("the JSON object must be str, bytes or bytearray, not {}", other.name()))),
    }
}
