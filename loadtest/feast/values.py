"""The types a feature or a join key can have in Feast 0.67, and values of each: ordinary ones, and those at the edges
of what the type can hold. Everything is drawn from the random number generator that the caller hands in.
"""

import decimal
import json
import uuid

from feast.protos.feast.types.Value_pb2 import (
    BoolList,
    BytesList,
    DoubleList,
    FloatList,
    Int32List,
    Int64List,
    Map,
    MapKey,
    MapList,
    RepeatedValue,
    ScalarMap,
    ScalarMapEntry,
    StringList,
    Value,
    ZonedTimestamp,
)
from feast.types import (
    Array,
    Bool,
    Bytes,
    Decimal,
    Float32,
    Float64,
    ImageBytes,
    Int32,
    Int64,
    Json,
    Map as MapType,
    PdfBytes,
    ScalarMap as ScalarMapType,
    Set,
    String,
    Struct,
    TimeUuid,
    UnixTimestamp,
    Uuid,
    ZonedTimestamp as ZonedTimestampType,
)

# What Feast writes for a timestamp that is not there (numpy's NaT).
NO_TIME = -(2**63)
INF = float("inf")

WORDS = [
    "gold",
    "",
    "Zürich",
    "東京",
    "naïve café",
    'a\nb\t"c"',
    "\\",
    "0",
    "null",
    "🦀",
    " x ",
    "a\u0000b",
    "__",
    "@v2:",
]
INT32S = [0, 1, -1, 7, 42, 2**31 - 1, -(2**31)]
INT64S = [*INT32S, 2**31, 2**53, 2**53 + 1, -(2**53) - 1, 2**63 - 1, -(2**63)]
DOUBLES = [
    0.0,
    -0.0,
    0.1,
    1.0,
    -2.5,
    1e300,
    5e-324,
    1.7976931348623157e308,
    1e16,
    123456789.125,
    1e-7,
    INF,
    -INF,
    float("nan"),
]
# Exact in 32 bits, next to those that widen into many digits.
FLOATS = [0.0, -0.0, 0.5, 0.1, 3.4028234663852886e38, 1e-45, 16777217.0, -1e-3, INF, -INF, float("nan")]
TIMES = [0, 1, 1_700_000_000, -1, 253402300799, 2**31, NO_TIME]
BLOBS = [b"", b"\x00", b"abc", bytes(range(256)), b"\xff\xfe", "é".encode()]
DECIMALS = ["0", "1.10", "-3.14159265358979323846264338327950288", "1E+30", "NaN"]
ZONES = ["", "UTC", "Europe/Berlin", "America/New_York", "UTC-07:00", "+05:30", "Mars/Base"]
TEXTS = ['{"a": 1}', "[1, 2, {}]", "null", '"text"', "1.5", '{"b": {"c": [true, null]}}', "{}"]


def uuids(rng):
    return str(uuid.UUID(int=rng.getrandbits(128), version=rng.choice([1, 4])))


def int64s(rng):
    return rng.choice([rng.choice(INT64S), rng.randint(-1000, 1000), rng.getrandbits(62)])


def doubles(rng):
    return rng.choice([rng.choice(DOUBLES), rng.uniform(-1, 1), rng.uniform(-1e6, 1e6)])


def floats(rng):
    return rng.choice([rng.choice(FLOATS), rng.uniform(-1, 1)])


def words(rng):
    return rng.choice([rng.choice(WORDS), f"w{rng.randint(0, 999)}"])


def several(one, least=0, most=4):
    """A list of values; the empty one is as likely as any other length."""
    return lambda rng: [one(rng) for _ in range(rng.randint(least, most))]


def choose(among):
    return lambda rng: rng.choice(among)


# One plain value inside a map.
def inner(rng):
    return rng.choice(
        [
            Value(),
            Value(int64_val=int64s(rng)),
            Value(double_val=doubles(rng)),
            Value(string_val=words(rng)),
            Value(bool_val=rng.random() < 0.5),
            Value(bytes_val=rng.choice(BLOBS)),
            Value(string_list_val=StringList(val=several(words)(rng))),
            Value(double_list_val=DoubleList(val=several(doubles)(rng))),
        ]
    )


def maps(rng, depth=2):
    made = Map()
    for key in rng.sample([w for w in WORDS], rng.randint(0, 4)):
        deeper = depth and rng.random() < 0.3
        made.val[key].CopyFrom(Value(map_val=maps(rng, depth - 1)) if deeper else inner(rng))
    return made


def map_lists(rng):
    return MapList(val=[maps(rng, 1) for _ in range(rng.randint(0, 3))])


def nested(rng, depth=1):
    """A list of lists as Feast's proto holds it; an empty inner list is a Value without anything."""

    def member():
        if depth and rng.random() < 0.3:
            return Value(list_val=nested(rng, depth - 1))
        return rng.choice(
            [
                Value(),
                Value(int64_list_val=Int64List(val=several(int64s, 1)(rng))),
                Value(string_list_val=StringList(val=several(words, 1)(rng))),
                Value(double_list_val=DoubleList(val=several(doubles, 1)(rng))),
                Value(bytes_list_val=BytesList(val=[rng.choice(BLOBS)])),
            ]
        )

    return RepeatedValue(val=[member() for _ in range(rng.randint(0, 3))])


def scalar_maps(rng):
    entries = [ScalarMapEntry(key=MapKey(int64_key=int64s(rng)), value=inner(rng)) for _ in range(rng.randint(0, 2))]
    return ScalarMap(val=entries)


def zoned(rng):
    return ZonedTimestamp(unix_timestamp=rng.choice(TIMES[:4] + [NO_TIME, 1_720_000_000]), zone=rng.choice(ZONES))


def scalar(field, one):
    return lambda rng: Value(**{field: one(rng)})


def collection(field, message, one):
    return lambda rng: Value(**{field: message(val=several(one)(rng))})


BOOLS = choose([True, False])
# name -> (the type as Feast declares it, how to make a stored value of it)
TYPES = {
    "int32": (Int32, scalar("int32_val", choose(INT32S))),
    "int64": (Int64, scalar("int64_val", int64s)),
    "float32": (Float32, scalar("float_val", floats)),
    "float64": (Float64, scalar("double_val", doubles)),
    "bool": (Bool, scalar("bool_val", BOOLS)),
    "string": (String, scalar("string_val", words)),
    "bytes": (Bytes, scalar("bytes_val", choose(BLOBS))),
    "pdf": (PdfBytes, scalar("bytes_val", choose(BLOBS))),
    "image": (ImageBytes, scalar("bytes_val", choose(BLOBS))),
    "time": (UnixTimestamp, scalar("unix_timestamp_val", choose(TIMES))),
    "uuid": (Uuid, scalar("uuid_val", uuids)),
    "time_uuid": (TimeUuid, scalar("time_uuid_val", uuids)),
    "decimal": (Decimal, scalar("decimal_val", choose(DECIMALS))),
    "json": (Json, scalar("json_val", choose(TEXTS))),
    "map": (MapType, scalar("map_val", maps)),
    "struct": (Struct({"a": Int64, "b": String}), scalar("struct_val", lambda rng: maps(rng, 0))),
    "scalar_map": (ScalarMapType, scalar("scalar_map_val", scalar_maps)),
    "zoned": (ZonedTimestampType, scalar("zoned_timestamp_val", zoned)),
    "int32s": (Array(Int32), collection("int32_list_val", Int32List, choose(INT32S))),
    "int64s": (Array(Int64), collection("int64_list_val", Int64List, int64s)),
    "float32s": (Array(Float32), collection("float_list_val", FloatList, floats)),
    "float64s": (Array(Float64), collection("double_list_val", DoubleList, doubles)),
    "bools": (Array(Bool), collection("bool_list_val", BoolList, BOOLS)),
    "strings": (Array(String), collection("string_list_val", StringList, words)),
    "bytess": (Array(Bytes), collection("bytes_list_val", BytesList, choose(BLOBS))),
    "times": (Array(UnixTimestamp), collection("unix_timestamp_list_val", Int64List, choose(TIMES))),
    "uuids": (Array(Uuid), collection("uuid_list_val", StringList, uuids)),
    "time_uuids": (Array(TimeUuid), collection("time_uuid_list_val", StringList, uuids)),
    "decimals": (Array(Decimal), collection("decimal_list_val", StringList, choose(DECIMALS))),
    "jsons": (Array(Json), collection("json_list_val", StringList, choose(TEXTS))),
    "maps": (Array(MapType), scalar("map_list_val", map_lists)),
    "structs": (Array(Struct({"a": Int64})), scalar("struct_list_val", map_lists)),
    "lists": (Array(Array(Int64)), scalar("list_val", nested)),
    "lists_of_sets": (Array(Set(String)), scalar("list_val", nested)),
    "int32_set": (Set(Int32), lambda rng: set_of("int32_set_val", choose(INT32S), rng)),
    "int64_set": (Set(Int64), lambda rng: set_of("int64_set_val", int64s, rng)),
    "float32_set": (Set(Float32), lambda rng: set_of("float_set_val", floats, rng)),
    "float64_set": (Set(Float64), lambda rng: set_of("double_set_val", doubles, rng)),
    "bool_set": (Set(Bool), lambda rng: set_of("bool_set_val", BOOLS, rng)),
    "string_set": (Set(String), lambda rng: set_of("string_set_val", words, rng)),
    "bytes_set": (Set(Bytes), lambda rng: set_of("bytes_set_val", choose(BLOBS), rng)),
    "time_set": (Set(UnixTimestamp), lambda rng: set_of("unix_timestamp_set_val", choose(TIMES), rng)),
    "uuid_set": (Set(Uuid), lambda rng: set_of("uuid_set_val", uuids, rng)),
    "time_uuid_set": (Set(TimeUuid), lambda rng: set_of("time_uuid_set_val", uuids, rng)),
    "decimal_set": (Set(Decimal), lambda rng: set_of("decimal_set_val", choose(DECIMALS), rng)),
    "sets": (Set(Array(String)), scalar("set_val", nested)),
}


def set_of(field, one, rng):
    """As `collection`, for the set messages, which are told by the field alone."""
    made = Value()
    getattr(made, field).val.extend(several(one)(rng))
    getattr(made, field).SetInParent()
    return made


# How often a stored value is nothing at all, an explicit null, or a value of another type than declared (an older
# schema's): Feast serves each of them.
UNSET_SHARE, NULL_SHARE, RETYPED_SHARE = 0.06, 0.02, 0.02


def stored(kind, rng):
    """A value as it may be found in the store under a feature of this kind."""
    drawn = rng.random()
    if drawn < UNSET_SHARE:
        return Value()
    if drawn < UNSET_SHARE + NULL_SHARE:
        return Value(null_val=0)
    if drawn < UNSET_SHARE + NULL_SHARE + RETYPED_SHARE:
        return TYPES[rng.choice(["int64", "string", "float64", "strings"])][1](rng)
    return TYPES[kind][1](rng)


# The types that Feast can encode in a key, and how a request's JSON writes such a value.
KEYS = {
    "int64": (Int64, lambda n: Value(int64_val=n)),
    "int32": (Int32, lambda n: Value(int32_val=n)),
    "string": (String, lambda text: Value(string_val=text)),
    "bytes": (Bytes, lambda blob: Value(bytes_val=blob)),
    "time": (UnixTimestamp, lambda n: Value(unix_timestamp_val=n)),
    # Declared by some, and refused by Feast whenever it is read.
    "float64": (Float64, lambda x: Value(double_val=x)),
    "bool": (Bool, lambda yes: Value(bool_val=yes)),
}


def key_values(kind, count, rng):
    """Distinct values for one join key, in Python's types; small ones first, then the edges."""
    if kind == "int64":
        return ([1001 + n for n in range(count)] + [0, -1, 2**40, 2**63 - 1, -(2**63)])[: count + 5]
    if kind == "int32":
        return [1 + n for n in range(count)] + [-5, 2**31 - 1]
    if kind == "string":
        return [f"k{n}" for n in range(count)] + ["", "Zürich", "東京", "a b", "1001", "🦀", "x" * 300]
    if kind == "bytes":
        return [f"b{n}".encode() for n in range(count)] + [b"", b"\xff\x00"]
    if kind == "time":
        return [1_700_000_000 + 3600 * n for n in range(count)] + [0, -1]
    if kind == "float64":
        return [0.5, 1.0]
    return [True, False]


def python_of(kind, rng):
    """A value as a caller of /push writes it in JSON for a feature of this kind."""
    plain = {
        "int32": lambda: rng.choice(INT32S),
        "int64": lambda: int64s(rng),
        "float32": lambda: rng.uniform(-1, 1),
        "float64": lambda: rng.uniform(-1, 1),
        "bool": lambda: rng.random() < 0.5,
        "string": lambda: words(rng),
        "time": lambda: rng.choice(TIMES[:4]),
        "uuid": lambda: uuids(rng),
        "time_uuid": lambda: uuids(rng),
        "decimal": lambda: str(decimal.Decimal(rng.randint(-999, 999)) / 100),
        "json": lambda: rng.choice(TEXTS),
        "map": lambda: json.dumps({"a": rng.randint(0, 9), "b": words(rng)}),
        "struct": lambda: json.dumps({"a": rng.randint(0, 9), "b": words(rng)}),
        "int32s": lambda: several(choose(INT32S))(rng),
        "int64s": lambda: several(int64s)(rng),
        "float32s": lambda: several(lambda r: r.uniform(-1, 1))(rng),
        "float64s": lambda: several(lambda r: r.uniform(-1, 1))(rng),
        "bools": lambda: several(BOOLS)(rng),
        "strings": lambda: several(words)(rng),
        "times": lambda: several(choose(TIMES[:4]))(rng),
        "uuids": lambda: several(uuids)(rng),
        "jsons": lambda: several(choose(TEXTS))(rng),
    }
    return plain[kind]() if kind in plain else None


# What a JSON body can write into a feature, see `python_of`.
WRITABLE = [
    "int32", "int64", "float32", "float64", "bool", "string", "time", "uuid", "decimal", "json", "map", "struct",
    "int32s", "int64s", "float32s", "float64s", "bools", "strings", "times", "uuids", "jsons",
]  # fmt: skip
