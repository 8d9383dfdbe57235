//! What the Python server made of JSON: a type, values, and after the arrow its values as text, or its exception.
//! (Every line was its answer once; assertions print a set, whose order changes, so that they end early here.)

use jiter::JsonValue;
use weir_proto::feast::types::value_type::Enum as ValueType;

use super::{text, values};
use crate::Class;

const CASES: &str = r##"
INT64 [1, true, "1_000", " 12 ", "１２", 3.9, -3.9, null, NaN, [1], {}] => int64_val: 1 | int64_val: 1 | int64_val: 1000 | int64_val: 12 | int64_val: 12 | int64_val: 3 | int64_val: -3 |  |  |  | 
INT64 ["1__0"] => ValueError: invalid literal for int() with base 10: '1__0'
INT64 ["abc"] => ValueError: invalid literal for int() with base 10: 'abc'
INT64 [1, 99999999999999999999] => ValueError: Value out of range: 99999999999999999999
INT64 [1e20] => ValueError: Value out of range: 100000000000000000000
INT64 [Infinity] => OverflowError: cannot convert float infinity to integer
INT32 [2147483648] => ValueError: Value out of range: 2147483648
INT32 ["-2147483648"] => int32_val: -2147483648
FLOAT [1e39, 0.1, "1_0.5", "inf", "nan", true, 16777217] => float_val: inf | float_val: 0.1 | float_val: 10.5 | float_val: inf | float_val: nan | float_val: 1 | float_val: 16777216
FLOAT ["1__0"] => ValueError: could not convert string to float: '1__0'
DOUBLE [1, 2.5, true, null] => double_val: 1 | double_val: 2.5 | double_val: 1 | 
DOUBLE ["a", 1.0] => AssertionError: Type `<class 'str'>`
DOUBLE [1.0, "a"] => TypeError: must be real number, not str
DOUBLE [false, 1.0] => AssertionError: Type `<class 'bool'>`
STRING ["a", 1, 2.0, 1e16, 1e-5, true, "", [1]] => string_val: "a" | string_val: "1" | string_val: "2.0" | string_val: "1e+16" | string_val: "1e-05" | string_val: "True" | string_val: "" | 
BYTES ["x"] => AssertionError: Type `<class 'str'>`
BYTES [0] => TypeError: expected bytes, int found
BOOL [true, 5, 0, null] => bool_val: true | bool_val: true | bool_val: false | 
BOOL [true, 1.5] => TypeError: 'float' object cannot be interpreted as an integer
BOOL [1, 9223372036854775808] => OverflowError: Python int too large to convert to C long
BOOL [0.0] => AssertionError: Type `<class 'float'>`
UNIX_TIMESTAMP [1700000000, 1.5, "12", true, null, []] => unix_timestamp_val: 1700000000 | unix_timestamp_val: -9223372036854775808 | unix_timestamp_val: 12 | unix_timestamp_val: 1 |  | 
UNIX_TIMESTAMP ["x", 9223372036854775808] => ValueError: invalid literal for int() with base 10: 'x'
ZONED_TIMESTAMP [null, NaN, []] =>  |  | 
ZONED_TIMESTAMP [1] => TypeError: ZONED_TIMESTAMP expects datetime values, got <class 'int'>
UUID ["u", 5, null] => uuid_val: "u" | uuid_val: "5" | 
UUID [0] => uuid_val: "0"
DECIMAL ["1.50"] => decimal_val: "1.50"
DECIMAL [1.5] => AssertionError: Type `<class 'float'>`
NULL [1] => Exception: Unsupported data type: ValueType.NULL
UNKNOWN [1, true, "2"] => int64_val: 1 | int64_val: 1 | int64_val: 2
UNKNOWN [null, 1.5] =>  | double_val: 1.5
UNKNOWN [null, null] =>  | 
UNKNOWN [[], null] => TypeError: Couldn't infer value type from empty value
UNKNOWN [[1, "a"]] => ValueError: List value type for field  is inconsistent. ValueType.INT64 different from ValueType.STRING.
UNKNOWN [[[1]]] => ValueError: Value type for field  is <class 'list'> but recursion is not allowed. Nested collection types cannot be inferred automatically; use an explicit Field dtype instead (e.g., dtype=Array(Array(Int32))).
UNKNOWN [[[{}]]] => KeyError: 'MAP_LIST_LIST'
UNKNOWN [[null]] => ValueError: Value with native type nonetype cannot be converted into Feast value type
UNKNOWN [[{"a": 1}]] => map_list_val { val { val { key: "a" value { int64_val: 1 } } } }
INT64_LIST [[1, null], [], null] => int64_list_val { val: 1 val: 0 } | int64_list_val { } | 
INT64_LIST [[1], [2.0]] => TypeError: 'float' object cannot be interpreted as an integer
INT64_LIST [[1.0]] => TypeError: Value "1.0" is of type <class 'float'> not of type <class 'numpy.int64'>
INT64_LIST [[1], [true]] => TypeError: Field feast.types.Int64List.val: Expected an int, got a boolean.
INT32_LIST [[1], [2147483648]] => ValueError: Value out of range: 2147483648
FLOAT_LIST [[0.5, 1]] => TypeError: Value "1" is of type <class 'int'> not of type <class 'numpy.float32'>
FLOAT_LIST [[0.5], [1]] => float_list_val { val: 0.5 } | float_list_val { val: 1 }
DOUBLE_LIST [3] => TypeError: 'int' object is not iterable
DOUBLE_LIST [[1.5], 3] => TypeError: must assign iterable
STRING_LIST ["ab", ["x", null]] => string_list_val { val: "a" val: "b" } | string_list_val { val: "x" val: "" }
STRING_LIST [["a"], [1]] => TypeError: bad argument type for built-in operation
BOOL_LIST [[true], [1, "", [], null]] => bool_list_val { val: true } | bool_list_val { val: true val: false val: false val: false }
UNIX_TIMESTAMP_LIST [[1, null], [1.5]] => unix_timestamp_list_val { val: 1 val: -9223372036854775808 } | unix_timestamp_list_val { val: -9223372036854775808 }
INT64_SET [[5, 3, 1, 3, 100, 64, 32]] => int64_set_val { val: 64 val: 1 val: 32 val: 3 val: 100 val: 5 }
DOUBLE_SET [[0.5, -0.0, 1e300, 0.25]] => double_set_val { val: 0.5 val: -0 val: 1e+300 val: 0.25 }
INT64_SET [[[1]]] => TypeError: unhashable type: 'list'
MAP [{"a": 1}, "{\"b\": [1.5]}", null] => map_val { val { key: "a" value { int64_val: 1 } } } | map_val { val { key: "b" value { double_list_val { val: 1.5 } } } } | 
MAP [[1, "a"]] => TypeError: Expected dict for MAP type, got list: [1, 'a']
MAP ["{\"a\": 1,}"] => JSONDecodeError: Expecting property name enclosed in double quotes: line 1 column 9 (char 8)
MAP [{"a": []}] => TypeError: Couldn't infer value type from empty value
MAP [{"a": [{"b": null}]}] => map_val { val { key: "a" value { map_list_val { val { val { key: "b" value { } } } } } } }
MAP_LIST [[{"a": {"b": true}}], "[]"] => map_list_val { val { val { key: "a" value { map_val { val { key: "b" value { bool_val: true } } } } } } } | map_list_val { }
MAP_LIST [[1]] => ValueError: MapList can only contain dictionaries, got <class 'int'>
SCALAR_MAP [{}] => scalar_map_val { }
SCALAR_MAP [{"a": 1}] => TypeError: Unsupported key type for SCALAR_MAP: str. Supported non-string key types: int, float, bool, uuid.UUID, decimal.Decimal, bytes, datetime.
JSON [{"é": [1.0, NaN, "\n\u0001"]}, "[1]", 5] => json_val: "{\"\\u00e9\": [1.0, NaN, \"\\n\\u0001\"]}" | json_val: "[1]" | json_val: "5"
JSON ["{"] => ValueError: Invalid JSON string for JSON type: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)
JSON_LIST [["1", {"a": null}]] => json_list_val { val: "1" val: "{\"a\": null}" }
JSON_LIST [["x y"]] => ValueError: Invalid JSON string in JSON_LIST: Expecting value: line 1 column 1 (char 0)
STRUCT [{"a": "x"}, 5, [1, "a"]] => struct_val { val { key: "a" value { string_val: "x" } } } | struct_val { val { key: "_value" value { string_val: "5" } } } | struct_val { val { key: "_value" value { string_val: "[1, \'a\']" } } }
STRUCT_LIST [[{"a": 1}]] => struct_list_val { val { val { key: "a" value { int64_val: 1 } } } }
VALUE_LIST [[[1, 2], [], null, ["a"]]] => list_val { val { int64_list_val { val: 1 val: 2 } } val { } val { } val { string_list_val { val: "a" } } }
VALUE_SET [[[[true]], [1.5]]] => set_val { val { list_val { val { bool_list_val { val: true } } } } val { double_list_val { val: 1.5 } } }
VALUE_LIST [[1]] => TypeError: 'int' object is not iterable
"##;

fn answer(of: &str, json: &str) -> String {
    let of = if of == "UNKNOWN" { ValueType::Invalid } else { ValueType::from_str_name(of).unwrap() };
    let json = JsonValue::parse(json.as_bytes(), true).unwrap();
    let JsonValue::Array(items) = &json else { panic!("{json:?} is no list") };
    match values(items, of) {
        Ok(values) => {
            let texts = values.iter().map(|value| text(value).split_whitespace().collect::<Vec<_>>().join(" "));
            texts.collect::<Vec<_>>().join(" | ")
        }
        Err(raised) => {
            let Class::Python(class) = raised.class else { panic!("{raised:?}") };
            let message = raised.message.split(" not in {").next().unwrap_or_default().to_owned();
            format!("{class}: {message}")
        }
    }
}

#[test]
fn values_and_exceptions_are_the_python_servers() {
    for case in CASES.trim().lines() {
        let (given, wanted) = case.split_once(" =>").unwrap();
        let (of, json) = given.split_once(' ').unwrap();
        assert_eq!(answer(of, json).trim(), wanted.trim(), "{given}");
    }
}

#[test]
fn floats_are_printed_as_protobuf_does() {
    let double = |f: &str| answer("DOUBLE", &format!("[{f}]"));
    assert_eq!(double("0.1"), "double_val: 0.1");
    assert_eq!(double("0.3333333333333333"), "double_val: 0.33333333333333331");
    assert_eq!(double("1e15"), "double_val: 1e+15");
    assert_eq!(double("123456789.0"), "double_val: 123456789");
    assert_eq!(double("-0.0"), "double_val: -0");
    assert_eq!(answer("FLOAT", "[0.3333333333333333]"), "float_val: 0.333333343");
    assert_eq!(answer("FLOAT", "[-Infinity]"), "float_val: -inf");
}

#[test]
fn nesting_ends_where_protobufs_does_and_nowhere_near_the_end_of_the_stack() {
    let map = |depth: usize| format!("[{}1{}]", "{\"a\": ".repeat(depth), "}".repeat(depth));
    let lists = |depth: usize| format!("[{}1{}]", "[".repeat(depth), "]".repeat(depth));
    let text = |depth: usize| format!("[\"{}1{}\"]", "[".repeat(depth), "]".repeat(depth));
    let ends = |answer: String, what: &str| assert!(answer.ends_with(what), "{answer}");
    let too_deep = "Exceeded upb_DecodeOptions_MaxDepth";
    for of in ["MAP", "STRUCT"] {
        assert!(answer(of, &map(33)).contains("int64_val: 1"));
        ends(answer(of, &map(34)), too_deep);
    }
    assert!(answer("VALUE_LIST", &lists(51)).contains("val: 1"));
    ends(answer("VALUE_LIST", &lists(52)), too_deep);
    assert!(answer("JSON", &text(200)).starts_with("json_val"));
    ends(answer("JSON", &text(100_000)), "while decoding a JSON array from a unicode string");
    ends(answer("MAP", &text(100_000)), "while decoding a JSON array from a unicode string");
}
