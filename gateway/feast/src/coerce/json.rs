//! Python's `json.loads` and `json.dumps`, for values that hold JSON text: the same objects and text, and the same
//! complaints with their positions.

use std::borrow::Cow;

use super::py::{Py, dict};
use super::{number, type_error};
use crate::Raised;

/// Nesting beyond this is refused, as it is in a body. Python's own limit is some 900, and depends on how deep its stack
/// is already; a thread's stack here must hold whatever is done with what is read.
const DEPTH_MAX: usize = 200;

/// `json.loads(text)`
pub(super) fn loads(text: &str) -> Result<Py<'static>, Raised> {
    let mut parser = Parser { text, at: 0 };
    if text.starts_with('\u{feff}') {
        return Err(parser.wrong("Unexpected UTF-8 BOM (decode using utf-8-sig)", 0));
    }
    parser.space();
    let value = parser.value(0)?;
    parser.space();
    if parser.at < text.len() { Err(parser.wrong("Extra data", parser.at)) } else { Ok(value) }
}

/// `json.dumps(value)`
pub(super) fn dumps(value: &Py<'_>) -> Result<String, Raised> {
    let mut out = String::new();
    dump(value, &mut out)?;
    Ok(out)
}

fn dump(value: &Py<'_>, out: &mut String) -> Result<(), Raised> {
    match value {
        Py::None => out.push_str("null"),
        Py::Bool(true) => out.push_str("true"),
        Py::Bool(false) => out.push_str("false"),
        Py::Int(i) => out.push_str(&i.to_string()),
        Py::Big(digits) => out.push_str(digits),
        Py::Float(f) | Py::NpFloat(f) if f.is_nan() => out.push_str("NaN"),
        Py::Float(f) | Py::NpFloat(f) if f.is_infinite() => {
            out.push_str(if *f > 0.0 { "Infinity" } else { "-Infinity" });
        }
        Py::Float(f) | Py::NpFloat(f) => out.push_str(&number::float_repr(*f)),
        Py::Str(s) => dump_text(s, out),
        Py::List(items) => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                out.push_str(if i > 0 { ", " } else { "" });
                dump(item, out)?;
            }
            out.push(']');
        }
        Py::Dict(entries) => {
            out.push('{');
            for (i, (key, item)) in entries.iter().enumerate() {
                out.push_str(if i > 0 { ", " } else { "" });
                dump_text(key, out);
                out.push_str(": ");
                dump(item, out)?;
            }
            out.push('}');
        }
        Py::Bytes(_) | Py::NpBool(_) | Py::NpInt(_) | Py::NpUint(_) | Py::Array(..) | Py::Other(_) => {
            return Err(type_error(format!("Object of type {} is not JSON serializable", value.name())));
        }
    }
    Ok(())
}

fn dump_text(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            ' '..='~' => out.push(c),
            c => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    out.push_str(&format!("\\u{unit:04x}"));
                }
            }
        }
    }
    out.push('"');
}

/// A reader over text; `at` is a byte offset on a character's boundary.
struct Parser<'t> {
    text: &'t str,
    at: usize,
}

impl<'t> Parser<'t> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn rest(&self) -> &'t str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    /// The complaint about what stands at a byte offset, which Python counts in characters.
    fn wrong(&self, what: &str, at: usize) -> Raised {
        let before = self.text.get(..at).unwrap_or(self.text);
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        let position = before.chars().count();
        Raised::python("JSONDecodeError", format!("{what}: line {line} column {column} (char {position})"))
    }

    fn value(&mut self, depth: usize) -> Result<Py<'static>, Raised> {
        const WORDS: [(&str, Py<'static>); 6] = [
            ("null", Py::None),
            ("true", Py::Bool(true)),
            ("false", Py::Bool(false)),
            ("NaN", Py::Float(f64::NAN)),
            ("Infinity", Py::Float(f64::INFINITY)),
            ("-Infinity", Py::Float(f64::NEG_INFINITY)),
        ];
        let nested = |what: &str| {
            Raised::python(
                "RecursionError",
                format!("maximum recursion depth exceeded while decoding a JSON {what} from a unicode string"),
            )
        };
        match self.peek() {
            Some(b'"') => {
                self.at += 1;
                Ok(Py::Str(Cow::Owned(self.string()?)))
            }
            Some(b'{') if depth >= DEPTH_MAX => Err(nested("object")),
            Some(b'[') if depth >= DEPTH_MAX => Err(nested("array")),
            Some(b'{') => self.object(depth + 1),
            Some(b'[') => self.array(depth + 1),
            _ => {
                if let Some((word, value)) = WORDS.into_iter().find(|(word, _)| self.rest().starts_with(word)) {
                    self.at += word.len();
                    return Ok(value);
                }
                self.number()
            }
        }
    }

    fn array(&mut self, depth: usize) -> Result<Py<'static>, Raised> {
        let mut items = Vec::new();
        self.at += 1;
        self.space();
        if self.peek() == Some(b']') {
            self.at += 1;
            return Ok(Py::List(items));
        }
        loop {
            items.push(self.value(depth)?);
            self.space();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b']') => {
                    self.at += 1;
                    return Ok(Py::List(items));
                }
                _ => return Err(self.wrong("Expecting ',' delimiter", self.at)),
            }
            self.space();
        }
    }

    fn object(&mut self, depth: usize) -> Result<Py<'static>, Raised> {
        let mut entries = Vec::new();
        self.at += 1;
        self.space();
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(Py::Dict(Vec::new()));
        }
        loop {
            if self.peek() != Some(b'"') {
                return Err(self.wrong("Expecting property name enclosed in double quotes", self.at));
            }
            self.at += 1;
            let key = self.string()?;
            self.space();
            if self.peek() != Some(b':') {
                return Err(self.wrong("Expecting ':' delimiter", self.at));
            }
            self.at += 1;
            self.space();
            entries.push((Cow::Owned(key), self.value(depth)?));
            self.space();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b'}') => {
                    self.at += 1;
                    return Ok(dict(entries.into_iter()));
                }
                _ => return Err(self.wrong("Expecting ',' delimiter", self.at)),
            }
            self.space();
        }
    }

    fn number(&mut self) -> Result<Py<'static>, Raised> {
        let bytes = self.rest().as_bytes();
        let digits = |from: usize| bytes[from..].iter().take_while(|b| b.is_ascii_digit()).count();
        let sign = usize::from(bytes.first() == Some(&b'-'));
        let mut end = match bytes.get(sign) {
            Some(b'0') => sign + 1,
            Some(b'1'..=b'9') => sign + digits(sign),
            _ => return Err(self.wrong("Expecting value", self.at)),
        };
        let whole = end;
        if bytes.get(end) == Some(&b'.') && digits(end + 1) > 0 {
            end += 1 + digits(end + 1);
        }
        if matches!(bytes.get(end), Some(b'e' | b'E')) {
            let from = end + 1 + usize::from(matches!(bytes.get(end + 1), Some(b'+' | b'-')));
            if from <= bytes.len() && digits(from) > 0 {
                end = from + digits(from);
            }
        }
        let text = self.rest().get(..end).unwrap_or_default();
        self.at += end;
        if end > whole {
            return Ok(Py::Float(text.parse().unwrap_or(f64::NAN)));
        }
        if number::digits_are_too_many(whole - sign) {
            return Err(number::too_many_digits(whole - sign));
        }
        Ok(text.parse().map_or_else(|_| Py::Big(Cow::Owned(text.to_owned())), Py::Int))
    }

    /// The string whose opening quote has just been read.
    fn string(&mut self) -> Result<String, Raised> {
        let begin = self.at - 1;
        let mut out = String::new();
        loop {
            let run = self.rest().find(|c: char| c == '"' || c == '\\' || c < ' ');
            let Some(run) = run else { return Err(self.wrong("Unterminated string starting at", begin)) };
            out.push_str(self.rest().get(..run).unwrap_or_default());
            self.at += run;
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(out);
                }
                Some(b'\\') => self.escape(begin, &mut out)?,
                _ => return Err(self.wrong("Invalid control character at", self.at)),
            }
        }
    }

    fn escape(&mut self, begin: usize, out: &mut String) -> Result<(), Raised> {
        let backslash = self.at;
        self.at += 2;
        let plain = match self.text.as_bytes().get(backslash + 1) {
            None => return Err(self.wrong("Unterminated string starting at", begin)),
            Some(b'u') => return self.unicode(backslash, out),
            Some(c @ (b'"' | b'\\' | b'/')) => char::from(*c),
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(_) => return Err(self.wrong("Invalid \\escape", backslash)),
        };
        out.push(plain);
        Ok(())
    }

    /// `\uXXXX`, and the second half of a pair where one follows.
    fn unicode(&mut self, backslash: usize, out: &mut String) -> Result<(), Raised> {
        let unit = |at: usize| {
            let digits = self.text.get(at..at + 4)?;
            let hex = digits.bytes().all(|b| b.is_ascii_hexdigit());
            // Python looks one character further before it calls an escape complete.
            if hex && at + 4 < self.text.len() { u16::from_str_radix(digits, 16).ok() } else { None }
        };
        let Some(first) = unit(self.at) else {
            return Err(self.wrong("Invalid \\uXXXX escape", backslash + 1));
        };
        let mut next = self.at + 4;
        let pair = self.text.get(next..next + 2) == Some("\\u");
        let both = [first, if pair { unit(next + 2).unwrap_or(0) } else { 0 }];
        match char::decode_utf16(both).next() {
            Some(Ok(c)) => {
                next += if c.len_utf16() == 2 { 6 } else { 0 };
                out.push(c);
            }
            // Half a pair is a character to Python, but to no protobuf string.
            _ => out.push(char::REPLACEMENT_CHARACTER),
        }
        self.at = next;
        Ok(())
    }
}
