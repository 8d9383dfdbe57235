"""What a caller may send that is wrong, or looks wrong and is not: values, references, fields, bodies and paths."""

JSON = {"content-type": "application/json"}
READ = "/get-online-features"

# What a caller may write where an entity's value belongs.
ODD_VALUES = [
    None, True, False, 0, -1, 1.0, 1002.7, -0.0, 1e300, 1e22, 1e-5, 2**31, -(2**31) - 1, 2**63, -(2**63) - 1,
    2**64, 10**30,
    "1001", "abc", "", " 12 ", "1_000", "1e3", "+5", "0x10", "१००१", "1001.0", "k1", "null", "x" * 5000,
    "9" * 30,
    "a\u0000b",
    [], [1], ["a"], [None], [[1]], [1, "a"], {}, {"a": 1}, {"a": None}, {"a": [1, "b"]}, [{"a": 1}, 2],
    "2024-01-01T00:00:00Z", 1_700_000_000.0,
]  # fmt: skip
# As JSON texts, for what Python's writer would not write: literals that are no JSON, and numbers by their digits.
ODD_LITERALS = [
    "NaN", "Infinity", "-Infinity", "1e400", "-0", "1E5", "9" * 400, "1.0e0", "123456789012345678901234567890",
]  # fmt: skip

VERSIONS = [
    "@v0", "@v1", "@V2", "@v2", "@latest", "@LATEST", "@", "@bogus", "@v", "@v-1", "@v1.0", "@v00", "@v99",
    "@v1@v2", "@v２", "@v" + "9" * 25,
]  # fmt: skip
ODD_REFS = [
    "", ":", "abc", "no_such_view", "no_such_view:x", ":tier", "a:b:c", "@v1:x", "no_such_view@v1:x", "é:ü",
    " driver_stats:tier", "driver_stats :tier",
]  # fmt: skip

# A wrong type for each field of the body, and values that are taken although they look wrong.
WRONG_FIELDS = [
    (
        "entities",
        [None, [], "x", 1, {"driver_id": 1001}, {"driver_id": "1001"}, {"driver_id": None}, {"driver_id": {"a": 1}}],
    ),
    ("features", ["a:b", None, [1], [None], {}, [["a:b"]], 1, True]),
    ("feature_service", [1, [], {}, True]),
    ("full_feature_names", ["x", 2, None, "", " true", [], {}, "truee", 0.5, -1]),
    ("include_feature_view_version_metadata", ["x", 2, None, []]),
]
TRUE_BY_OTHER_NAMES = [
    "true", "TRUE", "t", "Y", "yes", "on", "1", 1, 1.0, "false", "F", "no", "n", "off", "0", 0, 0.0,
]  # fmt: skip

BAD_BODIES = [
    b"", b"null", b"[]", b'"x"', b"1", b"{", b'{"entities":', b'{"entities":{}} x', b"\xff\xfe",
    b'{"entities":{"a":["\xe9"]}}', b"{'entities': {}}",
    b'{"entities":{},}', b'{"entities":{}}', b"{}", b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    b'{"entities":{"driver_id":[' + b"9" * 5000 + b"]}}",
]  # fmt: skip
CONTENT_TYPES = [
    None, "", "text/plain", "application/json; charset=utf-8", "APPLICATION/JSON", "application/vnd.api+json",
    "application/jsonx", "json", "application/x-www-form-urlencoded",
]  # fmt: skip

# Paths and methods beside the one that everybody uses. Not "/", where weir says what else it can do.
ELSEWHERE = [
    ("GET", "/health"), ("POST", "/health"), ("HEAD", "/health"), ("GET", READ), ("PUT", READ), ("DELETE", READ),
    ("POST", READ + "/"),
    ("GET", "/no/such/path"), ("POST", "/no/such/path"), ("POST", "//get-online-features"), ("POST",
    READ + "?x=1"), ("GET", "/v1/vector_stores"),
    ("GET", "/v1/vector_stores/x"), ("GET", "/push"), ("GET", "/write-to-online-store"), ("GET", "/search"),
    ("GET", "/retrieve-online-documents"),
]  # fmt: skip
