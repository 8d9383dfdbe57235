//! What Python's protobuf (upb) makes of an object that is assigned to a field: the value, or its complaint.

use super::py::Py;
use super::{number, type_error};
use crate::Raised;

/// An int64 field, by its full name.
pub(super) fn int64(field: &str, value: &Py<'_>) -> Result<i64, Raised> {
    let out_of_range = |text: &str| Raised::value(format!("Value out of range: {text}"));
    match value {
        Py::Int(i) | Py::NpInt(i) => Ok(*i),
        Py::NpUint(u) => i64::try_from(*u).map_err(|_| out_of_range(&u.to_string())),
        Py::Big(digits) => Err(out_of_range(digits)),
        Py::Bool(_) => Err(type_error(format!("Field feast.types.{field}: Expected an int, got a boolean."))),
        other => Err(no_integer(other)),
    }
}

/// An int32 field, by its full name.
pub(super) fn int32(field: &str, value: &Py<'_>) -> Result<i32, Raised> {
    let wide = int64(field, value)?;
    i32::try_from(wide).map_err(|_| Raised::value(format!("Value out of range: {wide}")))
}

/// A bool field: any integer that fits a C long.
pub(super) fn boolean(value: &Py<'_>) -> Result<bool, Raised> {
    let too_large = || Raised::python("OverflowError", "Python int too large to convert to C long");
    match value {
        Py::Bool(b) | Py::NpBool(b) => Ok(*b),
        Py::Int(i) | Py::NpInt(i) => Ok(*i != 0),
        Py::NpUint(u) => i64::try_from(*u).map(|i| i != 0).map_err(|_| too_large()),
        Py::Big(_) => Err(too_large()),
        Py::Array(..) => Err(array_is_none_of(value, "bool")),
        other => Err(no_integer(other)),
    }
}

/// A double field.
pub(super) fn double(value: &Py<'_>) -> Result<f64, Raised> {
    real(value, "double")
}

/// A float field: what is too large becomes infinite.
pub(super) fn single(value: &Py<'_>) -> Result<f32, Raised> {
    real(value, "float").map(|wide| wide as f32)
}

fn real(value: &Py<'_>, field: &str) -> Result<f64, Raised> {
    match value {
        Py::None | Py::Str(_) | Py::Bytes(_) | Py::List(_) | Py::Dict(_) => {
            Err(type_error(format!("must be real number, not {}", value.class())))
        }
        Py::Array(..) => Err(array_is_none_of(value, field)),
        number => number::float(number),
    }
}

/// A string field: text, or bytes that are UTF-8.
pub(super) fn string(value: &Py<'_>) -> Result<String, Raised> {
    match value {
        Py::Str(s) => Ok(s.clone().into_owned()),
        Py::Bytes(b) => match std::str::from_utf8(b) {
            Ok(text) => Ok(text.to_owned()),
            Err(e) => Err(no_utf8(b, e)),
        },
        _ => Err(type_error("bad argument type for built-in operation")),
    }
}

/// A bytes field.
pub(super) fn bytes(value: &Py<'_>) -> Result<Vec<u8>, Raised> {
    match value {
        Py::Bytes(b) => Ok(b.clone().into_owned()),
        other => Err(type_error(format!("expected bytes, {} found", other.class()))),
    }
}

/// A repeated field: each thing that a loop over it yields, by `one`.
pub(super) fn repeated<T>(value: &Py<'_>, one: impl Fn(&Py<'_>) -> Result<T, Raised>) -> Result<Vec<T>, Raised> {
    let items = value.iterate().ok_or_else(|| type_error("must assign iterable"))?;
    items.iter().map(one).collect()
}

fn no_integer(value: &Py<'_>) -> Raised {
    match value {
        Py::Array(..) => type_error("only integer scalar arrays can be converted to a scalar index"),
        other => type_error(format!("'{}' object cannot be interpreted as an integer", other.class())),
    }
}

fn array_is_none_of(value: &Py<'_>, field: &str) -> Raised {
    type_error(format!("{} has type ndarray, but expected one of: {field}", value.str()))
}

/// Python's words for bytes that are no UTF-8.
pub(super) fn no_utf8(bytes: &[u8], error: std::str::Utf8Error) -> Raised {
    let at = error.valid_up_to();
    let byte = bytes.get(at).copied().unwrap_or_default();
    let what = match error.error_len() {
        None => {
            let last = bytes.len() - 1;
            return Raised::python(
                "UnicodeDecodeError",
                if last == at {
                    format!("'utf-8' codec can't decode byte 0x{byte:02x} in position {at}: unexpected end of data")
                } else {
                    format!("'utf-8' codec can't decode bytes in position {at}-{last}: unexpected end of data")
                },
            );
        }
        Some(_) if matches!(byte, 0x80..=0xc1 | 0xf5..) => "invalid start byte",
        Some(1) => "invalid continuation byte",
        Some(len) => {
            let last = at + len - 1;
            return Raised::python(
                "UnicodeDecodeError",
                format!("'utf-8' codec can't decode bytes in position {at}-{last}: invalid continuation byte"),
            );
        }
    };
    Raised::python(
        "UnicodeDecodeError",
        format!("'utf-8' codec can't decode byte 0x{byte:02x} in position {at}: {what}"),
    )
}
