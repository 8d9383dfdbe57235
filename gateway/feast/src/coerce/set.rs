//! Python's `list(set(items))`.

use std::collections::HashSet;

use super::py::Py;
use super::type_error;
use crate::Raised;

/// What decides whether two objects are the same to a set: numbers by value, whatever their type.
#[derive(PartialEq, Eq, Hash)]
enum Same<'v> {
    None,
    Int(i128),
    /// Beyond every integer here, or with a fraction: the bits.
    Float(u64),
    Big(&'v str),
    Str(&'v str),
    Bytes(&'v [u8]),
}

/// The items without those that equal an earlier one.
pub(super) fn of<'a>(items: &[Py<'a>]) -> Result<Vec<Py<'a>>, Raised> {
    let mut seen = HashSet::with_capacity(items.len());
    let mut out = Vec::with_capacity(items.len());
    for item in items {
        if seen.insert(same(item)?) {
            out.push(item.clone());
        }
    }
    Ok(out)
}

fn same<'v>(item: &'v Py<'_>) -> Result<Same<'v>, Raised> {
    Ok(match item {
        Py::None => Same::None,
        Py::Bool(b) | Py::NpBool(b) => Same::Int(i128::from(*b)),
        Py::Int(i) | Py::NpInt(i) => Same::Int(i128::from(*i)),
        Py::NpUint(u) => Same::Int(i128::from(*u)),
        Py::Big(digits) => digits.parse().map_or(Same::Big(digits), Same::Int),
        Py::Float(f) | Py::NpFloat(f) if f.fract() == 0.0 && f.abs() < 1e38 => Same::Int(*f as i128),
        Py::Float(f) | Py::NpFloat(f) => Same::Float(f.to_bits()),
        Py::Str(s) => Same::Str(s),
        Py::Bytes(b) => Same::Bytes(b),
        Py::List(_) | Py::Dict(_) | Py::Array(..) => {
            return Err(type_error(format!("unhashable type: '{}'", item.class())));
        }
    })
}
