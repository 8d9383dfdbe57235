//! Which Feast type a Python object has, where nobody says.

use weir_proto::feast::types::value_type::Enum as ValueType;

use super::py::{Dtype, Py};
use crate::Raised;

/// Whether collections inside a collection may be looked into.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Depth {
    Outer,
    Inner,
}

/// The type of an object.
pub(super) fn of(value: &Py<'_>) -> Result<ValueType, Raised> {
    look(value, Depth::Outer)
}

fn look(value: &Py<'_>, depth: Depth) -> Result<ValueType, Raised> {
    match value {
        Py::Int(_) | Py::Big(_) | Py::NpInt(_) | Py::NpUint(_) => Ok(ValueType::Int64),
        Py::Str(_) => Ok(ValueType::String),
        Py::Float(_) | Py::NpFloat(_) => Ok(ValueType::Double),
        Py::Bytes(_) => Ok(ValueType::Bytes),
        Py::Bool(_) | Py::NpBool(_) => Ok(ValueType::Bool),
        Py::Dict(_) => Ok(ValueType::Map),
        Py::Array(Dtype::Int, _) => Ok(ValueType::Int64List),
        Py::Array(Dtype::Float, _) => Ok(ValueType::DoubleList),
        Py::Array(Dtype::Bool, _) => Ok(ValueType::BoolList),
        Py::List(items) | Py::Array(Dtype::Object, items) => {
            // An array of more than one element is neither true nor false, and the server asks all the same.
            if value.truth()? && matches!(items.first(), Some(Py::Dict(_))) {
                return Ok(ValueType::MapList);
            }
            if depth == Depth::Inner {
                return Err(Raised::value(format!(
                    "Value type for field  is <class '{}'> but recursion is not allowed. Nested collection types cannot \
                     be inferred automatically; use an explicit Field dtype instead (e.g., dtype=Array(Array(Int32))).",
                    value.class()
                )));
            }
            list(items)
        }
        Py::None | Py::Other(_) => Err(Raised::value(format!(
            "Value with native type {} cannot be converted into Feast value type",
            value.name().to_lowercase()
        ))),
    }
}

fn list(items: &[Py<'_>]) -> Result<ValueType, Raised> {
    let mut common: Option<ValueType> = None;
    for item in items {
        let this = look(item, Depth::Inner)?;
        if let Some(common) = common.filter(|common| *common != this) {
            return Err(Raised::value(format!(
                "List value type for field  is inconsistent. ValueType.{} different from ValueType.{}.",
                common.as_str_name(),
                this.as_str_name()
            )));
        }
        common = Some(this);
    }
    let Some(common) = common else { return Ok(ValueType::Invalid) };
    let name = format!("{}_LIST", common.as_str_name());
    ValueType::from_str_name(&name).ok_or_else(|| Raised::key(&name))
}
