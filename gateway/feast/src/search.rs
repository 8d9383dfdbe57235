//! Vector search, as far as Feast goes with it over Redis: it looks at what is asked and then says that this store keeps
//! no vectors to search among.

use std::collections::BTreeSet;

use jiter::JsonValue;

use crate::lookup::{Options, Wanted, check_views, find_any};
use crate::raised::Raised;
use crate::reference::Reference;
use crate::registry::{Registry, ViewKind};
use crate::request::{field, flag, object, text, unprocessable};

/// What Feast raises for this body of `/search`.
pub fn search(registry: &Registry, body: &JsonValue<'_>, options: &Options) -> Raised {
    complaint(registry, body, options).err().unwrap_or_else(|| Raised::python("NotImplementedError", NO_SEARCH))
}

const NO_SEARCH: &str = "Online store RedisOnlineStore does not support online retrieval";

/// The newer way to search, which is asked for by its number.
const SECOND_WAY: i64 = 2;

/// What matters of a body.
struct Asked<'b> {
    service: Option<&'b str>,
    refs: Vec<String>,
    is_second_way: bool,
    has_query: bool,
}

impl<'b> Asked<'b> {
    /// Reads a body as pydantic would: also what does not matter must be what it should be.
    fn read(body: &'b JsonValue<'b>) -> Result<Self, Raised> {
        let fields = object(body)?;
        let given = |name: &str| field(&fields, name).filter(|value| **value != JsonValue::Null);
        let optional_text = |name: &str| given(name).map(|value| text(value, name)).transpose();
        let integer = |name: &str| {
            let read = given(name).map(|value| integer(value).ok_or_else(|| not(name, "integer")));
            read.transpose()
        };
        let list = |name: &str| match field(&fields, name) {
            None => Ok(&[][..]),
            Some(JsonValue::Array(items)) => Ok(&items[..]),
            Some(_) => Err(not(name, "list")),
        };
        let service = optional_text("feature_service")?.filter(|name| !name.is_empty());
        let refs = list("features")?.iter().map(|value| text(value, "features").map(str::to_owned));
        let refs = refs.collect::<Result<_, _>>()?;
        for name in ["full_feature_names", "include_feature_view_version_metadata"] {
            flag(field(&fields, name), name, false)?;
        }
        integer("top_k")?;
        let has_vector = given("query").is_some();
        if has_vector && !list("query")?.iter().all(is_number) {
            return Err(not("query", "number"));
        }
        let words = optional_text("query_string")?;
        optional_text("distance_metric")?;
        let api_version = integer("api_version")?;
        if !given("filters").is_none_or(is_filter) {
            return Err(not("filters", "filter"));
        }
        let has_query = has_vector || words.is_some_and(|words| !words.is_empty());
        Ok(Self { service, refs, is_second_way: api_version == Some(Integer::Small(SECOND_WAY)), has_query })
    }
}

fn complaint(registry: &Registry, body: &JsonValue<'_>, options: &Options) -> Result<(), Raised> {
    let asked = Asked::read(body)?;
    if let Some(name) = asked.service.filter(|name| !registry.services.contains_key(*name)) {
        return check_views(registry, Wanted::Service(name), options);
    }
    if asked.is_second_way && !asked.has_query {
        return Err(Raised::value("Must provide either query (text embedding), query_image_bytes, or query_string"));
    }
    if let Some(name) = asked.service {
        check_views(registry, Wanted::Service(name), options)?;
        return Err(Raised::python("TypeError", "'FeatureService' object is not iterable"));
    }
    check_views(registry, Wanted::Features(&asked.refs), options)?;
    let mut names = BTreeSet::new();
    for reference in &asked.refs {
        let Reference { view: name, .. } = Reference::parse(reference)?;
        let is_searchable = match find_any(registry, &name)?.kind {
            ViewKind::Stored => true,
            ViewKind::OnDemand(_) => asked.is_second_way,
            ViewKind::Stream | ViewKind::Label => false,
        };
        if !is_searchable {
            let message = format!("Feature view {name} does not exist in project {}", registry.project);
            return Err(Raised::not_found("FeatureViewNotFoundException", message));
        }
        names.insert(name);
    }
    match names.len() {
        0 => Err(Raised::python("IndexError", "list index out of range")),
        1 => Ok(()),
        _ => Err(Raised::value("Document retrieval only supports a single feature view.")),
    }
}

fn not(name: &str, what: &str) -> Raised {
    unprocessable(format!("{name}: Input should be a valid {what}"))
}

/// What pydantic takes for an integer.
#[derive(Debug, PartialEq)]
enum Integer {
    Small(i64),
    /// One that matters to nobody.
    Large,
}

fn integer(value: &JsonValue<'_>) -> Option<Integer> {
    match value {
        JsonValue::Int(value) => Some(Integer::Small(*value)),
        JsonValue::BigInt(_) => Some(Integer::Large),
        JsonValue::Bool(value) => Some(Integer::Small(i64::from(*value))),
        // The whole floats that an i64 holds; 2^63 is the first that it does not.
        JsonValue::Float(value) => {
            let fits = value.fract() == 0.0 && value.abs() < 9_223_372_036_854_775_808.0;
            fits.then_some(Integer::Small(*value as i64))
        }
        JsonValue::Str(text) => {
            let text = text.trim();
            let (whole, zeros) = text.split_once('.').unwrap_or((text, "0"));
            let digits = whole.strip_prefix(['+', '-']).unwrap_or(whole);
            let is_integer = are_digits(digits) && !zeros.is_empty() && zeros.bytes().all(|zero| zero == b'0');
            let number = || whole.replace('_', "").parse().map_or(Integer::Large, Integer::Small);
            (is_integer && digits.len() <= DIGITS_MAX).then(number)
        }
        _ => None,
    }
}

/// Python refuses to read longer numbers, since that takes time squared.
const DIGITS_MAX: usize = 4300;

/// ASCII digits with single underscores between them.
fn are_digits(text: &str) -> bool {
    text.split('_').all(|part| !part.is_empty() && part.bytes().all(|digit| digit.is_ascii_digit()))
}

/// What pydantic takes for a float.
fn is_number(value: &JsonValue<'_>) -> bool {
    match value {
        JsonValue::Int(_) | JsonValue::Float(_) | JsonValue::Bool(_) => true,
        JsonValue::BigInt(digits) => crate::coerce::float_of_big(&digits.to_string()).is_ok(),
        JsonValue::Str(text) => {
            let text = text.trim();
            let has_lone_underscore = text.starts_with('_') || text.ends_with('_') || text.contains("__");
            !has_lone_underscore && text.replace('_', "").parse::<f64>().is_ok()
        }
        _ => false,
    }
}

/// A comparison, or several that are joined.
fn is_filter(value: &JsonValue<'_>) -> bool {
    let Ok(fields) = object(value) else { return false };
    let is_text = |name| matches!(field(&fields, name), Some(JsonValue::Str(_)));
    match (field(&fields, "type"), field(&fields, "filters")) {
        (Some(JsonValue::Str(of)), Some(JsonValue::Array(filters))) if matches!(&**of, "and" | "or") => {
            filters.iter().all(is_filter)
        }
        (Some(JsonValue::Str(of)), _) if COMPARISONS.contains(&&**of) => {
            is_text("key") && field(&fields, "value").is_some()
        }
        _ => false,
    }
}

const COMPARISONS: [&str; 8] = ["eq", "ne", "gt", "gte", "lt", "lte", "in", "nin"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_may_be_written_in_other_ways() {
        let text = |text: &'static str| JsonValue::Str(text.into());
        for (written, value) in
            [(text(" 4 "), 4), (text("-0004.0"), -4), (text("1_000"), 1000), (JsonValue::Float(1e17), 10_i64.pow(17))]
        {
            assert_eq!(integer(&written), Some(Integer::Small(value)));
        }
        for written in ["", "4.", "4.5", ".0", "1__0", "_1", "1_", "+-3", "+ 3", "1e3", "0x1", "٣", "4.00_0"] {
            assert_eq!(integer(&text(written)), None, "{written}");
        }
        assert_eq!(integer(&JsonValue::Float(1.5)), None);
        assert_eq!(integer(&text("99999999999999999999")), Some(Integer::Large));
    }

    #[test]
    fn numbers_may_be_written_in_other_ways() {
        for written in ["1.", ".5", "+1", " 1 ", "1e5", "nan", "-Infinity", "1_0.0_1", "1e999"] {
            assert!(is_number(&JsonValue::Str(written.into())), "{written}");
        }
        for written in ["", " ", "1__0", "_1", "0x1", "infi", "1e", "٣", "1 0"] {
            assert!(!is_number(&JsonValue::Str(written.into())), "{written}");
        }
    }
}
