//! The rows that a segment tells, for its records to name.

use std::collections::HashMap;

use weir_domain::Column;

use crate::record::{ROWS_MAX, column};
use crate::schema::Schema;
use crate::wire::{Cursor, Malformed};

/// By schema and read.
#[derive(Debug, Default)]
pub(crate) struct Pools(HashMap<(u32, usize), Pool>);

/// The rows told of one read.
#[derive(Debug, Default)]
struct Pool {
    /// Stretches of numbers without a gap, in their order; but for damage there is one.
    stretches: Vec<Stretch>,
    rows: usize,
    /// By output of the read.
    columns: Vec<Column>,
}

#[derive(Debug)]
struct Stretch {
    /// Number and place of its first row.
    first: u64,
    place: usize,
    rows: usize,
}

/// Values of rows by their place in `columns`.
pub(crate) struct Picked<'p> {
    columns: std::slice::Iter<'p, Column>,
    places: Vec<usize>,
}

impl Pools {
    /// Reads a frame that tells rows.
    pub(crate) fn add(&mut self, body: &[u8], schema: &Schema) -> Result<(), Malformed> {
        let mut from = Cursor(body);
        let (id, read) = (from.u32("a schema id")?, from.u32("a read")? as usize);
        let _generation = from.i64("a generation")?;
        let (first, count) = (from.i64("a row's number")? as u64, from.u32("a row count")? as usize);
        if count > ROWS_MAX {
            return Err(Malformed("a sensible row count"));
        }
        let outputs = schema.outputs.iter().filter(|o| o.read == Some(read));
        let values = outputs.map(|o| column(&mut from, o.of).and_then(|c| exactly(c, count)));
        let values = values.collect::<Result<Vec<Column>, _>>()?;
        if !from.0.is_empty() {
            return Err(Malformed("rows and nothing else"));
        }
        let pool = self.0.entry((id, read)).or_default();
        // What the head of a segment tells may follow once more.
        if pool.place(first).is_some() {
            return Ok(());
        }
        if pool.columns.is_empty() {
            pool.columns = values.iter().map(|v| Column::with_capacity(v.feature_type(), count)).collect();
        }
        for (to, column) in pool.columns.iter_mut().zip(&values) {
            (0..count).for_each(|i| to.push_from(column, i));
        }
        pool.extend(first, count);
        Ok(())
    }

    /// The rows that a record names.
    pub(crate) fn pick(&self, schema: u32, read: usize, first: u64, offsets: &[u32]) -> Result<Picked<'_>, Malformed> {
        const UNTOLD: Malformed = Malformed("rows that were told");
        let pool = self.0.get(&(schema, read)).ok_or(UNTOLD)?;
        let place = |offset: &u32| first.checked_add(u64::from(*offset)).and_then(|n| pool.place(n)).ok_or(UNTOLD);
        let places = offsets.iter().map(place).collect::<Result<_, _>>()?;
        Ok(Picked { columns: pool.columns.iter(), places })
    }
}

impl Pool {
    fn extend(&mut self, first: u64, rows: usize) {
        let next = self.stretches.partition_point(|s| s.first <= first);
        let last = next.checked_sub(1).map(|last| &mut self.stretches[last]);
        match last.filter(|s| first - s.first == s.rows as u64 && s.place + s.rows == self.rows) {
            Some(last) => last.rows += rows,
            None => self.stretches.insert(next, Stretch { first, place: self.rows, rows }),
        }
        self.rows += rows;
    }

    fn place(&self, number: u64) -> Option<usize> {
        let next = self.stretches.partition_point(|s| s.first <= number);
        let stretch = self.stretches.get(next.checked_sub(1)?)?;
        let within = usize::try_from(number - stretch.first).ok()?;
        (within < stretch.rows).then_some(stretch.place + within)
    }
}

impl Picked<'_> {
    /// The values of the next output of the read.
    pub(crate) fn next(&mut self) -> Option<Column> {
        self.columns.next().map(|column| gather(column, &self.places))
    }
}

/// These values of a column, in this order.
pub(crate) fn gather(column: &Column, places: &[usize]) -> Column {
    fn pick<T: Copy>(values: &[T], places: &[usize]) -> Vec<T> {
        places.iter().map(|place| values[*place]).collect()
    }
    match column {
        Column::Bool(v) => Column::Bool(pick(v, places)),
        Column::I64(v) => Column::I64(pick(v, places)),
        Column::F64(v) => Column::F64(pick(v, places)),
        Column::F32(v) => Column::F32(pick(v, places)),
        Column::Timestamp(v) => Column::Timestamp(pick(v, places)),
        Column::String(_) | Column::Bytes(_) | Column::List(_) => {
            let mut picked = Column::with_capacity(column.feature_type(), places.len());
            places.iter().for_each(|place| picked.push_from(column, *place));
            picked
        }
    }
}

fn exactly(column: Column, rows: usize) -> Result<Column, Malformed> {
    if column.len() == rows { Ok(column) } else { Err(Malformed("a value per row")) }
}
