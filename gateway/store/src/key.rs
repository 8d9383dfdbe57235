//! What an entity is called in the store. Promises: different (namespace, view, version, join keys) have
//! different keys, whatever bytes callers send, and a key can be read and typed in `redis-cli`.
//!
//! `flights:route@1:s3:JFK:s3:LAX`: namespace, view and version, then one part per join key in the entity's
//! order. Text and bytes carry their length, so nothing in them can be taken for the next part; numbers need
//! none. A letter in front keeps the text "1" apart from the number 1.

use bytes::Bytes;
use weir_domain::Column;
use weir_domain::catalog::View;

/// The store keys of a table's rows, in order: `keys` are the view's join keys in its entity's order, all
/// of the same length.
pub fn entity_keys(namespace: &str, view: &View, keys: &[Column]) -> Vec<Bytes> {
    let mut prefix = Vec::new();
    push_prefix(&mut prefix, namespace, view);
    let rows = keys.first().map_or(0, Column::len);
    let key = |row| {
        let mut key = prefix.clone();
        push_parts(&mut key, keys.iter().map(|column| (column, row)));
        key.into()
    };
    (0..rows).map(key).collect()
}

/// Appends what all keys of a view begin with. Cheap enough to do once per read of a request; remembering
/// it would tie it to a catalog that is swapped while requests run.
pub(crate) fn push_prefix(out: &mut Vec<u8>, namespace: &str, view: &View) {
    push_name(out, namespace);
    out.push(b':');
    push_name(out, &view.doc.name);
    out.push(b'@');
    push_number(out, view.version.into());
    out.push(b':');
}

/// What the keys of all views of a namespace begin with.
pub(crate) fn namespace_prefix(namespace: &str) -> String {
    let mut prefix = Vec::new();
    push_name(&mut prefix, namespace);
    prefix.push(b':');
    String::from_utf8_lossy(&prefix).into_owned()
}

/// Appends the join keys: a column and the row in it each.
pub(crate) fn push_parts<'a>(out: &mut Vec<u8>, parts: impl Iterator<Item = (&'a Column, usize)>) {
    for (n, (column, row)) in parts.enumerate() {
        if n > 0 {
            out.push(b':');
        }
        push_part(out, column, row);
    }
}

fn push_part(out: &mut Vec<u8>, column: &Column, row: usize) {
    match column {
        Column::String(text) => push_bytes(out, b's', text.get(row)),
        Column::Bytes(bytes) => push_bytes(out, b'b', bytes.get(row)),
        Column::I64(numbers) => {
            out.push(b'i');
            push_number(out, numbers[row]);
        }
        Column::Timestamp(micros) => {
            out.push(b't');
            push_number(out, micros[row]);
        }
        // The catalog allows no other kind of join key: floats and lists have several spellings of one value.
        Column::Bool(_) | Column::F64(_) | Column::F32(_) | Column::List(_) => {
            debug_assert!(false, "a join key of type {}", column.feature_type());
            out.push(b'?');
        }
    }
}

fn push_bytes(out: &mut Vec<u8>, kind: u8, bytes: &[u8]) {
    out.push(kind);
    push_number(out, bytes.len() as i64);
    out.push(b':');
    out.extend_from_slice(bytes);
}

/// Decimal, without going through `fmt`: this runs once per row.
fn push_number(out: &mut Vec<u8>, number: i64) {
    if number < 0 {
        out.push(b'-');
    }
    let mut digits = [0u8; 20];
    let mut at = digits.len();
    let mut rest = number.unsigned_abs();
    loop {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// A name with the separators percent-encoded; ordinary names stay as they are.
fn push_name(out: &mut Vec<u8>, name: &str) {
    for byte in name.bytes() {
        match byte {
            b':' => out.extend_from_slice(b"%3A"),
            b'@' => out.extend_from_slice(b"%40"),
            b'%' => out.extend_from_slice(b"%25"),
            _ => out.push(byte),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::row::tests::view_of;
    use proptest::prelude::*;
    use weir_domain::{FeatureType, Kind, Value};

    fn key(namespace: &str, view: &str, version: u32, parts: &[Value]) -> Bytes {
        let mut of = view_of(&[FeatureType::One(Kind::F64)]);
        of.doc.name = view.into();
        of.version = version;
        let columns: Vec<Column> = parts
            .iter()
            .map(|value| {
                let mut column = Column::with_capacity(value.feature_type(), 1);
                column.push(value).unwrap();
                column
            })
            .collect();
        entity_keys(namespace, &of, &columns).remove(0)
    }

    #[test]
    fn a_key_reads_as_it_is_documented() {
        let text = |s: &str| Value::String(s.into());
        assert_eq!(key("flights", "route", 1, &[text("JFK"), text("LAX")]), "flights:route@1:s3:JFK:s3:LAX");
        let parts = [Value::I64(-1001), Value::Timestamp(i64::MIN), Value::Bytes(vec![b'a', b':'])];
        assert_eq!(key("n", "v", 12, &parts), "n:v@12:i-1001:t-9223372036854775808:b2:a:");
        assert_eq!(key("a:b", "c@1", 0, &[text("")]), "a%3Ab:c%401@0:s0:");
    }

    /// Few letters, so that collisions would be found, among them everything that separates.
    fn name() -> impl Strategy<Value = String> {
        proptest::collection::vec(proptest::sample::select(vec!["a", ":", "@", "1", "%", "s1:", "3A"]), 0..4)
            .prop_map(|v| v.concat())
    }

    fn part() -> impl Strategy<Value = Value> {
        prop_oneof![
            name().prop_map(Value::String),
            name().prop_map(|s| Value::Bytes(s.into_bytes())),
            (-12i64..12).prop_map(Value::I64),
            (-12i64..12).prop_map(Value::Timestamp),
            any::<i64>().prop_map(Value::I64),
        ]
    }

    type Named = (String, String, u32, Vec<Value>);

    fn named() -> impl Strategy<Value = Named> {
        (name(), name(), 0u32..12, proptest::collection::vec(part(), 1..4))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn different_entities_have_different_keys(a in named(), b in named()) {
            let of = |n: &Named| key(&n.0, &n.1, n.2, &n.3);
            prop_assert_eq!(of(&a) == of(&b), a == b);
        }

        #[test]
        fn a_separator_that_moves_makes_another_key(text in "[a:0-9s]{0,8}", cut in 0usize..9) {
            let cut = cut.min(text.len());
            let (left, right) = text.split_at(cut);
            let parts = [Value::String(left.into()), Value::String(right.into())];
            let whole = key("n", "v", 1, &[Value::String(text.clone()), Value::String(String::new())]);
            prop_assert_eq!(key("n", "v", 1, &parts) == whole, right.is_empty());
        }
    }
}
