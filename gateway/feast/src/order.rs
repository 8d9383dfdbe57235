//! The order into which Feast brings rows before it reads them. Nobody sees it, but what Python cannot compare makes the
//! whole request fail, and of several values that no key is made of the first in this order is named.
//!
//! Comparisons are made in the order in which CPython's `list.sort` makes them, as far as the first of its runs goes,
//! since which two values it stumbles upon is in its complaint.

use std::cmp::Ordering;

use weir_proto::feast::types::{Value, value::Val};

use crate::raised::Raised;

/// Longer lists are sorted in runs of 32 to 64, which are merged.
const RUN_ROWS_MAX: usize = 64;

/// Whether all values are of one type that Python can order. Then rows need not be sorted to know that they can be.
pub(crate) fn is_plain(values: &[Value]) -> bool {
    let Some(Value { val: Some(first) }) = values.first() else { return values.is_empty() };
    let of = std::mem::discriminant(first);
    !matches!(Sorted::of(first), Sorted::Message(_))
        && values.iter().all(|value| value.val.as_ref().is_some_and(|val| std::mem::discriminant(val) == of))
}

/// Rows as sorted by their columns, or what Python says instead.
pub(crate) fn sorted(columns: &[&[Value]]) -> Result<Vec<usize>, Raised> {
    if columns.iter().any(|values| values.iter().any(|value| value.val.is_none())) {
        return Err(Raised::python("TypeError", "attribute name must be string, not 'NoneType'"));
    }
    let count = columns.iter().map(|values| values.len()).min().unwrap_or(0);
    let mut rows: Vec<usize> = (0..count).collect();
    first_run(&mut rows, columns)?;
    merge_sort(&rows, columns)
}

/// Sorts by comparisons that may fail, and that need not be of one mind: not a number is neither less nor more than any,
/// which the standard library's sort takes amiss.
fn merge_sort(rows: &[usize], columns: &[&[Value]]) -> Result<Vec<usize>, Raised> {
    let (left, right) = rows.split_at(rows.len() / 2);
    if left.is_empty() {
        return Ok(right.to_vec());
    }
    let (left, right) = (merge_sort(left, columns)?, merge_sort(right, columns)?);
    let (mut left, mut right) = (left.into_iter().peekable(), right.into_iter().peekable());
    let mut sorted = Vec::with_capacity(rows.len());
    while let (Some(a), Some(b)) = (left.peek(), right.peek()) {
        let next = if is_less(columns, *b, *a)? { right.next() } else { left.next() };
        sorted.extend(next);
    }
    sorted.extend(left.chain(right));
    Ok(sorted)
}

/// Sorts the first run: what is in order already, and the rest of it by binary insertion.
fn first_run(rows: &mut [usize], columns: &[&[Value]]) -> Result<(), Raised> {
    let run = run_rows(rows.len());
    let Some(mut ordered) = (rows.len() > 1).then_some(2) else { return Ok(()) };
    let is_descending = is_less(columns, rows[1], rows[0])?;
    while ordered < rows.len() && is_less(columns, rows[ordered], rows[ordered - 1])? == is_descending {
        ordered += 1;
    }
    if is_descending {
        rows[..ordered].reverse();
    }
    for start in ordered..run.min(rows.len()) {
        let (mut low, mut high) = (0, start);
        while low < high {
            let middle = usize::midpoint(low, high);
            if is_less(columns, rows[start], rows[middle])? {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        rows[low..=start].rotate_right(1);
    }
    Ok(())
}

fn run_rows(mut rows: usize) -> usize {
    let mut has_rest = 0;
    while rows >= RUN_ROWS_MAX {
        has_rest |= rows & 1;
        rows >>= 1;
    }
    rows + has_rest
}

/// `a < b` of two tuples: the first values that are not equal decide.
fn is_less(columns: &[&[Value]], a: usize, b: usize) -> Result<bool, Raised> {
    for values in columns {
        let (Some(Value { val: Some(x) }), Some(Value { val: Some(y) })) = (values.get(a), values.get(b)) else {
            continue;
        };
        let (sorted, other) = (Sorted::of(x), Sorted::of(y));
        return Ok(match (sorted, other) {
            (Sorted::Text(x), Sorted::Text(y)) if x != y => x < y,
            (Sorted::Bytes(x), Sorted::Bytes(y)) if x != y => x < y,
            (Sorted::Number(x), Sorted::Number(y)) if x != y => x < y,
            (Sorted::Text(_), Sorted::Text(_))
            | (Sorted::Bytes(_), Sorted::Bytes(_))
            | (Sorted::Number(_), Sorted::Number(_)) => continue,
            _ if x == y => continue,
            _ => {
                let message = format!("'<' not supported between instances of '{}' and '{}'", class(x), class(y));
                return Err(Raised::python("TypeError", message));
            }
        });
    }
    Ok(false)
}

/// A value as Python compares it.
enum Sorted<'v> {
    Text(&'v str),
    Bytes(&'v [u8]),
    Number(Number),
    /// Protobuf messages can be equal and have no order.
    Message(&'static str),
}

/// Integers and floats, compared exactly.
#[derive(Clone, Copy)]
enum Number {
    Int(i64),
    Float(f64),
}

impl PartialEq for Number {
    fn eq(&self, other: &Self) -> bool {
        self.partial_cmp(other) == Some(Ordering::Equal)
    }
}

impl PartialOrd for Number {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        match (*self, *other) {
            (Self::Int(a), Self::Int(b)) => Some(a.cmp(&b)),
            (Self::Float(a), Self::Float(b)) => a.partial_cmp(&b),
            (Self::Int(a), Self::Float(b)) => int_to_float(a, b),
            (Self::Float(a), Self::Int(b)) => int_to_float(b, a).map(Ordering::reverse),
        }
    }
}

fn int_to_float(int: i64, float: f64) -> Option<Ordering> {
    // Beyond 2^63 in either direction the sign decides; within, the whole part is an i64 without loss.
    const LIMIT: f64 = 9_223_372_036_854_775_808.0;
    match float {
        _ if float.is_nan() => None,
        _ if float >= LIMIT => Some(Ordering::Less),
        _ if float < -LIMIT => Some(Ordering::Greater),
        _ => Some(int.cmp(&(float.trunc() as i64)).then(0.0_f64.partial_cmp(&float.fract())?)),
    }
}

impl<'v> Sorted<'v> {
    fn of(val: &'v Val) -> Self {
        match val {
            Val::StringVal(s) | Val::JsonVal(s) | Val::UuidVal(s) | Val::TimeUuidVal(s) | Val::DecimalVal(s) => {
                Self::Text(s)
            }
            Val::BytesVal(b) => Self::Bytes(b),
            Val::Int32Val(i) => Self::Number(Number::Int(i64::from(*i))),
            Val::Int64Val(i) | Val::UnixTimestampVal(i) => Self::Number(Number::Int(*i)),
            Val::BoolVal(b) => Self::Number(Number::Int(i64::from(*b))),
            // Set to null, which is the number 0 of an enum.
            Val::NullVal(_) => Self::Number(Number::Int(0)),
            Val::DoubleVal(f) => Self::Number(Number::Float(*f)),
            Val::FloatVal(f) => Self::Number(Number::Float(f64::from(*f))),
            Val::BytesListVal(_) => Self::Message("BytesList"),
            Val::StringListVal(_)
            | Val::JsonListVal(_)
            | Val::UuidListVal(_)
            | Val::TimeUuidListVal(_)
            | Val::DecimalListVal(_) => Self::Message("StringList"),
            Val::Int32ListVal(_) => Self::Message("Int32List"),
            Val::Int64ListVal(_) | Val::UnixTimestampListVal(_) => Self::Message("Int64List"),
            Val::DoubleListVal(_) => Self::Message("DoubleList"),
            Val::FloatListVal(_) => Self::Message("FloatList"),
            Val::BoolListVal(_) => Self::Message("BoolList"),
            Val::BytesSetVal(_) => Self::Message("BytesSet"),
            Val::StringSetVal(_) | Val::UuidSetVal(_) | Val::TimeUuidSetVal(_) | Val::DecimalSetVal(_) => {
                Self::Message("StringSet")
            }
            Val::Int32SetVal(_) => Self::Message("Int32Set"),
            Val::Int64SetVal(_) | Val::UnixTimestampSetVal(_) => Self::Message("Int64Set"),
            Val::DoubleSetVal(_) => Self::Message("DoubleSet"),
            Val::FloatSetVal(_) => Self::Message("FloatSet"),
            Val::BoolSetVal(_) => Self::Message("BoolSet"),
            Val::MapVal(_) | Val::StructVal(_) => Self::Message("Map"),
            Val::MapListVal(_) | Val::StructListVal(_) => Self::Message("MapList"),
            Val::ListVal(_) | Val::SetVal(_) => Self::Message("RepeatedValue"),
            Val::ScalarMapVal(_) => Self::Message("ScalarMap"),
            Val::ZonedTimestampVal(_) => Self::Message("ZonedTimestamp"),
        }
    }
}

/// The Python type of a value.
fn class(val: &Val) -> &'static str {
    match (Sorted::of(val), val) {
        (Sorted::Text(_), _) => "str",
        (Sorted::Bytes(_), _) => "bytes",
        (Sorted::Message(class), _) => class,
        (_, Val::BoolVal(_)) => "bool",
        (Sorted::Number(Number::Float(_)), _) => "float",
        (Sorted::Number(Number::Int(_)), _) => "int",
    }
}

#[cfg(test)]
mod tests {
    use weir_proto::feast::types::Int64List;

    use super::*;

    fn values(vals: &[Val]) -> Vec<Value> {
        vals.iter().map(|val| Value { val: Some(val.clone()) }).collect()
    }

    fn text(text: &str) -> Val {
        Val::StringVal(text.to_owned())
    }

    fn complaint(columns: &[&[Value]]) -> String {
        sorted(columns).unwrap_err().message
    }

    #[test]
    fn what_is_compared_first_is_complained_of() {
        let not = |a: &str, b: &str| format!("'<' not supported between instances of '{a}' and '{b}'");
        assert_eq!(complaint(&[&values(&[text("a"), Val::Int64Val(1)])]), not("int", "str"));
        assert_eq!(complaint(&[&values(&[Val::Int64Val(1), text("a")])]), not("str", "int"));
        // "c" is in order after "a"; 5 is then put to the middle of the three before it.
        let four = [text("a"), text("b"), text("a"), Val::Int64Val(5)];
        assert_eq!(complaint(&[&values(&four)]), not("int", "str"));
        let lists = [Val::Int64ListVal(Int64List { val: vec![1] }), Val::Int64ListVal(Int64List { val: vec![2] })];
        assert_eq!(complaint(&[&values(&lists)]), not("Int64List", "Int64List"));
        assert_eq!(sorted(&[&values(&[lists[0].clone(), lists[0].clone()])]), Ok(vec![0, 1]));
    }

    #[test]
    fn a_later_column_counts_where_the_earlier_are_equal() {
        let first = values(&[Val::Int64Val(1), Val::Int64Val(1), Val::Int64Val(0)]);
        let second = values(&[text("b"), text("a"), Val::Int64Val(7)]);
        assert_eq!(sorted(&[&first, &second]), Ok(vec![2, 1, 0]));
        let second = values(&[text("b"), Val::Int64Val(7), text("a")]);
        assert!(complaint(&[&first, &second]).ends_with("'int' and 'str'"));
    }

    #[test]
    fn null_is_the_number_zero() {
        assert_eq!(sorted(&[&values(&[Val::Int64Val(1), Val::NullVal(0), Val::DoubleVal(0.5)])]), Ok(vec![1, 2, 0]));
        assert!(complaint(&[&[Value::default()]]).contains("NoneType"));
    }

    #[test]
    fn nothing_that_is_compared_ends_the_process() {
        let kinds = [Val::DoubleVal(f64::NAN), Val::Int64Val(3), Val::DoubleVal(-1.0), Val::BoolVal(true)];
        let many: Vec<_> = (0..1000).map(|i| kinds[i * 7919 % 1000 % kinds.len()].clone()).collect();
        assert_eq!(sorted(&[&values(&many)]).unwrap().len(), 1000);
        let many: Vec<_> = many.into_iter().chain([text("a"), text("b")]).collect();
        assert!(complaint(&[&values(&many)]).starts_with("'<' not supported"));
    }

    #[test]
    fn long_lists_are_sorted_as_short_ones_are() {
        let many: Vec<_> = (0..1000).map(|i| Val::Int64Val(i * 7919 % 1000)).collect();
        let rows = sorted(&[&values(&many)]).unwrap();
        assert!(rows.windows(2).all(|pair| many[pair[0]] != many[pair[1]]));
        assert_eq!(rows[0], 0);
    }
}
