//! Between the gateway's cells and the flat batch of the contract. What goes out is laid out as the guest
//! said; what comes back is believed only after every length, offset and character was checked.

use weir_domain::{Blob, Cell, Column, FeatureType, Kind, Lists, Provenance};

use crate::guest::{BatchParam, BatchResult};

/// One column of a guest's inputs and the cell it is filled from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Source {
    /// Position among the transform's inputs.
    pub(crate) cell: usize,
    /// Type that the guest expects.
    pub(crate) of: FeatureType,
}

/// A batch on its way to a guest.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    rows: u32,
    f64s: Vec<f64>,
    s64s: Vec<i64>,
    bools: Vec<u8>,
    f32s: Vec<f32>,
    ends: Vec<u32>,
    data: Vec<u8>,
    validity: Vec<u8>,
}

impl Batch {
    /// Lays out `rows` rows of these columns; a cell of one value is repeated. `None` where a cell is
    /// missing, of another type or of another length: the plan and the guest then disagree.
    pub(crate) fn encode(sources: &[Source], cells: &[&Cell], rows: usize) -> Option<Self> {
        let mut batch = Self { rows: u32::try_from(rows).ok()?, ..Self::default() };
        for source in sources {
            let cell = cells.get(source.cell)?;
            let len = cell.column.len();
            if cell.column.feature_type() != source.of || cell.provenance.len() != len || (len != rows && len != 1) {
                return None;
            }
            batch.push_mask(&cell.provenance, rows);
            batch.push_column(&cell.column, rows)?;
        }
        Some(batch)
    }

    pub(crate) fn rows(&self) -> usize {
        self.rows as usize
    }

    /// As the contract wants it, borrowed.
    pub(crate) fn param(&self) -> BatchParam<'_> {
        BatchParam {
            rows: self.rows,
            f64s: &self.f64s,
            s64s: &self.s64s,
            bools: &self.bools,
            f32s: &self.f32s,
            ends: &self.ends,
            data: &self.data,
            validity: &self.validity,
        }
    }

    fn push_mask(&mut self, provenance: &[Provenance], rows: usize) {
        if let ([one], true) = (provenance, rows > 1) {
            let byte = if one.is_absent() { 0 } else { 0xFF };
            self.validity.extend(std::iter::repeat_n(byte, rows.div_ceil(8)));
            return;
        }
        self.validity.extend(
            provenance.chunks(8).map(|chunk| {
                chunk.iter().enumerate().fold(0, |byte, (bit, p)| byte | (u8::from(!p.is_absent()) << bit))
            }),
        );
    }

    fn push_column(&mut self, column: &Column, rows: usize) -> Option<()> {
        match column {
            Column::Bool(values) => repeat(&mut self.bools, values, rows, |v| u8::from(*v)),
            Column::I64(values) | Column::Timestamp(values) => repeat(&mut self.s64s, values, rows, |v| *v),
            Column::F64(values) => repeat(&mut self.f64s, values, rows, |v| *v),
            Column::F32(values) => repeat(&mut self.f64s, values, rows, |v| f64::from(*v)),
            Column::String(blob) | Column::Bytes(blob) => {
                pieces(&mut self.ends, &mut self.data, &blob.ends, &blob.data, rows)?;
            }
            Column::List(lists) => match &lists.items {
                Column::F32(items) => pieces(&mut self.ends, &mut self.f32s, &lists.ends, items, rows)?,
                _ => return None,
            },
        }
        Some(())
    }
}

/// Appends a column, or its only value `rows` times.
fn repeat<T, U: Copy>(to: &mut Vec<U>, values: &[T], rows: usize, convert: impl Fn(&T) -> U) {
    match values {
        [one] => to.extend(std::iter::repeat_n(convert(one), rows)),
        values => to.extend(values.iter().map(convert)),
    }
}

/// Appends values of varying length, or the only one `rows` times. `None` past what an offset can count.
fn pieces<T: Copy>(to_ends: &mut Vec<u32>, to: &mut Vec<T>, ends: &[u32], values: &[T], rows: usize) -> Option<()> {
    let times = if ends.len() == 1 { rows } else { 1 };
    let values = values.get(..ends.last().map_or(0, |end| *end as usize))?;
    u32::try_from(values.len().checked_mul(times)?.checked_add(to.len())?).ok()?;
    for _ in 0..times {
        let base = to.len() as u32;
        to.extend_from_slice(values);
        to_ends.extend(ends.iter().map(|end| base + end));
    }
    Some(())
}

/// Reads what a guest answered for `rows` rows. `None` if anything about it is not as the contract says.
pub(crate) fn decode(outputs: &[FeatureType], batch: &BatchResult, rows: usize) -> Option<Vec<Cell>> {
    if batch.rows as usize != rows {
        return None;
    }
    let mut reader = Reader {
        rows,
        f64s: &batch.f64s,
        s64s: &batch.s64s,
        bools: &batch.bools,
        ends: &batch.ends,
        validity: &batch.validity,
        data: Shared { all: &batch.data, at: 0 },
        items: Shared { all: &batch.f32s, at: 0 },
    };
    let cells = outputs.iter().map(|of| reader.cell(*of)).collect::<Option<Vec<_>>>()?;
    reader.is_at_its_end().then_some(cells)
}

struct Reader<'a> {
    rows: usize,
    f64s: &'a [f64],
    s64s: &'a [i64],
    bools: &'a [u8],
    ends: &'a [u32],
    validity: &'a [u8],
    data: Shared<'a, u8>,
    items: Shared<'a, f32>,
}

/// A buffer that several columns cut their values from, front to back.
struct Shared<'a, T> {
    all: &'a [T],
    at: usize,
}

impl<'a> Reader<'a> {
    fn cell(&mut self, of: FeatureType) -> Option<Cell> {
        let rows = self.rows;
        let mask = take(&mut self.validity, rows.div_ceil(8))?;
        let valid = |row: usize| mask.get(row / 8).is_some_and(|byte| byte >> (row % 8) & 1 == 1);
        // A guest may leave anything in a hole; a placeholder takes its place.
        let column = match of {
            FeatureType::One(Kind::F64) => Column::F64(values(take(&mut self.f64s, rows)?, valid)),
            FeatureType::One(Kind::F32) => {
                let wide = take(&mut self.f64s, rows)?;
                Column::F32(values(wide, valid).into_iter().map(|v| v as f32).collect())
            }
            FeatureType::One(Kind::I64) => Column::I64(values(take(&mut self.s64s, rows)?, valid)),
            FeatureType::One(Kind::Timestamp) => Column::Timestamp(values(take(&mut self.s64s, rows)?, valid)),
            FeatureType::One(Kind::Bool) => {
                let bytes = take(&mut self.bools, rows)?;
                if bytes.iter().any(|byte| *byte > 1) {
                    return None;
                }
                Column::Bool(values(bytes, valid).into_iter().map(|byte| byte == 1).collect())
            }
            FeatureType::One(kind @ (Kind::String | Kind::Bytes)) => {
                let ends = take(&mut self.ends, rows)?;
                let (own, from) = self.data.cut(ends)?;
                if kind == Kind::String && !is_text(own, from, ends) {
                    return None;
                }
                let (ends, data) = pick(own, from, ends, valid)?;
                let blob = Blob { ends, data };
                if kind == Kind::String { Column::String(blob) } else { Column::Bytes(blob) }
            }
            FeatureType::List(Kind::F32) => {
                let ends = take(&mut self.ends, rows)?;
                let (own, from) = self.items.cut(ends)?;
                let (ends, items) = pick(own, from, ends, valid)?;
                Column::List(Box::new(Lists { ends, items: Column::F32(items) }))
            }
            FeatureType::List(_) => return None,
        };
        let origin = |row| if valid(row) { Provenance::Computed } else { Provenance::Missing };
        Some(Cell { column, provenance: (0..rows).map(origin).collect() })
    }

    fn is_at_its_end(&self) -> bool {
        self.f64s.is_empty()
            && self.s64s.is_empty()
            && self.bools.is_empty()
            && self.ends.is_empty()
            && self.validity.is_empty()
            && self.data.at == self.data.all.len()
            && self.items.at == self.items.all.len()
    }
}

impl<'a, T> Shared<'a, T> {
    /// The part that one column's ends cover and where it begins, if they run forwards and stay inside.
    fn cut(&mut self, ends: &[u32]) -> Option<(&'a [T], usize)> {
        let from = self.at;
        for end in ends {
            if (*end as usize) < self.at {
                return None;
            }
            self.at = *end as usize;
        }
        Some((self.all.get(from..self.at)?, from))
    }
}

fn take<'a, T>(from: &mut &'a [T], count: usize) -> Option<&'a [T]> {
    let (head, tail) = from.split_at_checked(count)?;
    *from = tail;
    Some(head)
}

fn values<T: Copy + Default>(block: &[T], valid: impl Fn(usize) -> bool) -> Vec<T> {
    block.iter().enumerate().map(|(row, v)| if valid(row) { *v } else { T::default() }).collect()
}

/// UTF-8 as a whole, and no value begins in the middle of a character.
fn is_text(own: &[u8], from: usize, ends: &[u32]) -> bool {
    std::str::from_utf8(own)
        .is_ok_and(|text| ends.iter().all(|end| text.is_char_boundary((*end as usize).saturating_sub(from))))
}

/// Copies the values that are there, closing the gaps of those that are not.
fn pick<T: Copy>(own: &[T], from: usize, ends: &[u32], valid: impl Fn(usize) -> bool) -> Option<(Vec<u32>, Vec<T>)> {
    let mut picked = (Vec::with_capacity(ends.len()), Vec::with_capacity(own.len()));
    let mut start = 0;
    for (row, end) in ends.iter().enumerate() {
        let end = (*end as usize).checked_sub(from)?;
        if valid(row) {
            picked.1.extend_from_slice(own.get(start..end)?);
        }
        picked.0.push(picked.1.len() as u32);
        start = end;
    }
    Some(picked)
}

#[cfg(test)]
mod tests {
    use weir_domain::Value;

    use super::*;

    const TYPES: [FeatureType; 9] = [
        FeatureType::One(Kind::String),
        FeatureType::One(Kind::Bool),
        FeatureType::List(Kind::F32),
        FeatureType::One(Kind::I64),
        FeatureType::One(Kind::Bytes),
        FeatureType::One(Kind::F64),
        FeatureType::One(Kind::F32),
        FeatureType::One(Kind::Timestamp),
        FeatureType::One(Kind::String),
    ];

    fn sample(of: FeatureType, row: usize) -> Value {
        match of {
            FeatureType::One(Kind::Bool) => Value::Bool(row.is_multiple_of(2)),
            FeatureType::One(Kind::I64) => Value::I64(i64::MIN + row as i64),
            FeatureType::One(Kind::F64) => Value::F64(row as f64 / 3.0),
            FeatureType::One(Kind::F32) => Value::F32(row as f32 / 3.0),
            FeatureType::One(Kind::String) => Value::String("é".repeat(row % 4)),
            FeatureType::One(Kind::Bytes) => Value::Bytes(vec![0xFF; row % 3]),
            FeatureType::One(Kind::Timestamp) => Value::Timestamp(row as i64),
            FeatureType::List(kind) => Value::List(kind, vec![Value::F32(row as f32); row % 5]),
        }
    }

    /// Cells of every type, with holes in every third row from `first_hole` on.
    fn cells(rows: usize, first_hole: usize) -> Vec<Cell> {
        TYPES
            .map(|of| {
                let mut cell = Cell { column: Column::with_capacity(of, rows), provenance: Vec::new() };
                for row in 0..rows {
                    if row % 3 == first_hole {
                        cell.column.push_placeholder();
                        cell.provenance.push(Provenance::Missing);
                    } else {
                        cell.column.push(&sample(of, row)).unwrap();
                        cell.provenance.push(Provenance::Computed);
                    }
                }
                cell
            })
            .to_vec()
    }

    fn encoded(cells: &[Cell], rows: usize) -> Option<BatchResult> {
        let sources: Vec<_> = TYPES.iter().enumerate().map(|(cell, of)| Source { cell, of: *of }).collect();
        let batch = Batch::encode(&sources, &cells.iter().collect::<Vec<_>>(), rows)?;
        let Batch { rows, f64s, s64s, bools, f32s, ends, data, validity } = batch;
        Some(BatchResult { rows, f64s, s64s, bools, f32s, ends, data, validity })
    }

    #[test]
    fn every_type_comes_back_as_it_went_with_its_holes() {
        for rows in [1, 7, 8, 9, 40] {
            let there = cells(rows, 1);
            assert_eq!(decode(&TYPES, &encoded(&there, rows).unwrap(), rows).unwrap(), there);
        }
    }

    #[test]
    fn a_single_value_of_any_type_or_a_single_hole_fills_every_row() {
        for first_hole in [0, 2] {
            let one = cells(1, first_hole);
            let back = decode(&TYPES, &encoded(&one, 9).unwrap(), 9).unwrap();
            for (cell, one) in back.iter().zip(one) {
                assert_eq!(cell.column, one.column.broadcast(9));
                assert_eq!(cell.provenance, vec![one.provenance[0]; 9]);
            }
        }
    }

    #[test]
    fn what_a_guest_left_in_a_hole_is_not_passed_on() {
        let full = cells(8, 3);
        let mut batch = encoded(&full, 8).unwrap();
        batch.validity.fill(0);
        for (cell, of) in decode(&TYPES, &batch, 8).unwrap().into_iter().zip(TYPES) {
            assert_eq!(cell, Cell::absent(of, 8, Provenance::Missing));
        }
    }

    #[test]
    fn a_batch_longer_or_shorter_anywhere_is_not_believed() {
        let wrongs: [fn(&mut BatchResult); 10] = [
            |b| b.rows += 1,
            |b| b.f64s.push(0.0),
            |b| b.s64s.truncate(15),
            |b| b.bools.push(0),
            |b| b.bools[0] = 2,
            |b| b.f32s.push(0.0),
            |b| b.ends.truncate(31),
            |b| b.ends[0] = u32::MAX,
            |b| b.data.push(b' '),
            |b| b.validity.push(0),
        ];
        for wrong in wrongs {
            let mut batch = encoded(&cells(8, 1), 8).unwrap();
            wrong(&mut batch);
            assert_eq!(decode(&TYPES, &batch, 8), None);
        }
    }
}
