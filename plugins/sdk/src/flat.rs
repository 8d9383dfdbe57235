//! The flat batch, read and written column by column in the schema's order. Every length is checked here,
//! once a column, so that reading a value later cannot fail.

use crate::raw::{Batch, Field, Kind};
use crate::{Column, Error, Output, Value};

/// One column of a schema. Raw identifiers lose their `r#`.
pub fn field<K: Value + ?Sized>(name: &str) -> Field {
    Field { name: name.trim_start_matches("r#").to_owned(), kind: K::KIND }
}

/// Bytes that the validity of one column takes.
pub(crate) fn mask_bytes(rows: usize) -> usize {
    rows.div_ceil(8)
}

/// Takes columns off the front of a batch.
#[derive(Clone)]
pub struct Reader<'a> {
    rows: usize,
    f64s: &'a [f64],
    s64s: &'a [i64],
    bools: &'a [u8],
    ends: &'a [u32],
    validity: &'a [u8],
    data: &'a [u8],
    items: &'a [f32],
    data_from: u32,
    items_from: u32,
}

/// Where the values of one column begin and end in the column's own part of a shared buffer.
#[derive(Clone, Copy, Debug)]
pub struct Spans<'a> {
    from: u32,
    ends: &'a [u32],
}

impl Spans<'_> {
    /// Where a row's value begins and ends.
    pub(crate) fn get(&self, row: usize) -> Option<(usize, usize)> {
        let end = *self.ends.get(row)?;
        let start = match row.checked_sub(1) {
            Some(before) => *self.ends.get(before)?,
            None => self.from,
        };
        // Both were checked not to lie before `from`.
        Some(((start - self.from) as usize, (end - self.from) as usize))
    }
}

impl<'a> Reader<'a> {
    /// Starts at the first column.
    pub fn new(batch: &'a Batch) -> Self {
        Self {
            rows: batch.rows as usize,
            f64s: &batch.f64s,
            s64s: &batch.s64s,
            bools: &batch.bools,
            ends: &batch.ends,
            validity: &batch.validity,
            data: &batch.data,
            items: &batch.f32s,
            data_from: 0,
            items_from: 0,
        }
    }

    /// The next column of the schema.
    pub fn column<K: Value + ?Sized>(&mut self) -> Result<Column<'a, K>, Error> {
        let mask = take(&mut self.validity, mask_bytes(self.rows))?;
        Ok(Column::new(self.rows, mask, K::take(self)?))
    }

    /// Passes over a column of this kind.
    pub(crate) fn skip(&mut self, kind: Kind) -> Result<(), Error> {
        match kind {
            Kind::Bool => self.column::<bool>().map(drop),
            Kind::I64 => self.column::<i64>().map(drop),
            Kind::F64 => self.column::<f64>().map(drop),
            Kind::F32 => self.column::<f32>().map(drop),
            Kind::String => self.column::<str>().map(drop),
            Kind::Bytes => self.column::<[u8]>().map(drop),
            Kind::Timestamp => self.column::<crate::Timestamp>().map(drop),
            Kind::ListF32 => self.column::<[f32]>().map(drop),
        }
    }

    pub(crate) fn f64s(&mut self) -> Result<&'a [f64], Error> {
        take(&mut self.f64s, self.rows)
    }

    pub(crate) fn s64s(&mut self) -> Result<&'a [i64], Error> {
        take(&mut self.s64s, self.rows)
    }

    pub(crate) fn bools(&mut self) -> Result<&'a [u8], Error> {
        take(&mut self.bools, self.rows)
    }

    pub(crate) fn bytes(&mut self) -> Result<(Spans<'a>, &'a [u8]), Error> {
        span(take(&mut self.ends, self.rows)?, &mut self.data_from, self.data)
    }

    pub(crate) fn items(&mut self) -> Result<(Spans<'a>, &'a [f32]), Error> {
        span(take(&mut self.ends, self.rows)?, &mut self.items_from, self.items)
    }
}

fn take<'a, T>(from: &mut &'a [T], count: usize) -> Result<&'a [T], Error> {
    let (head, tail) = from.split_at_checked(count).ok_or("the batch is shorter than its schema says")?;
    *from = tail;
    Ok(head)
}

fn span<'a, T>(ends: &'a [u32], at: &mut u32, all: &'a [T]) -> Result<(Spans<'a>, &'a [T]), Error> {
    let from = *at;
    for end in ends {
        if *end < *at {
            return Err("the ends of a column go backwards".into());
        }
        *at = *end;
    }
    let own = all.get(from as usize..*at as usize).ok_or("a column ends behind its data")?;
    Ok((Spans { from, ends }, own))
}

/// Appends columns to a batch.
pub struct Writer {
    batch: Batch,
}

impl Writer {
    /// An empty batch of so many rows.
    pub fn new(rows: usize) -> Result<Self, Error> {
        let rows = u32::try_from(rows).map_err(|_| Error::new("more rows than a batch can count"))?;
        let batch = Batch {
            rows,
            f64s: Vec::new(),
            s64s: Vec::new(),
            bools: Vec::new(),
            f32s: Vec::new(),
            ends: Vec::new(),
            data: Vec::new(),
            validity: Vec::new(),
        };
        Ok(Self { batch })
    }

    /// Appends the next column of the schema; it must have a value or a hole for every row.
    pub fn column<K: Value + ?Sized>(&mut self, name: &str, column: Output<K>) -> Result<(), Error> {
        let (rows, mask, buffer) = column.into_parts();
        if rows != self.batch.rows as usize {
            return Err(Error(format!("column `{name}` has {rows} values for {} rows", self.batch.rows)));
        }
        append(&mut self.batch.validity, mask);
        K::put(buffer, self)
    }

    /// The batch with all columns appended so far.
    pub fn finish(self) -> Batch {
        self.batch
    }

    pub(crate) fn f64s(&mut self, block: Vec<f64>) -> Result<(), Error> {
        append(&mut self.batch.f64s, block);
        Ok(())
    }

    pub(crate) fn s64s(&mut self, block: Vec<i64>) -> Result<(), Error> {
        append(&mut self.batch.s64s, block);
        Ok(())
    }

    pub(crate) fn bools(&mut self, block: Vec<u8>) -> Result<(), Error> {
        append(&mut self.batch.bools, block);
        Ok(())
    }

    pub(crate) fn bytes(&mut self, block: Pieces<u8>) -> Result<(), Error> {
        pieces(&mut self.batch.ends, &mut self.batch.data, block)
    }

    pub(crate) fn items(&mut self, block: Pieces<f32>) -> Result<(), Error> {
        pieces(&mut self.batch.ends, &mut self.batch.f32s, block)
    }
}

/// Values of varying length, one after another.
#[derive(Clone, Debug)]
pub struct Pieces<T> {
    ends: Vec<usize>,
    data: Vec<T>,
}

impl<T> Default for Pieces<T> {
    fn default() -> Self {
        Self { ends: Vec::new(), data: Vec::new() }
    }
}

impl<T: Copy> Pieces<T> {
    pub(crate) fn push(&mut self, value: &[T]) {
        self.data.extend_from_slice(value);
        self.ends.push(self.data.len());
    }
}

/// The first column of a kind gives its buffer away; only later ones are copied.
fn append<T>(to: &mut Vec<T>, mut block: Vec<T>) {
    if to.is_empty() {
        *to = block;
    } else {
        to.append(&mut block);
    }
}

fn pieces<T>(ends: &mut Vec<u32>, data: &mut Vec<T>, block: Pieces<T>) -> Result<(), Error> {
    let base = data.len();
    append(data, block.data);
    for end in block.ends {
        ends.push(u32::try_from(base + end).map_err(|_| Error::new("more data than a batch can count"))?);
    }
    Ok(())
}
