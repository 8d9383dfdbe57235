//! JSON over HTTP: the same request and the same answer as `weir.v1`, for people and for clients without gRPC.

mod encode;

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::ser::{Serialize, SerializeMap, SerializeStruct, Serializer};
use serde_json::{Map, Value as Json};
use weir_domain::experiment::{Assigned, Assignment, Attributes};
use weir_domain::{Column, FeatureType, Kind, Lists, Named, Refusal, Request, Value, Violation};

pub(crate) use encode::encode;

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    service: String,
    #[serde(default)]
    context: Map<String, Json>,
    #[serde(default)]
    items: Map<String, Json>,
    #[serde(default)]
    features: Map<String, Json>,
    max_staleness_ms: Option<u64>,
    unit: Option<String>,
    #[serde(default)]
    attributes: Map<String, Json>,
}

fn invalid(field: impl Into<String>, description: impl Into<String>) -> Refusal {
    Refusal::Invalid(vec![Violation::new(field, description)])
}

/// Reads a body of named fields. serde would also take them in the order of their declaration, as an array.
pub(crate) fn fields<'b, T: serde::Deserialize<'b>>(body: &'b [u8]) -> Result<T, Refusal> {
    if body.trim_ascii_start().starts_with(b"[") {
        return Err(invalid("body", "is an array: an object is expected"));
    }
    serde_json::from_slice(body).map_err(|error| invalid("body", error.to_string()))
}

/// Reads a request body.
pub(crate) fn decode(body: &[u8]) -> Result<Request, Refusal> {
    let body: Body = fields(body)?;
    Ok(Request {
        service: body.service,
        context: columns("context", body.context)?,
        items: columns("items", body.items)?,
        features: columns("features", body.features)?,
        max_stale: body.max_staleness_ms.map(Duration::from_millis),
        unit: body.unit.filter(|u| !u.is_empty()),
        attributes: attributes(body.attributes)?,
    })
}

/// Reads the attributes of a unit: scalars by name.
pub(crate) fn attributes(map: Map<String, Json>) -> Result<Attributes, Refusal> {
    let mut attributes = Vec::with_capacity(map.len());
    for (name, value) in map {
        match scalar(&value) {
            Some(value) => attributes.push((name, value)),
            None => return Err(invalid(format!("attributes.{name}"), "a boolean, a number or a text is expected")),
        }
    }
    Ok(Attributes(attributes))
}

/// A scalar is a column of one value.
fn columns(group: &str, map: Map<String, Json>) -> Result<Vec<Named>, Refusal> {
    map.into_iter()
        .map(|(name, value)| {
            let values = match value {
                Json::Array(values) => values,
                other => vec![other],
            };
            let column = column(&values).map_err(|(i, what)| invalid(format!("{group}.{name}[{i}]"), what))?;
            Ok(Named { name, column })
        })
        .collect()
}

/// JSON does not say which number it means: whole numbers are integers unless a fraction stands among them.
fn column(values: &[Json]) -> Result<Column, (usize, String)> {
    let of = match values.first() {
        Some(Json::String(_)) | None => FeatureType::One(Kind::String),
        Some(Json::Bool(_)) => FeatureType::One(Kind::Bool),
        Some(Json::Number(_)) if values.iter().all(Json::is_i64) => FeatureType::One(Kind::I64),
        Some(Json::Number(_)) => FeatureType::One(Kind::F64),
        Some(Json::Array(_)) => return lists(values),
        Some(Json::Null) => return Err((0, "null is no value: leave the feature out to get its default".to_owned())),
        Some(Json::Object(_)) => return Err((0, "an object is no value".to_owned())),
    };
    let mut column = Column::with_capacity(of, values.len());
    for (i, json) in values.iter().enumerate() {
        let is_pushed = match (&mut column, json) {
            // What most ids are: nobody needs them twice.
            (Column::String(texts), Json::String(text)) => {
                texts.push(text.as_bytes());
                true
            }
            (column, json) => scalar(json).and_then(|v| v.cast(of)).is_some_and(|v| column.push(&v).is_ok()),
        };
        if !is_pushed {
            return Err((i, format!("{} among values of type {of}", shown(json))));
        }
    }
    Ok(column)
}

fn lists(values: &[Json]) -> Result<Column, (usize, String)> {
    let mut flat = Vec::new();
    let mut ends = Vec::with_capacity(values.len());
    for (i, json) in values.iter().enumerate() {
        let Json::Array(items) = json else {
            return Err((i, format!("{} among lists", shown(json))));
        };
        if items.iter().any(Json::is_array) {
            return Err((i, "lists of lists are not a feature type".to_owned()));
        }
        flat.extend(items.iter().cloned());
        ends.push(flat.len() as u32);
    }
    let items = column(&flat).map_err(|(_, what)| (0, what))?;
    Ok(Column::List(Box::new(Lists { ends, items })))
}

fn scalar(json: &Json) -> Option<Value> {
    Some(match json {
        Json::Bool(b) => Value::Bool(*b),
        Json::String(s) => Value::String(s.clone()),
        Json::Number(n) => match n.as_i64() {
            Some(i) => Value::I64(i),
            None => Value::F64(n.as_f64()?),
        },
        Json::Null | Json::Array(_) | Json::Object(_) => return None,
    })
}

fn shown(json: &Json) -> &'static str {
    match json {
        Json::Null => "null",
        Json::Bool(_) => "a boolean",
        Json::Number(_) => "a number",
        Json::String(_) => "a text",
        Json::Array(_) => "a list",
        Json::Object(_) => "an object",
    }
}

/// One value of a column. Floats that JSON has no number for are the texts NaN, Infinity and -Infinity; bytes
/// are base64; timestamps are microseconds since the Unix epoch.
struct At<'a>(&'a Column, usize);

impl Serialize for At<'_> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let i = self.1;
        match self.0 {
            Column::Bool(v) => s.serialize_bool(v[i]),
            Column::I64(v) | Column::Timestamp(v) => s.serialize_i64(v[i]),
            Column::F64(v) if v[i].is_finite() => s.serialize_f64(v[i]),
            Column::F32(v) if v[i].is_finite() => s.serialize_f32(v[i]),
            Column::F64(v) => s.serialize_str(not_finite(v[i])),
            Column::F32(v) => s.serialize_str(not_finite(f64::from(v[i]))),
            Column::String(b) => s.serialize_str(&String::from_utf8_lossy(b.get(i))),
            Column::Bytes(b) => s.serialize_str(&BASE64.encode(b.get(i))),
            Column::List(lists) => {
                let start = if i == 0 { 0 } else { lists.ends[i - 1] };
                s.collect_seq((start..lists.ends[i]).map(|j| At(&lists.items, j as usize)))
            }
        }
    }
}

fn not_finite(value: f64) -> &'static str {
    if value.is_nan() {
        "NaN"
    } else if value > 0.0 {
        "Infinity"
    } else {
        "-Infinity"
    }
}

/// The arms of a unit, as replies and `weir assign` show them.
pub(crate) struct Assignments<'a>(pub(crate) &'a Assignment);

impl Serialize for Assignments<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.arms.iter().map(Arm))
    }
}

struct Arm<'a>(&'a Assigned);

impl Serialize for Arm<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let assigned = self.0;
        let mut s = serializer.serialize_struct("Assignment", 6)?;
        s.serialize_field("experiment", &*assigned.experiment.doc.name)?;
        s.serialize_field("arm", &*assigned.arm().name)?;
        s.serialize_field("bucket", &assigned.bucket)?;
        s.serialize_field("layer", &*assigned.experiment.layer)?;
        s.serialize_field("reason", assigned.reason.name())?;
        s.serialize_field("params", &Params(assigned))?;
        s.end()
    }
}

struct Params<'a>(&'a Assigned);

impl Serialize for Params<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let params = &self.0.arm().params;
        let mut map = serializer.serialize_map(Some(params.len()))?;
        for (name, value) in params {
            map.serialize_entry(&**name, &value_to_json(value))?;
        }
        map.end()
    }
}

/// A single value as JSON, as [`At`] writes it.
pub(crate) fn value_to_json(value: &Value) -> Json {
    let mut column = Column::with_capacity(value.feature_type(), 1);
    match column.push(value) {
        Ok(()) => serde_json::to_value(At(&column, 0)).unwrap_or(Json::Null),
        Err(_) => Json::Null,
    }
}
