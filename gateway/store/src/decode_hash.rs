//! Rows of Feast's hashes to columns. Promises: a stored value of another kind than the feature's is INVALID and touches
//! no other, a value that is not set is MISSING, and no bytes panic.
//!
//! What the catalog has no type of its own for is widened: int32 to i64, integers and floats to f64. Feast's times are in
//! seconds, sets are lists, and JSON, UUIDs and decimals are text.

use weir_domain::feast::{Content, HashRow, ItemWidth, Raw, Wire, each_number};
use weir_domain::{Blob, Cell, Column, FeatureType, Kind, Lists, Provenance};

use crate::decode::{Lines, has_room, is_text};

/// Feast's times are in seconds, ours in microseconds.
const MICROS: i64 = 1_000_000;
/// How Feast writes "no time" into a timestamp.
const NOT_A_TIME: i64 = i64::MIN;

/// Fields of `feast.types.Value`, as [`Raw::Other`] names them. The second of each kind is the set.
mod number {
    pub(super) const BYTES: [u32; 2] = [11, 22];
    pub(super) const INT32: [u32; 2] = [13, 24];
    pub(super) const INT64: [u32; 2] = [14, 25];
    pub(super) const DOUBLE: [u32; 2] = [15, 26];
    pub(super) const FLOAT: [u32; 2] = [16, 27];
    pub(super) const BOOL: [u32; 2] = [17, 28];
    pub(super) const UNIX_TIMESTAMP: [u32; 2] = [18, 29];
    /// Strings, then JSON (which has no sets), UUIDs, UUIDs of version 1 and decimals.
    pub(super) const STRINGS: [u32; 9] = [12, 23, 33, 38, 40, 39, 41, 45, 46];
    /// One JSON, UUID, UUID of version 1 or decimal.
    pub(super) const TEXT: [u32; 4] = [32, 36, 37, 44];
}

/// The values of the read's feature at this place.
pub(crate) fn cell(lines: &Lines<'_>, of: FeatureType, place: usize) -> Cell {
    match of {
        FeatureType::One(Kind::Bool) => ones(lines, place, Column::Bool, |raw| match raw {
            Raw::Bool(v) => Some(v),
            _ => None,
        }),
        FeatureType::One(Kind::I64) => ones(lines, place, Column::I64, |raw| match raw {
            Raw::I64(v) => Some(v),
            Raw::I32(v) => Some(v.into()),
            _ => None,
        }),
        FeatureType::One(Kind::F64) => ones(lines, place, Column::F64, |raw| match raw {
            Raw::F64(v) => Some(v),
            Raw::F32(v) => Some(v.into()),
            Raw::I64(v) => Some(v as f64),
            Raw::I32(v) => Some(v.into()),
            _ => None,
        }),
        FeatureType::One(Kind::F32) => ones(lines, place, Column::F32, |raw| match raw {
            Raw::F32(v) => Some(v),
            _ => None,
        }),
        FeatureType::One(Kind::Timestamp) => ones(lines, place, Column::Timestamp, |raw| match raw {
            Raw::Timestamp(v) => v.checked_mul(MICROS),
            _ => None,
        }),
        FeatureType::One(Kind::String) => blobs(lines, place, Column::String, |raw| match raw {
            Raw::String(v) => Some(v.as_bytes()),
            Raw::Other(of, v) if number::TEXT.contains(&of) && is_text(v) => Some(v),
            _ => None,
        }),
        FeatureType::One(Kind::Bytes) => blobs(lines, place, Column::Bytes, |raw| match raw {
            Raw::Bytes(v) => Some(v),
            _ => None,
        }),
        FeatureType::List(kind) => lists(lines, place, kind),
    }
}

/// The value of a row of provenance `own`, or why there is none.
#[inline]
fn value<'a>(row: &'a [u8], own: Provenance, place: usize) -> Result<Raw<'a>, Provenance> {
    // No bytes at all stand where there is no row.
    let row = HashRow::parse(row).ok_or(own)?;
    match row.value(place).map(Raw::read) {
        None | Some(Some(Raw::Null | Raw::Timestamp(NOT_A_TIME))) => Err(Provenance::Missing),
        Some(Some(raw)) => Ok(raw),
        Some(None) => Err(Provenance::Invalid),
    }
}

#[inline(always)]
fn ones<T: Default>(
    lines: &Lines<'_>,
    place: usize,
    column: fn(Vec<T>) -> Column,
    read: impl Fn(Raw<'_>) -> Option<T>,
) -> Cell {
    let mut provenance = lines.provenance.clone();
    let one = |(row, why): (&&[u8], &mut Provenance)| {
        let value = value(row, *why, place).and_then(|raw| read(raw).ok_or(Provenance::Invalid));
        value.unwrap_or_else(|reason| {
            *why = reason;
            T::default()
        })
    };
    let values = lines.rows.iter().zip(&mut provenance).map(one).collect();
    Cell { column: column(values), provenance }
}

fn blobs(
    lines: &Lines<'_>,
    place: usize,
    column: fn(Blob) -> Column,
    read: impl for<'a> Fn(Raw<'a>) -> Option<&'a [u8]>,
) -> Cell {
    let mut provenance = lines.provenance.clone();
    let mut blob = Blob { ends: Vec::with_capacity(lines.rows.len()), data: Vec::new() };
    for (row, why) in lines.rows.iter().zip(&mut provenance) {
        let found = value(row, *why, place).and_then(|raw| read(raw).ok_or(Provenance::Invalid));
        match found {
            Ok(bytes) if has_room(&blob, bytes.len()) => blob.push(bytes),
            found => {
                blob.push(&[]);
                *why = found.err().unwrap_or(Provenance::Invalid);
            }
        }
    }
    Cell { column: column(blob), provenance }
}

fn lists(lines: &Lines<'_>, place: usize, kind: Kind) -> Cell {
    let mut provenance = lines.provenance.clone();
    let items = Column::with_capacity(FeatureType::One(kind), 0);
    let mut out = Lists { ends: Vec::with_capacity(lines.rows.len()), items };
    for (row, why) in lines.rows.iter().zip(&mut provenance) {
        let pushed = value(row, *why, place).and_then(|raw| match raw {
            Raw::Other(of, list) => push_items(&mut out.items, of, list).ok_or(Provenance::Invalid),
            _ => Err(Provenance::Invalid),
        });
        if let Err(reason) = pushed {
            *why = reason;
        }
        out.ends.push(out.items.len() as u32);
    }
    Cell { column: Column::List(Box::new(out)), provenance }
}

/// Appends the items of one list, or none of them.
fn push_items(items: &mut Column, of: u32, list: &[u8]) -> Option<()> {
    use ItemWidth::{Eight, Four, Varint};
    match items {
        Column::Bool(v) if number::BOOL.contains(&of) => numbers(v, list, Varint, |n| integer(n).map(|n| n != 0)),
        Column::I64(v) if number::INT64.contains(&of) => numbers(v, list, Varint, integer),
        Column::I64(v) if number::INT32.contains(&of) => numbers(v, list, Varint, |n| integer(n).map(narrow)),
        Column::Timestamp(v) if number::UNIX_TIMESTAMP.contains(&of) => {
            numbers(v, list, Varint, |n| integer(n)?.checked_mul(MICROS))
        }
        Column::F64(v) if number::DOUBLE.contains(&of) => numbers(v, list, Eight, |n| match n {
            Content::Fixed64(bits) => Some(f64::from_bits(bits)),
            _ => None,
        }),
        Column::F64(v) if number::FLOAT.contains(&of) => numbers(v, list, Four, |n| float(n).map(f64::from)),
        Column::F64(v) if number::INT64.contains(&of) => numbers(v, list, Varint, |n| integer(n).map(|n| n as f64)),
        Column::F64(v) if number::INT32.contains(&of) => {
            numbers(v, list, Varint, |n| integer(n).map(|n| narrow(n) as f64))
        }
        Column::F32(v) if number::FLOAT.contains(&of) => numbers(v, list, Four, float),
        Column::String(blob) if number::STRINGS.contains(&of) => strings(blob, list, is_text),
        Column::Bytes(blob) if number::BYTES.contains(&of) => strings(blob, list, |_| true),
        _ => None,
    }
}

fn integer(item: Content<'_>) -> Option<i64> {
    match item {
        Content::Varint(v) => Some(v as i64),
        _ => None,
    }
}

/// An int32 travels as 64 bits, of which only the lower half counts.
fn narrow(value: i64) -> i64 {
    (value as i32).into()
}

fn float(item: Content<'_>) -> Option<f32> {
    match item {
        Content::Fixed32(bits) => Some(f32::from_bits(bits)),
        _ => None,
    }
}

fn numbers<T>(out: &mut Vec<T>, list: &[u8], width: ItemWidth, read: impl Fn(Content<'_>) -> Option<T>) -> Option<()> {
    let before = out.len();
    let mut all_fit = true;
    let push = |item: Content<'_>| match read(item) {
        Some(value) => out.push(value),
        None => all_fit = false,
    };
    let walked = each_number(list, push, width);
    if walked.is_none() || !all_fit {
        out.truncate(before);
        return None;
    }
    Some(())
}

fn strings(out: &mut Blob, list: &[u8], is_valid: fn(&[u8]) -> bool) -> Option<()> {
    let (items, bytes) = (out.ends.len(), out.data.len());
    let mut push_all = || -> Option<()> {
        let mut wire = Wire(list);
        while let Some((field, content)) = wire.next()? {
            match (field, content) {
                (1, Content::Bytes(item)) if is_valid(item) && has_room(out, item.len()) => out.push(item),
                (1, _) => return None,
                // A field of a later version is passed over.
                _ => {}
            }
        }
        Some(())
    };
    let pushed = push_all();
    if pushed.is_none() {
        out.ends.truncate(items);
        out.data.truncate(bytes);
    }
    pushed
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::Found;
    use crate::row::Row;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use weir_domain::Value;
    use weir_domain::feast::push_varint;

    use Provenance::{Expired, Invalid, Missing, Store};

    /// The bytes of a value as Feast writes it, and what it is to the catalog.
    type Case = (Vec<u8>, Value);

    fn field(number: u32, wire_type: u32, content: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        push_varint(&mut out, (number << 3 | wire_type).into());
        if wire_type == 2 {
            push_varint(&mut out, content.len() as u64);
        }
        out.extend_from_slice(content);
        out
    }

    fn varint(value: i64) -> Vec<u8> {
        let mut out = Vec::new();
        push_varint(&mut out, value as u64);
        out
    }

    /// A list whose items are packed.
    fn packed(number: u32, items: Vec<Vec<u8>>) -> Vec<u8> {
        let inner = if items.is_empty() { Vec::new() } else { field(1, 2, &items.concat()) };
        field(number, 2, &inner)
    }

    /// A list of strings or bytes, or of numbers that are not packed.
    fn unpacked(number: u32, wire_type: u32, items: &[Vec<u8>]) -> Vec<u8> {
        let inner: Vec<u8> = items.iter().flat_map(|item| field(1, wire_type, item)).collect();
        field(number, 2, &inner)
    }

    fn list<T>(kind: Kind, items: &[T], value: impl Fn(&T) -> Value) -> Value {
        Value::List(kind, items.iter().map(value).collect())
    }

    fn read(of: FeatureType, rows: &[Option<&[u8]>]) -> Cell {
        let found: Vec<Found> = rows
            .iter()
            .map(|value| {
                let row = HashRow::pack(Some(&[8, 5]), &[Some(b"\x20\x07"), *value]).expect("a row");
                Found::Row { row: Row::unchecked(row.into(), 5_000_000), provenance: Store, age_ms: 0 }
            })
            .collect();
        cell(&Lines::of(found.iter().map(Found::line), i64::MIN), of, 1)
    }

    /// Seconds that are a time in microseconds.
    const SECONDS: std::ops::Range<i64> = i64::MIN / MICROS..i64::MAX / MICROS;

    fn singles() -> impl Strategy<Value = Case> {
        prop_oneof![
            any::<bool>().prop_map(|v| (field(7, 0, &[v.into()]), Value::Bool(v))),
            any::<i64>().prop_map(|v| (field(4, 0, &varint(v)), Value::I64(v))),
            any::<i32>().prop_map(|v| (field(3, 0, &varint(v.into())), Value::I64(v.into()))),
            any::<f64>().prop_map(|v| (field(5, 1, &v.to_le_bytes()), Value::F64(v))),
            any::<f32>().prop_map(|v| (field(6, 5, &v.to_le_bytes()), Value::F32(v))),
            any::<f32>().prop_map(|v| (field(6, 5, &v.to_le_bytes()), Value::F64(v.into()))),
            any::<i32>().prop_map(|v| (field(4, 0, &varint(v.into())), Value::F64(v.into()))),
            any::<String>().prop_map(|v| (field(2, 2, v.as_bytes()), Value::String(v))),
            (any::<String>(), proptest::sample::select(number::TEXT.to_vec()))
                .prop_map(|(v, of)| (field(of, 2, v.as_bytes()), Value::String(v))),
            vec(any::<u8>(), 0..9).prop_map(|v| (field(1, 2, &v), Value::Bytes(v))),
            SECONDS.prop_map(|v| (field(8, 0, &varint(v)), Value::Timestamp(v * MICROS))),
        ]
    }

    fn collections() -> impl Strategy<Value = Case> {
        let many = 0..5;
        let of = |numbers: &[u32]| proptest::sample::select(numbers.to_vec());
        prop_oneof![
            (vec(any::<bool>(), many.clone()), of(&number::BOOL)).prop_map(|(v, of)| {
                (packed(of, v.iter().map(|x| vec![u8::from(*x)]).collect()), list(Kind::Bool, &v, |x| Value::Bool(*x)))
            }),
            (vec(any::<i64>(), many.clone()), of(&number::INT64)).prop_map(|(v, of)| {
                (packed(of, v.iter().map(|x| varint(*x)).collect()), list(Kind::I64, &v, |x| Value::I64(*x)))
            }),
            (vec(any::<i32>(), many.clone()), of(&number::INT32)).prop_map(|(v, of)| {
                let items: Vec<_> = v.iter().map(|x| varint((*x).into())).collect();
                (unpacked(of, 0, &items), list(Kind::I64, &v, |x| Value::I64((*x).into())))
            }),
            (vec(any::<i32>(), many.clone()), of(&number::INT32)).prop_map(|(v, of)| {
                let items = v.iter().map(|x| varint((*x).into())).collect();
                (packed(of, items), list(Kind::F64, &v, |x| Value::F64((*x).into())))
            }),
            (vec(any::<f64>(), many.clone()), of(&number::DOUBLE)).prop_map(|(v, of)| {
                let items = v.iter().map(|x| x.to_le_bytes().to_vec()).collect();
                (packed(of, items), list(Kind::F64, &v, |x| Value::F64(*x)))
            }),
            (vec(any::<f32>(), many.clone()), of(&number::FLOAT)).prop_map(|(v, of)| {
                let items = v.iter().map(|x| x.to_le_bytes().to_vec()).collect();
                (packed(of, items), list(Kind::F32, &v, |x| Value::F32(*x)))
            }),
            (vec(any::<f32>(), many.clone()), of(&number::FLOAT)).prop_map(|(v, of)| {
                let items: Vec<_> = v.iter().map(|x| x.to_le_bytes().to_vec()).collect();
                (unpacked(of, 5, &items), list(Kind::F64, &v, |x| Value::F64((*x).into())))
            }),
            (vec(SECONDS, many.clone()), of(&number::UNIX_TIMESTAMP)).prop_map(|(v, of)| {
                let items = v.iter().map(|x| varint(*x)).collect();
                (packed(of, items), list(Kind::Timestamp, &v, |x| Value::Timestamp(x * MICROS)))
            }),
            (vec(any::<String>(), many.clone()), of(&number::STRINGS)).prop_map(|(v, of)| {
                let items: Vec<_> = v.iter().map(|x| x.as_bytes().to_vec()).collect();
                (unpacked(of, 2, &items), list(Kind::String, &v, |x| Value::String(x.clone())))
            }),
            (vec(vec(any::<u8>(), 0..5), many), of(&number::BYTES))
                .prop_map(|(v, of)| (unpacked(of, 2, &v), list(Kind::Bytes, &v, |x| Value::Bytes(x.clone())))),
        ]
    }

    fn every_type() -> Vec<FeatureType> {
        let kinds = [Kind::Bool, Kind::I64, Kind::F64, Kind::F32, Kind::String, Kind::Bytes, Kind::Timestamp];
        kinds.into_iter().flat_map(|k| [FeatureType::One(k), FeatureType::List(k)]).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]
        #[test]
        fn every_type_is_read_as_it_was_written((bytes, value) in prop_oneof![singles(), collections()]) {
            let cell = read(value.feature_type(), &[None, Some(&bytes), Some(b"")]);
            prop_assert_eq!(&cell.provenance, &[Missing, Store, Missing]);
            // Debug text, because a NaN equals nothing.
            prop_assert_eq!(format!("{:?}", cell.column.value(1)), format!("{value:?}"));
        }

        #[test]
        fn bytes_from_anywhere_never_panic_and_spoil_no_other_row(
            bytes in vec(any::<u8>(), 0..60),
            (good, value) in prop_oneof![singles(), collections()],
            cut: proptest::sample::Index,
        ) {
            let cut = &good[..cut.index(good.len() + 1)];
            for of in every_type() {
                for spoilt in [&bytes[..], cut] {
                    let cell = read(of, &[Some(&good), Some(spoilt), Some(&good)]);
                    prop_assert_eq!((cell.column.len(), cell.provenance.len()), (3, 3));
                    let (first, last) = (cell.column.value(0), cell.column.value(2));
                    prop_assert_eq!(format!("{first:?}"), format!("{last:?}"));
                    if of == value.feature_type() {
                        prop_assert_eq!(format!("{first:?}"), format!("{value:?}"));
                    }
                }
            }
        }

        #[test]
        fn a_row_from_anywhere_never_panics(bytes in vec(any::<u8>(), 0..80)) {
            let found = [Found::Row { row: Row::unchecked(bytes.into(), 0), provenance: Store, age_ms: 0 }];
            for (of, place) in every_type().into_iter().zip([0, 1, 7].into_iter().cycle()) {
                let _ = cell(&Lines::of(found.iter().map(Found::line), i64::MIN), of, place).column.value(0);
            }
        }
    }

    #[test]
    fn a_value_of_another_kind_is_invalid_alone() {
        let text = field(2, 2, b"gold");
        let double = field(5, 1, &0.5f64.to_le_bytes());
        let of =
            |of, rows: &[&Vec<u8>]| read(of, &rows.iter().map(|row| Some(&row[..])).collect::<Vec<_>>()).provenance;
        assert_eq!(of(FeatureType::One(Kind::F64), &[&double, &text]), [Store, Invalid]);
        assert_eq!(of(FeatureType::One(Kind::F32), &[&double]), [Invalid], "narrowing would lose");
        assert_eq!(of(FeatureType::One(Kind::I64), &[&double]), [Invalid]);
        assert_eq!(of(FeatureType::One(Kind::Bytes), &[&text]), [Invalid]);
        assert_eq!(of(FeatureType::List(Kind::String), &[&text]), [Invalid]);
        let late = field(8, 0, &varint(i64::MAX));
        assert_eq!(of(FeatureType::One(Kind::Timestamp), &[&late]), [Invalid], "no microseconds for it");
        let never = field(8, 0, &varint(NOT_A_TIME));
        assert_eq!(of(FeatureType::One(Kind::Timestamp), &[&never]), [Missing], "no time");
    }

    #[test]
    fn a_hole_and_a_row_past_its_ttl_say_so() {
        let row = HashRow::pack(Some(&[8, 5]), &[Some(b"\x20\x07")]).expect("a row");
        let row = Row::unchecked(row.into(), 5_000_000);
        let found = [Found::Hole(Provenance::Late), Found::Row { row, provenance: Store, age_ms: 0 }];
        let of = |oldest_us| {
            cell(&Lines::of(found.iter().map(Found::line), oldest_us), FeatureType::One(Kind::I64), 0).provenance
        };
        assert_eq!(of(5_000_000), [Provenance::Late, Store]);
        assert_eq!(of(5_000_001), [Provenance::Late, Expired]);
    }
}
