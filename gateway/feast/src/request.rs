//! The body of `/get-online-features`, as pydantic would take it: what has another shape is status 422.

use jiter::{JsonErrorType, JsonValue};

use crate::raised::{Class, Raised};

/// A request for features. Its columns borrow from the body.
#[derive(Debug)]
pub struct OnlineRequest<'b> {
    /// `view:feature` each.
    pub features: Vec<String>,
    /// Counts when it is not empty.
    pub service: Option<String>,
    /// Column names carry the view's.
    pub full_names: bool,
    /// The answer's metadata list the views and their versions.
    pub with_versions: bool,
    /// By column, in the order of the request.
    pub entities: Vec<(&'b str, &'b [JsonValue<'b>])>,
}

/// Parses a body the way Python's `json` does: NaN and integers without end are values.
pub fn parse(body: &[u8]) -> Result<JsonValue<'_>, Raised> {
    if std::str::from_utf8(body).is_err() {
        return Err(Raised { class: Class::Malformed, message: "the body is not UTF-8".to_owned() });
    }
    JsonValue::parse(body, true).map_err(|error| {
        let message = format!("JSON decode error: {error}");
        match error.error_type {
            JsonErrorType::RecursionLimitExceeded => Raised { class: Class::Malformed, message },
            _ => unprocessable(message),
        }
    })
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
    for (name, value) in fields.iter() {
        match unique.iter_mut().find(|(known, _)| known == name) {
            Some(known) => known.1 = value,
            None => unique.push((name, value)),
        }
    }
    Ok(unique)
}

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
                let each = |value| text(value, "features").map(str::to_owned);
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
