//! Columns: how values travel from the store to the reply. One flat buffer a column, no boxed scalars;
//! a hole is a placeholder in the buffer, and the [`Provenance`](crate::Provenance) beside it says so.

use std::fmt;

/// The kind of a single value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// `true` or `false`.
    Bool,
    /// 64-bit signed integer.
    I64,
    /// 64-bit float.
    F64,
    /// 32-bit float.
    F32,
    /// UTF-8 text.
    String,
    /// Bytes.
    Bytes,
    /// Microseconds since the Unix epoch, UTC.
    Timestamp,
}

impl Kind {
    const ALL: [(Kind, &'static str); 7] = [
        (Kind::Bool, "bool"),
        (Kind::I64, "i64"),
        (Kind::F64, "f64"),
        (Kind::F32, "f32"),
        (Kind::String, "string"),
        (Kind::Bytes, "bytes"),
        (Kind::Timestamp, "timestamp"),
    ];

    /// The name used in the catalog.
    pub fn name(self) -> &'static str {
        Self::ALL.into_iter().find(|(k, _)| *k == self).map_or("", |(_, n)| n)
    }
}

/// The type of a feature: one value or a list of values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FeatureType {
    /// One value.
    One(Kind),
    /// A list of values, of any length.
    List(Kind),
}

impl FeatureType {
    /// Reads the catalog's spelling: `f64`, `list<f32>`.
    pub fn parse(text: &str) -> Option<Self> {
        let kind = |name: &str| Kind::ALL.into_iter().find(|(_, n)| *n == name).map(|(k, _)| k);
        match text.strip_prefix("list<").and_then(|t| t.strip_suffix('>')) {
            Some(inner) => kind(inner).map(Self::List),
            None => kind(text).map(Self::One),
        }
    }

    /// The kind of the value, or of the list's items.
    pub fn kind(self) -> Kind {
        match self {
            Self::One(kind) | Self::List(kind) => kind,
        }
    }
}

impl fmt::Display for FeatureType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::One(kind) => f.write_str(kind.name()),
            Self::List(kind) => write!(f, "list<{}>", kind.name()),
        }
    }
}

/// One value, where a column would be too much: a default, a constant, a single read in a test.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum Value {
    Bool(bool),
    I64(i64),
    F64(f64),
    F32(f32),
    String(String),
    Bytes(Vec<u8>),
    /// Microseconds since the Unix epoch.
    Timestamp(i64),
    List(Kind, Vec<Value>),
}

impl Value {
    /// The type of this value.
    pub fn feature_type(&self) -> FeatureType {
        FeatureType::One(match self {
            Self::Bool(_) => Kind::Bool,
            Self::I64(_) => Kind::I64,
            Self::F64(_) => Kind::F64,
            Self::F32(_) => Kind::F32,
            Self::String(_) => Kind::String,
            Self::Bytes(_) => Kind::Bytes,
            Self::Timestamp(_) => Kind::Timestamp,
            Self::List(kind, _) => return FeatureType::List(*kind),
        })
    }

    /// This value as another type, where text (TOML, JSON) has only one spelling for several types: an integer
    /// may stand for a float or a timestamp, a double for a float that can hold it, text for bytes, an empty list
    /// for any list.
    pub fn cast(&self, to: FeatureType) -> Option<Value> {
        Some(match (self, to) {
            (v, to) if v.feature_type() == to => v.clone(),
            (Self::I64(x), FeatureType::One(Kind::F64)) => Self::F64(*x as f64),
            (Self::I64(x), FeatureType::One(Kind::F32)) => Self::F32(*x as f32),
            (Self::I64(x), FeatureType::One(Kind::Timestamp)) => Self::Timestamp(*x),
            (Self::F64(x), FeatureType::One(Kind::F32)) => {
                let narrow = *x as f32;
                if narrow.is_infinite() && x.is_finite() {
                    return None;
                }
                Self::F32(narrow)
            }
            (Self::String(x), FeatureType::One(Kind::Bytes)) => Self::Bytes(x.as_bytes().to_vec()),
            (Self::List(_, items), FeatureType::List(kind)) => {
                let items = items.iter().map(|i| i.cast(FeatureType::One(kind))).collect::<Option<_>>()?;
                Self::List(kind, items)
            }
            _ => return None,
        })
    }
}

/// Many byte strings in one buffer: the i-th ends at `ends[i]` and begins where the one before ends.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Blob {
    /// End offset of each value in `data`.
    pub ends: Vec<u32>,
    /// All values, one after another.
    pub data: Vec<u8>,
}

impl Blob {
    /// Appends one value.
    pub fn push(&mut self, value: &[u8]) {
        self.data.extend_from_slice(value);
        self.ends.push(self.data.len() as u32);
    }

    /// Number of values.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// No value at all.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The i-th value. Panics when out of range, as a slice does.
    pub fn get(&self, i: usize) -> &[u8] {
        let start = if i == 0 { 0 } else { self.ends[i - 1] as usize };
        &self.data[start..self.ends[i] as usize]
    }

    /// The values in order.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        (0..self.len()).map(|i| self.get(i))
    }
}

/// Lists of one kind: the i-th list's items end at `ends[i]` in `items`. Items are never lists themselves.
#[derive(Clone, Debug, PartialEq)]
pub struct Lists {
    /// End offset of each list in `items`.
    pub ends: Vec<u32>,
    /// The items of all lists, one after another.
    pub items: Column,
}

/// The values of one feature for the rows of a request.
///
/// `String` holds UTF-8 by construction: whoever fills it from outside checks first.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum Column {
    Bool(Vec<bool>),
    I64(Vec<i64>),
    F64(Vec<f64>),
    F32(Vec<f32>),
    String(Blob),
    Bytes(Blob),
    /// Microseconds since the Unix epoch.
    Timestamp(Vec<i64>),
    List(Box<Lists>),
}

impl Column {
    /// An empty column of this type, with room for `rows` values.
    pub fn with_capacity(of: FeatureType, rows: usize) -> Self {
        let blob = || Blob { ends: Vec::with_capacity(rows), data: Vec::new() };
        match of {
            FeatureType::One(Kind::Bool) => Self::Bool(Vec::with_capacity(rows)),
            FeatureType::One(Kind::I64) => Self::I64(Vec::with_capacity(rows)),
            FeatureType::One(Kind::F64) => Self::F64(Vec::with_capacity(rows)),
            FeatureType::One(Kind::F32) => Self::F32(Vec::with_capacity(rows)),
            FeatureType::One(Kind::String) => Self::String(blob()),
            FeatureType::One(Kind::Bytes) => Self::Bytes(blob()),
            FeatureType::One(Kind::Timestamp) => Self::Timestamp(Vec::with_capacity(rows)),
            FeatureType::List(kind) => Self::List(Box::new(Lists {
                ends: Vec::with_capacity(rows),
                items: Self::with_capacity(FeatureType::One(kind), rows),
            })),
        }
    }

    /// The type of the column's values.
    pub fn feature_type(&self) -> FeatureType {
        FeatureType::One(match self {
            Self::Bool(_) => Kind::Bool,
            Self::I64(_) => Kind::I64,
            Self::F64(_) => Kind::F64,
            Self::F32(_) => Kind::F32,
            Self::String(_) => Kind::String,
            Self::Bytes(_) => Kind::Bytes,
            Self::Timestamp(_) => Kind::Timestamp,
            Self::List(lists) => return FeatureType::List(lists.items.feature_type().kind()),
        })
    }

    /// Number of values.
    pub fn len(&self) -> usize {
        match self {
            Self::Bool(v) => v.len(),
            Self::I64(v) | Self::Timestamp(v) => v.len(),
            Self::F64(v) => v.len(),
            Self::F32(v) => v.len(),
            Self::String(b) | Self::Bytes(b) => b.len(),
            Self::List(lists) => lists.ends.len(),
        }
    }

    /// No value at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes that the values take up.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Bool(v) => v.len(),
            Self::I64(v) | Self::Timestamp(v) => size_of_val(v.as_slice()),
            Self::F64(v) => size_of_val(v.as_slice()),
            Self::F32(v) => size_of_val(v.as_slice()),
            Self::String(b) | Self::Bytes(b) => b.data.len() + size_of_val(b.ends.as_slice()),
            Self::List(lists) => lists.items.bytes() + size_of_val(lists.ends.as_slice()),
        }
    }

    /// Appends the placeholder that stands where there is no value: false, 0, NaN-free, empty.
    pub fn push_placeholder(&mut self) {
        match self {
            Self::Bool(v) => v.push(false),
            Self::I64(v) | Self::Timestamp(v) => v.push(0),
            Self::F64(v) => v.push(0.0),
            Self::F32(v) => v.push(0.0),
            Self::String(b) | Self::Bytes(b) => b.push(&[]),
            Self::List(lists) => {
                let end = lists.items.len() as u32;
                lists.ends.push(end);
            }
        }
    }

    /// Appends a value of the column's own type; a value of another type is refused and nothing changes.
    pub fn push(&mut self, value: &Value) -> Result<(), WrongType> {
        match (self, value) {
            (Self::Bool(v), Value::Bool(x)) => v.push(*x),
            (Self::I64(v), Value::I64(x)) | (Self::Timestamp(v), Value::Timestamp(x)) => v.push(*x),
            (Self::F64(v), Value::F64(x)) => v.push(*x),
            (Self::F32(v), Value::F32(x)) => v.push(*x),
            (Self::String(b), Value::String(x)) => b.push(x.as_bytes()),
            (Self::Bytes(b), Value::Bytes(x)) => b.push(x),
            (Self::List(lists), Value::List(_, items)) => {
                if items.iter().any(|i| i.feature_type() != lists.items.feature_type()) {
                    return Err(WrongType);
                }
                for item in items {
                    lists.items.push(item)?;
                }
                let end = lists.items.len() as u32;
                lists.ends.push(end);
            }
            _ => return Err(WrongType),
        }
        Ok(())
    }

    /// Appends the i-th value of `from`, a column of the same type. Columns of different types are a bug of
    /// the plan, caught in debug builds; in release a placeholder keeps the rows aligned.
    pub fn push_from(&mut self, from: &Column, i: usize) {
        match (&mut *self, from) {
            (Self::Bool(v), Self::Bool(f)) => v.push(f[i]),
            (Self::I64(v), Self::I64(f)) | (Self::Timestamp(v), Self::Timestamp(f)) => v.push(f[i]),
            (Self::F64(v), Self::F64(f)) => v.push(f[i]),
            (Self::F32(v), Self::F32(f)) => v.push(f[i]),
            (Self::String(b), Self::String(f)) | (Self::Bytes(b), Self::Bytes(f)) => b.push(f.get(i)),
            (Self::List(lists), Self::List(f)) => {
                let start = if i == 0 { 0 } else { f.ends[i - 1] as usize };
                for j in start..f.ends[i] as usize {
                    lists.items.push_from(&f.items, j);
                }
                let end = lists.items.len() as u32;
                lists.ends.push(end);
            }
            _ => {
                debug_assert!(false, "push_from across types");
                self.push_placeholder();
            }
        }
    }

    /// The i-th value, copied out. For tests, defaults and JSON; hot paths match on the column instead.
    pub fn value(&self, i: usize) -> Value {
        match self {
            Self::Bool(v) => Value::Bool(v[i]),
            Self::I64(v) => Value::I64(v[i]),
            Self::F64(v) => Value::F64(v[i]),
            Self::F32(v) => Value::F32(v[i]),
            Self::String(b) => Value::String(String::from_utf8_lossy(b.get(i)).into_owned()),
            Self::Bytes(b) => Value::Bytes(b.get(i).to_vec()),
            Self::Timestamp(v) => Value::Timestamp(v[i]),
            Self::List(lists) => {
                let start = if i == 0 { 0 } else { lists.ends[i - 1] as usize };
                let items = (start..lists.ends[i] as usize).map(|j| lists.items.value(j)).collect();
                Value::List(lists.items.feature_type().kind(), items)
            }
        }
    }

    /// This one-value column repeated to `rows` values; a column of another length is returned as it is.
    pub fn broadcast(self, rows: usize) -> Self {
        if self.len() != 1 || rows == 1 {
            return self;
        }
        match &self {
            Self::Bool(v) => Self::Bool(vec![v[0]; rows]),
            Self::I64(v) => Self::I64(vec![v[0]; rows]),
            Self::F64(v) => Self::F64(vec![v[0]; rows]),
            Self::F32(v) => Self::F32(vec![v[0]; rows]),
            Self::Timestamp(v) => Self::Timestamp(vec![v[0]; rows]),
            Self::String(_) | Self::Bytes(_) | Self::List(_) => {
                let mut out = Self::with_capacity(self.feature_type(), rows);
                for _ in 0..rows {
                    out.push_from(&self, 0);
                }
                out
            }
        }
    }
}

/// A value was offered to a column of another type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WrongType;

impl fmt::Display for WrongType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("value of another type than the column")
    }
}

impl std::error::Error for WrongType {}

/// A column with its name, as a caller sends it.
#[derive(Clone, Debug, PartialEq)]
pub struct Named {
    /// Join key or request feature.
    pub name: String,
    /// Its values.
    pub column: Column,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples() -> Vec<Value> {
        vec![
            Value::Bool(true),
            Value::I64(-7),
            Value::F64(0.5),
            Value::F32(1.5),
            Value::String("é✓".into()),
            Value::Bytes(vec![0, 255]),
            Value::Timestamp(1_386_000_000_000_000),
            Value::List(Kind::F32, vec![Value::F32(1.0), Value::F32(-2.0)]),
            Value::List(Kind::String, vec![Value::String(String::new()), Value::String("b".into())]),
        ]
    }

    #[test]
    fn every_type_survives_push_copy_and_broadcast() {
        for value in samples() {
            let mut column = Column::with_capacity(value.feature_type(), 2);
            column.push(&value).unwrap();
            assert_eq!(column.clone().broadcast(3).value(2), value);
            column.push_placeholder();
            let mut copy = Column::with_capacity(value.feature_type(), 2);
            copy.push_from(&column, 1);
            copy.push_from(&column, 0);
            assert_eq!(copy.value(1), value);
            assert_eq!(copy.len(), 2);
        }
    }

    #[test]
    fn a_value_of_another_type_changes_nothing() {
        for value in samples() {
            let mut column = Column::with_capacity(value.feature_type(), 2);
            for other in samples().into_iter().filter(|o| o.feature_type() != value.feature_type()) {
                assert_eq!(column.push(&other), Err(WrongType));
                assert!(column.is_empty());
            }
        }
    }

    #[test]
    fn types_are_spelled_as_in_the_catalog() {
        for value in samples() {
            let t = value.feature_type();
            assert_eq!(FeatureType::parse(&t.to_string()), Some(t));
        }
        for bad in ["", "int", "list<", "list<list<f32>>", "list<>", "F64"] {
            assert_eq!(FeatureType::parse(bad), None, "{bad}");
        }
    }
}
