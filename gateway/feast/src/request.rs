//! The body of `/get-online-features`, as pydantic would take it: what has another shape is status 422.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use jiter::{JsonError, JsonErrorType, JsonValue};

use crate::raised::{Class, Raised};
use crate::unicode::{self, Decoded};

/// A request for features. Its columns borrow from the body.
#[derive(Debug)]
pub struct OnlineRequest<'b> {
    /// `view:feature` each.
    pub features: Vec<&'b str>,
    /// Counts when it is not empty.
    pub service: Option<String>,
    /// Column names carry the view's.
    pub full_names: bool,
    /// The answer's metadata list the views and their versions.
    pub with_versions: bool,
    /// By column, in the order of the request.
    pub entities: Vec<(&'b str, &'b [JsonValue<'b>])>,
}

/// A parsed body.
#[derive(Debug)]
pub struct Body<'b> {
    /// What it says.
    pub json: JsonValue<'b>,
    /// Its strings have halves of UTF-16 pairs in them, which must not get into values.
    pub has_halves: bool,
}

/// Parses a body the way Python's `json` does: NaN and integers without end are values, and it may come in any of the
/// UTF encodings.
pub fn parse(body: &[u8]) -> Result<Body<'_>, Raised> {
    match JsonValue::parse(body, true) {
        Ok(json) => Ok(Body { json, has_halves: false }),
        Err(error) if error.error_type == JsonErrorType::RecursionLimitExceeded => Err(malformed(&error)),
        Err(_) => {
            let unreadable = || Raised { class: Class::Malformed, message: "the body is not Unicode".to_owned() };
            let Decoded { text, has_halves } = unicode::decode(body).ok_or_else(unreadable)?;
            let json = JsonValue::parse(text.as_bytes(), true).map_err(|error| malformed(&error))?;
            Ok(Body { json: json.into_static(), has_halves })
        }
    }
}

fn malformed(error: &JsonError) -> Raised {
    let message = format!("JSON decode error: {error}");
    match error.error_type {
        // Python has no words of JSON's for these: too deep, and an integer of more digits than it reads.
        JsonErrorType::RecursionLimitExceeded | JsonErrorType::NumberOutOfRange => {
            Raised { class: Class::Malformed, message }
        }
        _ => unprocessable(message),
    }
}

/// The body is not what the endpoint takes.
pub fn unprocessable(message: impl Into<String>) -> Raised {
    Raised { class: Class::Unprocessable, message: message.into() }
}

/// The fields of a body that must be an object. Of a name that is there twice the last counts, at the place of the first.
pub fn object<'v, 'j>(body: &'v JsonValue<'j>) -> Result<Vec<(&'v str, &'v JsonValue<'j>)>, Raised> {
    let JsonValue::Object(fields) = body else {
        return Err(unprocessable("Input should be a valid dictionary"));
    };
    let mut unique: Vec<(&str, &JsonValue<'_>)> = Vec::with_capacity(fields.len());
    if fields.len() > FIELDS_COMPARED_MAX {
        let mut places: HashMap<&str, usize> = HashMap::with_capacity(fields.len());
        for (name, value) in fields.iter() {
            match places.entry(&**name) {
                Entry::Occupied(place) => unique[*place.get()].1 = value,
                Entry::Vacant(place) => {
                    place.insert(unique.len());
                    unique.push((name, value));
                }
            }
        }
        return Ok(unique);
    }
    for (name, value) in fields.iter() {
        match unique.iter_mut().find(|(known, _)| known == name) {
            Some(known) => known.1 = value,
            None => unique.push((name, value)),
        }
    }
    Ok(unique)
}

/// Comparing each name with all before it is the fastest way to a few, and a hostile body's way to hours with a hundred
/// thousand.
const FIELDS_COMPARED_MAX: usize = 32;

/// The field of this name.
pub fn field<'v, 'j>(fields: &[(&'v str, &'v JsonValue<'j>)], name: &str) -> Option<&'v JsonValue<'j>> {
    fields.iter().find(|(known, _)| *known == name).map(|(_, value)| *value)
}

/// A string.
pub fn text<'v>(value: &'v JsonValue<'_>, name: &str) -> Result<&'v str, Raised> {
    match value {
        JsonValue::Str(text) => Ok(text),
        _ => Err(unprocessable(format!("{name}: Input should be a valid string"))),
    }
}

/// A bool, or what pydantic takes for one.
pub fn flag(value: Option<&JsonValue<'_>>, name: &str, default: bool) -> Result<bool, Raised> {
    let word = |text: &str| match text.to_ascii_lowercase().as_str() {
        "true" | "t" | "yes" | "y" | "on" | "1" => Some(true),
        "false" | "f" | "no" | "n" | "off" | "0" => Some(false),
        _ => None,
    };
    let read = match value {
        None => Some(default),
        Some(JsonValue::Bool(value)) => Some(*value),
        Some(JsonValue::Int(value @ (0 | 1))) => Some(*value == 1),
        Some(JsonValue::Float(value)) if *value == 0.0 || *value == 1.0 => Some(*value == 1.0),
        Some(JsonValue::Str(text)) => word(text),
        Some(_) => None,
    };
    read.ok_or_else(|| unprocessable(format!("{name}: Input should be a valid boolean")))
}

impl<'b> OnlineRequest<'b> {
    /// Reads a parsed body.
    pub fn read(body: &'b JsonValue<'b>) -> Result<Self, Raised> {
        let fields = object(body)?;
        let missing = || unprocessable("entities: Field required");
        let columns = object(field(&fields, "entities").ok_or_else(missing)?)?;
        let column = |(name, values): (&'b str, &'b JsonValue<'b>)| match values {
            JsonValue::Array(values) => Ok((name, &values[..])),
            _ => Err(unprocessable(format!("entities.{name}: Input should be a valid list"))),
        };
        let entities = columns.into_iter().map(column).collect::<Result<_, _>>()?;
        let service = match field(&fields, "feature_service") {
            None | Some(JsonValue::Null) => None,
            Some(value) => Some(text(value, "feature_service")?.to_owned()).filter(|name| !name.is_empty()),
        };
        let features = match field(&fields, "features") {
            None => Vec::new(),
            Some(JsonValue::Array(refs)) => {
                let each = |value| text(value, "features");
                refs.iter().map(each).collect::<Result<_, _>>()?
            }
            Some(_) => return Err(unprocessable("features: Input should be a valid list")),
        };
        let with_versions = "include_feature_view_version_metadata";
        Ok(Self {
            features,
            service,
            full_names: flag(field(&fields, "full_feature_names"), "full_feature_names", false)?,
            with_versions: flag(field(&fields, with_versions), with_versions, false)?,
            entities,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn of_a_name_that_is_there_twice_the_last_value_counts_at_the_place_of_the_first() {
        for others in [0, 2 * FIELDS_COMPARED_MAX] {
            let others: String = (0..others).map(|i| format!("\"{i}\": null, ")).collect();
            let body =
                parse(format!("{{\"a\": 1, {others}\"b\": 2, \"a\": 3}}").as_bytes()).unwrap().json.into_static();
            let fields = object(&body).unwrap();
            assert_eq!(fields.first(), Some(&("a", &JsonValue::Int(3))));
            assert_eq!(fields.last(), Some(&("b", &JsonValue::Int(2))));
        }
    }

    #[test]
    fn a_body_may_come_in_any_utf_encoding() {
        let utf16: Vec<u8> = "{}".encode_utf16().flat_map(u16::to_le_bytes).collect();
        for body in [&utf16[..], b"\xef\xbb\xbf{}"] {
            assert!(matches!(parse(body).unwrap().json, JsonValue::Object(_)));
        }
        assert_eq!(parse(b"{\"a\": \"\xe9\"}").unwrap_err().status(), 400);
        assert_eq!(parse(b"").unwrap_err().status(), 422);
        assert_eq!(parse("[".repeat(100_000).as_bytes()).unwrap_err().status(), 400);
    }

    proptest! {
        #[test]
        fn what_is_taken_for_json_at_once_is_utf8(body: Vec<u8>, at: usize) {
            let mut json = br#"{"entities": {"a": ["e", 1.5, null]}, "features": []}"#.to_vec();
            let at = at % json.len();
            json.splice(at..at, body);
            let is_utf8 = std::str::from_utf8(&json).is_ok();
            if let Ok(Body { has_halves: false, .. }) = parse(&json) {
                prop_assert!(is_utf8 || JsonValue::parse(&json, true).is_err());
            }
        }
    }
}
