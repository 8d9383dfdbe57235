//! What Feast's Python server would have raised. Its clients turn the text of an error back into an exception, so
//! class, message and status are part of the wire.

use serde_json::json;

use crate::unicode::half_of;

/// An exception of the Python server, as its callers see it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Raised {
    /// Which exception.
    pub class: Class,
    /// `str()` of it.
    pub message: String,
}

/// The classes of exceptions that callers can cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// A class of `feast.errors`, with the HTTP status it is answered with.
    Feast(&'static str, u16),
    /// An exception of Python itself, named here for gRPC and for logs; always status 500.
    Python(&'static str),
    /// The body is not what the endpoint takes: status 422.
    Unprocessable,
    /// The body is not JSON in a way that Python's parser does not expect: status 400.
    Malformed,
}

impl Raised {
    /// An exception of Python itself.
    pub fn python(class: &'static str, message: impl Into<String>) -> Self {
        Self { class: Class::Python(class), message: message.into() }
    }

    /// `ValueError`.
    pub fn value(message: impl Into<String>) -> Self {
        Self::python("ValueError", message)
    }

    /// `KeyError`, whose text is the `repr` of its message.
    pub fn key(message: &str) -> Self {
        Self::python("KeyError", repr(message))
    }

    /// A class of `feast.errors` that says something does not exist: status 404.
    pub fn not_found(class: &'static str, message: impl Into<String>) -> Self {
        Self { class: Class::Feast(class, 404), message: message.into() }
    }

    /// The HTTP status.
    pub fn status(&self) -> u16 {
        match self.class {
            Class::Feast(_, status) => status,
            Class::Python(_) => 500,
            Class::Unprocessable => 422,
            Class::Malformed => 400,
        }
    }

    /// Whether the server cannot even say what went wrong: the text has halves of UTF-16 pairs in it, and its answers
    /// are UTF-8.
    fn is_unsayable(&self) -> bool {
        matches!(self.class, Class::Python(_)) && self.message.chars().any(|c| half_of(c).is_some())
    }

    /// What the body is.
    pub fn content_type(&self) -> &'static str {
        if self.is_unsayable() { "text/plain; charset=utf-8" } else { "application/json" }
    }

    /// The body: a JSON string, which for Feast's own exceptions holds JSON again.
    pub fn body(&self) -> String {
        match self.class {
            Class::Feast(class, _) => {
                let (class, message) = (json!(class), ascii(&self.message));
                let detail = format!("{{\"module\": \"feast.errors\", \"class\": {class}, \"message\": {message}}}");
                json!(detail).to_string()
            }
            Class::Python(_) if self.is_unsayable() => "Internal Server Error".to_owned(),
            Class::Python(_) => json!(self.message).to_string(),
            Class::Malformed => json!({ "detail": "There was an error parsing the body" }).to_string(),
            Class::Unprocessable => {
                json!({ "detail": [{ "type": "value_error", "loc": ["body"], "msg": self.message }] }).to_string()
            }
        }
    }
}

/// A string as JSON of ASCII characters alone, as Python writes it.
fn ascii(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    for c in json!(text).to_string().chars() {
        match half_of(c) {
            Some(half) => out.push_str(&format!("\\u{half:04x}")),
            None if c.is_ascii() => out.push(c),
            None => c.encode_utf16(&mut [0; 2]).iter().for_each(|unit| out.push_str(&format!("\\u{unit:04x}"))),
        }
    }
    out
}

/// Python's `repr` of a string.
pub fn repr(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut out = String::with_capacity(text.len() + 2);
    out.push(quote);
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == quote => {
                out.push('\\');
                out.push(c);
            }
            c if is_printable(c) => out.push(c),
            c => out.push_str(&match half_of(c).unwrap_or(c as u32) {
                code @ ..0x100 => format!("\\x{code:02x}"),
                code @ ..0x10000 => format!("\\u{code:04x}"),
                code => format!("\\U{code:08x}"),
            }),
        }
    }
    out.push(quote);
    out
}

/// Python's `str.isprintable`. Rust's own escaping draws the same line, given that the character does not come first
/// (there it escapes combining marks too).
fn is_printable(c: char) -> bool {
    match c {
        ' '..='~' => true,
        c if c.is_ascii() => false,
        c => String::from_iter(['a', c]).escape_debug().nth(1) == Some(c),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_json_strings_and_feasts_own_hold_json_again() {
        let missing = Raised::not_found("FeatureViewNotFoundException", "Feature view x does not exist");
        let inner: String = serde_json::from_str(&missing.body()).unwrap();
        let inner: serde_json::Value = serde_json::from_str(&inner).unwrap();
        assert_eq!(inner["class"], "FeatureViewNotFoundException");
        assert_eq!(Raised::value("bad").body(), "\"bad\"");
        assert_eq!(Raised::key("a 'b'").body(), r#""\"a 'b'\"""#);
    }
}
