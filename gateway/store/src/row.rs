//! The packed row: all features of one entity as one binary string. Promises: a row that parses is a row of
//! that view in that schema; whatever else the bytes are, reading them is [`Invalid`], never a panic.
//!
//! ```text
//! [schema fingerprint u32][features u16][flags u16][event time i64 µs][null bitmap][8-byte slots][tail]
//! ```
//! Little-endian throughout. A set bit in the bitmap is a null. bool, i64, f64, f32 and timestamp live in their
//! slot, zero-extended; strings, bytes and lists leave (offset u32, length u32) of their bytes in the tail
//! there. Lists of numbers are packed arrays, a list of bools has one byte each, a list of strings or bytes is
//! (length u32, bytes) over and over.

use bytes::{BufMut, Bytes};
use weir_domain::catalog::{Feature, View};
use weir_domain::{Cell, Column, Lists};

/// Bytes before the null bitmap.
pub(crate) const HEADER_BYTES: usize = 16;
/// Bytes a feature has in the fixed part.
pub(crate) const SLOT_BYTES: usize = 8;
/// Nothing uses the flags yet, so a row that has one was written by a later version of us.
const FLAGS: u16 = 0;
/// Redis stores no longer string (`proto-max-bulk-len`).
const ROW_BYTES_MAX: usize = 512 << 20;

/// Where things are in the rows of a view; the same for each of its rows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    pub(crate) slots_at: usize,
    pub(crate) tail_at: usize,
}

impl Layout {
    pub(crate) fn of(view: &View) -> Self {
        let features = view.features.len();
        let slots_at = HEADER_BYTES + features.div_ceil(8);
        Self { slots_at, tail_at: slots_at + features * SLOT_BYTES }
    }
}

/// A packed row whose header is that of its view.
#[derive(Clone, Debug)]
pub struct Row {
    bytes: Bytes,
    event_time_us: i64,
}

/// Bytes that are not a row of the view they were stored for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// Shorter than the fixed part of the view's rows.
    #[error("row is shorter than its fixed part")]
    Short,
    /// A row of another view, of another version or of another schema.
    #[error("row has another schema than the view")]
    Schema,
    /// Written by a version of this program that knows more than this one.
    #[error("row has flags of a later version")]
    Flags,
}

impl Row {
    /// Checks what can be checked once per row. Values in the tail are checked when they are read.
    pub fn parse(bytes: Bytes, view: &View) -> Result<Self, Invalid> {
        let event_time_us = Self::check(&bytes, view)?;
        Ok(Self { bytes, event_time_us })
    }

    /// The same of a row that lies somewhere else; its event time.
    pub(crate) fn check(bytes: &[u8], view: &View) -> Result<i64, Invalid> {
        let header = bytes.first_chunk::<HEADER_BYTES>().ok_or(Invalid::Short)?;
        let [f0, f1, f2, f3, n0, n1, g0, g1, event_time @ ..] = *header;
        if u32::from_le_bytes([f0, f1, f2, f3]) != view.fingerprint
            || u16::from_le_bytes([n0, n1]) != view.features.len() as u16
        {
            return Err(Invalid::Schema);
        }
        if u16::from_le_bytes([g0, g1]) != FLAGS {
            return Err(Invalid::Flags);
        }
        if bytes.len() < Layout::of(view).tail_at {
            return Err(Invalid::Short);
        }
        Ok(i64::from_le_bytes(event_time))
    }

    /// A row in another format, which somebody else has checked.
    pub(crate) fn unchecked(bytes: Bytes, event_time_us: i64) -> Self {
        Self { bytes, event_time_us }
    }

    /// When what the row says happened, in microseconds since the Unix epoch.
    pub fn event_time_us(&self) -> i64 {
        self.event_time_us
    }

    pub(crate) fn bytes(&self) -> &Bytes {
        &self.bytes
    }
}

/// Columns that do not fit the view they should be stored as.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PackError {
    /// As many columns as the view has features are wanted.
    #[error("{got} columns for a view of {wanted} features")]
    Columns {
        /// Features of the view.
        wanted: usize,
        /// Columns there were.
        got: usize,
    },
    /// A column has another type than its feature, or another length than there are event times.
    #[error("column for feature {feature} has another type or another length than the view and the event times")]
    Column {
        /// Name of the feature.
        feature: String,
    },
    /// A row is longer than Redis stores.
    #[error("row {row} is longer than {ROW_BYTES_MAX} bytes")]
    Long {
        /// Which of the rows, from 0.
        row: usize,
    },
}

/// Packs a table: `cells` by the view's features, one row per event time. What is not real in a cell
/// (see [`Provenance`](weir_domain::Provenance)) becomes a null.
pub fn pack_rows(view: &View, cells: &[Cell], event_time_us: &[i64]) -> Result<Vec<Bytes>, PackError> {
    if cells.len() != view.features.len() {
        return Err(PackError::Columns { wanted: view.features.len(), got: cells.len() });
    }
    let fits = |(feature, cell): &(&Feature, &Cell)| {
        cell.column.feature_type() == feature.of
            && cell.column.len() == event_time_us.len()
            && cell.provenance.len() == event_time_us.len()
    };
    if let Some((feature, _)) = view.features.iter().zip(cells).find(|pair| !fits(pair)) {
        return Err(PackError::Column { feature: feature.name.to_string() });
    }
    let layout = Layout::of(view);
    let mut tail = Vec::new();
    let pack = |(row, &event_time)| {
        let packed = pack_row(view, layout, cells, row, event_time, &mut tail);
        if packed.len() > ROW_BYTES_MAX { Err(PackError::Long { row }) } else { Ok(packed.into()) }
    };
    event_time_us.iter().enumerate().map(pack).collect()
}

fn pack_row(view: &View, layout: Layout, cells: &[Cell], row: usize, event_time: i64, tail: &mut Vec<u8>) -> Vec<u8> {
    tail.clear();
    let mut out = Vec::with_capacity(layout.tail_at);
    out.put_u32_le(view.fingerprint);
    out.put_u16_le(cells.len() as u16);
    out.put_u16_le(FLAGS);
    out.put_i64_le(event_time);
    out.resize(layout.slots_at, 0);
    for (index, cell) in cells.iter().enumerate() {
        if cell.provenance[row].is_real() {
            let slot = slot(&cell.column, row, tail);
            out.put_u64_le(slot);
        } else {
            out[HEADER_BYTES + index / 8] |= 1 << (index % 8);
            out.put_u64_le(0);
        }
    }
    out.extend_from_slice(tail);
    out
}

/// The slot of a value; what does not fit into it goes to the tail.
fn slot(column: &Column, row: usize, tail: &mut Vec<u8>) -> u64 {
    let start = tail.len();
    match column {
        Column::Bool(v) => return v[row].into(),
        Column::I64(v) | Column::Timestamp(v) => return v[row] as u64,
        Column::F64(v) => return v[row].to_bits(),
        Column::F32(v) => return v[row].to_bits().into(),
        Column::String(blob) | Column::Bytes(blob) => tail.extend_from_slice(blob.get(row)),
        Column::List(lists) => push_list(lists, row, tail),
    }
    start as u64 | ((tail.len() - start) as u64) << 32
}

fn push_list(lists: &Lists, row: usize, tail: &mut Vec<u8>) {
    let start = if row == 0 { 0 } else { lists.ends[row - 1] as usize };
    let range = start..lists.ends[row] as usize;
    match &lists.items {
        Column::Bool(v) => tail.extend(v[range].iter().map(|b| u8::from(*b))),
        Column::I64(v) | Column::Timestamp(v) => v[range].iter().for_each(|x| tail.put_i64_le(*x)),
        Column::F64(v) => v[range].iter().for_each(|x| tail.put_f64_le(*x)),
        Column::F32(v) => v[range].iter().for_each(|x| tail.put_f32_le(*x)),
        Column::String(blob) | Column::Bytes(blob) => {
            for item in range.map(|i| blob.get(i)) {
                tail.put_u32_le(item.len() as u32);
                tail.extend_from_slice(item);
            }
        }
        // Items are never lists themselves; see `Lists`.
        Column::List(_) => debug_assert!(false, "a list of lists"),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use weir_domain::catalog::{Doc, Entity, Feature, Freshness, JoinKey, Place};
    use weir_domain::{FeatureType, Kind, Provenance};

    /// A view with these features, named f0, f1 …, of an entity with one text key.
    pub(crate) fn view_of(types: &[FeatureType]) -> View {
        let doc = |name: &str| Doc {
            name: name.into(),
            owner: "tests".into(),
            description: "made by hand".into(),
            at: Place { file: "test.toml".into(), line: 1 },
        };
        let feature = |(i, of): (usize, &FeatureType)| Feature {
            name: format!("f{i}").into(),
            of: *of,
            default: None,
            description: "a feature".into(),
        };
        View {
            doc: doc("view"),
            version: 1,
            entity: Arc::new(Entity {
                doc: doc("entity"),
                keys: vec![JoinKey { name: "id".into(), kind: Kind::String }],
            }),
            source: None,
            event_time: "ts".into(),
            ttl: None,
            cache: Freshness {
                fresh_for: Duration::from_secs(1),
                revalidate_for: Duration::ZERO,
                stale_for: Duration::from_secs(60),
                negative_for: Duration::from_secs(1),
            },
            layout: weir_domain::catalog::Layout::Packed,
            tags: vec![],
            features: types.iter().enumerate().map(feature).collect(),
            fingerprint: 0xfeed_beef,
        }
    }

    fn numbers(rows: &[Option<f64>]) -> Cell {
        let provenance = |v: &Option<f64>| if v.is_some() { Provenance::Store } else { Provenance::Missing };
        Cell {
            column: Column::F64(rows.iter().map(|v| v.unwrap_or(0.0)).collect()),
            provenance: rows.iter().map(provenance).collect(),
        }
    }

    #[test]
    fn a_row_is_laid_out_as_documented() {
        let view = view_of(&[FeatureType::One(Kind::F64), FeatureType::One(Kind::String)]);
        let mut names = Column::with_capacity(FeatureType::One(Kind::String), 1);
        names.push(&weir_domain::Value::String("é".into())).unwrap();
        let cells = [numbers(&[None]), Cell { column: names, provenance: vec![Provenance::Store] }];
        let rows = pack_rows(&view, &cells, &[-2]).unwrap();
        let mut wanted = vec![0xef, 0xbe, 0xed, 0xfe, 2, 0, 0, 0];
        wanted.extend((-2i64).to_le_bytes());
        wanted.extend([0b01, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0xc3, 0xa9]);
        assert_eq!(rows[0], wanted);
        assert_eq!(Row::parse(rows[0].clone(), &view).unwrap().event_time_us(), -2);
    }

    #[test]
    fn a_row_of_another_schema_or_a_cut_row_is_invalid() {
        let view = view_of(&[FeatureType::One(Kind::F64); 9]);
        let row = pack_rows(&view, &vec![numbers(&[Some(1.0)]); 9], &[7]).unwrap().remove(0);
        assert!(Row::parse(row.clone(), &view).is_ok());
        for cut in 0..row.len() {
            assert_eq!(Row::parse(row.slice(..cut), &view).unwrap_err(), Invalid::Short);
        }
        let other = View { fingerprint: 1, ..view.clone() };
        assert_eq!(Row::parse(row.clone(), &other).unwrap_err(), Invalid::Schema);
        let wider = View { fingerprint: view.fingerprint, ..view_of(&[FeatureType::One(Kind::F64); 8]) };
        assert_eq!(Row::parse(row.clone(), &wider).unwrap_err(), Invalid::Schema);
        let mut flagged = row.to_vec();
        flagged[6] = 1;
        assert_eq!(Row::parse(flagged.into(), &view).unwrap_err(), Invalid::Flags);
    }

    #[test]
    fn columns_that_do_not_fit_the_view_are_not_packed() {
        let view = view_of(&[FeatureType::One(Kind::F64)]);
        assert_eq!(pack_rows(&view, &[], &[]), Err(PackError::Columns { wanted: 1, got: 0 }));
        let ragged = pack_rows(&view, &[numbers(&[None])], &[1, 2]);
        assert_eq!(ragged, Err(PackError::Column { feature: "f0".into() }));
        let other = Cell { column: Column::I64(vec![1]), provenance: vec![Provenance::Store] };
        assert_eq!(pack_rows(&view, &[other], &[1]), Err(PackError::Column { feature: "f0".into() }));
    }
}
