//! Vectors of a view with a vector index: all as long as the view says, or as the first.

use std::borrow::Cow;

use super::pandas::Column;
use super::{Frame, Table, Target};
use crate::Raised;
use crate::coerce::Py;

/// The view's vector field and its declared length.
fn vector<'t>(target: &Target<'t>) -> Result<Option<(&'t str, Option<usize>)>, Raised> {
    match target.vectors {
        [] => Ok(None),
        [(name, length)] => Ok(Some((name, Some(*length as usize).filter(|length| *length > 0)))),
        _ => Err(Raised::value(format!(
            "Feature view {} has multiple vector fields. Only one vector field per feature view is supported.",
            target.view
        ))),
    }
}

fn wrong_length(row: &str, length: usize, expected: usize, declared: bool, name: &str, view: &str) -> Raised {
    let inferred = if declared { "" } else { ", inferred from the first row" };
    Raised::value(format!(
        "Row {row}: Vector length {length} does not match expected {expected}{inferred} for feature '{name}' in feature \
         view '{view}'."
    ))
}

/// Before the columns have types: whatever has a length will do, strings too.
pub(super) fn check_frame(frame: &Frame<'_>, target: &Target<'_>) -> Result<(), Raised> {
    let Some((name, declared)) = vector(target)? else { return Ok(()) };
    let Some(column) = frame.column(name) else { return Ok(()) };
    let number = |class: &'static str, nulls: Vec<bool>| {
        nulls.into_iter().map(|n| if n { Cell::Null } else { Cell::No(Cow::Borrowed(class)) }).collect()
    };
    let cells: Vec<Cell> = match column {
        Column::Int(values) => number("numpy.int64", vec![false; values.len()]),
        Column::Uint(values) => number("numpy.uint64", vec![false; values.len()]),
        Column::Bool(values) => number("numpy.bool", vec![false; values.len()]),
        Column::Float(values) => number("numpy.float64", values.iter().map(|f| f.is_nan()).collect()),
        Column::Object(values) => values.iter().map(Cell::of).collect(),
    };
    let first = cells.iter().find_map(|cell| if let Cell::Length(length) = cell { Some(*length) } else { None });
    let expected = declared.or(first);
    for (row, cell) in cells.iter().enumerate() {
        let label = || match &frame.labels {
            Some(labels) => labels.get(row).map(|label| label.to_string()).unwrap_or_default(),
            None => row.to_string(),
        };
        match (cell, expected) {
            (Cell::No(class), _) => {
                return Err(Raised::value(format!(
                    "Row {}: Vector feature '{name}' is not a sequence. Got: <class '{class}'>",
                    label()
                )));
            }
            (Cell::Length(length), Some(expected)) if *length != expected => {
                return Err(wrong_length(&label(), *length, expected, declared.is_some(), name, target.view));
            }
            _ => {}
        }
    }
    Ok(())
}

enum Cell {
    Null,
    Length(usize),
    No(Cow<'static, str>),
}

impl Cell {
    fn of(value: &Py<'_>) -> Self {
        match value {
            value if value.is_null() => Self::Null,
            Py::Str(text) => Self::Length(text.chars().count()),
            Py::Bytes(bytes) => Self::Length(bytes.len()),
            Py::Other(other) => Self::No(Cow::Owned(format!("feast.types.Value_pb2.{}", other.class))),
            value => value.len().map_or(Self::No(Cow::Borrowed(value.class())), Self::Length),
        }
    }
}

/// After: they must be lists.
pub(super) fn check_table(table: &Table<'_>, target: &Target<'_>) -> Result<(), Raised> {
    let Some((name, declared)) = vector(target)? else { return Ok(()) };
    let Some(column) = table.column(name)? else { return Ok(()) };
    let Some(lengths) = column.list_lengths() else {
        let declares = declared.map(|length| format!(" declares vector_length={length} but")).unwrap_or_default();
        return Err(Raised::value(format!(
            "Vector feature '{name}' in feature view '{}'{declares} has non-list Arrow type {}.",
            target.view, column.of
        )));
    };
    let Some(expected) = declared.or_else(|| lengths.iter().flatten().next().copied()) else { return Ok(()) };
    match lengths.iter().enumerate().find_map(|(row, length)| length.filter(|l| *l != expected).map(|l| (row, l))) {
        Some((row, length)) => {
            Err(wrong_length(&row.to_string(), length, expected, declared.is_some(), name, target.view))
        }
        None => Ok(()),
    }
}
