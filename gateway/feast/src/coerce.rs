//! JSON values as Feast values: what the Python server's `python_values_to_proto_values` makes of the objects that
//! `json.loads` yields. Promises the same values, and where it refuses, the same exception.
//!
//! Columns that hold what their type says (the read path's case) are turned into values in one pass; everything else
//! takes the long way over Python's objects.

mod collections;
mod infer;
mod json;
mod maps;
mod ndarray;
mod number;
mod proto;
mod py;
mod set;
mod text;

use std::borrow::Cow;

use jiter::JsonValue;
use weir_proto::feast::types::{Value, value::Val, value_type::Enum as ValueType};

pub use text::text;

pub(crate) use number::float_of_big;
pub(crate) use py::{Dtype, Other, Py};

use crate::Raised;

/// How a missing point in time is stored: numpy's NaT.
const NO_TIME: i64 = i64::MIN;

/// One Feast value per JSON value, of the type given, or inferred from the first that is not empty where that is
/// `Invalid`.
///
/// # Errors
/// What Python, protobuf or Feast would have raised.
pub fn values(values: &[JsonValue<'_>], of: ValueType) -> Result<Vec<Value>, Raised> {
    let of = match (of, values.first()) {
        (ValueType::Invalid, Some(JsonValue::Int(_))) => ValueType::Int64,
        (ValueType::Invalid, Some(JsonValue::Str(_))) => ValueType::String,
        _ => of,
    };
    match of {
        // Here each value stands for itself, so that those that fit need no object.
        ValueType::Int32 | ValueType::Int64 | ValueType::Float | ValueType::String => values
            .iter()
            .map(|value| {
                let val = match (of, value) {
                    (_, JsonValue::Null) => None,
                    (ValueType::Int64, JsonValue::Int(i)) => Some(Val::Int64Val(*i)),
                    (ValueType::String, JsonValue::Str(s)) => Some(Val::StringVal(s.clone().into_owned())),
                    (ValueType::Float, JsonValue::Float(f)) if !f.is_nan() => Some(Val::FloatVal(*f as f32)),
                    _ => scalar(&Py::from(value), of)?,
                };
                Ok(Value { val })
            })
            .collect(),
        _ => {
            let values: Vec<_> = values.iter().map(Py::from).collect();
            objects(&values, of)
        }
    }
}

/// The same from Python's objects.
pub(crate) fn objects(values: &[Py<'_>], of: ValueType) -> Result<Vec<Value>, Raised> {
    let sample = values.iter().find(|value| value.is_something());
    let of = match (of, sample) {
        (ValueType::Invalid, Some(sample)) => infer::of(sample)?,
        _ => of,
    };
    match of {
        ValueType::Invalid if values.iter().all(|value| *value == Py::None) => Ok(vec![Value::default(); values.len()]),
        ValueType::Invalid => Err(type_error("Couldn't infer value type from empty value")),
        ValueType::Null => Err(Raised::python("Exception", "Unsupported data type: ValueType.NULL")),
        ValueType::Map
        | ValueType::MapList
        | ValueType::ScalarMap
        | ValueType::Json
        | ValueType::JsonList
        | ValueType::Struct
        | ValueType::StructList
        | ValueType::ValueList
        | ValueType::ValueSet => values
            .iter()
            .map(|value| match value {
                Py::None => Ok(Value::default()),
                value => Ok(Value { val: Some(maps::one(value, of)?) }),
            })
            .collect(),
        of if of.as_str_name().ends_with("_LIST") => collections::lists(values, of),
        of if of.as_str_name().ends_with("_SET") => collections::sets(values, of),
        of => scalars(values, of),
    }
}

/// Values of a scalar type; collections among them count as missing.
fn scalars(values: &[Py<'_>], of: ValueType) -> Result<Vec<Value>, Raised> {
    let Some(sample) = values.iter().find(|value| value.is_something() && value.len().is_none()) else {
        return Ok(vec![Value::default(); values.len()]);
    };
    if of == ValueType::UnixTimestamp {
        return times(values);
    }
    check(sample, of)?;
    values.iter().map(|value| Ok(Value { val: scalar(value, of)? })).collect()
}

/// One value of a scalar type, or nothing for what counts as missing.
fn scalar(value: &Py<'_>, of: ValueType) -> Result<Option<Val>, Raised> {
    if value.is_null() || value.len().is_some() {
        return Ok(None);
    }
    Ok(Some(match of {
        ValueType::Int32 => Val::Int32Val(proto::int32("Value.int32_val", &number::int(value)?)?),
        ValueType::Int64 => Val::Int64Val(proto::int64("Value.int64_val", &number::int(value)?)?),
        ValueType::Float => Val::FloatVal(number::float(value)? as f32),
        ValueType::Double => Val::DoubleVal(proto::double(value)?),
        ValueType::Bytes => Val::BytesVal(proto::bytes(value)?),
        ValueType::Bool => match value {
            Py::NpBool(b) => Val::BoolVal(*b),
            value => Val::BoolVal(proto::boolean(value)?),
        },
        ValueType::Uuid => Val::UuidVal(value.str().into_owned()),
        ValueType::TimeUuid => Val::TimeUuidVal(value.str().into_owned()),
        ValueType::Decimal => Val::DecimalVal(value.str().into_owned()),
        ValueType::ZonedTimestamp => {
            return Err(type_error(format!(
                "ZONED_TIMESTAMP expects datetime values, got <class '{}'>",
                value.class()
            )));
        }
        _ => Val::StringVal(value.str().into_owned()),
    }))
}

/// Points in time: all are read before any is stored, so that a bad text comes before a number out of range.
fn times(values: &[Py<'_>]) -> Result<Vec<Value>, Raised> {
    let seconds = values.iter().map(|value| match value {
        value if *value == Py::None || value.len().is_some() => Ok(None),
        value => collections::seconds(value).map(Some),
    });
    let seconds = seconds.collect::<Result<Vec<_>, _>>()?;
    let stored = seconds.iter().map(|seconds| {
        let val = match seconds {
            Some(seconds) => Some(Val::UnixTimestampVal(proto::int64("Value.unix_timestamp_val", seconds)?)),
            None => None,
        };
        Ok(Value { val })
    });
    stored.collect()
}

/// What the server says of a typed value where it wants a Python object of this type.
pub(crate) fn check_message(of: ValueType) -> Result<(), Raised> {
    check(&Py::Other(Other { class: "feast.types.Value_pb2.Value", text: String::new() }), of)
}

/// The server looks at the first value of some types, and takes the rest on trust.
fn check(sample: &Py<'_>, of: ValueType) -> Result<(), Raised> {
    const ZERO: &str = "{<class 'numpy.int64'>, <class 'int'>, <class 'numpy.float64'>, <class 'float'>, \
                        <class 'decimal.Decimal'>}";
    const REAL: &str = "{<class 'float'>, <class 'numpy.float64'>, <class 'int'>, <class 'numpy.int64'>, \
                        <class 'decimal.Decimal'>}";
    const BOOL: &str = "{<class 'bool'>, <class 'numpy.bool'>, <class 'int'>, <class 'numpy.int64'>}";
    let integer = matches!(sample, Py::Int(_) | Py::Big(_) | Py::NpInt(_));
    let float = matches!(sample, Py::Float(_) | Py::NpFloat(_));
    let is_zero = match sample {
        Py::Bool(_) | Py::NpBool(_) | Py::Int(_) | Py::NpInt(_) | Py::NpUint(_) | Py::Float(_) | Py::NpFloat(_) => {
            !sample.truth()?
        }
        _ => false,
    };
    let (fits, wanted) = match of {
        ValueType::Bool => (integer || matches!(sample, Py::Bool(_) | Py::NpBool(_)), BOOL),
        // Zero is let through for every other type: numpy may have turned it into another kind of number.
        ValueType::Double | ValueType::Bytes | ValueType::Uuid | ValueType::TimeUuid | ValueType::Decimal
            if is_zero =>
        {
            (integer || float, ZERO)
        }
        ValueType::Double => (integer || float, REAL),
        ValueType::Bytes => (matches!(sample, Py::Bytes(_)), "{<class 'bytes'>}"),
        ValueType::Uuid | ValueType::TimeUuid => (matches!(sample, Py::Str(_)), "{<class 'str'>, <class 'uuid.UUID'>}"),
        ValueType::Decimal => (matches!(sample, Py::Str(_)), "{<class 'decimal.Decimal'>, <class 'str'>}"),
        _ => (true, ""),
    };
    if fits {
        return Ok(());
    }
    Err(Raised::python("AssertionError", format!("Type `<class '{}'>` not in {wanted}", sample.class())))
}

fn type_error(message: impl Into<Cow<'static, str>>) -> Raised {
    Raised::python("TypeError", message.into())
}

#[cfg(test)]
mod tests;
