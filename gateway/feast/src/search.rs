//! Vector search, as far as Feast goes with it over Redis: it looks at what is asked and then says that this store keeps
//! no vectors to search among.

use std::collections::BTreeSet;

use jiter::JsonValue;

use crate::lookup::{Lookup, Options, Wanted};
use crate::raised::Raised;
use crate::registry::Registry;
use crate::request::{field, object, text, unprocessable};

/// What Feast raises for this body of `/search`.
pub fn search(registry: &Registry, body: &JsonValue<'_>, options: &Options) -> Raised {
    complaint(registry, body, options).err().unwrap_or_else(|| Raised::python("NotImplementedError", NO_SEARCH))
}

const NO_SEARCH: &str = "Online store RedisOnlineStore does not support online retrieval";

fn complaint(registry: &Registry, body: &JsonValue<'_>, options: &Options) -> Result<(), Raised> {
    let fields = object(body)?;
    let integer = |name: &str| match field(&fields, name) {
        None | Some(JsonValue::Null) => Ok(None),
        Some(JsonValue::Int(value)) => Ok(Some(*value)),
        Some(JsonValue::Str(digits)) => {
            digits.parse().map(Some).map_err(|_| unprocessable(format!("{name}: Input should be a valid integer")))
        }
        Some(_) => Err(unprocessable(format!("{name}: Input should be a valid integer"))),
    };
    integer("top_k")?;
    let api_version = integer("api_version")?.unwrap_or(1);
    let is_there = |name: &str| !matches!(field(&fields, name), None | Some(JsonValue::Null));
    if is_there("query") && !matches!(field(&fields, "query"), Some(JsonValue::Array(_))) {
        return Err(unprocessable("query: Input should be a valid list"));
    }
    if is_there("query_string") {
        text(field(&fields, "query_string").unwrap_or(&JsonValue::Null), "query_string")?;
    }
    if is_there("filters") && !matches!(field(&fields, "filters"), Some(JsonValue::Object(_))) {
        return Err(unprocessable("filters: Input should be a valid dictionary"));
    }
    let service = match field(&fields, "feature_service") {
        None | Some(JsonValue::Null) => None,
        Some(value) => Some(text(value, "feature_service")?).filter(|name| !name.is_empty()),
    };
    let refs: Vec<String> = match field(&fields, "features") {
        None => Vec::new(),
        Some(JsonValue::Array(refs)) => {
            refs.iter().map(|value| text(value, "features").map(str::to_owned)).collect::<Result<_, _>>()?
        }
        Some(_) => return Err(unprocessable("features: Input should be a valid list")),
    };
    if let Some(name) = service {
        if !registry.services.contains_key(name) {
            let message = format!("Feature service {name} does not exist in project {}", registry.project);
            return Err(Raised::not_found("FeatureServiceNotFoundException", message));
        }
        return Err(Raised::python("TypeError", "'FeatureService' object is not iterable"));
    }
    if api_version == 2 && !is_there("query") && !is_there("query_string") {
        let message = "Must provide either query (text embedding), query_image_bytes, or query_string";
        return Err(Raised::value(message));
    }
    if refs.is_empty() {
        return Err(Raised::python("IndexError", "list index out of range"));
    }
    // A feature that its view does not have is not noticed before the store says no; nor are features of one name.
    let resolved = Lookup::compile(registry, Wanted::Features(&refs), true, options);
    match resolved {
        Err(raised) if raised.status() == 404 || !raised.message.starts_with(['\'', '"', 'D']) => return Err(raised),
        _ => {}
    }
    let views: BTreeSet<&str> = refs.iter().filter_map(|r| r.split_once(':')).map(|(view, _)| view).collect();
    if views.len() > 1 {
        return Err(Raised::value("Document retrieval only supports a single feature view."));
    }
    Ok(())
}
