"""Draws requests for a repository from a seed: good ones of every shape, and every kind of wrong one we could think of.

A request is bytes, headers and a path, so that two servers can be sent exactly the same. Its `kind` says what is
special about it and heads the lines of the report.
"""

import base64
import json
import random
from dataclasses import dataclass, field

from values import key_values

JSON = {"content-type": "application/json"}
READ = "/get-online-features"

# How many rows a request asks for: mostly few, sometimes as many as a ranking model does.
ROWS = [1, 1, 1, 2, 2, 3, 5, 8, 20, 60, 200]
# Kinds of keys that no JSON spells, or that Feast cannot encode: every request for such a view fails the same way.
UNASKABLE = {"bytes", "float64", "bool"}
UNASKABLE_SHARE = 0.06
# Of a request's rows, those of entities that are not stored, and those asked for twice.
UNKNOWN_SHARE, REPEATED_SHARE = 0.15, 0.15

# What a caller may write where an entity's value belongs.
ODD_VALUES = [
    None, True, False, 0, -1, 1.0, 1002.7, -0.0, 1e300, 1e22, 1e-5, 2**31, -(2**31) - 1, 2**63, -(2**63) - 1, 2**64, 10**30,
    "1001", "abc", "", " 12 ", "1_000", "1e3", "+5", "0x10", "१००१", "1001.0", "k1", "null", "x" * 5000, "9" * 30, "a\u0000b",
    [], [1], ["a"], [None], [[1]], [1, "a"], {}, {"a": 1}, {"a": None}, {"a": [1, "b"]}, [{"a": 1}, 2], "2024-01-01T00:00:00Z", 1_700_000_000.0,
]  # fmt: skip
# As JSON texts, for what Python's writer would not write: literals that are no JSON, and numbers by their digits.
ODD_LITERALS = ["NaN", "Infinity", "-Infinity", "1e400", "-0", "1E5", "9" * 400, "1.0e0", "123456789012345678901234567890"]

VERSIONS = ["@v0", "@v1", "@V2", "@v2", "@latest", "@LATEST", "@", "@bogus", "@v", "@v-1", "@v1.0", "@v00", "@v99", "@v1@v2", "@v２", "@v" + "9" * 25]
ODD_REFS = ["", ":", "abc", "no_such_view", "no_such_view:x", ":tier", "a:b:c", "@v1:x", "no_such_view@v1:x", "é:ü", " driver_stats:tier", "driver_stats :tier"]

# A wrong type for each field of the body, and values that are taken although they look wrong.
WRONG_FIELDS = [
    ("entities", [None, [], "x", 1, {"driver_id": 1001}, {"driver_id": "1001"}, {"driver_id": None}, {"driver_id": {"a": 1}}]),
    ("features", ["a:b", None, [1], [None], {}, [["a:b"]], 1, True]),
    ("feature_service", [1, [], {}, True]),
    ("full_feature_names", ["x", 2, None, "", " true", [], {}, "truee", 0.5, -1]),
    ("include_feature_view_version_metadata", ["x", 2, None, []]),
]
TRUE_BY_OTHER_NAMES = ["true", "TRUE", "t", "Y", "yes", "on", "1", 1, 1.0, "false", "F", "no", "n", "off", "0", 0, 0.0]

BAD_BODIES = [
    b"", b"null", b"[]", b'"x"', b"1", b"{", b'{"entities":', b'{"entities":{}} x', b"\xff\xfe", b'{"entities":{"a":["\xe9"]}}', b"{'entities': {}}",
    b'{"entities":{},}', b'{"entities":{}}', b"{}", b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", b'{"entities":{"driver_id":[' + b"9" * 5000 + b"]}}",
]  # fmt: skip
CONTENT_TYPES = [None, "", "text/plain", "application/json; charset=utf-8", "APPLICATION/JSON", "application/vnd.api+json", "application/jsonx", "json", "application/x-www-form-urlencoded"]

# Paths and methods beside the one that everybody uses.
ELSEWHERE = [
    ("GET", "/health"), ("POST", "/health"), ("HEAD", "/health"), ("GET", READ), ("PUT", READ), ("DELETE", READ), ("POST", READ + "/"), ("GET", "/"),
    ("GET", "/no/such/path"), ("POST", "/no/such/path"), ("POST", "//get-online-features"), ("POST", READ + "?x=1"), ("GET", "/v1/vector_stores"),
    ("GET", "/v1/vector_stores/x"), ("GET", "/push"), ("GET", "/write-to-online-store"), ("GET", "/search"), ("GET", "/retrieve-online-documents"),
]  # fmt: skip


@dataclass
class Request:
    kind: str
    body: bytes
    path: str = READ
    method: str = "POST"
    headers: dict = field(default_factory=lambda: dict(JSON))

    def as_json(self):
        body = self.body.decode("utf-8", "backslashreplace")
        return {"method": self.method, "path": self.path, "headers": self.headers, "body": body}


def in_json(kind, value):
    """How a caller writes a key's value; bytes have no spelling that Feast would accept."""
    return base64.b64encode(value).decode() if kind == "bytes" else value


class Drawn:
    """An endless sequence of requests about one repository, the same for the same seed."""

    def __init__(self, repo, seed):
        self.repo, self.random = repo, random.Random(f"requests {seed}")
        self.serving = [view for view in repo.views.values() if view.serves]
        self.askable = [view for view in self.serving if not set(view.keys.values()) & UNASKABLE]
        self.services = list(repo.services.values())
        self.on_demand = {name for name in repo.services if any(part in name for part in ("on_demand",))}
        self.values = {}
        for view in repo.views.values():
            for key, kind in view.keys.items():
                known = [row[key] for row in view.rows if key in row]
                self.values.setdefault(key, [kind, []])[1].extend(known)
        self.kinds = [
            # (share, how)
            (22, self.plain), (10, self.service), (4, self.many), (3, self.every_feature), (3, self.version),
            (5, self.odd_value), (3, self.odd_column), (2, self.odd_literal), (3, self.unknown_columns), (3, self.missing_keys),
            (2, self.entity_names), (2, self.ragged), (2, self.empty), (4, self.odd_refs), (2, self.repeated_refs),
            (2, self.collision), (3, self.both_or_neither), (2, self.unknown_names), (1, self.disabled), (2, self.extra_keys),
            (2, self.wrong_field), (1, self.other_truth), (1, self.bad_body), (1, self.content_type), (1, self.elsewhere),
            (1, self.other_encoding), (1, self.surrogates), (1, self.precomputed), (1, self.double_keys), (1, self.extra_fields), (2, self.search),
        ]  # fmt: skip

    def __iter__(self):
        shares = [share for share, _ in self.kinds]
        while True:
            [(_, how)] = self.random.choices(self.kinds, shares)
            drawn = how()
            if drawn:
                yield drawn

    # Good requests

    def views(self, most=3):
        """A few views; half of the time of one entity, so that the same hash is read for several."""
        among = self.serving if self.random.random() < UNASKABLE_SHARE or not self.askable else self.askable
        first = self.random.choice(among)
        others = [view for view in among if view.keys == first.keys] if self.random.random() < 0.5 else among
        chosen = {first.name: first}
        for _ in range(self.random.randint(0, most - 1)):
            other = self.random.choice(others)
            chosen[other.name] = other
        return list(chosen.values())

    def some(self, things, least=1):
        things = list(things)
        return self.random.sample(things, self.random.randint(min(least, len(things)), len(things)))

    def refs(self, views, most=6):
        return [f"{view.name}:{name}" for view in views for name in self.some(view.features)[:most]]

    def key_value(self, kind, known):
        if known and self.random.random() > UNKNOWN_SHARE:
            return self.random.choice(known)
        unknown = {"int64": 999_999, "int32": 99_999, "string": "nobody", "bytes": b"nobody", "time": 5, "float64": 9.5, "bool": True}
        return self.random.choice([unknown[kind], self.random.choice(key_values(kind, 3, self.random))])

    def entities(self, parts, rows=None):
        """Columns for the views: `parts` are (caller's column to join key, view). The view with most keys chooses whole
        rows, since half of a known composite key is not a known key."""
        rows = rows or self.random.choice(ROWS)
        columns = {}
        for mapping, view in sorted(parts, key=lambda part: -len(part[0])):
            stored = [row for row in view.rows if row]
            drawn = []
            for _ in range(rows):
                if drawn and self.random.random() < REPEATED_SHARE:
                    drawn.append(self.random.choice(drawn))
                elif stored and self.random.random() > UNKNOWN_SHARE:
                    drawn.append(self.random.choice(stored))
                else:
                    drawn.append({key: self.key_value(kind, self.values[key][1]) for key, kind in view.keys.items()})
            for column, key in mapping.items():
                if column not in columns:
                    columns[column] = [in_json(view.keys[key], row[key]) for row in drawn]
        if not columns:
            columns["whatever"] = [self.random.choice(["a", 1, 2.5, None])] * rows
        order = list(columns)
        self.random.shuffle(order)
        return {column: columns[column] for column in order}

    def parts(self, views):
        return [({key: key for key in view.keys}, view) for view in views]

    def body(self, views=None, rows=None):
        views = views or self.views()
        refs = self.refs(views)
        self.random.shuffle(refs)
        names = [ref.split(":", 1)[1] for ref in refs]
        made = {"entities": self.entities(self.parts(views), rows), "features": refs}
        if len(set(names)) < len(names) or self.random.random() < 0.4:
            made["full_feature_names"] = True
        if self.random.random() < 0.15:
            made["include_feature_view_version_metadata"] = True
        return made

    def request(self, kind, body, path=READ, **more):
        return Request(kind, json.dumps(body, ensure_ascii=self.random.random() < 0.3).encode("utf-8", "surrogatepass"), path, **more)

    def plain(self):
        return self.request("features", self.body())

    def many(self):
        return self.request("many rows", self.body(rows=200))

    def every_feature(self):
        view = self.random.choice(self.serving)
        body = self.body([view])
        body["features"] = [f"{view.name}:{name}" for name in view.features]
        return self.request("all features of a view", body)

    def service_body(self):
        candidates = [service for service in self.services if service.name not in self.on_demand]
        if not candidates:
            return None
        service = self.random.choice(candidates)
        parts = [(mapping, self.repo.views[name]) for mapping, name in service.parts]
        body = {"entities": self.entities(parts), "feature_service": service.name}
        if self.random.random() < 0.5:
            body["full_feature_names"] = True
        if self.random.random() < 0.25:
            body["include_feature_view_version_metadata"] = True
        return body

    def service(self):
        body = self.service_body()
        return body and self.request("feature service", body)

    def precomputed(self):
        """Stored entities only: one that nobody computed beforehand fails the whole request."""
        services = [service for service in self.services if service.is_precomputed]
        if not services:
            return None
        service = self.random.choice(services)
        mapping, name = service.parts[0]
        view = self.repo.views[name]
        rows = [self.random.choice(view.rows) for _ in range(self.random.choice(ROWS))]
        entities = {column: [in_json(view.keys[key], row[key]) for row in rows] for column, key in mapping.items()}
        body = {"entities": entities, "feature_service": service.name, "full_feature_names": self.random.random() < 0.9}
        body["include_feature_view_version_metadata"] = self.random.random() < 0.2
        return self.request("precomputed service", body)

    def version(self):
        """References to versions: mostly of views that have some, and of features that some version has."""
        old = [view for view in self.askable if view.versions]
        view = self.random.choice(old if old and self.random.random() < 0.8 else self.serving)
        body = self.body([view])
        of_all_versions = [*view.features, *view.former]
        body["features"] = []
        for _ in range(self.random.randint(1, 3)):
            mark = self.random.choice([f"@v{n}" for n in range(view.versions + 1)]) if self.random.random() < 0.7 else self.random.choice(VERSIONS)
            body["features"].append(f"{view.name}{mark}:{self.random.choice(of_all_versions)}")
        if self.random.random() < 0.3:
            body["features"].append(f"{view.name}:{self.random.choice(list(view.features))}")
        body["include_feature_view_version_metadata"] = self.random.random() < 0.5
        body["full_feature_names"] = self.random.random() < 0.7
        return self.request("versions", body)

    # Wrong and borderline ones

    def a_column(self, body):
        return self.random.choice(list(body["entities"]))

    def odd_value(self):
        body = self.body(rows=self.random.choice([1, 1, 2, 4]))
        column = body["entities"][self.a_column(body)]
        column[self.random.randrange(len(column))] = self.random.choice(ODD_VALUES)
        return self.request("odd value", body)

    def odd_column(self):
        body = self.body(rows=self.random.randint(1, 4))
        column = self.a_column(body)
        body["entities"][column] = [self.random.choice(ODD_VALUES) for _ in body["entities"][column]]
        return self.request("odd column", body)

    def odd_literal(self):
        body = self.body(rows=2)
        body["entities"][self.a_column(body)][0] = "@@"
        text = json.dumps(body).replace('"@@"', self.random.choice(ODD_LITERALS))
        return Request("odd literal", text.encode())

    def unknown_columns(self):
        """Feast drops what it does not know, but not before it tried to understand it."""
        body = self.body(rows=self.random.randint(1, 3))
        rows = len(next(iter(body["entities"].values())))
        name = self.random.choice(["zzz", "__dummy_id", "é", "", "driver_stats:tier", "__dummy"])
        body["entities"][name] = [self.random.choice(ODD_VALUES) for _ in range(rows)]
        return self.request("unknown column", body)

    def extra_keys(self):
        """Join keys of entities that none of the views has."""
        body = self.body(rows=self.random.randint(1, 3))
        rows = len(next(iter(body["entities"].values())))
        for key in self.some(self.values)[:3]:
            kind, known = self.values[key]
            values = [in_json(kind, self.key_value(kind, known)) for _ in range(rows)]
            body["entities"].setdefault(key, values if self.random.random() < 0.7 else [self.random.choice(ODD_VALUES) for _ in range(rows)])
        return self.request("other entities' keys", body)

    def missing_keys(self):
        """Nothing for a view, or half of a composite key, in a request or a service."""
        body = self.body() if self.random.random() < 0.7 else self.service_body() or self.body()
        body["entities"].pop(self.a_column(body))
        if self.random.random() < 0.2:
            body["entities"]["whatever"] = ["x"] * len(next(iter(body["entities"].values()), ["x"]))
        return self.request("missing key", body)

    def entity_names(self):
        views = [view for view in self.serving if any(key != name for key, name in view.entities.items())]
        if not views:
            return None
        view = self.random.choice(views)
        body = self.body([view])
        for key, name in view.entities.items():
            if key in body["entities"] and self.random.random() < 0.8:
                values = body["entities"].pop(key) if self.random.random() < 0.8 else list(reversed(body["entities"][key]))
                body["entities"][name] = values
        return self.request("entity names", body)

    def ragged(self):
        body = self.body(rows=self.random.randint(1, 3))
        column = self.random.choice([self.a_column(body), "whatever"])
        body["entities"].setdefault(column, []).append(self.random.choice([1, "a", None]))
        return self.request("ragged columns", body)

    def empty(self):
        body = self.body(rows=1)
        drawn = self.random.random()
        if drawn < 0.3:
            body["entities"] = {}
        elif drawn < 0.7:
            body["entities"] = {column: [] for column in body["entities"]}
        else:
            body["entities"][self.a_column(body)] = []
        return self.request("no rows", body)

    def odd_refs(self):
        body = self.body()
        view = self.random.choice(list(self.repo.views.values()))
        feature = self.random.choice(list(view.features))
        made = [view.name, f"{view.name}:", f":{feature}", f"{view.name}:{feature}:x", f"{view.name}:nothing", f"{view.name}:no'thing", f"{view.name}:{feature} ", f"{view.name}::{feature}", f"{view.name}__{feature}"]
        for _ in range(self.random.randint(1, 2)):
            body["features"].insert(self.random.randint(0, len(body["features"])), self.random.choice(ODD_REFS + made))
        return self.request("odd reference", body)

    def repeated_refs(self):
        body = self.body()
        ref = self.random.choice(body["features"])
        view, feature = ref.split(":", 1)
        body["features"].append(self.random.choice([ref, f"{view}@latest:{feature}", f"{view}@:{feature}", ref]))
        body["full_feature_names"] = self.random.random() < 0.5
        return self.request("repeated reference", body)

    def collision(self):
        body = self.body(self.views(5))
        body["full_feature_names"] = False
        return self.request("collisions", body)

    def both_or_neither(self):
        body = self.body()
        service = self.service_body()
        drawn = self.random.random()
        if service and drawn < 0.4:
            service["features"] = body["features"]
            body = service
        elif drawn < 0.6:
            del body["features"]
        elif drawn < 0.8:
            body["features"] = []
        else:
            body["feature_service"] = self.random.choice(["", None])
        return self.request("both or neither", body)

    def unknown_names(self):
        body = self.body()
        drawn = self.random.random()
        if drawn < 0.4:
            body["feature_service"] = self.random.choice(["no_such_service", "é", " ", "driver_stats", "a\nb\"'"])
        elif drawn < 0.7:
            body["features"].insert(0, "no_such_view:x")
        else:
            body["features"].append(f"{self.random.choice(self.serving).name}:no_such_feature")
        return self.request("unknown name", body)

    def disabled(self):
        closed = [view for view in self.repo.views.values() if not view.serves]
        if not closed:
            return None
        body = self.body()
        body["features"].insert(self.random.randint(0, 1), f"{closed[0].name}:{self.random.choice([*closed[0].features, 'nothing'])}")
        return self.request("disabled view", body)

    def wrong_field(self):
        body = self.body(rows=1)
        name, wrong = self.random.choice(WRONG_FIELDS)
        body[name] = self.random.choice(wrong)
        if name == "entities" and self.random.random() < 0.2:
            del body[name]
        return self.request("wrong type of a field", body)

    def other_truth(self):
        body = self.body(rows=1)
        body[self.random.choice(["full_feature_names", "include_feature_view_version_metadata"])] = self.random.choice(TRUE_BY_OTHER_NAMES)
        return self.request("other spellings of a bool", body)

    def bad_body(self):
        return Request("malformed body", self.random.choice(BAD_BODIES))

    def content_type(self):
        drawn = self.request("content type", self.body(rows=1))
        kind = self.random.choice(CONTENT_TYPES)
        drawn.headers = {} if kind is None else {"content-type": kind}
        return drawn

    def elsewhere(self):
        method, path = self.random.choice(ELSEWHERE)
        drawn = self.request("elsewhere", self.body(rows=1))
        drawn.method, drawn.path = method, path
        if method in ("GET", "HEAD"):
            drawn.body, drawn.headers = b"", {}
        return drawn

    def other_encoding(self):
        drawn = self.request("other encoding", self.body(rows=1))
        text = drawn.body.decode("utf-8", "replace")
        drawn.body = text.encode(self.random.choice(["utf-8-sig", "utf-16", "utf-16-le", "utf-32"]))
        return drawn

    def surrogates(self):
        """Half of a UTF-16 pair, which JSON can spell and UTF-8 cannot."""
        body = self.body(rows=1)
        half = "\ud800"
        drawn = self.random.random()
        if drawn < 0.5:
            body["entities"][self.a_column(body)] = [half]
        elif drawn < 0.7:
            body["features"].append(f"{half}:x")
        elif drawn < 0.85:
            body["feature_service"] = half
        else:
            body["entities"][half] = ["x"]
        return self.request("lone surrogates", body)

    def double_keys(self):
        """The same name twice in one JSON object."""
        body = self.body(rows=1)
        text = json.dumps(body)
        column = self.a_column(body)
        twice = json.dumps({column: body["entities"][column]})[1:-1]
        first = json.dumps({column: [self.random.choice([None, "first", 1])]})[1:-1]
        if self.random.random() < 0.5:
            return Request("name twice", text.replace(twice, f"{first}, {twice}", 1).encode())
        return Request("name twice", f'{{"features": ["no_such_view:x"], {text[1:]}'.encode())

    def extra_fields(self):
        body = self.body(rows=1) | {"unknown": {"a": [1]}, "status": True}
        return self.request("unknown fields", dict(sorted(body.items(), key=lambda _: self.random.random())))

    def search(self):
        """No vector search on Redis; what is said about it is the same."""
        view = self.random.choice(list(self.repo.views.values()))
        ref = f"{view.name}:{self.random.choice(list(view.features))}"
        other = self.random.choice(self.serving)
        features = self.random.choice([[ref], [ref], [], [ref, f"{other.name}:x"], ["no_such_view:x"], [view.name], [f"{view.name}@v1:x"], [f"{view.name}:nothing"]])
        body = {"features": features, "query": [0.1, 0.2], "top_k": 3}
        for name, values in [("api_version", [1, 2, 3, "2", None]), ("query", [None, [], "x"]), ("top_k", [None, 0, "x", "4", 1.5]), ("query_string", ["abc", None]),
                             ("feature_service", ["no_such_service", *[s.name for s in self.services[:2]]]), ("filters", [None, {"type": "eq", "key": "a", "value": 1}, {"a": 1}]),
                             ("distance_metric", ["L2", None, 1])]:  # fmt: skip
            if self.random.random() < 0.2:
                body[name] = self.random.choice(values)
        return self.request("search", body, self.random.choice(["/search", "/retrieve-online-documents"]))
