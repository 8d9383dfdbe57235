//! Bodies as Python's `json.loads` takes them where they are no plain JSON: in UTF-16 or UTF-32, with a mark in front,
//! and with halves of UTF-16 pairs, which its strings can hold and Rust's cannot. Promises: nobody whose body is plain
//! JSON pays for it, and halves get no further than into the text of an error.

use jiter::JsonValue;
use weir_proto::feast::types::{Map, Value, value::Val};

use crate::raised::Raised;

/// Halves, U+D800 to U+DFFF, are kept as the last characters of the last private plane, from this one on: there are as
/// many, and nobody gave them a meaning.
const HALVES: u32 = 0x10_f800;
const FIRST_HALF: u32 = 0xd800;

/// A body as text, with its halves kept as [`HALVES`].
pub(crate) struct Decoded {
    pub(crate) text: String,
    pub(crate) has_halves: bool,
}

/// The text of a body; `None` when its bytes are none in the encoding that its first bytes speak for.
pub(crate) fn decode(body: &[u8]) -> Option<Decoded> {
    let (text, are_raw) = match encoding(body) {
        (Encoding::Utf8, skipped) => utf8(body.get(skipped..)?)?,
        (Encoding::Utf16(read), skipped) => utf16(body.get(skipped..)?, read)?,
        (Encoding::Utf32(read), skipped) => utf32(body.get(skipped..)?, read)?,
    };
    let escaped = escapes(&text);
    Some(Decoded { has_halves: are_raw || escaped.is_some(), text: escaped.unwrap_or(text) })
}

enum Encoding {
    Utf8,
    Utf16(fn([u8; 2]) -> u16),
    Utf32(fn([u8; 4]) -> u32),
}

/// Which encoding, and how many bytes of a mark stand before the text.
fn encoding(body: &[u8]) -> (Encoding, usize) {
    match *body {
        [0, 0, 0xfe, 0xff, ..] => (Encoding::Utf32(u32::from_be_bytes), 4),
        [0xff, 0xfe, 0, 0, ..] => (Encoding::Utf32(u32::from_le_bytes), 4),
        [0xfe, 0xff, ..] => (Encoding::Utf16(u16::from_be_bytes), 2),
        [0xff, 0xfe, ..] => (Encoding::Utf16(u16::from_le_bytes), 2),
        [0xef, 0xbb, 0xbf, ..] => (Encoding::Utf8, 3),
        // Without a mark the zeros tell, since JSON begins with a character of ASCII.
        [0, 0, _, _, ..] => (Encoding::Utf32(u32::from_be_bytes), 0),
        [0, _, _, _, ..] | [0, _] => (Encoding::Utf16(u16::from_be_bytes), 0),
        [_, 0, 0, 0, ..] => (Encoding::Utf32(u32::from_le_bytes), 0),
        [_, 0, _, _, ..] | [_, 0] => (Encoding::Utf16(u16::from_le_bytes), 0),
        _ => (Encoding::Utf8, 0),
    }
}

/// UTF-8, in which halves may be encoded like characters. The text, and whether there was a half.
fn utf8(mut bytes: &[u8]) -> Option<(String, bool)> {
    let (mut text, mut has_halves) = (String::with_capacity(bytes.len()), false);
    loop {
        match std::str::from_utf8(bytes) {
            Ok(rest) => {
                text.push_str(rest);
                return Some((text, has_halves));
            }
            Err(error) => {
                let (good, rest) = bytes.split_at_checked(error.valid_up_to())?;
                let [0xed, second @ 0xa0..=0xbf, third @ 0x80..=0xbf, rest @ ..] = rest else { return None };
                text.push_str(std::str::from_utf8(good).ok()?);
                text.push(half(0xd000 | u32::from(second & 0x3f) << 6 | u32::from(third & 0x3f))?);
                (bytes, has_halves) = (rest, true);
            }
        }
    }
}

fn utf16(bytes: &[u8], read: fn([u8; 2]) -> u16) -> Option<(String, bool)> {
    let (units, []) = bytes.as_chunks::<2>() else { return None };
    joined(char::decode_utf16(units.iter().map(|unit| read(*unit))).map(|unit| match unit {
        Ok(c) => u32::from(c),
        Err(lone) => u32::from(lone.unpaired_surrogate()),
    }))
}

fn utf32(bytes: &[u8], read: fn([u8; 4]) -> u32) -> Option<(String, bool)> {
    let (units, []) = bytes.as_chunks::<4>() else { return None };
    joined(units.iter().map(|unit| read(*unit)))
}

fn joined(codes: impl Iterator<Item = u32>) -> Option<(String, bool)> {
    let (mut text, mut has_halves) = (String::new(), false);
    for code in codes {
        match char::from_u32(code) {
            Some(c) => text.push(c),
            None => {
                text.push(half(code)?);
                has_halves = true;
            }
        }
    }
    Some((text, has_halves))
}

/// The text with escaped halves (`\ud800` without its second half) as they are kept; `None` when there is none.
fn escapes(text: &str) -> Option<String> {
    let (mut out, mut copied, mut at) = (String::new(), 0, 0);
    while let Some(found) = text.get(at..).and_then(|rest| rest.find('\\')) {
        let start = at + found;
        // Whatever the backslash escapes, another backslash above all, is no beginning of an escape.
        at = start + 1 + text.get(start + 1..).and_then(|rest| rest.chars().next()).map_or(0, char::len_utf8);
        let Some(first) = escaped_half(text, start) else { continue };
        at = start + ESCAPE_BYTES;
        let is_high = |half: u32| half < 0xdc00;
        if is_high(first) && escaped_half(text, at).is_some_and(|second| !is_high(second)) {
            at += ESCAPE_BYTES;
            continue;
        }
        out.push_str(text.get(copied..start)?);
        out.push(half(first)?);
        copied = at;
    }
    if copied == 0 {
        return None;
    }
    out.push_str(text.get(copied..)?);
    Some(out)
}

/// The bytes of `\uxxxx`.
const ESCAPE_BYTES: usize = 6;

/// The half that is escaped here.
fn escaped_half(text: &str, at: usize) -> Option<u32> {
    let digits = text.get(at..at + ESCAPE_BYTES)?.strip_prefix("\\u")?;
    let is_hex = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    let code = u32::from_str_radix(digits, 16).ok().filter(|_| is_hex)?;
    (0xd800..0xe000).contains(&code).then_some(code)
}

/// How a half is kept; `None` for what is none.
fn half(code: u32) -> Option<char> {
    (0xd800..0xe000).contains(&code).then(|| char::from_u32(HALVES + code - FIRST_HALF)).flatten()
}

/// The half that is kept as this character.
pub(crate) fn half_of(c: char) -> Option<u32> {
    (c as u32).checked_sub(HALVES).map(|offset| FIRST_HALF + offset)
}

/// What Python raises for values that hold halves, since protobuf and Arrow want UTF-8.
pub fn encodable_values(values: &[Value]) -> Result<(), Raised> {
    values.iter().try_for_each(encodable_value)
}

fn encodable_value(value: &Value) -> Result<(), Raised> {
    let map =
        |map: &Map| map.val.iter().try_for_each(|(key, value)| encodable(key).and_then(|()| encodable_value(value)));
    match &value.val {
        Some(Val::StringVal(text) | Val::JsonVal(text) | Val::UuidVal(text) | Val::DecimalVal(text)) => encodable(text),
        Some(Val::StringListVal(list)) => list.val.iter().try_for_each(|text| encodable(text)),
        Some(Val::MapVal(one)) => map(one),
        Some(Val::MapListVal(list)) => list.val.iter().try_for_each(map),
        _ => Ok(()),
    }
}

/// The same for the columns of a frame.
pub(crate) fn encodable_json(value: &JsonValue<'_>) -> Result<(), Raised> {
    match value {
        JsonValue::Str(text) => encodable(text),
        JsonValue::Array(items) => items.iter().try_for_each(encodable_json),
        JsonValue::Object(fields) => {
            fields.iter().try_for_each(|(name, value)| encodable(name).and_then(|()| encodable_json(value)))
        }
        _ => Ok(()),
    }
}

pub(crate) fn encodable(text: &str) -> Result<(), Raised> {
    let Some(start) = text.chars().position(|c| half_of(c).is_some()) else { return Ok(()) };
    let halves: Vec<u32> = text.chars().skip(start).map_while(half_of).collect();
    let at = match *halves {
        [half] => format!("character '\\u{half:04x}' in position {start}"),
        _ => format!("characters in position {start}-{}", start + halves.len() - 1),
    };
    Err(Raised::python("UnicodeEncodeError", format!("'utf-8' codec can't encode {at}: surrogates not allowed")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(body: &[u8]) -> Option<(String, bool)> {
        decode(body).map(|decoded| (decoded.text, decoded.has_halves))
    }

    #[test]
    fn the_first_bytes_tell_the_encoding() {
        let plain = r#"{"é": "🦀"}"#;
        let utf16 = |read: fn(u16) -> [u8; 2]| plain.encode_utf16().flat_map(read).collect::<Vec<u8>>();
        let utf32 = |read: fn(u32) -> [u8; 4]| plain.chars().flat_map(|c| read(c as u32)).collect::<Vec<u8>>();
        let marked = |mark: &[u8], body: Vec<u8>| [mark, &body].concat();
        for body in [
            plain.as_bytes().to_vec(),
            marked(b"\xef\xbb\xbf", plain.as_bytes().to_vec()),
            utf16(u16::to_le_bytes),
            utf16(u16::to_be_bytes),
            marked(b"\xff\xfe", utf16(u16::to_le_bytes)),
            marked(b"\xfe\xff", utf16(u16::to_be_bytes)),
            utf32(u32::to_le_bytes),
            utf32(u32::to_be_bytes),
            marked(b"\xff\xfe\0\0", utf32(u32::to_le_bytes)),
            marked(b"\0\0\xfe\xff", utf32(u32::to_be_bytes)),
        ] {
            assert_eq!(text(&body), Some((plain.to_owned(), false)));
        }
        assert_eq!(text(b"\xff\xfe"), Some((String::new(), false)));
        for broken in
            [&b"{\"a\": \"\xe9\"}"[..], b"\xff\xfe{", b"{\0\0\0\"", b"\xff\xff\xff\xff", b"\xff\xfe\0\0\0\0\x11\0"]
        {
            assert_eq!(text(broken), None);
        }
    }

    #[test]
    fn halves_are_kept_wherever_they_come_from() {
        let kept = |half: u32| char::from_u32(HALVES + half - FIRST_HALF).unwrap();
        assert_eq!(text(b"\"\xed\xa0\x80\""), Some((format!("\"{}\"", kept(0xd800)), true)));
        assert_eq!(text(br#""\uD83Ex""#), Some((format!("\"{}x\"", kept(0xd83e)), true)));
        assert_eq!(
            text(br#""\udfff\ud800\ud83e\udd80""#),
            Some((format!("\"{}{}\\ud83e\\udd80\"", kept(0xdfff), kept(0xd800)), true))
        );
        assert_eq!(text(b"\"\0\0\xd8\"\0"), Some((format!("\"{}\"", kept(0xd800)), true)));
        for none in [r#""\\ud800""#, r#""\ud83e\udd80""#, r#""\ud8""#, r#""\u""#, "\\", "\\é", r#""\ud+00""#] {
            assert_eq!(text(none.as_bytes()), Some((none.to_owned(), false)));
        }
    }

    #[test]
    fn what_holds_halves_cannot_be_encoded() {
        let complaint = |body: &str| {
            let text = decode(body.as_bytes()).unwrap().text;
            encodable_json(&JsonValue::parse(text.as_bytes(), true).unwrap()).unwrap_err().message
        };
        let said = |at: &str| format!("'utf-8' codec can't encode {at}: surrogates not allowed");
        assert_eq!(complaint(r#"["a\ud800"]"#), said(r"character '\ud800' in position 1"));
        assert_eq!(complaint(r#"{"a\ud800\udfff\ud801\ud802 ": 1}"#), said("characters in position 2-3"));
    }
}
