//! What the stages between plan and answer fill in: one cell per slot of the plan.

use crate::{Column, FeatureType, Provenance};

/// The values of one slot with where each came from. Holds one value (context scope) or one per item.
#[derive(Clone, Debug, PartialEq)]
pub struct Cell {
    /// Values; a placeholder stands where the provenance says there is none.
    pub column: Column,
    /// One per value of `column`.
    pub provenance: Vec<Provenance>,
}

impl Cell {
    /// A cell of `rows` holes, all for the same reason.
    pub fn absent(of: FeatureType, rows: usize, why: Provenance) -> Self {
        let mut column = Column::with_capacity(of, rows);
        for _ in 0..rows {
            column.push_placeholder();
        }
        Self { column, provenance: vec![why; rows] }
    }
}

/// When the row behind each value of one read happened and how long ago it was read from the store.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Times {
    /// Event time in microseconds since the Unix epoch, 0 where there is no row.
    pub event_time_us: Vec<i64>,
    /// Milliseconds since the row was read from the store, 0 for a row read by this request.
    pub age_ms: Vec<u32>,
    /// Number of the reading that the row is of, by which it is known again without a look at its values: one plan makes
    /// the same values of one reading every time. [`UNNUMBERED`](Self::UNNUMBERED) or no entries where nobody knows.
    pub readings: Vec<u64>,
}

impl Times {
    /// Nothing is known of the reading.
    pub const UNNUMBERED: u64 = 0;
    /// There is no row, and all of its values are absent.
    pub const NO_ROW: u64 = 1;
    /// Readings are numbered from here.
    pub const FIRST_READING: u64 = 2;
}

/// Everything known about a request's values so far.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Gathered {
    /// By plan slot. `None` until the stage that owns the slot has run.
    pub cells: Vec<Option<Cell>>,
    /// By plan read, in the read's own scope (one entry, or one per item).
    pub times: Vec<Times>,
}
