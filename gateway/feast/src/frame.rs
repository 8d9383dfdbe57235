//! The `df` of a write as rows to store: what pandas, pyarrow and Feast make of it between `pd.DataFrame(request.df)`
//! and the online store's `online_write_batch`. Promises the same rows, and where they refuse, the same exception.
//!
//! A value goes through three sets of types on its way, and each leaves traces that clients see: pandas' columns
//! (integers with a gap become floats), Arrow's (one type for a column of anything) and numpy's (back to scalars).

mod arrow;
mod index;
mod iso;
mod pandas;
mod strptime;
mod times;
mod typed;
mod vectors;

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};

use jiter::JsonValue;
use weir_proto::feast::types::{Value, value_type::Enum as ValueType};

use crate::coerce::{self, Py};
use crate::rows::{key_part, no_key};
use crate::{Raised, request, unicode};
use pandas::Column;

/// The view that rows are written to.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    /// Its name.
    pub view: &'a str,
    /// Its features in its order.
    pub features: &'a [(String, ValueType)],
    /// Its entity columns in its order; none for a view without an entity.
    pub join_keys: &'a [(String, ValueType)],
    /// The column of event times, by its name after the mapping.
    pub timestamp_field: &'a str,
    /// The column of creation times, read and not used.
    pub created_timestamp_column: Option<&'a str>,
    /// From columns of the source to names of the view.
    pub field_mapping: &'a BTreeMap<String, String>,
    /// The fields with `vector_index`, and the length they declare, 0 for none. More than one is an error.
    pub vectors: &'a [(String, u32)],
}

/// One row to write.
#[derive(Clone, Debug, PartialEq)]
pub struct WriteRow {
    /// The join keys in the view's order.
    pub keys: Vec<(String, Value)>,
    /// Which feature of the view, and its value.
    pub features: Vec<(usize, Value)>,
    /// Seconds since the Unix epoch, and the nanoseconds on top: whole microseconds.
    pub event_time: (i64, i32),
}

/// A data frame: named columns of one length.
#[derive(Clone, Debug)]
pub struct Frame<'a> {
    columns: Vec<(Cow<'a, str>, Column<'a>)>,
    rows: usize,
    /// What rows are called in messages, where not by their number.
    labels: Option<Vec<Cow<'a, str>>>,
    /// Arrow's complaint about a column that cannot be encoded, by its place; behind the last one when it is a name.
    unencodable: Option<(usize, Raised)>,
}

impl<'a> Frame<'a> {
    /// `pd.DataFrame(df)` of a JSON object: lists of one length, and scalars that every row gets; or objects of cells
    /// by row label.
    ///
    /// # Errors
    /// Columns of different lengths, none that says how many rows there are, and what is no object (status 422).
    pub fn from_json(df: &'a JsonValue<'_>) -> Result<Self, Raised> {
        let columns = request::object(df)?;
        pandas::frame(columns.into_iter().map(|(name, value)| (Cow::Borrowed(name), Py::from(value))))
    }

    /// Lets Arrow complain of halves of UTF-16 pairs in the JSON that the frame was made from.
    pub fn with_halves(mut self, df: &JsonValue<'_>) -> Self {
        let columns = request::object(df).unwrap_or_default();
        let cells = columns.iter().map(|(_, value)| unicode::encodable_json(value));
        let names = columns.iter().map(|(name, _)| (columns.len(), unicode::encodable(name)));
        self.unencodable = cells.enumerate().chain(names).find_map(|(place, checked)| Some((place, checked.err()?)));
        self
    }

    /// The row of a gRPC request's `features`: strings all.
    ///
    /// # Errors
    /// None that one row of strings can cause.
    pub fn from_strings(features: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Self, Raised> {
        let cell = |text| Py::List(vec![Py::Str(Cow::Borrowed(text))]);
        pandas::frame(features.into_iter().map(|(name, text)| (Cow::Borrowed(name), cell(text))))
    }

    /// The row of a gRPC request's `typed_features`.
    ///
    /// # Errors
    /// None so far: what cannot be written is found when rows are made.
    pub fn from_values(features: impl IntoIterator<Item = (&'a str, &'a Value)>) -> Result<Self, Raised> {
        let cell = |value| Py::List(vec![typed::object(value)]);
        pandas::frame(features.into_iter().map(|(name, value)| (Cow::Borrowed(name), cell(value))))
    }

    /// The rows for a view. None are left of an empty frame, or of one whose features are all missing.
    ///
    /// # Errors
    /// What pandas, pyarrow, protobuf or Feast would have raised.
    pub fn rows(&self, target: &Target<'_>) -> Result<Vec<WriteRow>, Raised> {
        vectors::check_frame(self, target)?;
        if self.rows == 0 || self.columns.is_empty() || self.has_no_features(target)? {
            return Ok(Vec::new());
        }
        let table = Table::of(self, target)?;
        vectors::check_table(&table, target)?;
        let mut values: HashMap<&str, Vec<Value>> = HashMap::new();
        for (name, of) in target.features.iter().chain(target.join_keys) {
            let column =
                table.column(name)?.ok_or_else(|| Raised::value(format!("Column {name} not found in table")))?;
            values.insert(name, coerce::objects(&column.to_numpy(), *of)?);
        }
        let times = table.times(target.timestamp_field)?;
        if let Some(created) = target.created_timestamp_column {
            table.times(created)?;
        }
        // Feast zips keys, features and times, so that a view without features has no rows.
        if target.features.is_empty() {
            return Ok(Vec::new());
        }
        // All keys are written down before anybody looks at a time.
        if times.contains(&None) {
            check_keys(target, &values)?;
        }
        let value = |name: &String, row: usize| values.get(name.as_str()).and_then(|v| v.get(row)).cloned();
        let row = |(row, time): (usize, Option<i64>)| {
            let micros = time.ok_or_else(|| Raised::value("NaTType does not support utctimetuple"))?;
            Ok(WriteRow {
                keys: target.join_keys.iter().filter_map(|(k, _)| Some((k.clone(), value(k, row)?))).collect(),
                features: target
                    .features
                    .iter()
                    .enumerate()
                    .filter_map(|(i, (f, _))| Some((i, value(f, row)?)))
                    .collect(),
                event_time: (micros.div_euclid(1_000_000), micros.rem_euclid(1_000_000) as i32 * 1_000),
            })
        };
        times.into_iter().enumerate().map(row).collect()
    }

    fn column(&self, name: &str) -> Option<&Column<'a>> {
        self.columns.iter().find(|(known, _)| known == name).map(|(_, column)| column)
    }

    /// Whether every feature is missing in every row. All must be there as columns.
    fn has_no_features(&self, target: &Target<'_>) -> Result<bool, Raised> {
        let missing: Vec<&str> =
            target.features.iter().map(|(name, _)| name.as_str()).filter(|name| self.column(name).is_none()).collect();
        if !missing.is_empty() {
            return Err(Raised::key(&if missing.len() == target.features.len() {
                format!("None of [{}] are in the [columns]", index::repr(&missing))
            } else {
                let names: Vec<_> = missing.iter().map(|name| crate::repr(name)).collect();
                format!("[{}] not in index", names.join(", "))
            }));
        }
        let mut features = target.features.iter().filter_map(|(name, _)| self.column(name));
        Ok(!target.features.is_empty() && features.all(Column::is_all_null))
    }
}

/// The first row with a key that cannot be written down is told.
fn check_keys(target: &Target<'_>, values: &HashMap<&str, Vec<Value>>) -> Result<(), Raised> {
    let mut keys: Vec<(&str, &[Value])> = Vec::new();
    keys.extend(target.join_keys.iter().filter_map(|(name, _)| Some((&**name, &**values.get(&**name)?))));
    keys.sort_by_key(|(name, _)| *name);
    let rows = keys.first().map_or(0, |(_, values)| values.len());
    let mut parts = (0..rows).flat_map(|row| keys.iter().filter_map(move |(_, values)| values.get(row)));
    parts.find(|value| key_part(value).is_none()).map_or(Ok(()), |unfit| Err(no_key(unfit)))
}

/// A frame as an Arrow table: every column has a type, and the view's names.
struct Table<'f> {
    columns: Vec<(&'f str, arrow::Column<'f>)>,
}

impl<'f> Table<'f> {
    fn of(frame: &'f Frame<'f>, target: &Target<'f>) -> Result<Self, Raised> {
        let unencodable = |place: usize| match &frame.unencodable {
            Some((at, raised)) if *at == place => Err(raised.clone()),
            _ => Ok(()),
        };
        let columns = frame.columns.iter().enumerate().map(|(place, (name, column))| {
            let mapped = target.field_mapping.get(&**name).map_or(&**name, String::as_str);
            let column = arrow::Column::of(name, column)?;
            unencodable(place).map(|()| (mapped, column))
        });
        let columns = columns.collect::<Result<_, Raised>>()?;
        unencodable(frame.columns.len()).map(|()| Self { columns })
    }

    /// The column of this name; a mapping may have made two.
    fn column(&self, name: &str) -> Result<Option<&arrow::Column<'f>>, Raised> {
        let mut found = self.columns.iter().filter(|(known, _)| *known == name).map(|(_, column)| column);
        let first = found.next();
        match found.count() {
            0 => Ok(first),
            more => Err(Raised::key(&format!("Field \"{name}\" exists {} times in schema", more + 1))),
        }
    }

    fn times(&self, name: &str) -> Result<Vec<Option<i64>>, Raised> {
        let column =
            self.column(name)?.ok_or_else(|| Raised::key(&format!("Field \"{name}\" does not exist in schema")))?;
        times::to_datetime(&column.to_numpy())
    }
}

#[cfg(test)]
mod tests;
