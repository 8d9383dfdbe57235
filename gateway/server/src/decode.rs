//! Reads a `weir.v1.GetFeaturesRequest` in place: the strings of its columns go straight into the columns of the
//! request, and no message is built for them in between. Everything small, and every error's text, is prost's. A test
//! holds it against what prost makes of the same bytes.

use std::time::Duration;

use bytes::Buf;
use prost::encoding::{DecodeContext, WireType, check_wire_type, decode_key, decode_varint, skip_field, string};
use prost::{DecodeError, Message};
use weir_domain::experiment::Attributes;
use weir_domain::{Blob, Column, FeatureType, Kind, Lists, Named, Refusal, Request, Value, Violation};
use weir_proto::v1;

/// Reads a request.
pub(crate) fn request(bytes: &[u8]) -> Result<Request, Refusal> {
    let raw = match Raw::read(bytes) {
        Ok(raw) => raw,
        // Once more and whole, for an error that says in which field it is.
        Err(Malformed) => {
            let error = v1::GetFeaturesRequest::decode(bytes).err();
            return Err(malformed(&error.map_or_else(|| "is malformed".to_owned(), |error| error.to_string())));
        }
    };
    let v1::GetFeaturesRequest { service, max_staleness, unit, attributes: given, .. } = raw.rest;
    let max_stale = match max_staleness {
        None => None,
        Some(d) => Some(Duration::try_from(d).map_err(|_| {
            Refusal::Invalid(vec![Violation::new("max_staleness", "is negative: a row cannot be younger than now")])
        })?),
    };
    Ok(Request {
        service,
        context: columns("context", raw.context)?,
        items: columns("items", raw.items)?,
        features: columns("features", raw.features)?,
        max_stale,
        unit: Some(unit).filter(|u| !u.is_empty()),
        attributes: attributes(given),
    })
}

/// What the text of every error of prost begins with.
const PROST: &str = "failed to decode Protobuf message: ";

/// Bytes that are not a message of this kind, in prost's words. They name the fields from the inside out
/// (`Column.name: GetFeaturesRequest.items: invalid string value`) and hold no value.
fn malformed(told: &str) -> Refusal {
    let mut what = told.strip_prefix(PROST).unwrap_or(told);
    let mut path = Vec::new();
    while let Some((place, rest)) = what.split_once(": ")
        && let Some((_, field)) = place.split_once('.')
        && !place.contains(' ')
    {
        path.push(field);
        what = rest;
    }
    path.reverse();
    let field = if path.is_empty() { "message".to_owned() } else { path.join(".") };
    Refusal::Invalid(vec![Violation::new(field, what)])
}

/// Attributes of a unit, as both services take them.
pub(crate) fn attributes(attributes: std::collections::HashMap<String, v1::Attribute>) -> Attributes {
    use v1::attribute::Value as Wire;
    let value = |value| match value {
        Wire::BoolValue(b) => Value::Bool(b),
        Wire::Int64Value(i) => Value::I64(i),
        Wire::DoubleValue(f) => Value::F64(f),
        Wire::StringValue(s) => Value::String(s),
    };
    Attributes(attributes.into_iter().filter_map(|(name, a)| a.value.map(|v| (name, value(v)))).collect())
}

fn columns(group: &str, raw: Vec<RawColumn>) -> Result<Vec<Named>, Refusal> {
    let wrong = |name: &str, what: &str| Refusal::Invalid(vec![Violation::new(format!("{group}.{name}"), what)]);
    let mut named: Vec<Named> = Vec::with_capacity(raw.len());
    for RawColumn { name, values } in raw {
        if named.iter().any(|n| n.name == name) {
            return Err(wrong(&name, "is there twice"));
        }
        let column = match values {
            None => Err("has no values"),
            Some(RawValues::Strings(blob)) => Ok(Column::String(blob)),
            Some(RawValues::Blobs(blob)) => Ok(Column::Bytes(blob)),
            Some(RawValues::Tree(values)) => tree(values),
        };
        let column = column.map_err(|what| wrong(&name, what))?;
        named.push(Named { name, column });
    }
    Ok(named)
}

fn tree(values: v1::Values) -> Result<Column, &'static str> {
    use v1::values::Kind as Wire;
    Ok(match values.kind.ok_or("has no values")? {
        Wire::Bools(v) => Column::Bool(v.values),
        Wire::Int64s(v) => Column::I64(v.values),
        Wire::Doubles(v) => Column::F64(v.values),
        Wire::Floats(v) => Column::F32(v.values),
        Wire::Strings(v) => Column::String(blob(v.values.iter().map(String::as_bytes))),
        Wire::Blobs(v) => Column::Bytes(blob(v.values.iter().map(Vec::as_slice))),
        Wire::Timestamps(v) => Column::Timestamp(v.values),
        Wire::Lists(v) => {
            let items = match v.items {
                Some(items) => tree(*items)?,
                None => Column::with_capacity(FeatureType::One(Kind::F64), 0),
            };
            let rising = v.ends.windows(2).all(|w| w[0] <= w[1]);
            if !rising || v.ends.last().copied().unwrap_or(0) as usize != items.len() {
                return Err("the lists' ends do not rise to the number of items");
            }
            if matches!(items, Column::List(_)) {
                return Err("lists of lists are not a feature type");
            }
            Column::List(Box::new(Lists { ends: v.ends, items }))
        }
    })
}

fn blob<'a>(values: impl Iterator<Item = &'a [u8]>) -> Blob {
    let mut blob = Blob::default();
    values.for_each(|v| blob.push(v));
    blob
}

/// These bytes are no message of this kind.
struct Malformed;

impl From<DecodeError> for Malformed {
    fn from(_: DecodeError) -> Self {
        Self
    }
}

/// A request whose columns are read and whose other fields are prost's.
#[derive(Default)]
struct Raw {
    rest: v1::GetFeaturesRequest,
    context: Vec<RawColumn>,
    items: Vec<RawColumn>,
    features: Vec<RawColumn>,
}

#[derive(Default)]
struct RawColumn {
    name: String,
    values: Option<RawValues>,
}

/// `Values`: as in any message, a kind that comes again goes on, and another takes its place.
enum RawValues {
    Strings(Blob),
    Blobs(Blob),
    Tree(v1::Values),
}

impl Raw {
    fn read(mut bytes: &[u8]) -> Result<Self, Malformed> {
        let mut raw = Self::default();
        while !bytes.is_empty() {
            let (tag, wire) = decode_key(&mut bytes)?;
            let columns = match tag {
                2 => &mut raw.context,
                3 => &mut raw.items,
                4 => &mut raw.features,
                _ => {
                    raw.rest.merge_field(tag, wire, &mut bytes, DecodeContext::default())?;
                    continue;
                }
            };
            columns.push(RawColumn::read(delimited(wire, &mut bytes)?)?);
        }
        Ok(raw)
    }
}

impl RawColumn {
    fn read(mut bytes: &[u8]) -> Result<Self, Malformed> {
        let mut column = Self::default();
        while !bytes.is_empty() {
            match decode_key(&mut bytes)? {
                (1, wire) => string::merge(wire, &mut column.name, &mut bytes, DecodeContext::default())?,
                (2, wire) => {
                    let values = column.values.get_or_insert_with(|| RawValues::Tree(v1::Values::default()));
                    values.merge(delimited(wire, &mut bytes)?)?;
                }
                (tag, wire) => skip_field(wire, tag, &mut bytes, DecodeContext::default())?,
            }
        }
        Ok(column)
    }
}

impl RawValues {
    fn merge(&mut self, mut bytes: &[u8]) -> Result<(), Malformed> {
        while !bytes.is_empty() {
            match decode_key(&mut bytes)? {
                (5, wire) => {
                    if !matches!(self, Self::Strings(_)) {
                        *self = Self::Strings(Blob::default());
                    }
                    let values = delimited(wire, &mut bytes)?;
                    if let Self::Strings(blob) = self {
                        push_all(blob, values, |text| std::str::from_utf8(text).is_ok())?;
                    }
                }
                (6, wire) => {
                    if !matches!(self, Self::Blobs(_)) {
                        *self = Self::Blobs(Blob::default());
                    }
                    let values = delimited(wire, &mut bytes)?;
                    if let Self::Blobs(blob) = self {
                        push_all(blob, values, |_| true)?;
                    }
                }
                (tag @ (1..=4 | 7 | 8), wire) => {
                    if !matches!(self, Self::Tree(_)) {
                        *self = Self::Tree(v1::Values::default());
                    }
                    if let Self::Tree(values) = self {
                        values.merge_field(tag, wire, &mut bytes, DecodeContext::default())?;
                    }
                }
                (tag, wire) => skip_field(wire, tag, &mut bytes, DecodeContext::default())?,
            }
        }
        Ok(())
    }
}

/// Appends the values of a `Strings` or `Blobs` message.
fn push_all(blob: &mut Blob, mut bytes: &[u8], is_valid: fn(&[u8]) -> bool) -> Result<(), Malformed> {
    blob.data.reserve(bytes.len());
    while !bytes.is_empty() {
        match decode_key(&mut bytes)? {
            (1, wire) => {
                let value = delimited(wire, &mut bytes)?;
                if !is_valid(value) {
                    return Err(Malformed);
                }
                blob.push(value);
            }
            (tag, wire) => skip_field(wire, tag, &mut bytes, DecodeContext::default())?,
        }
    }
    Ok(())
}

/// The bytes of a field that says how long it is.
fn delimited<'a>(wire: WireType, bytes: &mut &'a [u8]) -> Result<&'a [u8], Malformed> {
    check_wire_type(WireType::LengthDelimited, wire)?;
    let len = decode_varint(bytes)?;
    let field = usize::try_from(len).ok().and_then(|len| bytes.get(..len)).ok_or(Malformed)?;
    bytes.advance(field.len());
    Ok(field)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::option;
    use proptest::prelude::*;
    use v1::values::Kind as Wire;

    /// What prost makes of the same bytes.
    fn by_prost(bytes: &[u8]) -> Result<Request, Refusal> {
        let message = v1::GetFeaturesRequest::decode(bytes).map_err(|error| malformed(&error.to_string()))?;
        let raw = |columns: Vec<v1::Column>| {
            let column = |c: v1::Column| RawColumn { name: c.name, values: c.values.map(RawValues::Tree) };
            columns.into_iter().map(column).collect::<Vec<_>>()
        };
        let negative =
            || Refusal::Invalid(vec![Violation::new("max_staleness", "is negative: a row cannot be younger than now")]);
        let max_stale = message.max_staleness.map(|d| Duration::try_from(d).map_err(|_| negative())).transpose()?;
        Ok(Request {
            service: message.service,
            context: columns("context", raw(message.context))?,
            items: columns("items", raw(message.items))?,
            features: columns("features", raw(message.features))?,
            max_stale,
            unit: Some(message.unit).filter(|u| !u.is_empty()),
            attributes: attributes(message.attributes),
        })
    }

    /// As text, in which a NaN equals itself and a map has one order.
    fn told(read: Result<Request, Refusal>) -> String {
        let sorted = read.map(|mut request| {
            request.attributes.0.sort_by(|a, b| a.0.cmp(&b.0));
            request
        });
        format!("{sorted:?}")
    }

    fn values() -> impl Strategy<Value = v1::Values> + Clone {
        let few = 0..4usize;
        let one = prop_oneof![
            vec(any::<bool>(), few.clone()).prop_map(|values| Wire::Bools(v1::Bools { values })),
            vec(any::<i64>(), few.clone()).prop_map(|values| Wire::Int64s(v1::Int64s { values })),
            vec(-9.0..9.0, few.clone()).prop_map(|values| Wire::Doubles(v1::Doubles { values })),
            vec(any::<String>(), few.clone()).prop_map(|values| Wire::Strings(v1::Strings { values })),
            vec(vec(any::<u8>(), 0..5), few).prop_map(|values| Wire::Blobs(v1::Blobs { values })),
        ];
        let list = (one.clone(), vec(0..4u32, 0..3)).prop_map(|(kind, ends)| {
            let items = Some(Box::new(v1::Values { kind: Some(kind) }));
            Wire::Lists(Box::new(v1::Lists { ends, items }))
        });
        option::of(prop_oneof![4 => one, 1 => list]).prop_map(|kind| v1::Values { kind })
    }

    fn message() -> impl Strategy<Value = v1::GetFeaturesRequest> {
        let column = ("[a-c]", option::of(values())).prop_map(|(name, values)| v1::Column { name, values });
        let columns = || vec(column.clone(), 0..3);
        let attribute = option::of(any::<i64>().prop_map(v1::attribute::Value::Int64Value));
        let attributes =
            proptest::collection::hash_map("[a-c]", attribute.prop_map(|value| v1::Attribute { value }), 0..3);
        let stale =
            option::of((-1..5i64, 0..9i32).prop_map(|(seconds, nanos)| prost_types::Duration { seconds, nanos }));
        (any::<String>(), columns(), columns(), columns(), stale, any::<String>(), attributes).prop_map(
            |(service, context, items, features, max_staleness, unit, attributes)| v1::GetFeaturesRequest {
                service,
                context,
                items,
                features,
                max_staleness,
                unit,
                attributes,
            },
        )
    }

    proptest! {
        #[test]
        fn a_request_is_what_prost_makes_of_it(message in message()) {
            let bytes = message.encode_to_vec();
            prop_assert_eq!(told(request(&bytes)), told(by_prost(&bytes)));
        }

        /// Fields in any order and more than once, cut off, of other types, unknown: also then.
        #[test]
        fn so_are_two_in_one_and_damaged_ones(
            first in message(),
            second in message(),
            cut in any::<prop::sample::Index>(),
            damage in vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        ) {
            let mut bytes = [first.encode_to_vec(), second.encode_to_vec()].concat();
            bytes.truncate(cut.index(bytes.len() + 1).max(bytes.len() / 2));
            for (at, byte) in damage {
                if !bytes.is_empty() {
                    let at = at.index(bytes.len());
                    bytes[at] = byte;
                }
            }
            prop_assert_eq!(told(request(&bytes)), told(by_prost(&bytes)));
        }
    }

    #[test]
    fn of_bytes_that_are_no_message_the_field_is_named_from_the_outside_in() {
        let told = |bytes: &[u8]| match request(bytes) {
            Err(Refusal::Invalid(violations)) => violations.into_iter().map(|v| (v.field, v.description)).collect(),
            other => vec![(format!("{other:?}"), String::new())],
        };
        let is = |field: &str, what: &str| vec![(field.to_owned(), what.to_owned())];
        let text = "invalid string value: data is not UTF-8 encoded";
        assert_eq!(told(&[0x0a, 1, 0xff]), is("service", text));
        assert_eq!(told(&[0x1a, 3, 0x0a, 1, 0xff]), is("items.name", text));
        assert_eq!(told(&[0x08, 1])[0].0, "service");
        assert_eq!(told(&[0x0e]), is("message", "invalid wire type value: 6"));
    }

    #[test]
    fn values_that_come_in_parts_are_put_together_as_in_any_message() {
        let strings =
            |text: &str| v1::Values { kind: Some(Wire::Strings(v1::Strings { values: vec![text.to_owned()] })) };
        let numbers = v1::Values { kind: Some(Wire::Int64s(v1::Int64s { values: vec![7] })) };
        let part = |values: v1::Values| v1::Column { name: "k".into(), values: Some(values) }.encode_to_vec();
        let whole = |parts: &[v1::Values]| {
            let column = parts.iter().cloned().flat_map(part).collect::<Vec<u8>>();
            [&[0x1a, column.len() as u8], &column[..]].concat()
        };
        for parts in [
            vec![strings("a"), strings("b")],
            vec![numbers.clone(), strings("b"), v1::Values::default()],
            vec![strings("a"), numbers],
        ] {
            let bytes = whole(&parts);
            let read = request(&bytes).map(|r| r.items);
            assert_eq!(format!("{read:?}"), format!("{:?}", by_prost(&bytes).map(|r| r.items)));
            assert!(read.is_ok());
        }
    }
}
