//! Typed values of a gRPC request as the Python objects that the server makes of them.

use std::borrow::Cow;

use weir_proto::feast::types::{Map, ScalarMap, Value, value::Val};

use crate::coerce::{Other, Py};
use crate::text;

/// A value taken apart. The server looks one level deep: what is inside of maps, or of lists of anything but scalars,
/// stays a message, which Arrow has no type for.
pub(super) fn object(value: &Value) -> Py<'_> {
    let Some(val) = &value.val else { return Py::None };
    match val {
        Val::NullVal(_) => Py::None,
        Val::BytesVal(b) => bytes(b),
        Val::StringVal(s) | Val::JsonVal(s) | Val::UuidVal(s) | Val::TimeUuidVal(s) | Val::DecimalVal(s) => str(s),
        Val::Int32Val(i) => Py::Int(i64::from(*i)),
        Val::Int64Val(i) | Val::UnixTimestampVal(i) => Py::Int(*i),
        Val::DoubleVal(f) => Py::Float(*f),
        Val::FloatVal(f) => Py::Float(f64::from(*f)),
        Val::BoolVal(b) => Py::Bool(*b),
        Val::BytesListVal(l) | Val::BytesSetVal(l) => list(&l.val, |b| bytes(b)),
        Val::StringListVal(l)
        | Val::StringSetVal(l)
        | Val::JsonListVal(l)
        | Val::UuidListVal(l)
        | Val::UuidSetVal(l)
        | Val::TimeUuidListVal(l)
        | Val::TimeUuidSetVal(l)
        | Val::DecimalListVal(l)
        | Val::DecimalSetVal(l) => list(&l.val, |s| str(s)),
        Val::Int32ListVal(l) | Val::Int32SetVal(l) => list(&l.val, |i| Py::Int(i64::from(*i))),
        Val::Int64ListVal(l) | Val::Int64SetVal(l) | Val::UnixTimestampListVal(l) | Val::UnixTimestampSetVal(l) => {
            list(&l.val, |i| Py::Int(*i))
        }
        Val::DoubleListVal(l) | Val::DoubleSetVal(l) => list(&l.val, |f| Py::Float(*f)),
        Val::FloatListVal(l) | Val::FloatSetVal(l) => list(&l.val, |f| Py::Float(f64::from(*f))),
        Val::BoolListVal(l) | Val::BoolSetVal(l) => list(&l.val, |b| Py::Bool(*b)),
        Val::MapVal(m) | Val::StructVal(m) => map(m),
        Val::MapListVal(l) | Val::StructListVal(l) => {
            list(&l.val, |m| Py::Other(Other { class: "Map", text: inside(Val::MapVal(m.clone()), 1) }))
        }
        Val::ListVal(l) | Val::SetVal(l) => list(&l.val, message),
        Val::ScalarMapVal(m) => list(&m.val, |entry| {
            let alone = Val::ScalarMapVal(ScalarMap { val: vec![entry.clone()] });
            Py::Other(Other { class: "ScalarMapEntry", text: inside(alone, 2) })
        }),
        Val::ZonedTimestampVal(z) => {
            Py::Other(Other { class: "ZonedTimestamp", text: inside(Val::ZonedTimestampVal(z.clone()), 1) })
        }
    }
}

fn list<'v, T>(items: &'v [T], one: impl Fn(&'v T) -> Py<'v>) -> Py<'v> {
    Py::List(items.iter().map(one).collect())
}

fn str(text: &str) -> Py<'_> {
    Py::Str(Cow::Borrowed(text))
}

fn bytes(bytes: &[u8]) -> Py<'_> {
    Py::Bytes(Cow::Borrowed(bytes))
}

fn message(value: &Value) -> Py<'_> {
    Py::Other(Other { class: "Value", text: text(value) })
}

fn map(map: &Map) -> Py<'_> {
    Py::Dict(map.val.iter().map(|(key, value)| (Cow::Borrowed(key.as_str()), message(value))).collect())
}

/// The text of a message that is so deep in a value: without the braces around it and their indentation.
fn inside(whole: Val, depth: usize) -> String {
    let whole = text(&Value { val: Some(whole) });
    let lines: Vec<_> = whole.lines().collect();
    let inner = lines.get(depth..lines.len().saturating_sub(depth)).unwrap_or_default();
    inner.iter().map(|line| format!("{}\n", line.get(2 * depth..).unwrap_or_default())).collect()
}
