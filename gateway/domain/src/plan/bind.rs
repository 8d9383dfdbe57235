//! Binds a request to its plan: finds each column by name, checks types, lengths and limits, and lists
//! everything that does not fit. After this nothing refuses any more.

use super::Plan;
use crate::catalog::Scope;
use crate::request::{ITEMS_MAX, KEY_BYTES_MAX};
use crate::{Blob, Cell, Column, FeatureType, Kind, Named, Provenance, Refusal, Request, Violation};

/// More violations than this are not listed: the caller has understood.
const VIOLATIONS_MAX: usize = 16;

/// Most bytes that one value sent for all items may come to once it stands on every row: a kilobyte of text or a long
/// embedding on the most items there may be, and far below the 4 GiB that a column can hold.
const SPREAD_BYTES_MAX: usize = 32 << 20;

/// A request that fits its plan.
#[derive(Clone, Debug, PartialEq)]
pub struct Bound {
    /// Rows of the answer.
    pub rows: usize,
    /// By [`Plan::keys`]: one value (context) or `rows` values.
    pub keys: Vec<Column>,
    /// Cached rows read from the store longer ago are not good enough for this caller.
    pub max_stale: Option<std::time::Duration>,
    /// By slot; the request's features are filled in already.
    pub cells: Vec<Option<Cell>>,
}

impl Plan {
    /// Binds the request's columns to this plan's keys and request slots.
    pub fn bind(&self, request: Request) -> Result<Bound, Refusal> {
        let mut faults = Faults::default();
        let Request { mut context, mut items, mut features, max_stale, .. } = request;
        let rows = self.rows(&items, &features, &mut faults)?;

        let mut keys = Vec::with_capacity(self.keys.len());
        for key in &self.keys {
            let (group, columns, len) = match key.scope {
                Scope::Context => ("context", &mut context, 1),
                Scope::Item => ("items", &mut items, rows),
            };
            let name = &key.key.name;
            let Some(column) = take(columns, name) else {
                faults.add(
                    format!("{group}.{name}"),
                    format!("missing: the service {:?} needs this join key", self.service),
                );
                continue;
            };
            if column.len() != len {
                // A ragged item column was named when the rows were counted.
                if key.scope == Scope::Context {
                    faults.add(format!("context.{name}"), format!("{} values where one is expected", column.len()));
                }
                continue;
            }
            match coerce(column, FeatureType::One(key.key.kind)) {
                Ok(column) => {
                    check_key(&column, group, name, &mut faults);
                    keys.push(column);
                }
                Err(found) => faults
                    .add(format!("{group}.{name}"), format!("is {found}, but the join key is {}", key.key.kind.name())),
            }
        }

        let mut cells = vec![None; self.slots];
        for slot in &self.request {
            let (of, name) = (slot.feature.of, &slot.feature.name);
            let len = if slot.scope == Scope::Context { 1 } else { rows };
            let field = || format!("features.{name}");
            let column = take(&mut features, name);
            if let Some(one) =
                column.as_ref().filter(|c| c.len() == 1 && c.bytes().saturating_mul(rows) > SPREAD_BYTES_MAX)
            {
                let text = format!("{} bytes on each of {rows} rows, more than {SPREAD_BYTES_MAX} in all", one.bytes());
                return Err(Refusal::TooLarge(Violation::new(field(), text)));
            }
            let cell = match column {
                // One value for an item feature holds for every item.
                Some(column) if column.len() == len || column.len() == 1 => match coerce(column, of) {
                    Ok(column) => {
                        let column = column.broadcast(len);
                        Cell { provenance: vec![Provenance::Caller; column.len()], column }
                    }
                    Err(found) => {
                        faults.add(field(), format!("is {found}, but the feature is {of}"));
                        continue;
                    }
                },
                Some(column) => {
                    faults.add(field(), format!("{} values where {len} are expected", column.len()));
                    continue;
                }
                // An output fills the default in; a transform sees the hole as its author sees any other.
                None if slot.feature.default.is_some() => Cell::absent(of, len, Provenance::Missing),
                None => {
                    faults.add(field(), "missing: the feature has no default".to_owned());
                    continue;
                }
            };
            cells[slot.slot] = Some(cell);
        }
        for (group, left) in [("context", &context), ("items", &items), ("features", &features)] {
            for named in left {
                // A join key in the wrong group was already named as missing; say where it was found.
                faults.add(format!("{group}.{}", named.name), self.unexpected(group, &named.name));
            }
        }
        faults.into_result()?;
        Ok(Bound { rows, keys, max_stale, cells })
    }

    /// The number of rows, from whatever has one value per item.
    fn rows(&self, items: &[Named], features: &[Named], faults: &mut Faults) -> Result<usize, Refusal> {
        let item_features = || {
            features.iter().filter(|f| self.request.iter().any(|s| s.scope == Scope::Item && *s.feature.name == f.name))
        };
        // One value of an item feature may stand for any number of items: it counts only when nothing else does.
        let feature = || item_features().find(|n| n.column.len() != 1).or_else(|| item_features().next());
        let first = items.first().map(|n| ("items", n)).or_else(|| feature().map(|n| ("features", n)));
        let Some((group, first)) = first else {
            // No item columns at all: a service with item keys will miss them below; one without has one row.
            return Ok(1);
        };
        let rows = first.column.len();
        if let Some(long) = items.iter().chain([first]).find(|n| n.column.len() > ITEMS_MAX) {
            let text = format!("{} items, more than the {ITEMS_MAX} of one request", long.column.len());
            return Err(Refusal::TooLarge(Violation::new(format!("{group}.{}", long.name), text)));
        }
        for named in &items[1.min(items.len())..] {
            if named.column.len() != rows {
                faults.add(
                    format!("items.{}", named.name),
                    format!("ragged: {} values, but {:?} has {rows}", named.column.len(), first.name),
                );
            }
        }
        Ok(rows)
    }

    fn unexpected(&self, group: &str, name: &str) -> String {
        let mut takes: Vec<&str> = match group {
            "context" => self.keys.iter().filter(|k| k.scope == Scope::Context).map(|k| &*k.key.name).collect(),
            "items" => self.keys.iter().filter(|k| k.scope == Scope::Item).map(|k| &*k.key.name).collect(),
            _ => self.request.iter().map(|r| &*r.feature.name).collect(),
        };
        if takes.contains(&name) {
            return "is there twice".to_owned();
        }
        takes.sort_unstable();
        match takes.as_slice() {
            [] => format!("unknown: the service {:?} takes no {group}", self.service),
            takes => format!("unknown: the service {:?} takes {}", self.service, takes.join(", ")),
        }
    }
}

fn take(columns: &mut Vec<Named>, name: &str) -> Option<Column> {
    let i = columns.iter().position(|c| c.name == name)?;
    Some(columns.swap_remove(i).column)
}

fn check_key(column: &Column, group: &str, name: &str, faults: &mut Faults) {
    let (Column::String(blob) | Column::Bytes(blob)) = column else { return };
    let mut start = 0;
    for (i, &end) in blob.ends.iter().enumerate() {
        let len = (end - start) as usize;
        start = end;
        if len == 0 {
            faults.add(format!("{group}.{name}[{i}]"), "empty join key".to_owned());
        } else if len > KEY_BYTES_MAX {
            faults.add(
                format!("{group}.{name}[{i}]"),
                format!("{len} bytes, more than the {KEY_BYTES_MAX} of a join key"),
            );
        }
    }
}

/// The column as the wanted type where that loses nothing that matters: integers become floats or
/// timestamps, doubles become floats. Otherwise the type that was found.
fn coerce(column: Column, want: FeatureType) -> Result<Column, FeatureType> {
    let found = column.feature_type();
    if found == want {
        return Ok(column);
    }
    if column.is_empty() {
        return Ok(Column::with_capacity(want, 0));
    }
    match (column, want) {
        (Column::I64(v), FeatureType::One(Kind::F64)) => Ok(Column::F64(v.into_iter().map(|x| x as f64).collect())),
        (Column::I64(v), FeatureType::One(Kind::F32)) => Ok(Column::F32(v.into_iter().map(|x| x as f32).collect())),
        (Column::I64(v), FeatureType::One(Kind::Timestamp)) => Ok(Column::Timestamp(v)),
        (Column::F64(v), FeatureType::One(Kind::F32)) => Ok(Column::F32(v.into_iter().map(|x| x as f32).collect())),
        (Column::F32(v), FeatureType::One(Kind::F64)) => Ok(Column::F64(v.into_iter().map(f64::from).collect())),
        (Column::String(Blob { ends, data }), FeatureType::One(Kind::Bytes)) => Ok(Column::Bytes(Blob { ends, data })),
        (Column::List(lists), FeatureType::List(kind)) => {
            // A list whose items are all missing has no type of its own.
            let items = coerce(lists.items, FeatureType::One(kind)).map_err(|_| found)?;
            Ok(Column::List(Box::new(crate::Lists { ends: lists.ends, items })))
        }
        _ => Err(found),
    }
}

#[derive(Default)]
struct Faults {
    violations: Vec<Violation>,
}

impl Faults {
    fn add(&mut self, field: String, description: String) {
        if self.violations.len() < VIOLATIONS_MAX {
            self.violations.push(Violation { field, description });
        }
    }

    fn into_result(self) -> Result<(), Refusal> {
        if self.violations.is_empty() { Ok(()) } else { Err(Refusal::Invalid(self.violations)) }
    }
}
