//! pandas' part: columns from lists, scalars and objects, and the type that each gets from what is in it.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use super::Frame;
use crate::Raised;
use crate::coerce::{Py, float_of_big};

/// A column by its dtype.
#[derive(Clone, Debug)]
pub(super) enum Column<'a> {
    /// `int64`
    Int(Vec<i64>),
    /// `uint64`, where there is a number beyond `int64` and none below zero.
    Uint(Vec<u64>),
    /// `float64`; NaN is missing.
    Float(Vec<f64>),
    /// `bool`
    Bool(Vec<bool>),
    /// `object`: anything.
    Object(Vec<Py<'a>>),
}

impl Column<'_> {
    /// `column.isnull().all()`
    pub(super) fn is_all_null(&self) -> bool {
        match self {
            Column::Int(values) => values.is_empty(),
            Column::Uint(values) => values.is_empty(),
            Column::Bool(values) => values.is_empty(),
            Column::Float(values) => values.iter().all(|f| f.is_nan()),
            Column::Object(values) => values.iter().all(Py::is_null),
        }
    }
}

/// `pd.DataFrame` of a dict.
pub(super) fn frame<'a>(columns: impl Iterator<Item = (Cow<'a, str>, Py<'a>)>) -> Result<Frame<'a>, Raised> {
    let columns: Vec<_> = columns.collect();
    let lengths: Vec<usize> =
        columns.iter().filter_map(|(_, v)| if let Py::List(v) = v { Some(v.len()) } else { None }).collect();
    let dicts = || columns.iter().filter_map(|(_, v)| if let Py::Dict(entries) = v { Some(entries) } else { None });
    let has_dicts = dicts().next().is_some();
    let (rows, labels) = match lengths.first() {
        _ if columns.is_empty() => (0, None),
        None if !has_dicts => {
            return Err(Raised::value("If using all scalar values, you must pass an index"));
        }
        None => {
            let mut seen = HashSet::new();
            let keys = dicts().flatten().map(|(key, _)| key.clone());
            let labels: Vec<_> = keys.filter(|key| seen.insert(key.clone())).collect();
            (labels.len(), Some(labels))
        }
        Some(first) if lengths.iter().any(|len| len != first) => {
            return Err(Raised::value("All arrays must be of the same length"));
        }
        Some(_) if has_dicts => {
            return Err(Raised::value("Mixing dicts with non-Series may lead to ambiguous ordering."));
        }
        Some(first) => (*first, None),
    };
    let columns = columns.into_iter().map(|(name, value)| {
        let column = match value {
            Py::List(values) => of_list(values)?,
            Py::Dict(entries) => {
                let mut cells: HashMap<_, _> = entries.into_iter().collect();
                let cell = |label| cells.remove(label).unwrap_or(Py::Float(f64::NAN));
                of_list(labels.iter().flatten().map(cell).collect())?
            }
            scalar => of_scalar(&scalar, rows),
        };
        Ok((name, column))
    });
    Ok(Frame { columns: columns.collect::<Result<_, Raised>>()?, rows, labels: labels.clone(), unencodable: None })
}

/// The same scalar in each row.
fn of_scalar<'a>(value: &Py<'a>, rows: usize) -> Column<'a> {
    match value {
        Py::Bool(b) => Column::Bool(vec![*b; rows]),
        Py::Int(i) => Column::Int(vec![*i; rows]),
        Py::Float(f) => Column::Float(vec![*f; rows]),
        Py::Big(digits) => match digits.parse() {
            Ok(uint) => Column::Uint(vec![uint; rows]),
            Err(_) => Column::Object(vec![value.clone(); rows]),
        },
        other => Column::Object(vec![other.clone(); rows]),
    }
}

/// What pandas has seen of a list.
#[derive(Default)]
struct Seen {
    null: bool,
    nan: bool,
    bool: bool,
    float: bool,
    int: bool,
    /// Below zero.
    negative: bool,
    /// Beyond `int64`, within `uint64`.
    uint: bool,
}

/// The narrowest column that holds a list; a gap makes floats of integers.
fn of_list(values: Vec<Py<'_>>) -> Result<Column<'_>, Raised> {
    let mut seen = Seen::default();
    for value in &values {
        match value {
            Py::None => seen.null = true,
            Py::Float(f) if f.is_nan() => seen.nan = true,
            Py::Float(_) => seen.float = true,
            Py::Bool(_) => seen.bool = true,
            Py::Int(i) => {
                seen.int = true;
                seen.negative |= !seen.null && *i < 0;
            }
            Py::Big(digits) => {
                float_of_big(digits)?;
                seen.int = true;
                if !seen.null {
                    if digits.parse::<u64>().is_err() {
                        return Ok(Column::Object(values));
                    }
                    seen.uint = true;
                }
            }
            _ => return Ok(Column::Object(values)),
        }
        // Ranges count only up to the first gap: from there on it will be floats anyway.
        if seen.uint && seen.negative {
            return Ok(Column::Object(values));
        }
    }
    let gap = seen.null || seen.nan;
    if seen.bool {
        let bools = values.iter().map(|value| if let Py::Bool(b) = value { Some(*b) } else { None });
        return Ok(bools.collect::<Option<Vec<_>>>().map_or(Column::Object(values), Column::Bool));
    }
    if seen.float || seen.nan || (seen.int && gap) {
        return Ok(Column::Float(values.iter().map(float).collect()));
    }
    if seen.uint {
        let uint = |value: &Py<'_>| match value {
            Py::Int(i) => *i as u64,
            Py::Big(digits) => digits.parse().unwrap_or_default(),
            _ => 0,
        };
        return Ok(Column::Uint(values.iter().map(uint).collect()));
    }
    if seen.int {
        let int = |value: &Py<'_>| if let Py::Int(i) = value { *i } else { 0 };
        return Ok(Column::Int(values.iter().map(int).collect()));
    }
    Ok(Column::Object(values))
}

fn float(value: &Py<'_>) -> f64 {
    match value {
        Py::Int(i) => *i as f64,
        Py::Float(f) => *f,
        Py::Big(digits) => digits.parse().unwrap_or(f64::NAN),
        _ => f64::NAN,
    }
}
