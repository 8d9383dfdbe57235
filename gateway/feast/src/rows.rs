//! A request's entities bound to what is looked up: the columns the answer gives back, and for each view the name of
//! the hash that each row is read from.

use weir_domain::feast::{DUMMY_KEY, KeyFormat, KeyPart};
use weir_proto::feast::types::{Value, value::Val, value_type::Enum as ValueType};

use crate::coerce;
use crate::lookup::{Lookup, ViewRead};
use crate::order;
use crate::raised::{Raised, repr};
use crate::size::ROWS_MAX;

/// How this repository names its hashes.
#[derive(Clone, Debug)]
pub struct Naming {
    /// `entity_key_serialization_version`.
    pub format: KeyFormat,
    /// The project, which ends every name.
    pub project: String,
}

/// Entities, bound.
#[derive(Debug)]
pub struct Rows {
    /// How many rows were asked for.
    pub count: usize,
    /// Join keys and request data, given back as the first columns of the answer.
    pub echoed: Vec<(String, Vec<Value>)>,
    /// By [`Lookup::reads`]: the name of each row's hash. Only those of the first where [`Lookup::vectors`] are read.
    pub hashes: Vec<HashNames>,
}

/// Names of hashes, one after another.
#[derive(Debug, Default)]
pub struct HashNames {
    /// The bytes of all names.
    pub bytes: Vec<u8>,
    /// Where each ends.
    pub ends: Vec<usize>,
}

/// Values by join key, in the order in which they were given.
type Columns<'c> = Vec<(&'c str, &'c [Value])>;

impl Lookup {
    /// The type that a column of the request must have; `Invalid` when it is to be inferred.
    pub fn type_of(&self, column: &str) -> ValueType {
        self.entity_types.get(column).copied().unwrap_or(ValueType::Invalid)
    }

    /// Whether on-demand views compute from this column of the request.
    pub fn is_request_data(&self, column: &str) -> bool {
        self.request_data.contains(column)
    }

    /// Binds the columns of a request, each already of its type.
    pub fn bind(&self, columns: Vec<(&str, Vec<Value>)>, naming: &Naming) -> Result<Rows, Raised> {
        let count = columns.first().map(|(_, values)| values.len());
        let count = count.ok_or_else(|| Raised::key("pop from an empty set"))?;
        if columns.iter().any(|(_, values)| values.len() != count) {
            return Err(Raised::value("All entity rows must have the same columns."));
        }
        let (mut keys, mut request_data) = (Vec::new(), Vec::new());
        for (name, values) in columns {
            if self.request_data.contains(name) {
                put(&mut request_data, name, values);
            } else if self.join_keys.contains(name) {
                put(&mut keys, name, values);
            } else if let Some(key) = self.join_key_of.get(name) {
                put(&mut keys, key, values);
            }
        }
        if request_data.len() != self.request_data.len() {
            let given = |name: &&String| request_data.iter().any(|(known, _): &(String, _)| known == *name);
            let missing: Vec<&str> = self.request_data.iter().filter(|name| !given(name)).map(String::as_str).collect();
            let message =
                format!("Required request data source features {} not found in the entity rows", missing.join(", "));
            return Err(Raised::not_found("RequestDataNotFoundInEntityRowsException", message));
        }
        // The dummy is no column of the answer: it is only read by.
        let dummy = vec![Value { val: Some(Val::StringVal(String::new())) }; if self.entityless { count } else { 0 }];
        let mut given: Columns<'_> = keys.iter().map(|(name, values)| (name.as_str(), &values[..])).collect();
        if self.entityless {
            match given.iter_mut().find(|(name, _)| *name == DUMMY_KEY) {
                Some(own) => own.1 = &dummy,
                None => given.push((DUMMY_KEY, &dummy)),
            }
        }
        let reads = if self.vectors.is_some() { self.reads.get(..1).unwrap_or_default() } else { &self.reads };
        let hashes = reads.iter().map(|read| self.names(read, &given, count, naming)).collect::<Result<_, _>>()?;
        keys.append(&mut request_data);
        // Feast takes the dummy's column out of every answer, also where a caller gave one.
        if let Some(dummy) = keys.iter().position(|(name, _)| name == DUMMY_KEY) {
            keys.remove(dummy);
        }
        Ok(Rows { count, echoed: keys, hashes })
    }

    /// The hash of each row of one view.
    fn names(&self, read: &ViewRead, given: &Columns<'_>, rows: usize, naming: &Naming) -> Result<HashNames, Raised> {
        let mut own: Columns<'_> = Vec::new();
        for &(name, values) in given {
            let key = read.renamed.get(name).map_or(name, String::as_str);
            if read.join_keys.iter().any(|join_key| join_key == key) {
                match own.iter_mut().find(|(known, _)| *known == key) {
                    Some(known) => known.1 = values,
                    None => own.push((key, values)),
                }
            }
        }
        if own.iter().all(|(_, values)| values.is_empty()) {
            let given = given.iter().map(|(name, _)| *name);
            self.check_given(&own, given)?;
            return Ok(HashNames::default());
        }
        if !own.iter().all(|(_, values)| order::is_plain(values)) {
            order::sorted(&columns_of(&own))?;
        }
        let in_order: Vec<&[Value]> = columns_of(&own);
        // Feast sorts join keys by their code points, which is the order of their bytes.
        own.sort_by(|a, b| a.0.cmp(b.0));
        let mut prefix = Vec::new();
        naming.format.push_names(&mut prefix, own.iter().map(|(name, _)| *name));
        let expected = rows.min(ROWS_MAX);
        let mut names =
            HashNames { bytes: Vec::with_capacity(expected * (prefix.len() + 32)), ends: Vec::with_capacity(expected) };
        for row in 0..rows {
            names.bytes.extend_from_slice(&prefix);
            for (_, values) in &own {
                let part = key_part(&values[row]).ok_or_else(|| first_unfit(&in_order, &own))?;
                KeyFormat::push_part(&mut names.bytes, part);
            }
            names.bytes.extend_from_slice(naming.project.as_bytes());
            names.ends.push(names.bytes.len());
        }
        Ok(names)
    }

    /// With none of a view's keys given: what Feast says about all that are missing.
    fn check_given<'g>(&self, own: &Columns<'_>, given: impl Iterator<Item = &'g str>) -> Result<(), Raised> {
        let is_given = |key: &&String| own.iter().any(|(known, _)| known == key);
        let missing: Vec<&String> = self.expected.iter().filter(|key| !is_given(key)).collect();
        if missing.is_empty() && self.expected.is_empty() {
            return Ok(());
        }
        let list = |names: Vec<String>| format!("[{}]", names.join(", "));
        let quoted = |names: &[&String]| list(names.iter().map(|name| repr(name)).collect());
        // None has a value, those given included.
        let empty: Vec<&String> = self.expected.iter().collect();
        Err(Raised::key(&format!(
            "Missing join key values for keys: {}. No values provided for keys: {}. Provided join_key_values: {}",
            quoted(&missing),
            quoted(&empty),
            list(given.map(repr).collect())
        )))
    }
}

fn put(columns: &mut Vec<(String, Vec<Value>)>, name: &str, values: Vec<Value>) {
    match columns.iter_mut().find(|(known, _)| known == name) {
        Some(known) => known.1 = values,
        None => columns.push((name.to_owned(), values)),
    }
}

fn columns_of<'c>(columns: &Columns<'c>) -> Vec<&'c [Value]> {
    columns.iter().map(|(_, values)| *values).collect()
}

/// What is said of a value that no key is made of: of the first row once they are sorted, by the first of its keys.
fn first_unfit(in_order: &[&[Value]], own: &Columns<'_>) -> Raised {
    let rows = match order::sorted(in_order) {
        Ok(rows) => rows,
        Err(raised) => return raised,
    };
    let values = |row: usize| own.iter().filter_map(move |(_, values)| values.get(row));
    rows.into_iter()
        .flat_map(values)
        .find(|value| key_part(value).is_none())
        .map_or_else(|| no_key(&Value::default()), no_key)
}

/// A value as a part of a key; `None` for types that no key is made of.
pub fn key_part(value: &Value) -> Option<KeyPart<'_>> {
    Some(match &value.val {
        Some(Val::Int64Val(v)) => KeyPart::I64(*v),
        Some(Val::StringVal(v)) => KeyPart::String(v.as_bytes()),
        Some(Val::Int32Val(v)) => KeyPart::I32(*v),
        Some(Val::BytesVal(v)) => KeyPart::Bytes(v),
        Some(Val::UnixTimestampVal(v)) => KeyPart::Timestamp(*v),
        _ => return None,
    })
}

/// What Feast says of a value that no key is made of.
pub fn no_key(value: &Value) -> Raised {
    Raised::value(format!("Value type not supported for feast feature store: {}", coerce::text(value)))
}

/// A column that came as protobuf: Feast passes such values on as they are where the column's type lets it.
pub fn passed(values: Vec<Value>, of: ValueType) -> Result<Vec<Value>, Raised> {
    match of {
        _ if values.is_empty() => Ok(values),
        ValueType::Int32 | ValueType::Int64 | ValueType::String | ValueType::Float => Ok(values),
        ValueType::Invalid => {
            Err(Raised::value("Value with native type value cannot be converted into Feast value type"))
        }
        ValueType::UnixTimestamp => Err(Raised::python(
            "TypeError",
            "int() argument must be a string, a bytes-like object or a real number, not 'Value'",
        )),
        // These look at the first value, and a message is none of what they take.
        _ => coerce::check_message(of).map(|()| values),
    }
}
