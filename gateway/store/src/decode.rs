//! Rows to columns: the hot path. Promises that rows are walked over once for eight neighbouring features of a fixed
//! width, once more for each of another; a value that cannot be read is INVALID and touches no other.

use weir_domain::catalog::View;
use weir_domain::plan::{Plan, ReadFeature};
use weir_domain::{Blob, Cell, Column, FeatureType, Gathered, Kind, Lists, Provenance, Times};

use crate::decode_hash;
use crate::row::{HEADER_BYTES, Layout, Row, SLOT_BYTES};
use crate::shape::hash_row;
use crate::wanted::{HashFound, Wanted};

/// What became of one wanted entity.
#[derive(Clone, Debug)]
pub(crate) enum Found {
    /// Its row, where it came from and how long ago it was read from the store.
    Row { row: Row, provenance: Provenance, age_ms: u32 },
    /// No row, and why.
    Hole(Provenance),
}

/// The same, as columns are made from it: wherever the row lies.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Line<'a> {
    /// As it is stored; empty where there is none.
    pub(crate) row: &'a [u8],
    /// Where it comes from, or why there is none.
    pub(crate) provenance: Provenance,
    pub(crate) event_time_us: i64,
    pub(crate) age_ms: u32,
    /// Number of the reading it is of, if that is known.
    pub(crate) reading: u64,
}

impl Line<'_> {
    pub(crate) fn hole(provenance: Provenance) -> Self {
        Self { row: &[], provenance, event_time_us: 0, age_ms: 0, reading: Times::UNNUMBERED }
    }

    /// A row that happened before `oldest_us` is none.
    fn is_expired(&self, oldest_us: i64) -> bool {
        !self.row.is_empty() && self.event_time_us < oldest_us
    }

    /// The reading that its values are of.
    fn reading(&self, oldest_us: i64) -> u64 {
        match self.row {
            [] if self.provenance.is_absent() => Times::NO_ROW,
            _ if self.is_expired(oldest_us) => Times::NO_ROW,
            _ => self.reading,
        }
    }
}

/// Fills the slots and the times of every read of the plan.
pub(crate) fn fill(plan: &Plan, wanted: &Wanted, found: &[Line<'_>], now_us: i64, into: &mut Gathered) {
    into.cells.resize(into.cells.len().max(plan.slots), None);
    into.times.resize(into.times.len().max(plan.reads.len()), Times::default());
    for (index, read) in plan.reads.iter().enumerate() {
        let entities = &wanted.rows[index];
        let ttl_us = read.view.ttl.map(|ttl| i64::try_from(ttl.as_micros()).unwrap_or(i64::MAX));
        let oldest_us = ttl_us.map_or(i64::MIN, |ttl| now_us.saturating_sub(ttl));
        let lines = Lines::of(entities.iter().map(|&e| found[e as usize]), oldest_us);
        into.times[index] = times(entities, found, oldest_us);
        if read.hash.is_some() {
            for (place, feature) in read.features.iter().enumerate() {
                into.cells[feature.slot] = Some(decode_hash::cell(&lines, read.view.features[feature.index].of, place));
            }
            continue;
        }
        cells(&lines, &read.view, &read.features, |slot, cell| into.cells[slot] = Some(cell));
    }
}

/// Fills the slots and the times of one read of the plan with rows of hashes that somebody else asked for: the same
/// fields of the same entities. Rows that happened before `oldest_us` are EXPIRED.
pub fn fill_hashes(plan: &Plan, read: usize, rows: &[u32], found: &[HashFound], oldest_us: i64, into: &mut Gathered) {
    let found: Vec<Found> = found.iter().map(Found::of).collect();
    let found: Vec<Line<'_>> = found.iter().map(Found::line).collect();
    into.cells.resize(into.cells.len().max(plan.slots), None);
    into.times.resize(into.times.len().max(plan.reads.len()), Times::default());
    let Some(of) = plan.reads.get(read) else { return };
    let lines = Lines::of(rows.iter().map(|&e| found[e as usize]), oldest_us);
    into.times[read] = times(rows, &found, oldest_us);
    for (place, feature) in of.features.iter().enumerate() {
        into.cells[feature.slot] = Some(decode_hash::cell(&lines, of.view.features[feature.index].of, place));
    }
}

impl Found {
    pub(crate) fn line(&self) -> Line<'_> {
        match self {
            Self::Row { row, provenance, age_ms } => {
                let (event_time_us, provenance, age_ms) = (row.event_time_us(), *provenance, *age_ms);
                Line { row: row.bytes(), provenance, event_time_us, age_ms, reading: Times::UNNUMBERED }
            }
            Self::Hole(provenance) => Line::hole(*provenance),
        }
    }

    fn of(hash: &HashFound) -> Self {
        match hash {
            HashFound::Row { row, provenance, age_ms } => {
                let (provenance, age_ms) = (*provenance, *age_ms);
                Self::Row { row: hash_row(row.clone()), provenance, age_ms }
            }
            HashFound::Hole(provenance) => Self::Hole(*provenance),
        }
    }
}

/// The rows of one read, in the order of the request.
pub(crate) struct Lines<'a> {
    /// Rows as they are stored; empty where there is none.
    pub(crate) rows: Vec<&'a [u8]>,
    /// By row: where its values come from, or why there are none. Each cell begins as a copy of this, so the
    /// loops below only touch the exceptions.
    pub(crate) provenance: Vec<Provenance>,
}

impl<'a> Lines<'a> {
    pub(crate) fn of(found: impl ExactSizeIterator<Item = Line<'a>>, oldest_us: i64) -> Self {
        let line = |line: Line<'a>| match line.is_expired(oldest_us) {
            true => (Default::default(), Provenance::Expired),
            false => (line.row, line.provenance),
        };
        let (rows, provenance) = found.map(line).unzip();
        Self { rows, provenance }
    }
}

fn times(entities: &[u32], found: &[Line<'_>], oldest_us: i64) -> Times {
    let of = |&entity: &u32| (found[entity as usize].event_time_us, found[entity as usize].age_ms);
    let (event_time_us, age_ms) = entities.iter().map(of).unzip();
    let readings = entities.iter().map(|&entity| found[entity as usize].reading(oldest_us)).collect();
    Times { event_time_us, age_ms, readings }
}

/// Neighbouring features that are read together, and rows at a time: their slots share a line of memory, their nulls
/// are in one byte.
const TILE: usize = 8;

/// Makes a cell of each feature, which `put` has a slot for.
fn cells(lines: &Lines<'_>, view: &View, features: &[ReadFeature], mut put: impl FnMut(usize, Cell)) {
    let layout = Layout::of(view);
    for neighbours in features.chunk_by(|a, b| a.index / TILE == b.index / TILE) {
        let mut numbers: Vec<(usize, u8, usize, Cell)> = Vec::with_capacity(neighbours.len());
        for feature in neighbours {
            let at = At::of(layout, feature.index);
            let cell = match view.features[feature.index].of {
                FeatureType::One(Kind::String) => at.blobs(lines, Column::String, is_text),
                FeatureType::One(Kind::Bytes) => at.blobs(lines, Column::Bytes, |_| true),
                FeatureType::List(kind) => at.lists(lines, kind),
                of @ FeatureType::One(_) => {
                    let column = Column::with_capacity(of, lines.rows.len());
                    let cell = Cell { column, provenance: lines.provenance.clone() };
                    numbers.push((feature.index % TILE, at.null_bit, feature.slot, cell));
                    continue;
                }
            };
            put(feature.slot, cell);
        }
        if let Some(feature) = neighbours.first().filter(|_| !numbers.is_empty()) {
            let first = feature.index - feature.index % TILE;
            fill_tiles(lines, At::of(layout, first), (view.features.len() - first).min(TILE), &mut numbers);
        }
        numbers.into_iter().for_each(|(.., slot, cell)| put(slot, cell));
    }
}

/// Fills the cells of features of a fixed width (their place among the neighbours, the bit of their null, their slot,
/// and the cell), of which the first neighbour is `at`.
fn fill_tiles(lines: &Lines<'_>, at: At, neighbours: usize, cells: &mut [(usize, u8, usize, Cell)]) {
    let slots = at.slot..at.slot + neighbours * SLOT_BYTES;
    for (n, rows) in lines.rows.chunks(TILE).enumerate() {
        let mut tile = [[0u64; TILE]; TILE];
        let mut nulls = [0u8; TILE];
        for (r, row) in rows.iter().enumerate() {
            // Rows were measured when they were parsed, so slots out of reach mean that there is no row.
            let Some(raw) = row.get(slots.clone()) else { continue };
            nulls[r] = row[at.null_byte];
            let (raw, _) = raw.as_chunks::<SLOT_BYTES>();
            match raw.first_chunk::<TILE>() {
                Some(raw) => (0..TILE).for_each(|f| tile[f][r] = u64::from_le_bytes(raw[f])),
                None => tile.iter_mut().zip(raw).for_each(|(column, raw)| column[r] = u64::from_le_bytes(*raw)),
            }
        }
        let has_nulls = nulls != [0; TILE];
        for (place, null_bit, _, cell) in &mut *cells {
            let provenance = &mut cell.provenance[n * TILE..][..rows.len()];
            let values = &mut tile[*place];
            if has_nulls {
                for ((nulls, value), why) in nulls.iter().zip(&mut *values).zip(&mut *provenance) {
                    if nulls & *null_bit != 0 {
                        (*value, *why) = (0, Provenance::Missing);
                    }
                }
            }
            push_slots(&mut cell.column, &values[..rows.len()], provenance);
        }
    }
}

/// Appends what was in these slots.
#[inline(always)]
fn push_slots(column: &mut Column, slots: &[u64], provenance: &mut [Provenance]) {
    match column {
        Column::F64(v) => v.extend(slots.iter().map(|raw| f64::from_bits(*raw))),
        Column::I64(v) | Column::Timestamp(v) => v.extend(slots.iter().map(|raw| *raw as i64)),
        Column::F32(v) => v.extend(slots.iter().map(|raw| f32::from_bits(*raw as u32))),
        Column::Bool(v) => {
            v.extend(slots.iter().map(|raw| *raw == 1));
            for (_, why) in slots.iter().zip(provenance).filter(|(raw, _)| **raw > 1) {
                *why = Provenance::Invalid;
            }
        }
        // Those have no values in their slots.
        Column::String(_) | Column::Bytes(_) | Column::List(_) => {}
    }
}

/// Where one feature is in each row of its view.
struct At {
    null_byte: usize,
    null_bit: u8,
    slot: usize,
    tail: usize,
}

impl At {
    fn of(layout: Layout, index: usize) -> Self {
        Self {
            null_byte: HEADER_BYTES + index / 8,
            null_bit: 1 << (index % 8),
            slot: layout.slots_at + index * SLOT_BYTES,
            tail: layout.tail_at,
        }
    }

    /// The raw slot of a row of provenance `own`, or why there is no value.
    #[inline(always)]
    fn slot(&self, row: &[u8], own: Provenance) -> Result<u64, Provenance> {
        let Some(raw) = row.get(self.slot..).and_then(|rest| rest.first_chunk::<SLOT_BYTES>()) else {
            return Err(own);
        };
        if row[self.null_byte] & self.null_bit != 0 {
            return Err(Provenance::Missing);
        }
        Ok(u64::from_le_bytes(*raw))
    }

    /// The bytes in the tail that the slot points to; a slot that points elsewhere is INVALID.
    fn tail<'a>(&self, row: &'a [u8], own: Provenance) -> Result<&'a [u8], Provenance> {
        let raw = self.slot(row, own)?;
        let (offset, length) = (raw as u32 as usize, (raw >> 32) as usize);
        let tail = row.get(self.tail..).unwrap_or(&[]);
        tail.get(offset..).and_then(|rest| rest.get(..length)).ok_or(Provenance::Invalid)
    }

    fn blobs(&self, lines: &Lines<'_>, column: fn(Blob) -> Column, is_valid: fn(&[u8]) -> bool) -> Cell {
        let mut provenance = lines.provenance.clone();
        let mut blob = Blob { ends: Vec::with_capacity(lines.rows.len()), data: Vec::new() };
        for (row, why) in lines.rows.iter().zip(&mut provenance) {
            match self.tail(row, *why) {
                Ok(bytes) if is_valid(bytes) && has_room(&blob, bytes.len()) => blob.push(bytes),
                read => {
                    blob.push(&[]);
                    *why = read.err().unwrap_or(Provenance::Invalid);
                }
            }
        }
        Cell { column: column(blob), provenance }
    }

    fn lists(&self, lines: &Lines<'_>, kind: Kind) -> Cell {
        let mut provenance = lines.provenance.clone();
        let items = Column::with_capacity(FeatureType::One(kind), 0);
        let mut out = Lists { ends: Vec::with_capacity(lines.rows.len()), items };
        for (row, why) in lines.rows.iter().zip(&mut provenance) {
            let read = self.tail(row, *why).and_then(|bytes| push_items(&mut out.items, bytes));
            if let Err(reason) = read {
                *why = reason;
            }
            out.ends.push(out.items.len() as u32);
        }
        Cell { column: Column::List(Box::new(out)), provenance }
    }
}

/// Appends the items of one list, or none of them.
fn push_items(items: &mut Column, bytes: &[u8]) -> Result<(), Provenance> {
    let pushed = match items {
        Column::Bool(v) => {
            let valid = bytes.iter().all(|b| *b < 2);
            valid.then(|| v.extend(bytes.iter().map(|b| *b == 1)))
        }
        Column::I64(v) | Column::Timestamp(v) => push_packed(v, bytes, i64::from_le_bytes),
        Column::F64(v) => push_packed(v, bytes, f64::from_le_bytes),
        Column::F32(v) => push_packed(v, bytes, f32::from_le_bytes),
        Column::String(blob) => push_strings(blob, bytes, is_text),
        Column::Bytes(blob) => push_strings(blob, bytes, |_| true),
        Column::List(_) => None,
    };
    pushed.ok_or(Provenance::Invalid)
}

fn push_packed<T, const N: usize>(out: &mut Vec<T>, bytes: &[u8], read: fn([u8; N]) -> T) -> Option<()> {
    let (items, rest) = bytes.as_chunks::<N>();
    rest.is_empty().then(|| out.extend(items.iter().map(|item| read(*item))))
}

/// Two walks: the first only checks, so that nothing has to be taken back.
fn push_strings(out: &mut Blob, bytes: &[u8], is_valid: fn(&[u8]) -> bool) -> Option<()> {
    let mut rest = bytes;
    while !rest.is_empty() {
        let item;
        (item, rest) = next_string(rest)?;
        if !is_valid(item) {
            return None;
        }
    }
    if !has_room(out, bytes.len()) {
        return None;
    }
    rest = bytes;
    while let Some((item, after)) = next_string(rest) {
        out.push(item);
        rest = after;
    }
    Some(())
}

fn next_string(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    rest.split_at_checked(u32::from_le_bytes(*length) as usize)
}

pub(crate) fn is_text(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_ok()
}

/// A column's offsets are 32 bits: what would not be addressable is not taken.
pub(crate) fn has_room(blob: &Blob, more: usize) -> bool {
    blob.data.len() + more <= u32::MAX as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::row::{pack_rows, tests::view_of};
    use bytes::Bytes;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use weir_domain::Value;

    const KINDS: [Kind; 7] = [Kind::Bool, Kind::I64, Kind::F64, Kind::F32, Kind::String, Kind::Bytes, Kind::Timestamp];

    fn every_type() -> Vec<FeatureType> {
        KINDS.into_iter().flat_map(|k| [FeatureType::One(k), FeatureType::List(k)]).collect()
    }

    fn one(kind: Kind) -> BoxedStrategy<Value> {
        match kind {
            Kind::Bool => any::<bool>().prop_map(Value::Bool).boxed(),
            Kind::I64 => any::<i64>().prop_map(Value::I64).boxed(),
            // NaN is left to its own test: it does not equal itself.
            Kind::F64 => prop_oneof![any::<f64>(), Just(f64::INFINITY)].prop_map(Value::F64).boxed(),
            Kind::F32 => any::<f32>().prop_map(Value::F32).boxed(),
            Kind::String => any::<String>().prop_map(Value::String).boxed(),
            Kind::Bytes => vec(any::<u8>(), 0..9).prop_map(Value::Bytes).boxed(),
            Kind::Timestamp => any::<i64>().prop_map(Value::Timestamp).boxed(),
        }
    }

    fn value(of: FeatureType) -> BoxedStrategy<Value> {
        match of {
            FeatureType::One(kind) => one(kind),
            FeatureType::List(kind) => vec(one(kind), 0..5).prop_map(move |v| Value::List(kind, v)).boxed(),
        }
    }

    /// One table: for each type a column of `rows` values or nulls.
    fn table(rows: usize) -> impl Strategy<Value = Vec<Vec<Option<Value>>>> {
        every_type().into_iter().map(|of| vec(proptest::option::of(value(of)), rows)).collect::<Vec<_>>()
    }

    fn cell_of(of: FeatureType, values: &[Option<Value>]) -> Cell {
        let mut column = Column::with_capacity(of, values.len());
        let push = |v: &Option<Value>| match v {
            Some(value) => column.push(value).map(|()| Provenance::Store).unwrap(),
            None => {
                column.push_placeholder();
                Provenance::Missing
            }
        };
        let provenance = values.iter().map(push).collect();
        Cell { column, provenance }
    }

    fn decode(view: &View, rows: &[Bytes]) -> Vec<Cell> {
        let found: Vec<Found> = rows
            .iter()
            .map(|bytes| match Row::parse(bytes.clone(), view) {
                Ok(row) => Found::Row { row, provenance: Provenance::Store, age_ms: 0 },
                Err(_) => Found::Hole(Provenance::Invalid),
            })
            .collect();
        let lines = Lines::of(found.iter().map(Found::line), i64::MIN);
        let features: Vec<_> = (0..view.features.len()).map(|index| ReadFeature { index, slot: index }).collect();
        let mut read = vec![None; features.len()];
        cells(&lines, view, &features, |slot, cell| read[slot] = Some(cell));
        read.into_iter().map(Option::unwrap).collect()
    }

    proptest! {
        #[test]
        fn every_type_survives_the_row_and_so_do_its_nulls(table in (0usize..2 * TILE + 2).prop_flat_map(table)) {
            let view = view_of(&every_type());
            let cells: Vec<Cell> = every_type().iter().zip(&table).map(|(of, v)| cell_of(*of, v)).collect();
            let rows = pack_rows(&view, &cells, &vec![1; table[0].len()]).unwrap();
            // Debug text, because a NaN among the values equals nothing.
            prop_assert_eq!(format!("{:?}", decode(&view, &rows)), format!("{cells:?}"));
        }

        #[test]
        fn bytes_from_anywhere_never_panic(tail in vec(any::<u8>(), 0..400), header: bool) {
            let view = view_of(&every_type());
            let mut bytes = tail;
            if header && bytes.len() >= 8 {
                bytes[..4].copy_from_slice(&view.fingerprint.to_le_bytes());
                bytes[4..8].copy_from_slice(&[view.features.len() as u8, 0, 0, 0]);
            }
            for cell in decode(&view, &[bytes.into()]) {
                prop_assert_eq!((cell.column.len(), cell.provenance.len()), (1, 1));
                let _ = cell.column.value(0);
            }
        }

        #[test]
        fn a_flipped_byte_spoils_no_other_row(table in table(2), at: proptest::sample::Index, with in 1u8..) {
            let view = view_of(&every_type());
            let cells: Vec<Cell> = every_type().iter().zip(&table).map(|(of, v)| cell_of(*of, v)).collect();
            let rows = pack_rows(&view, &cells, &[1, 2]).unwrap();
            let mut first = rows[0].to_vec();
            let at = at.index(first.len());
            first[at] ^= with;
            let read = decode(&view, &[first.into(), rows[1].clone()]);
            for (cell, wanted) in read.iter().zip(&cells) {
                prop_assert_eq!(cell.provenance[1], wanted.provenance[1]);
                prop_assert_eq!(format!("{:?}", cell.column.value(1)), format!("{:?}", wanted.column.value(1)));
            }
        }
    }

    #[test]
    fn nan_and_infinity_are_values() {
        let view = view_of(&[FeatureType::One(Kind::F64)]);
        let column = Column::F64(vec![f64::NAN, f64::NEG_INFINITY]);
        let cells = [Cell { column, provenance: vec![Provenance::Store; 2] }];
        let read = decode(&view, &pack_rows(&view, &cells, &[0, 0]).unwrap());
        let Column::F64(values) = &read[0].column else { unreachable!("an f64 feature") };
        assert!(values[0].is_nan() && values[1] == f64::NEG_INFINITY);
        assert_eq!(read[0].provenance, [Provenance::Store; 2]);
    }

    #[test]
    fn a_value_out_of_bounds_or_not_of_its_kind_is_invalid_alone() {
        let types = [FeatureType::One(Kind::String), FeatureType::One(Kind::Bool), FeatureType::List(Kind::F32)];
        let view = view_of(&types);
        let values = [Value::String("ab".into()), Value::Bool(true), Value::List(Kind::F32, vec![Value::F32(1.0)])];
        let cells: Vec<Cell> = types.iter().zip(values).map(|(of, v)| cell_of(*of, &[Some(v)])).collect();
        let row = pack_rows(&view, &cells, &[0]).unwrap().remove(0);
        let layout = Layout::of(&view);
        let spoilt = |at: usize, with: u8| {
            let mut bytes = row.to_vec();
            bytes[at] = with;
            let read = decode(&view, &[bytes.into()]);
            read.iter().map(|c| c.provenance[0]).collect::<Vec<_>>()
        };
        use Provenance::{Invalid, Store};
        assert_eq!(spoilt(layout.tail_at, 0xff), [Invalid, Store, Store], "not UTF-8");
        assert_eq!(spoilt(layout.slots_at + 7, 0xff), [Invalid, Store, Store], "length out of bounds");
        assert_eq!(spoilt(layout.slots_at + 8, 2), [Store, Invalid, Store], "a bool of 2");
        assert_eq!(spoilt(layout.slots_at + 20, 3), [Store, Store, Invalid], "three quarters of an f32");
    }
}
