//! The answer to a request for features, as JSON and as protobuf. Values are taken from the store's bytes as they are
//! written out; nobody looks into what was not asked for.

use weir_domain::feast::HashRow;
use weir_proto::feast::serving::FieldStatus;
use weir_proto::feast::types::Value;

use crate::json;
use crate::lookup::{Lookup, ViewRead};
use crate::raised::Raised;
use crate::rows::Rows;
use crate::wire;
use crate::zoned::date;

/// Seconds of the years 1 to 9999.
const YEARS: std::ops::Range<i64> = -62_135_596_800..253_402_300_800;

/// What statuses say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Semantics {
    /// As Feast's Python server: everything is PRESENT, also what does not exist, and a view's ttl means nothing.
    #[default]
    Python,
    /// As its Go and Java servers: OUTSIDE_MAX_AGE, NOT_FOUND and NULL_VALUE say what there is not.
    Strict,
}

/// What became of one entity.
#[derive(Clone, Copy, Debug)]
pub enum Found<'a> {
    /// Its fields.
    Row(HashRow<'a>),
    /// Its fields, which are older than the view lets them be.
    Old(HashRow<'a>),
    /// The store has no such entity.
    Missing,
    /// The store was not heard in time, or at all. Its status is INVALID: that the value is null says nothing.
    Unread,
}

/// What was found for one read.
#[derive(Clone, Copy, Debug)]
pub struct Column<'a> {
    /// By row: its entity.
    pub rows: &'a [u32],
    /// By entity.
    pub found: &'a [Found<'a>],
}

/// A column that was computed here: values without an event time.
#[derive(Clone, Debug)]
pub struct ComputedColumn {
    /// Its name.
    pub name: String,
    /// By row.
    pub values: Vec<Value>,
    /// By row.
    pub statuses: Vec<FieldStatus>,
}

/// Everything that an answer is written from.
#[derive(Debug)]
pub struct Answer<'a> {
    /// What was asked.
    pub lookup: &'a Lookup,
    /// For which entities.
    pub rows: &'a Rows,
    /// By read.
    pub columns: &'a [Column<'a>],
    /// What was computed here.
    pub computed: &'a [ComputedColumn],
    /// The metadata list the views and their versions.
    pub with_versions: bool,
    /// What statuses say.
    pub semantics: Semantics,
    /// Seconds since the Unix epoch, against which a view's ttl is held.
    pub now: i64,
}

/// One value with its status.
pub(crate) struct Cell<'a> {
    pub(crate) value: Option<&'a [u8]>,
    pub(crate) status: FieldStatus,
}

impl<'a> Answer<'a> {
    /// Python's calendar ends with the year 9999: an event time past it makes Feast answer with an error.
    pub fn check(&self) -> Result<(), Raised> {
        if self.semantics == Semantics::Strict {
            return Ok(());
        }
        for found in self.columns.iter().flat_map(|column| column.rows.iter().map(|row| column.found[*row as usize])) {
            let (seconds, _) = event_time(found);
            if !YEARS.contains(&seconds) {
                let (year, ..) = date(seconds.div_euclid(86_400));
                return Err(Raised::value(format!("year {year} is out of range")));
            }
        }
        Ok(())
    }

    /// The body of `/get-online-features`.
    pub fn to_json(&self) -> Vec<u8> {
        json::answer(self)
    }

    /// A `GetOnlineFeaturesResponse`.
    pub fn to_proto(&self) -> Vec<u8> {
        wire::answer(self)
    }

    /// Names of all columns in order: what was sent, what was read, what was computed.
    pub(crate) fn names(&self) -> impl Iterator<Item = &'a str> {
        let (echoed, computed) = (self.rows.echoed.iter(), self.computed.iter());
        let read = self.lookup.reads.iter().flat_map(|read| read.columns.iter().flatten());
        echoed
            .map(|(name, _)| name.as_str())
            .chain(read.map(String::as_str))
            .chain(computed.map(|column| column.name.as_str()))
    }

    /// Views with their versions, the first of a name.
    pub(crate) fn versions(&self) -> Vec<&'a (String, i32)> {
        let mut versions: Vec<&(String, i32)> = Vec::new();
        for read in self.lookup.reads.iter().filter(|_| self.with_versions) {
            if !versions.iter().any(|(name, _)| *name == read.named.0) {
                versions.push(&read.named);
            }
        }
        versions
    }

    /// Whether all values of a row have the same status whatever they are.
    pub(crate) fn status_is_of_the_row(&self) -> bool {
        self.semantics == Semantics::Python
    }

    /// The value of a feature for an entity.
    pub(crate) fn cell(&self, read: &ViewRead, found: Found<'a>, feature: usize) -> Cell<'a> {
        let row = match found {
            Found::Row(row) => row,
            Found::Old(row) => return Cell { value: row.value(feature), status: FieldStatus::OutsideMaxAge },
            Found::Missing => return Cell { value: None, status: self.missing() },
            Found::Unread => return Cell { value: None, status: FieldStatus::Invalid },
        };
        let value = row.value(feature);
        if self.semantics == Semantics::Python {
            return Cell { value, status: FieldStatus::Present };
        }
        let ttl = read.view.ttl.as_secs() as i64;
        let status = match value {
            None => FieldStatus::NotFound,
            Some(_) if ttl > 0 && self.now.saturating_sub(row.time().0) > ttl => FieldStatus::OutsideMaxAge,
            Some([]) => FieldStatus::NullValue,
            Some(_) => FieldStatus::Present,
        };
        Cell { value, status }
    }

    fn missing(&self) -> FieldStatus {
        match self.semantics {
            Semantics::Python => FieldStatus::Present,
            Semantics::Strict => FieldStatus::NotFound,
        }
    }

    /// The status of every value of a row, where [it is the same](Self::status_is_of_the_row).
    pub(crate) fn row_status(&self, found: Found<'_>) -> FieldStatus {
        match found {
            Found::Row(_) => FieldStatus::Present,
            Found::Old(_) => FieldStatus::OutsideMaxAge,
            Found::Missing => self.missing(),
            Found::Unread => FieldStatus::Invalid,
        }
    }
}

/// The event time of a row as Feast gives it: through a float, rounded half to even to microseconds.
pub(crate) fn event_time(found: Found<'_>) -> (i64, i32) {
    let (Found::Row(row) | Found::Old(row)) = found else { return (0, 0) };
    let (seconds, nanos) = row.time();
    let total = seconds as f64 + f64::from(nanos) / 1e9;
    let mut whole = total.trunc();
    let mut micros = ((total - whole) * 1e6).round_ties_even();
    if micros >= 1e6 {
        micros -= 1e6;
        whole += 1.0;
    } else if micros < 0.0 {
        micros += 1e6;
        whole -= 1.0;
    }
    (whole as i64, micros as i32 * 1_000)
}
