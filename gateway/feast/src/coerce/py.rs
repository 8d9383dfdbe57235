//! The Python objects that values are made from: what `json.loads` yields, and what numpy makes of it in a frame.
//! Promises the language's own behaviour where it shows in results and messages: type names, `str`, `repr`, truth,
//! iteration.

use std::borrow::Cow;
use std::collections::HashMap;

use jiter::JsonValue;

use super::{ndarray, number, type_error};
use crate::{Raised, repr};

/// A Python object, or a numpy scalar or array of them.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Py<'a> {
    None,
    Bool(bool),
    Int(i64),
    /// An `int` outside of `i64`: its decimal digits, signed.
    Big(Cow<'a, str>),
    Float(f64),
    Str(Cow<'a, str>),
    Bytes(Cow<'a, [u8]>),
    List(Vec<Py<'a>>),
    /// String keys, each once, in order of first mention.
    Dict(Vec<(Cow<'a, str>, Py<'a>)>),
    /// `numpy.bool`
    NpBool(bool),
    /// `numpy.int64`
    NpInt(i64),
    /// `numpy.uint64`
    NpUint(u64),
    /// `numpy.float64`, which is also a Python `float`.
    NpFloat(f64),
    /// `numpy.ndarray` of one dimension.
    Array(Dtype, Vec<Py<'a>>),
    /// Something that no value can be made of.
    Other(Other),
}

/// An object that only messages speak of.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Other {
    pub(crate) class: &'static str,
    /// Its `str` and `repr`.
    pub(crate) text: String,
}

/// What an array's elements are stored as. Elements of the numeric ones are numpy scalars.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dtype {
    Object,
    Bool,
    Int,
    Float,
}

impl<'a> From<&'a JsonValue<'_>> for Py<'a> {
    fn from(value: &'a JsonValue<'_>) -> Self {
        match value {
            JsonValue::Null => Py::None,
            JsonValue::Bool(b) => Py::Bool(*b),
            JsonValue::Int(i) => Py::Int(*i),
            JsonValue::BigInt(b) => Py::Big(Cow::Owned(b.to_string())),
            JsonValue::Float(f) => Py::Float(*f),
            JsonValue::Str(s) => Py::Str(Cow::Borrowed(s)),
            JsonValue::Array(items) => Py::List(items.iter().map(Py::from).collect()),
            JsonValue::Object(entries) => dict(entries.iter().map(|(k, v)| (Cow::Borrowed(&**k), Py::from(v)))),
        }
    }
}

/// A dict of these entries: the last of equal keys gives the value, the first the place.
pub(crate) fn dict<'a>(entries: impl Iterator<Item = (Cow<'a, str>, Py<'a>)>) -> Py<'a> {
    let mut out: Vec<(Cow<'a, str>, Py<'a>)> = Vec::with_capacity(entries.size_hint().0);
    let mut places: HashMap<Cow<'a, str>, usize> = HashMap::new();
    for (key, value) in entries {
        match places.get(&key) {
            Some(&place) => out[place].1 = value,
            None => {
                places.insert(key.clone(), out.len());
                out.push((key, value));
            }
        }
    }
    Py::Dict(out)
}

impl<'a> Py<'a> {
    /// The type as C code prints it in messages, e.g. `int` or `numpy.int64`.
    pub(crate) fn class(&self) -> &'static str {
        match self {
            Py::None => "NoneType",
            Py::Bool(_) => "bool",
            Py::Int(_) | Py::Big(_) => "int",
            Py::Float(_) => "float",
            Py::Str(_) => "str",
            Py::Bytes(_) => "bytes",
            Py::List(_) => "list",
            Py::Dict(_) => "dict",
            Py::NpBool(_) => "numpy.bool",
            Py::NpInt(_) => "numpy.int64",
            Py::NpUint(_) => "numpy.uint64",
            Py::NpFloat(_) => "numpy.float64",
            Py::Array(..) => "numpy.ndarray",
            Py::Other(other) => other.class,
        }
    }

    /// `type(x).__name__`
    pub(crate) fn name(&self) -> &'static str {
        let class = self.class();
        class.strip_prefix("numpy.").unwrap_or(class)
    }

    /// `len(x)` of what Feast takes for a collection: also of a dict, not of a string.
    pub(crate) fn len(&self) -> Option<usize> {
        match self {
            Py::List(items) | Py::Array(_, items) => Some(items.len()),
            Py::Dict(entries) => Some(entries.len()),
            _ => None,
        }
    }

    /// Whether there is something to infer a type from. An empty string is something, empty bytes are not.
    pub(crate) fn is_something(&self) -> bool {
        match self {
            Py::None => false,
            Py::Bytes(bytes) => !bytes.is_empty(),
            other => other.len() != Some(0),
        }
    }

    /// `pandas.isnull` of a scalar.
    pub(crate) fn is_null(&self) -> bool {
        match self {
            Py::None => true,
            Py::Float(f) | Py::NpFloat(f) => f.is_nan(),
            _ => false,
        }
    }

    /// `bool(x)`
    pub(crate) fn truth(&self) -> Result<bool, Raised> {
        Ok(match self {
            Py::None => false,
            Py::Bool(b) | Py::NpBool(b) => *b,
            Py::Int(i) | Py::NpInt(i) => *i != 0,
            Py::NpUint(u) => *u != 0,
            Py::Big(_) | Py::Other(_) => true,
            Py::Float(f) | Py::NpFloat(f) => *f != 0.0,
            Py::Str(s) => !s.is_empty(),
            Py::Bytes(b) => !b.is_empty(),
            Py::List(items) => !items.is_empty(),
            Py::Dict(entries) => !entries.is_empty(),
            Py::Array(_, items) => match items.as_slice() {
                [] => {
                    return Err(Raised::value(
                        "The truth value of an empty array is ambiguous. Use `array.size > 0` to check that an array is not empty.",
                    ));
                }
                [one] => one.truth()?,
                _ => {
                    return Err(Raised::value(
                        "The truth value of an array with more than one element is ambiguous. Use a.any() or a.all()",
                    ));
                }
            },
        })
    }

    /// What a `for` loop over it sees.
    pub(crate) fn items(&self) -> Result<Cow<'_, [Py<'a>]>, Raised> {
        self.iterate().ok_or_else(|| type_error(format!("'{}' object is not iterable", self.class())))
    }

    /// What a `for` loop over it sees, or nothing where it cannot be looped over.
    pub(crate) fn iterate(&self) -> Option<Cow<'_, [Py<'a>]>> {
        Some(match self {
            Py::List(items) | Py::Array(_, items) => Cow::Borrowed(items),
            Py::Str(s) => Cow::Owned(s.chars().map(|c| Py::Str(Cow::Owned(c.to_string()))).collect()),
            Py::Bytes(b) => Cow::Owned(b.iter().map(|b| Py::Int(i64::from(*b))).collect()),
            Py::Dict(entries) => Cow::Owned(entries.iter().map(|(k, _)| Py::Str(k.clone())).collect()),
            _ => return None,
        })
    }

    /// `str(x)`
    pub(crate) fn str(&self) -> Cow<'_, str> {
        match self {
            Py::Str(s) => Cow::Borrowed(s),
            Py::NpBool(b) => Cow::Borrowed(if *b { "True" } else { "False" }),
            Py::NpInt(i) => Cow::Owned(i.to_string()),
            Py::NpUint(u) => Cow::Owned(u.to_string()),
            Py::NpFloat(f) => Cow::Owned(number::float_repr(*f)),
            Py::Array(dtype, items) => Cow::Owned(ndarray::str(*dtype, items)),
            other => Cow::Owned(other.repr()),
        }
    }

    /// `repr(x)`
    pub(crate) fn repr(&self) -> String {
        match self {
            Py::None => "None".to_owned(),
            Py::Bool(true) => "True".to_owned(),
            Py::Bool(false) => "False".to_owned(),
            Py::Int(i) => i.to_string(),
            Py::Big(digits) => digits.to_string(),
            Py::Float(f) => number::float_repr(*f),
            Py::Str(s) => repr(s),
            Py::Bytes(b) => bytes_repr(b),
            Py::List(items) => {
                let items: Vec<_> = items.iter().map(Py::repr).collect();
                format!("[{}]", items.join(", "))
            }
            Py::Dict(entries) => {
                let entries: Vec<_> = entries.iter().map(|(k, v)| format!("{}: {}", repr(k), v.repr())).collect();
                format!("{{{}}}", entries.join(", "))
            }
            Py::Other(other) => other.text.clone(),
            Py::NpBool(_) => format!("np.{}_", self.str()),
            Py::NpInt(_) | Py::NpUint(_) | Py::NpFloat(_) => format!("np.{}({})", self.name(), self.str()),
            Py::Array(dtype, items) => ndarray::repr(*dtype, items),
        }
    }

    /// `array.tolist()`: numpy's scalars as Python's own.
    pub(crate) fn to_python(&self) -> Py<'a> {
        match self {
            Py::NpBool(b) => Py::Bool(*b),
            Py::NpInt(i) => Py::Int(*i),
            Py::NpUint(u) => i64::try_from(*u).map_or_else(|_| Py::Big(Cow::Owned(u.to_string())), Py::Int),
            Py::NpFloat(f) => Py::Float(*f),
            Py::Array(_, items) => Py::List(items.iter().map(Py::to_python).collect()),
            other => other.clone(),
        }
    }
}

/// `repr` of bytes.
fn bytes_repr(bytes: &[u8]) -> String {
    let quote = if bytes.contains(&b'\'') && !bytes.contains(&b'"') { '"' } else { '\'' };
    let mut out = format!("b{quote}");
    for &byte in bytes {
        match byte {
            b'\\' => out.push_str("\\\\"),
            b'\n' => out.push_str("\\n"),
            b'\r' => out.push_str("\\r"),
            b'\t' => out.push_str("\\t"),
            b if char::from(b) == quote => {
                out.push('\\');
                out.push(quote);
            }
            b' '..=b'~' => out.push(char::from(byte)),
            _ => out.push_str(&format!("\\x{byte:02x}")),
        }
    }
    out.push(quote);
    out
}
