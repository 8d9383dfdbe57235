//! Feast values as typed columns: what callers send for an on-demand view, on its way to the transform that stands in
//! for it.

use weir_domain::{Cell, Column, FeatureType, Kind, Provenance, Value as Typed};
use weir_proto::feast::types::{Value, value::Val};

/// Microseconds, in which our timestamps are, in one second, in which Feast's are.
const MICROS: i64 = 1_000_000;

/// The column that these values are; nulls are holes. The error is the row of a value that the type cannot hold.
pub fn cell_of(values: &[Value], of: FeatureType) -> Result<Cell, usize> {
    let mut column = Column::with_capacity(of, values.len());
    let mut provenance = Vec::with_capacity(values.len());
    for (row, value) in values.iter().enumerate() {
        match &value.val {
            None | Some(Val::NullVal(_)) => {
                column.push_placeholder();
                provenance.push(Provenance::Missing);
            }
            Some(val) => {
                let typed = typed(val, of).ok_or(row)?;
                column.push(&typed).map_err(|_| row)?;
                provenance.push(Provenance::Caller);
            }
        }
    }
    Ok(Cell { column, provenance })
}

fn typed(val: &Val, of: FeatureType) -> Option<Typed> {
    match of {
        FeatureType::One(kind) => one(val, kind),
        FeatureType::List(kind) => Some(Typed::List(kind, items(val, kind)?)),
    }
}

/// JSON has one kind of number: whole ones stand for floats, and floats that are whole for integers.
fn one(val: &Val, kind: Kind) -> Option<Typed> {
    Some(match (kind, val) {
        (Kind::Bool, Val::BoolVal(v)) => Typed::Bool(*v),
        (Kind::I64, _) => Typed::I64(integer(val)?),
        (Kind::F64, _) => Typed::F64(float(val)?),
        (Kind::F32, _) => Typed::F32(float(val)? as f32),
        (
            Kind::String,
            Val::StringVal(v) | Val::JsonVal(v) | Val::UuidVal(v) | Val::TimeUuidVal(v) | Val::DecimalVal(v),
        ) => Typed::String(v.clone()),
        (Kind::Bytes, Val::BytesVal(v)) => Typed::Bytes(v.clone()),
        (Kind::Timestamp, Val::UnixTimestampVal(_) | Val::Int64Val(_) | Val::Int32Val(_)) => {
            Typed::Timestamp(integer(val)?.checked_mul(MICROS)?)
        }
        _ => return None,
    })
}

fn integer(val: &Val) -> Option<i64> {
    match val {
        Val::Int32Val(v) => Some((*v).into()),
        Val::Int64Val(v) | Val::UnixTimestampVal(v) => Some(*v),
        Val::DoubleVal(v) => {
            let whole = *v as i64;
            (whole as f64 == *v && whole != i64::MAX).then_some(whole)
        }
        _ => None,
    }
}

fn float(val: &Val) -> Option<f64> {
    match val {
        Val::DoubleVal(v) => Some(*v),
        Val::FloatVal(v) => Some((*v).into()),
        Val::Int32Val(v) => Some((*v).into()),
        Val::Int64Val(v) => Some(*v as f64),
        _ => None,
    }
}

fn items(val: &Val, kind: Kind) -> Option<Vec<Typed>> {
    fn each<T: Clone>(items: &[T], val: fn(T) -> Val, kind: Kind) -> Option<Vec<Typed>> {
        items.iter().map(|item| one(&val(item.clone()), kind)).collect()
    }
    match val {
        Val::BytesListVal(v) | Val::BytesSetVal(v) => each(&v.val, Val::BytesVal, kind),
        Val::StringListVal(v) | Val::StringSetVal(v) => each(&v.val, Val::StringVal, kind),
        Val::Int32ListVal(v) | Val::Int32SetVal(v) => each(&v.val, Val::Int32Val, kind),
        Val::Int64ListVal(v) | Val::Int64SetVal(v) => each(&v.val, Val::Int64Val, kind),
        Val::DoubleListVal(v) | Val::DoubleSetVal(v) => each(&v.val, Val::DoubleVal, kind),
        Val::FloatListVal(v) | Val::FloatSetVal(v) => each(&v.val, Val::FloatVal, kind),
        Val::BoolListVal(v) | Val::BoolSetVal(v) => each(&v.val, Val::BoolVal, kind),
        Val::UnixTimestampListVal(v) | Val::UnixTimestampSetVal(v) => each(&v.val, Val::UnixTimestampVal, kind),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weir_proto::feast::types::{DoubleList, Null};

    fn cell(vals: &[Option<Val>], of: FeatureType) -> Result<Cell, usize> {
        let values: Vec<Value> = vals.iter().map(|val| Value { val: val.clone() }).collect();
        cell_of(&values, of)
    }

    #[test]
    fn values_become_what_the_transform_takes_and_nulls_are_holes() {
        let given = [Some(Val::Int64Val(3)), None, Some(Val::DoubleVal(0.5)), Some(Val::NullVal(Null::Null as i32))];
        let read = cell(&given, FeatureType::One(Kind::F64)).unwrap();
        assert_eq!(read.column, Column::F64(vec![3.0, 0.0, 0.5, 0.0]));
        use Provenance::{Caller, Missing};
        assert_eq!(read.provenance, [Caller, Missing, Caller, Missing]);
        let time = cell(&[Some(Val::UnixTimestampVal(7))], FeatureType::One(Kind::Timestamp)).unwrap();
        assert_eq!(time.column, Column::Timestamp(vec![7_000_000]));
        let list = Val::DoubleListVal(DoubleList { val: vec![0.5, 2.0] });
        let vector = cell(&[Some(list)], FeatureType::List(Kind::F32)).unwrap();
        assert_eq!(vector.column.value(0), Typed::List(Kind::F32, vec![Typed::F32(0.5), Typed::F32(2.0)]));
    }

    #[test]
    fn a_value_of_another_type_is_refused_by_its_row() {
        let of = FeatureType::One(Kind::I64);
        assert_eq!(cell(&[Some(Val::DoubleVal(2.0)), Some(Val::DoubleVal(2.5))], of), Err(1));
        assert_eq!(cell(&[Some(Val::StringVal("2".into()))], of), Err(0));
        assert_eq!(cell(&[Some(Val::DoubleVal(f64::MAX))], of), Err(0));
        assert_eq!(cell(&[Some(Val::UnixTimestampVal(i64::MAX))], FeatureType::One(Kind::Timestamp)), Err(0));
    }
}
