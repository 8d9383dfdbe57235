//! A Feast value as Python's `str()` prints it (protobuf's text format), for messages that quote one.

use std::fmt::Write as _;

use weir_proto::feast::types::{Map, RepeatedValue, ScalarMapEntry, Value, map_key::Key, value::Val};

/// `str(value)`: a line `field: value` for a scalar, a block in braces for a collection.
pub fn text(value: &Value) -> String {
    let mut out = Printer { text: String::new(), depth: 0 };
    out.value(value);
    out.text
}

struct Printer {
    text: String,
    depth: usize,
}

impl Printer {
    fn line(&mut self, text: impl AsRef<str>) {
        self.text.extend(std::iter::repeat_n("  ", self.depth));
        self.text.push_str(text.as_ref());
        self.text.push('\n');
    }

    fn field(&mut self, name: &str, value: impl std::fmt::Display) {
        self.line(format!("{name}: {value}"));
    }

    fn block(&mut self, name: &str, inside: impl FnOnce(&mut Self)) {
        self.line(format!("{name} {{"));
        self.depth += 1;
        inside(self);
        self.depth -= 1;
        self.line("}");
    }

    fn list<T>(&mut self, name: &str, items: &[T], show: impl Fn(&T) -> String) {
        self.block(name, |p| items.iter().for_each(|item| p.field("val", show(item))));
    }

    fn map(&mut self, map: &Map) {
        for (key, value) in &map.val {
            self.block("val", |p| {
                p.field("key", quoted(key.as_bytes(), Utf8::AsIs));
                p.block("value", |p| p.value(value));
            });
        }
    }

    fn values(&mut self, values: &RepeatedValue) {
        for value in &values.val {
            self.block("val", |p| p.value(value));
        }
    }

    fn entry(&mut self, entry: &ScalarMapEntry) {
        if let Some(key) = &entry.key {
            self.block("key", |p| match &key.key {
                None => {}
                Some(Key::Int32Key(i)) => p.field("int32_key", i),
                Some(Key::Int64Key(i)) => p.field("int64_key", i),
                Some(Key::FloatKey(f)) => p.field("float_key", single(*f)),
                Some(Key::DoubleKey(f)) => p.field("double_key", double(*f)),
                Some(Key::BoolKey(b)) => p.field("bool_key", b),
                Some(Key::UnixTimestampKey(t)) => p.field("unix_timestamp_key", t),
                Some(Key::BytesKey(b)) => p.field("bytes_key", quoted(b, Utf8::Escaped)),
                Some(Key::UuidKey(s)) => p.field("uuid_key", string(s)),
                Some(Key::TimeUuidKey(s)) => p.field("time_uuid_key", string(s)),
                Some(Key::DecimalKey(s)) => p.field("decimal_key", string(s)),
            });
        }
        if let Some(value) = &entry.value {
            self.block("value", |p| p.value(value));
        }
    }

    fn value(&mut self, value: &Value) {
        let Some(val) = &value.val else { return };
        match val {
            Val::BytesVal(b) => self.field("bytes_val", quoted(b, Utf8::Escaped)),
            Val::StringVal(s) => self.field("string_val", string(s)),
            Val::Int32Val(i) => self.field("int32_val", i),
            Val::Int64Val(i) => self.field("int64_val", i),
            Val::DoubleVal(f) => self.field("double_val", double(*f)),
            Val::FloatVal(f) => self.field("float_val", single(*f)),
            Val::BoolVal(b) => self.field("bool_val", b),
            Val::UnixTimestampVal(t) => self.field("unix_timestamp_val", t),
            Val::BytesListVal(l) => self.list("bytes_list_val", &l.val, |b| quoted(b, Utf8::Escaped)),
            Val::StringListVal(l) => self.list("string_list_val", &l.val, |s| string(s)),
            Val::Int32ListVal(l) => self.list("int32_list_val", &l.val, i32::to_string),
            Val::Int64ListVal(l) => self.list("int64_list_val", &l.val, i64::to_string),
            Val::DoubleListVal(l) => self.list("double_list_val", &l.val, |f| double(*f)),
            Val::FloatListVal(l) => self.list("float_list_val", &l.val, |f| single(*f)),
            Val::BoolListVal(l) => self.list("bool_list_val", &l.val, bool::to_string),
            Val::UnixTimestampListVal(l) => self.list("unix_timestamp_list_val", &l.val, i64::to_string),
            Val::NullVal(_) => self.field("null_val", "NULL"),
            Val::MapVal(m) => self.block("map_val", |p| p.map(m)),
            Val::MapListVal(l) => {
                self.block("map_list_val", |p| l.val.iter().for_each(|m| p.block("val", |p| p.map(m))));
            }
            Val::BytesSetVal(l) => self.list("bytes_set_val", &l.val, |b| quoted(b, Utf8::Escaped)),
            Val::StringSetVal(l) => self.list("string_set_val", &l.val, |s| string(s)),
            Val::Int32SetVal(l) => self.list("int32_set_val", &l.val, i32::to_string),
            Val::Int64SetVal(l) => self.list("int64_set_val", &l.val, i64::to_string),
            Val::DoubleSetVal(l) => self.list("double_set_val", &l.val, |f| double(*f)),
            Val::FloatSetVal(l) => self.list("float_set_val", &l.val, |f| single(*f)),
            Val::BoolSetVal(l) => self.list("bool_set_val", &l.val, bool::to_string),
            Val::UnixTimestampSetVal(l) => self.list("unix_timestamp_set_val", &l.val, i64::to_string),
            Val::JsonVal(s) => self.field("json_val", string(s)),
            Val::JsonListVal(l) => self.list("json_list_val", &l.val, |s| string(s)),
            Val::StructVal(m) => self.block("struct_val", |p| p.map(m)),
            Val::StructListVal(l) => {
                self.block("struct_list_val", |p| l.val.iter().for_each(|m| p.block("val", |p| p.map(m))));
            }
            Val::UuidVal(s) => self.field("uuid_val", string(s)),
            Val::TimeUuidVal(s) => self.field("time_uuid_val", string(s)),
            Val::UuidListVal(l) => self.list("uuid_list_val", &l.val, |s| string(s)),
            Val::TimeUuidListVal(l) => self.list("time_uuid_list_val", &l.val, |s| string(s)),
            Val::UuidSetVal(l) => self.list("uuid_set_val", &l.val, |s| string(s)),
            Val::TimeUuidSetVal(l) => self.list("time_uuid_set_val", &l.val, |s| string(s)),
            Val::ListVal(l) => self.block("list_val", |p| p.values(l)),
            Val::SetVal(l) => self.block("set_val", |p| p.values(l)),
            Val::DecimalVal(s) => self.field("decimal_val", string(s)),
            Val::DecimalListVal(l) => self.list("decimal_list_val", &l.val, |s| string(s)),
            Val::DecimalSetVal(l) => self.list("decimal_set_val", &l.val, |s| string(s)),
            Val::ScalarMapVal(m) => {
                self.block("scalar_map_val", |p| m.val.iter().for_each(|e| p.block("val", |p| p.entry(e))));
            }
            Val::ZonedTimestampVal(z) => self.block("zoned_timestamp_val", |p| {
                if z.unix_timestamp != 0 {
                    p.field("unix_timestamp", z.unix_timestamp);
                }
                if !z.zone.is_empty() {
                    p.field("zone", string(&z.zone));
                }
            }),
        }
    }
}

/// A double with 15 digits, or 17 where 15 would read back as another.
fn double(float: f64) -> String {
    let short = general(float, 15);
    if short.parse() == Ok(float) || float.is_nan() { short } else { general(float, 17) }
}

/// A float with 6 digits, or 9 where 6 would read back as another.
fn single(float: f32) -> String {
    let short = general(f64::from(float), 6);
    if short.parse() == Ok(float) || float.is_nan() { short } else { general(f64::from(float), 9) }
}

/// C's `%.{digits}g`.
fn general(float: f64, digits: usize) -> String {
    if !float.is_finite() {
        return if float.is_nan() {
            "nan"
        } else if float > 0.0 {
            "inf"
        } else {
            "-inf"
        }
        .to_owned();
    }
    let scientific = format!("{float:.*e}", digits - 1);
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let trim = |text: &str| match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text.to_owned(),
    };
    match usize::try_from(digits as i32 - 1 - exponent) {
        Ok(decimals) if exponent >= -4 => trim(&format!("{float:.decimals$}")),
        _ => format!("{}e{}{:02}", trim(mantissa), if exponent < 0 { '-' } else { '+' }, exponent.abs()),
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Utf8 {
    AsIs,
    Escaped,
}

fn string(text: &str) -> String {
    quoted(text.as_bytes(), Utf8::AsIs)
}

/// In double quotes, with C's escapes, octal for what has none.
fn quoted(bytes: &[u8], utf8: Utf8) -> String {
    let mut out = Vec::with_capacity(bytes.len() + 2);
    out.push(b'"');
    for &byte in bytes {
        match byte {
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            b'"' | b'\'' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            b' '..=b'~' => out.push(byte),
            0x80.. if utf8 == Utf8::AsIs => out.push(byte),
            _ => {
                let mut octal = String::new();
                // Writing to a string does not fail.
                let _ = write!(octal, "\\{byte:03o}");
                out.extend_from_slice(octal.as_bytes());
            }
        }
    }
    out.push(b'"');
    String::from_utf8_lossy(&out).into_owned()
}
