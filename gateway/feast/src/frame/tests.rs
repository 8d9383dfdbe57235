//! What the Python server wrote for a `df`: after the arrow its rows, or its exception. Every line was its answer once.

use std::collections::BTreeMap;

use jiter::JsonValue;
use weir_proto::feast::types::{BytesList, Map, Value, value::Val, value_type::Enum as ValueType};

use super::{Frame, Target, WriteRow};
use crate::{Class, Raised, text};

/// A type, the column of a feature of that type, and its values.
const COLUMNS: &str = r##"
INT64 [5, null] => int64_val: 5 | 
INT64 [9007199254740993, null] => int64_val: 9007199254740992 | 
STRING [5, null] => string_val: "5.0" | 
STRING [true, null] => string_val: "True" | 
STRING [true, false] => string_val: "True" | string_val: "False"
BOOL [true, null] => bool_val: true | 
INT64 [9223372036854775808, 1] => ValueError: Value out of range: 9223372036854775808
INT64 [1, 18446744073709551616] => OverflowError: Python int too large to convert to C long
STRING ["a", 5] => ArrowTypeError: ("Expected bytes, got a 'int' object", 'Conversion failed for column a with type object')
INT64 [5, "a"] => ArrowInvalid: ("Could not convert 'a' with type str: tried to convert to int64", 'Conversion failed for column a with type object')
DOUBLE [1.5, true] => double_val: 1.5 | double_val: 1
INT64_LIST [[1], [2, null]] => TypeError: Value "1.0" is of type <class 'float'> not of type <class 'numpy.int64'>
DOUBLE_LIST [[1, 2.5], null] => double_list_val { val: 1 val: 2.5 } | 
DOUBLE_LIST [[9007199254740993, 2.5], null] => ArrowInvalid: ('Integer value 9007199254740993 is outside of the range exactly representable by a IEEE 754 double precision value', 'Conversion failed for column a with type object')
STRING_LIST [["a", null], []] => string_list_val { val: "a" val: "" } | string_list_val { }
INT64_LIST [[1], 5] => ArrowInvalid: ('cannot mix list and non-list, non-null values', 'Conversion failed for column a with type object')
MAP [{"x": 1}, {"x": null}] => map_val { val { key: "x" value { double_val: 1 } } } | map_val { val { key: "x" value { } } }
MAP [{"x": {"y": [1, null]}}, null] => map_val { val { key: "x" value { map_val { val { key: "y" value { double_list_val { val: 1 val: nan } } } } } } } | 
MAP [{"x": [1, 2]}] => map_val { val { key: "x" value { int64_list_val { val: 1 val: 2 } } } }
MAP_LIST [[{"x": 1}]] => TypeError: Expected list for MAP_LIST type, got ndarray: array([{'x': 1}], dtype=object)
JSON [[1]] => TypeError: Object of type ndarray is not JSON serializable
JSON [{"x": 1}] => json_val: "{\"x\": 1}"
STRUCT [[1.5, 1e10]] => struct_val { val { key: "_value" value { string_val: "[1.5e+00 1.0e+10]" } } }
VALUE_LIST [[[1], [2]]] => list_val { val { int64_list_val { val: 1 } } val { int64_list_val { val: 2 } } }
INT64 [[1]] => 
"##;

/// A df, and its rows for a view of the entity `id` with the feature `a`, both INT64.
const SHAPES: &str = r##"
{} => 
{"id": [], "a": [], "ts": []} => 
{"id": [1, 2], "a": [1], "ts": ["2026-01-02"]} => ValueError: All arrays must be of the same length
{"id": 1, "a": 2, "ts": "2026-01-02"} => ValueError: If using all scalar values, you must pass an index
{"id": [1, 2], "a": 7, "ts": "2026-01-02"} => int64_val: 1, int64_val: 7 @1767312000.000000 | int64_val: 2, int64_val: 7 @1767312000.000000
{"id": {"x": 1, "y": 2}, "a": {"y": 5}, "ts": "2026-01-02"} => int64_val: 1,  @1767312000.000000 | int64_val: 2, int64_val: 5 @1767312000.000000
{"id": {"x": 1}, "a": [1], "ts": "2026-01-02"} => ValueError: Mixing dicts with non-Series may lead to ambiguous ordering.
{"id": [1], "ts": ["2026-01-02"]} => KeyError: "None of [Index(['a'], dtype='object')] are in the [columns]"
{"a": [1], "ts": ["2026-01-02"]} => ValueError: Column id not found in table
{"id": [1], "a": [1]} => KeyError: 'Field "ts" does not exist in schema'
{"id": [1], "a": [null], "ts": ["no time"]} => 
{"id": [null], "a": [1], "ts": ["2026-01-02"]} => , int64_val: 1 @1767312000.000000
"##;

/// A column of times, and what they are in seconds.
const TIMES: &str = r##"
["2026-01-02T03:04:05.123456789Z"] => 1767323045.123456
["2026-01-02T03:04:05+05:30", "2026-01-02T03:04:05-08:00"] => 1767303245.000000 | 1767351845.000000
["2026-01-02 03:04:05", "2026-1-2 3:4:5"] => 1767323045.000000 | 1767323045.000000
["2026-01-02", "2026-01-02T00:00:00"] => ValueError: unconverted data remains when parsing with format "%Y-%m-%d": "T00:00:00", at position 1. {ADVICE}
["2026-01-02T03:04:05", "2026-01-02T03:04:05Z"] => ValueError: unconverted data remains when parsing with format "%Y-%m-%dT%H:%M:%S": "Z", at position 1. {ADVICE}
["2026-01-02T03:04:05.5", "2026-01-02T03:04:05"] => ValueError: time data "2026-01-02T03:04:05" doesn't match format "%Y-%m-%dT%H:%M:%S.%f", at position 1. {ADVICE}
["2026-01-02", "2026-02-30"] => ValueError: day is out of range for month, at position 1. {ADVICE}
[1767323045123456789] => 1767323045.123456
[-1] => -1.999999
[1.5] => 0.000000
[1767323045000000000.0, null] => ValueError: NaTType does not support utctimetuple
[true] => TypeError: dtype bool cannot be converted to datetime64[ns]
[9223372036854775808] => OutOfBoundsDatetime: cannot convert input 9223372036854775808 with the unit 'ns', at position 0
["20260102T030405"] => 1767323045.000000
["13/02/2026", "01/02/2026"] => 1770940800.000000 | 1769904000.000000
["2026-01-02 20:26:00", "2026-01-02T03:04:05Z"] => 1767385560.000000 | 1767323045.000000
["1767323045"] => DateParseError: year 1767323045 is out of range: 1767323045, at position 0
["1767323045000"] => OutOfBoundsDatetime: Parsing "1767323045000" to datetime overflows, at position 0
["7"] => ValueError: Given date string "7" not likely a datetime, at position 0
["abc"] => DateParseError: Unknown datetime string format, unable to parse: abc, at position 0
["2026-13-01"] => DateParseError: month must be in 1..12: 2026-13-01, at position 0
["2026-01-02T24:00:00"] => DateParseError: hour must be in 0..23: 2026-01-02T24:00:00, at position 0
["9999-12-31"] => OutOfBoundsDatetime: Out of bounds nanosecond timestamp: 9999-12-31, at position 0
["9999-12-31T23:59:59.9999999"] => OutOfBoundsDatetime: Out of bounds nanosecond timestamp: 9999-12-31 23:59:59, at position 0
["0000-13-01"] => DateParseError: year 0 is out of range: 0000-13-01, at position 0
["2031-01-01T00:00:00.1+00:00", "2031-01-01T00:00:49.1+00:00:30"] => 1924992000.100000 | 1924992049.100000
[""] => ValueError: NaTType does not support utctimetuple
"##;

fn rows(frame: Result<Frame<'_>, Raised>, of: ValueType, vectors: &[(String, u32)]) -> Result<Vec<WriteRow>, Raised> {
    frame?.rows(&Target {
        view: "v",
        features: &[("a".to_owned(), of)],
        join_keys: &[("id".to_owned(), ValueType::Int64)],
        timestamp_field: "ts",
        created_timestamp_column: None,
        field_mapping: &BTreeMap::from([("raw".to_owned(), "ts".to_owned())]),
        vectors,
    })
}

fn answer(df: &str, of: ValueType, show: impl Fn(&WriteRow) -> String) -> String {
    let df = JsonValue::parse(df.as_bytes(), true).unwrap();
    shown(rows(Frame::from_json(&df), of, &[]), show)
}

fn shown(rows: Result<Vec<WriteRow>, Raised>, show: impl Fn(&WriteRow) -> String) -> String {
    match rows {
        Ok(rows) => rows.iter().map(show).collect::<Vec<_>>().join(" | "),
        Err(Raised { class: Class::Python(class), message }) => {
            format!("{class}: {}", message.replace(super::times::ADVICE, "{ADVICE}"))
        }
        Err(raised) => panic!("{raised:?}"),
    }
}

fn value(value: &Value) -> String {
    text(value).split_whitespace().collect::<Vec<_>>().join(" ")
}

fn time(row: &WriteRow) -> String {
    format!("{}.{:06}", row.event_time.0, row.event_time.1 / 1_000)
}

fn each(cases: &str, answer: impl Fn(&str) -> String) {
    for case in cases.trim().lines() {
        let (given, wanted) = case.split_once(" =>").unwrap();
        assert_eq!(answer(given).trim(), wanted.trim(), "{given}");
    }
}

#[test]
fn columns_take_the_way_over_pandas_arrow_and_numpy() {
    each(COLUMNS, |given| {
        let (of, column) = given.split_once(' ').unwrap();
        let JsonValue::Array(cells) = JsonValue::parse(column.as_bytes(), true).unwrap() else { panic!("{column}") };
        let (ids, times) = (vec!["1"; cells.len()].join(","), vec!["0"; cells.len()].join(","));
        let df = format!("{{\"id\": [{ids}], \"a\": {column}, \"ts\": [{times}]}}");
        answer(&df, ValueType::from_str_name(of).unwrap(), |row| value(&row.features[0].1))
    });
}

#[test]
fn frames_have_rows_of_one_length() {
    each(SHAPES, |df| {
        let row = |row: &WriteRow| format!("{}, {} @{}", value(&row.keys[0].1), value(&row.features[0].1), time(row));
        answer(df, ValueType::Int64, row)
    });
}

#[test]
fn the_first_time_of_a_column_says_how_all_are_written() {
    each(TIMES, |column| {
        let JsonValue::Array(cells) = JsonValue::parse(column.as_bytes(), true).unwrap() else { panic!("{column}") };
        let ones = vec!["1"; cells.len()].join(",");
        let df = format!("{{\"id\": [{ones}], \"a\": [{ones}], \"ts\": {column}}}");
        answer(&df, ValueType::Int64, time)
    });
}

#[test]
fn a_position_counts_distinct_texts_where_a_long_column_repeats_itself() {
    let mut times = vec!["\"2026-01-02\""; 60];
    times.push("\"x\"");
    let ones = vec!["1"; times.len()].join(",");
    let df = format!("{{\"id\": [{ones}], \"a\": [{ones}], \"ts\": [{}]}}", times.join(","));
    let wanted = "ValueError: time data \"x\" doesn't match format \"%Y-%m-%d\", at position 1. {ADVICE}";
    assert_eq!(answer(&df, ValueType::Int64, time), wanted);
}

#[test]
fn the_sources_names_become_the_views() {
    let df = r#"{"id": [1], "a": [2], "raw": [0]}"#;
    assert_eq!(answer(df, ValueType::Int64, time), "0.000000");
    let both = r#"{"id": [1], "a": [2], "raw": [0], "ts": [0]}"#;
    assert_eq!(answer(both, ValueType::Int64, time), "KeyError: 'Field \"ts\" exists 2 times in schema'");
}

#[test]
fn vectors_are_of_one_length() {
    let write = |a: &str, declared: u32| {
        let df = format!("{{\"id\": [1, 2], \"a\": {a}, \"ts\": [0, 0]}}");
        let df = JsonValue::parse(df.as_bytes(), true).unwrap();
        shown(rows(Frame::from_json(&df), ValueType::DoubleList, &[("a".to_owned(), declared)]), |_| "row".to_owned())
    };
    assert_eq!(write("[[1.0, 2.0], null]", 2), "row | row");
    assert_eq!(
        write("[[1.0, 2.0], [1.0]]", 0),
        "ValueError: Row 1: Vector length 1 does not match expected 2, inferred from the first row for feature 'a' in \
         feature view 'v'."
    );
    assert_eq!(
        write("[\"ab\", \"cd\"]", 2),
        "ValueError: Vector feature 'a' in feature view 'v' declares vector_length=2 but has non-list Arrow type string."
    );
    assert_eq!(
        write("[5, 6]", 0),
        "ValueError: Row 0: Vector feature 'a' is not a sequence. Got: <class 'numpy.int64'>"
    );
}

#[test]
fn strings_of_grpc_are_read_by_the_type_they_are_for() {
    let frame = || Frame::from_strings([("id", "7"), ("a", "1_0"), ("ts", "2026-01-02T03:04:05Z")]);
    let row = |row: &WriteRow| format!("{}, {} @{}", value(&row.keys[0].1), value(&row.features[0].1), time(row));
    assert_eq!(shown(rows(frame(), ValueType::Int64, &[]), row), "int64_val: 7, int64_val: 10 @1767323045.000000");
    assert_eq!(
        shown(rows(frame(), ValueType::Bool, &[]), row),
        "AssertionError: Type `<class 'str'>` not in {<class 'bool'>, <class 'numpy.bool'>, <class 'int'>, <class 'numpy.int64'>}"
    );
    assert_eq!(rows(Frame::from_strings([]), ValueType::Int64, &[]), Ok(Vec::new()));
}

#[test]
fn typed_values_of_grpc_keep_bytes_and_lose_maps() {
    let write = |of: ValueType, a: Val| {
        let values = [Val::Int32Val(7), a, Val::Int64Val(0)].map(|val| Value { val: Some(val) });
        let frame = Frame::from_values(["id", "a", "ts"].into_iter().zip(&values));
        shown(rows(frame, of, &[]), |row| value(&row.features[0].1))
    };
    assert_eq!(write(ValueType::Bytes, Val::BytesVal(vec![0, 255])), r#"bytes_val: "\000\377""#);
    assert_eq!(write(ValueType::String, Val::BytesVal(b"x".to_vec())), r#"string_val: "b\'x\'""#);
    assert_eq!(write(ValueType::Int64List, Val::BytesVal(b"[1]".to_vec())), "int64_list_val { val: 1 }");
    let list = BytesList { val: vec![b"x".to_vec()] };
    assert_eq!(write(ValueType::BytesList, Val::BytesListVal(list)), r#"bytes_list_val { val: "x" }"#);
    let map = Map { val: BTreeMap::from([("k".to_owned(), Value { val: Some(Val::Int64Val(1)) })]) };
    assert_eq!(
        write(ValueType::Map, Val::MapVal(map)),
        "ArrowInvalid: ('Could not convert int64_val: 1\\n with type Value: did not recognize Python value type when \
         inferring an Arrow data type', 'Conversion failed for column a with type object')"
    );
}
