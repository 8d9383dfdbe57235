//! Maps, structs, JSON and collections of collections.

use std::collections::BTreeMap;

use weir_proto::feast::types::value_type::Enum as ValueType;
use weir_proto::feast::types::{Map, MapList, RepeatedValue, ScalarMap, StringList, Value, value::Val};

use super::py::Py;
use super::{json, objects, type_error};
use crate::Raised;

/// One value of one of the types of this file; nulls have been dealt with.
pub(super) fn one(value: &Py<'_>, of: ValueType) -> Result<Val, Raised> {
    let parsed;
    let value = match (value, of) {
        (Py::Str(text), ValueType::Map | ValueType::MapList | ValueType::Struct | ValueType::StructList) => {
            parsed = json::loads(text)?;
            &parsed
        }
        (value, _) => value,
    };
    Ok(match (of, value) {
        (ValueType::Map, Py::Dict(entries)) => Val::MapVal(map(entries, 0)?),
        (ValueType::Map, other) => return Err(expected("dict for MAP", other)),
        (ValueType::MapList, Py::List(items)) => Val::MapListVal(map_list(items, 0)?),
        (ValueType::MapList, other) => return Err(expected("list for MAP_LIST", other)),
        (ValueType::ScalarMap, Py::Dict(entries)) if entries.is_empty() => Val::ScalarMapVal(ScalarMap::default()),
        (ValueType::ScalarMap, Py::Dict(_)) => {
            return Err(type_error(
                "Unsupported key type for SCALAR_MAP: str. Supported non-string key types: int, float, bool, uuid.UUID, \
                 decimal.Decimal, bytes, datetime.",
            ));
        }
        (ValueType::ScalarMap, other) => return Err(expected("dict for SCALAR_MAP", other)),
        (ValueType::Json, value) => Val::JsonVal(json_text(value, "Invalid JSON string for JSON type")?),
        (ValueType::JsonList, value) => {
            let items = value.items()?;
            let texts = items.iter().map(|item| json_text(item, "Invalid JSON string in JSON_LIST"));
            Val::JsonListVal(StringList { val: texts.collect::<Result<_, _>>()? })
        }
        (ValueType::Struct, Py::Dict(entries)) => Val::StructVal(map(entries, 0)?),
        (ValueType::Struct, other) => {
            let text = Value { val: Some(Val::StringVal(other.str().into_owned())) };
            Val::StructVal(Map { val: BTreeMap::from([("_value".to_owned(), text)]) })
        }
        (ValueType::StructList, value) => Val::StructListVal(map_list(&value.items()?, 0)?),
        (ValueType::ValueSet, value) => Val::SetVal(nested(value, 0)?),
        (_, value) => Val::ListVal(nested(value, 0)?),
    })
}

fn expected(what: &str, got: &Py<'_>) -> Raised {
    type_error(format!("Expected {what} type, got {}: {}", got.name(), got.repr()))
}

fn json_text(value: &Py<'_>, complaint: &str) -> Result<String, Raised> {
    match value {
        Py::Str(text) => match json::loads(text) {
            Ok(_) => Ok(text.clone().into_owned()),
            Err(e) if e.class == crate::Class::Python("JSONDecodeError") => {
                Err(Raised::value(format!("{complaint}: {}", e.message)))
            }
            Err(e) => Err(e),
        },
        other => json::dumps(other),
    }
}

/// Messages inside of messages that Python's protobuf reads, and it reads each map into the one around it.
const DEPTH_MAX: usize = 100;

fn check_depth(depth: usize, message: &str) -> Result<(), Raised> {
    if depth <= DEPTH_MAX {
        return Ok(());
    }
    let message =
        format!("Error parsing message with type 'feast.types.{message}': Exceeded upb_DecodeOptions_MaxDepth");
    Err(Raised::python("DecodeError", message))
}

/// A map inside of so many messages. It holds entries, and those hold values.
fn map(entries: &[(std::borrow::Cow<'_, str>, Py<'_>)], above: usize) -> Result<Map, Raised> {
    let depth = if entries.is_empty() { above + 1 } else { above + 3 };
    check_depth(depth, "Map")?;
    let mut out = BTreeMap::new();
    for (key, value) in entries {
        let val = match value {
            Py::None => None,
            Py::Dict(inner) => Some(Val::MapVal(map(inner, depth)?)),
            Py::List(items) if matches!(items.first(), Some(Py::Dict(_))) => {
                Some(Val::MapListVal(map_list(items, depth + 1)?))
            }
            other => {
                check_depth(depth + usize::from(other.len().is_some()), "Map")?;
                inferred(other)?.val
            }
        };
        out.insert(key.to_string(), Value { val });
    }
    Ok(Map { val: out })
}

fn map_list(items: &[Py<'_>], above: usize) -> Result<MapList, Raised> {
    check_depth(above, "Map")?;
    let maps = items.iter().map(|item| match item {
        Py::Dict(entries) => map(entries, above),
        other => Err(Raised::value(format!("MapList can only contain dictionaries, got <class '{}'>", other.class()))),
    });
    Ok(MapList { val: maps.collect::<Result<_, _>>()? })
}

fn inferred(value: &Py<'_>) -> Result<Value, Raised> {
    Ok(objects(std::slice::from_ref(value), ValueType::Invalid)?.into_iter().next().unwrap_or_default())
}

/// Values inside of so many messages, those of one collection not counted.
fn nested(value: &Py<'_>, above: usize) -> Result<RepeatedValue, Raised> {
    let collections = value.items()?;
    let values = collections.iter().map(|collection| {
        if *collection == Py::None {
            return Ok(Value::default());
        }
        let items = collection.items()?;
        if items.is_empty() {
            Ok(Value::default())
        } else if items.iter().any(|item| matches!(item, Py::List(_) | Py::Array(..))) {
            check_depth(above + 2, "Value")?;
            Ok(Value { val: Some(Val::ListVal(nested(&Py::List(items.into_owned()), above + 2)?)) })
        } else {
            check_depth(above + 2, "Value")?;
            inferred(&Py::List(items.into_owned()))
        }
    });
    Ok(RepeatedValue { val: values.collect::<Result<_, _>>()? })
}
