//! JSON as Feast's Python server writes it.

use std::io::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use prost::Message;
use weir_domain::feast::Raw;
use weir_domain::push_f64;
use weir_proto::feast::serving::FieldStatus;
use weir_proto::feast::types::{Map, Value, value::Val};

use crate::answer::{Answer, Column, event_time};
use crate::lookup::ViewRead;
use crate::size::CELLS_MAX;
use crate::zoned;

/// The most that a number takes, with its comma: growing would copy all that is written.
const VALUE_BYTES: usize = 25;
/// What a time and a status take, with quotes and commas.
const TIME_AND_STATUS_BYTES: usize = 40;

pub(crate) fn answer(answer: &Answer<'_>) -> Vec<u8> {
    let columns = answer.names().count();
    let cells = columns.saturating_mul(answer.rows.count).min(CELLS_MAX);
    let mut out = Vec::with_capacity(256 + columns * 64 + cells * (VALUE_BYTES + TIME_AND_STATUS_BYTES));
    out.extend_from_slice(b"{\"results\":[");
    let mut is_first = true;
    for (_, values) in &answer.rows.echoed {
        separate(&mut out, &mut is_first);
        given(&mut out, values, |_| FieldStatus::Present);
    }
    for (read, column) in answer.lookup.reads.iter().zip(answer.columns) {
        read_columns(&mut out, answer, read, column, &mut is_first);
    }
    for column in answer.computed {
        separate(&mut out, &mut is_first);
        given(&mut out, &column.values, |row| column.statuses.get(row).copied().unwrap_or_default());
    }
    out.extend_from_slice(b"],\"metadata\":{\"feature_names\":[");
    let mut is_first = true;
    for (name, _) in &answer.rows.echoed {
        separate(&mut out, &mut is_first);
        string(&mut out, name);
    }
    if !answer.lookup.names.is_empty() {
        separate(&mut out, &mut is_first);
        out.extend_from_slice(&answer.lookup.names);
    }
    for column in answer.computed {
        separate(&mut out, &mut is_first);
        string(&mut out, &column.name);
    }
    out.push(b']');
    let versions = answer.versions();
    if !versions.is_empty() {
        out.extend_from_slice(b",\"feature_view_metadata\":[");
        for (i, (name, version)) in versions.into_iter().enumerate() {
            comma(&mut out, i);
            out.extend_from_slice(b"{\"name\":");
            string(&mut out, name);
            if *version != 0 {
                display(&mut out, format_args!(",\"version\":{version}"));
            }
            out.push(b'}');
        }
        out.push(b']');
    }
    out.extend_from_slice(b"}}");
    out
}

/// Names, one after another.
pub(crate) fn names<'n>(names: impl Iterator<Item = &'n String>) -> Vec<u8> {
    let mut out = Vec::new();
    for (i, name) in names.enumerate() {
        comma(&mut out, i);
        string(&mut out, name);
    }
    out
}

/// Columns that came with the request, or were computed: they have no time.
fn given(out: &mut Vec<u8>, values: &[Value], status_of: impl Fn(usize) -> FieldStatus) {
    out.extend_from_slice(b"{\"values\":[");
    for (i, value) in values.iter().enumerate() {
        comma(out, i);
        message(out, value);
    }
    out.extend_from_slice(b"],\"statuses\":[");
    for i in 0..values.len() {
        comma(out, i);
        status(out, status_of(i));
    }
    out.push(b']');
    if !values.is_empty() {
        out.extend_from_slice(b",\"event_timestamps\":[");
        for i in 0..values.len() {
            comma(out, i);
            out.extend_from_slice(b"\"1970-01-01T00:00:00Z\"");
        }
        out.push(b']');
    }
    out.push(b'}');
}

/// All features of a view. What is the same for each of them is written once and copied.
fn read_columns<'a>(out: &mut Vec<u8>, answer: &Answer<'a>, read: &ViewRead, column: &Column<'a>, is_first: &mut bool) {
    let mut statuses = Vec::new();
    let mut times = Vec::new();
    for (i, &entity) in column.rows.iter().enumerate() {
        let found = column.found[entity as usize];
        comma(&mut statuses, i);
        comma(&mut times, i);
        status(&mut statuses, answer.row_status(found));
        let (seconds, nanos) = event_time(found);
        time(&mut times, seconds, nanos);
    }
    let of_the_row = answer.status_is_of_the_row();
    for (feature, _) in read.columns.iter().enumerate().filter(|(_, name)| name.is_some()) {
        separate(out, is_first);
        out.extend_from_slice(b"{\"values\":[");
        if !of_the_row {
            statuses.clear();
        }
        for (i, &entity) in column.rows.iter().enumerate() {
            let cell = answer.cell(read, column.found[entity as usize], feature);
            comma(out, i);
            match cell.value {
                Some(bytes) => stored(out, bytes),
                None => out.extend_from_slice(b"null"),
            }
            if !of_the_row {
                comma(&mut statuses, i);
                status(&mut statuses, cell.status);
            }
        }
        out.extend_from_slice(b"],\"statuses\":[");
        out.extend_from_slice(&statuses);
        out.push(b']');
        if !column.rows.is_empty() {
            out.extend_from_slice(b",\"event_timestamps\":[");
            out.extend_from_slice(&times);
            out.push(b']');
        }
        out.push(b'}');
    }
}

/// A value as it lies in the store. Bytes that are none are null: there is no value in them.
fn stored(out: &mut Vec<u8>, bytes: &[u8]) {
    match Raw::read(bytes) {
        Some(Raw::F64(v)) => push_f64(out, v),
        Some(Raw::F32(v)) => push_f64(out, f64::from(v)),
        Some(Raw::I64(v) | Raw::Timestamp(v)) => number(out, &v),
        Some(Raw::I32(v)) => number(out, &v),
        Some(Raw::Bool(v)) => number(out, &v),
        Some(Raw::String(v)) => string(out, v),
        Some(Raw::Bytes(v)) => base64(out, v),
        Some(Raw::Other(..)) => match Value::decode(bytes) {
            Ok(value) => message(out, &value),
            Err(_) => out.extend_from_slice(b"null"),
        },
        Some(Raw::Null) | None => out.extend_from_slice(b"null"),
    }
}

/// A value of any kind.
pub(crate) fn message(out: &mut Vec<u8>, value: &Value) {
    let Some(val) = &value.val else { return out.extend_from_slice(b"null") };
    match val {
        Val::BytesVal(v) => base64(out, v),
        Val::StringVal(v) | Val::JsonVal(v) | Val::UuidVal(v) | Val::TimeUuidVal(v) | Val::DecimalVal(v) => {
            string(out, v)
        }
        Val::Int32Val(v) => number(out, v),
        Val::Int64Val(v) | Val::UnixTimestampVal(v) => number(out, v),
        Val::DoubleVal(v) => push_f64(out, *v),
        Val::FloatVal(v) => push_f64(out, f64::from(*v)),
        Val::BoolVal(v) => number(out, v),
        Val::BytesListVal(v) | Val::BytesSetVal(v) => list(out, &v.val, |out, v| base64(out, v)),
        Val::StringListVal(v)
        | Val::StringSetVal(v)
        | Val::JsonListVal(v)
        | Val::UuidListVal(v)
        | Val::TimeUuidListVal(v)
        | Val::UuidSetVal(v)
        | Val::TimeUuidSetVal(v)
        | Val::DecimalListVal(v)
        | Val::DecimalSetVal(v) => list(out, &v.val, |out, v| string(out, v)),
        Val::Int32ListVal(v) | Val::Int32SetVal(v) => list(out, &v.val, number),
        Val::Int64ListVal(v) | Val::Int64SetVal(v) | Val::UnixTimestampListVal(v) | Val::UnixTimestampSetVal(v) => {
            list(out, &v.val, number);
        }
        Val::DoubleListVal(v) | Val::DoubleSetVal(v) => list(out, &v.val, |out, v| push_f64(out, *v)),
        Val::FloatListVal(v) | Val::FloatSetVal(v) => list(out, &v.val, |out, v| push_f64(out, f64::from(*v))),
        Val::BoolListVal(v) | Val::BoolSetVal(v) => list(out, &v.val, number),
        Val::MapVal(v) | Val::StructVal(v) => map(out, v),
        Val::MapListVal(v) | Val::StructListVal(v) => list(out, &v.val, map),
        Val::ListVal(v) | Val::SetVal(v) => list(out, &v.val, message),
        // Feast's Python server has no JSON for maps with other keys than strings.
        Val::NullVal(_) | Val::ScalarMapVal(_) => out.extend_from_slice(b"null"),
        Val::ZonedTimestampVal(v) => match zoned::text(v.unix_timestamp, &v.zone) {
            Some(text) => string(out, &text),
            None => out.extend_from_slice(b"null"),
        },
    }
}

fn list<T>(out: &mut Vec<u8>, items: &[T], mut item: impl FnMut(&mut Vec<u8>, &T)) {
    out.push(b'[');
    for (i, value) in items.iter().enumerate() {
        comma(out, i);
        item(out, value);
    }
    out.push(b']');
}

fn map(out: &mut Vec<u8>, map: &Map) {
    out.push(b'{');
    for (i, (key, value)) in map.val.iter().enumerate() {
        comma(out, i);
        string(out, key);
        out.push(b':');
        message(out, value);
    }
    out.push(b'}');
}

fn comma(out: &mut Vec<u8>, index: usize) {
    if index > 0 {
        out.push(b',');
    }
}

fn separate(out: &mut Vec<u8>, is_first: &mut bool) {
    comma(out, usize::from(!std::mem::take(is_first)));
}

/// An integer or a bool: none of them can fail, nor can writing into a Vec.
fn number(out: &mut Vec<u8>, value: &impl serde::Serialize) {
    let _ = serde_json::to_writer(out, value);
}

fn display(out: &mut Vec<u8>, value: impl std::fmt::Display) {
    // Writing into a Vec cannot fail.
    let _ = write!(out, "{value}");
}

fn string(out: &mut Vec<u8>, value: &str) {
    let _ = serde_json::to_writer(&mut *out, value);
}

fn base64(out: &mut Vec<u8>, value: &[u8]) {
    out.push(b'"');
    out.extend_from_slice(STANDARD.encode(value).as_bytes());
    out.push(b'"');
}

fn status(out: &mut Vec<u8>, status: FieldStatus) {
    out.push(b'"');
    out.extend_from_slice(status.as_str_name().as_bytes());
    out.push(b'"');
}

/// RFC 3339 in UTC with 0, 3, 6 or 9 digits of the second, as protobuf writes a `Timestamp`.
fn time(out: &mut Vec<u8>, seconds: i64, nanos: i32) {
    if (seconds, nanos) == (0, 0) {
        return out.extend_from_slice(b"\"1970-01-01T00:00:00Z\"");
    }
    let (date, second) = (zoned::date(seconds.div_euclid(86_400)), seconds.rem_euclid(86_400));
    let (year, month, day) = date;
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    out.push(b'"');
    match u32::try_from(year) {
        Ok(year @ 0..=9999) => digits::<4>(out, year),
        _ => display(out, format_args!("{year:04}")),
    }
    for (before, part) in [(b'-', month), (b'-', day), (b'T', hour), (b':', minute), (b':', second)] {
        out.push(before);
        digits::<2>(out, part as u32);
    }
    if nanos != 0 {
        out.push(b'.');
    }
    match nanos as u32 {
        0 => {}
        n if n % 1_000_000 == 0 => digits::<3>(out, n / 1_000_000),
        n if n % 1_000 == 0 => digits::<6>(out, n / 1_000),
        n => digits::<9>(out, n),
    }
    out.extend_from_slice(b"Z\"");
}

/// A number in so many digits. Formatting it would cost ten times as much, and each row has a time.
fn digits<const N: usize>(out: &mut Vec<u8>, mut number: u32) {
    let mut text = [b'0'; N];
    for digit in text.iter_mut().rev() {
        *digit += (number % 10) as u8;
        number /= 10;
    }
    out.extend_from_slice(&text);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn times_have_as_many_digits_as_they_need() {
        for (seconds, nanos, wanted) in [
            (0, 0, "1970-01-01T00:00:00Z"),
            (1_795_333_823, 0, "2026-11-22T07:50:23Z"),
            (1_795_333_823, 123_000_000, "2026-11-22T07:50:23.123Z"),
            (1_795_333_823, 123_456_000, "2026-11-22T07:50:23.123456Z"),
            (-1, 500_000_000, "1969-12-31T23:59:59.500Z"),
        ] {
            assert_eq!(text(|out| time(out, seconds, nanos)), format!("\"{wanted}\""));
        }
    }

    #[test]
    fn stored_values_are_what_they_are() {
        let value = |val: Val| Value { val: Some(val) }.encode_to_vec();
        assert_eq!(text(|out| stored(out, &[])), "null");
        assert_eq!(text(|out| stored(out, &value(Val::FloatVal(0.1)))), "0.10000000149011612");
        assert_eq!(text(|out| stored(out, &value(Val::DoubleVal(f64::NAN)))), "\"NaN\"");
        assert_eq!(text(|out| stored(out, &value(Val::Int64Val(i64::MAX)))), "9223372036854775807");
        assert_eq!(text(|out| stored(out, &value(Val::BytesVal(vec![0, 255])))), "\"AP8=\"");
        assert_eq!(text(|out| stored(out, b"\xff\xff")), "null", "no value at all");
    }
}
