"""Draws bodies for /push and /write-to-online-store from a seed: rows as producers send them, and wrong ones.

Event times move on from one request to the next, except where a request is about being late, so that nothing hides
behind what was written before.
"""

import json
import random
from datetime import datetime, timedelta, timezone

from good_requests import Request, in_json
from odd import JSON
from values import WRITABLE, key_values, python_of

PUSH, WRITE = "/push", "/write-to-online-store"
# After everything that was stored when the repository was built, except for rows of the far future.
START = datetime(2031, 1, 1, tzinfo=timezone.utc)

# Wrong or borderline values for a feature of a kind, each alone in its column and next to a good one.
ODD = {
    "int32": [2**31, 1.5, "7", "", "x", True, [1], {"a": 1}, None, 2**40],
    "int64": [2**63, 2**63 - 1, 2**65, 1.5, 1e300, "7", " 8 ", "x", True, [], {}, None, 2**53 + 1, -(2**63)],
    "float32": [1, 0.1, 1e300, "1.5", "x", True, "NaN", "inf", [1.0], None, 0],
    "float64": [1, 0, True, "1", "x", [1.0], None, 2**63, 2**70, 1e308],
    "bool": [0, 1, 2, "true", "", 1.0, 0.0, [True], None],
    "string": [5, 1e22, 1.0, [1], {"a": 1}, None, True, ""],
    "time": ["1700000000", "2024-01-01", 1.5, True, None, 0, -1, 2**63 - 1, [1]],
    "uuid": ["no uuid", "", 5, None],
    "decimal": ["x", "", 1, 1.5, 0, None],
    "json": ["{bad", "", {"a": 1}, {"a": [1]}, [1, 2], 5, True, 1.5, {}, [], None],
    "map": [
        "{bad",
        "[1]",
        "",
        {"a": 1},
        {"a": {"b": [1, 2]}},
        [1],
        5,
        {},
        {"a": None},
        '{"a":null,"b":[1,"x"]}',
        '{"a":[]}',
        None,
    ],
    "struct": ["{bad", "[1]", {"a": 1}, 5, [1], {}, "5", None],
    "int32s": [[], [1, None], [None], ["1"], [1.5], None, 1, "abc", [2**31], [[1]], [True]],
    "int64s": [[], [1, None], [None], ["1"], [1.5], None, 1, [2**63], [True], [1, 2.0]],
    "float32s": [[], [1], [1, 2.5], [1.5, None], ["1"], [0.1], None],
    "float64s": [[], [1], [1, 2.5], [1.5, None], [None], ["1"], None],
    "bools": [[], [1, 0], ["a"], [True, None], [1.0], None],
    "strings": [[], ["a", None], [1], [""], "abc", [["a"]], ["a", 1], None],
    "times": [[], ["2024-01-01"], ["5"], [1.5], [1, None], [None], None],
    "uuids": [["x"], [], [None], None],
    "jsons": [["{bad"], [], [{"a": 1}], [1], [None], [[1]], None],
}
ODD_KEYS = [None, True, 1.0, 1.5, "1", "x", "", 2**31, 2**63, [1], {}, 0, -1]
# What a producer's language prints, and what it should not.
ODD_TIMES = [
    "2033-01-01", "2034-01-03 01:02:03", "01/04/2035", "2033-01-01T00:00:00.123456789", "2033-01-01T00:00:00+05:30",
    "2033-01-01T00:00:00Z", "zz", "", None, 1956528003, 1956528003123456789, 1.5, "2033-13-01", True, "1700000000",
    "9999-12-31", "1969-12-31T23:59:59.5Z", [],
]  # fmt: skip
WRONG_FIELDS = [
    ("df", [None, [], "x", 1]),
    ("allow_registry_cache", ["x", None, 2]),
    ("transform_on_write", ["x", None]),
    ("to", [None, 1, "", "zz", "ONLINE"]),
    ("push_source_name", [None, 1, "", "no_such_source", "é"]),
    ("feature_view_name", [None, 1, "", "no_such_view", "é"]),
]


class DrawnWrites:
    def __init__(self, repo, seed):
        self.repo, self.random = repo, random.Random(f"writes {seed}")
        encodable = {"int64", "int32", "string", "time"}
        self.views = [
            view
            for view in repo.views.values()
            if set(view.features.values()) <= set(WRITABLE) and set(view.keys.values()) <= encodable
        ]
        self.pushed = [view for view in self.views if view.push_source]
        # The columns a source names otherwise, by view.
        self.times = {"mapped": "when"}
        self.more = {"mapped": ["made_at"], "shared_left": ["shared_right_n"], "shared_right": ["shared_left_n"]}
        self.now = START
        self.kinds = [
            (20, self.good), (6, self.many), (6, self.late), (6, self.twice), (6, self.nulls), (5, self.missing),
            (12, self.odd_value), (4, self.odd_key), (5, self.odd_time), (3, self.extra), (3, self.ragged),
            (3, self.shapes), (4, self.wrong_field), (2, self.unknown), (1, self.malformed),
        ]  # fmt: skip

    def __iter__(self):
        shares = [share for share, _ in self.kinds]
        while self.views:
            [(_, how)] = self.random.choices(self.kinds, shares)
            drawn = how()
            if drawn:
                yield drawn

    def later(self):
        self.now += timedelta(seconds=self.random.choice([1, 60, 3600]))
        return self.now

    def time(self, when=None):
        when = when or self.later() + timedelta(microseconds=self.random.choice([0, 0, 1, 123456, 120000]))
        return when.strftime("%Y-%m-%dT%H:%M:%S.%f") + self.random.choice(["", "Z", "+00:00"])

    def columns(self, view, rows, when=None):
        """Good rows for a view; one spelling of time in the column, as pandas insists."""
        drawn = {}
        for key, kind in view.keys.items():
            drawn[key] = [in_json(kind, self.random.choice(key_values(kind, 6, self.random))) for _ in range(rows)]
        for name, kind in view.features.items():
            drawn[name] = [python_of(kind, self.random) for _ in range(rows)]
        text = self.time(when)
        plain, mark = text[:26], text[26:]
        start = datetime.fromisoformat(plain)
        step = timedelta(seconds=1)
        stamps = [(start + step * n).strftime("%Y-%m-%dT%H:%M:%S.%f") + mark for n in range(rows)]
        drawn[self.times.get(view.name, "event_timestamp")] = stamps
        self.now += step * rows
        for name in self.more.get(view.name, []):
            drawn[name] = [1] * rows if name.endswith("_n") else stamps
        return drawn

    def request(self, kind, view, df, **more):
        pushes = bool(view.push_source) and self.random.random() < 0.6
        if pushes:
            body = {"push_source_name": view.push_source, "df": df} | more
            if self.random.random() < 0.3:
                body["to"] = "online"
        else:
            body = {"feature_view_name": view.name, "df": df} | more
        if self.random.random() < 0.1:
            body["allow_registry_cache"] = self.random.random() < 0.5
        return Request(kind, json.dumps(body).encode(), PUSH if pushes else WRITE)

    def view(self):
        return self.random.choice(self.pushed if self.pushed and self.random.random() < 0.6 else self.views)

    def good(self):
        view = self.view()
        return self.request("write", view, self.columns(view, self.random.randint(1, 3)))

    def many(self):
        view = self.view()
        return self.request("write many rows", view, self.columns(view, self.random.choice([10, 50, 200])))

    def late(self):
        """Rows that are older than what is stored, or exactly as old."""
        view = self.view()
        when = self.random.choice(
            [START - timedelta(days=2000), self.now, datetime(1970, 1, 1, tzinfo=timezone.utc), START]
        )
        before = self.now
        request = self.request("late write", view, self.columns(view, 2, when))
        self.now = before
        return request

    def twice(self):
        """One entity several times in one batch, in and out of order."""
        view = self.view()
        df = self.columns(view, 4)
        for key in view.keys:
            df[key] = [df[key][0]] * 3 + df[key][3:]
        stamps = df[self.times.get(view.name, "event_timestamp")]
        if self.random.random() < 0.3:
            stamps[1] = stamps[0]
        self.random.shuffle(stamps)
        return self.request("one entity twice in a batch", view, df)

    def nulls(self):
        view = self.view()
        df = self.columns(view, self.random.randint(1, 3))
        for name in view.features:
            if self.random.random() < 0.5:
                df[name][self.random.randrange(len(df[name]))] = None
            if self.random.random() < 0.1:
                df[name] = [None] * len(df[name])
        return self.request("write with nulls", view, df)

    def missing(self):
        view = self.view()
        # Feast writes the views of a source in the order in which Python keeps a set, up to the first that fails.
        if view.name.startswith("shared_"):
            return None
        df = self.columns(view, 1)
        for name in self.random.sample(list(df), self.random.randint(1, min(2, len(df)))):
            del df[name]
        return self.request("write with a missing column", view, df)

    def odd_value(self):
        view = self.view()
        rows = self.random.choice([1, 1, 2, 3])
        df = self.columns(view, rows)
        name, kind = self.random.choice(list(view.features.items()))
        df[name][self.random.randrange(rows)] = self.random.choice(ODD[kind])
        return self.request("write of an odd value", view, df)

    def odd_key(self):
        view = self.view()
        if not view.keys:
            return None
        rows = self.random.choice([1, 1, 2])
        df = self.columns(view, rows)
        df[self.random.choice(list(view.keys))][self.random.randrange(rows)] = self.random.choice(ODD_KEYS)
        return self.request("write of an odd key", view, df)

    def odd_time(self):
        view = self.view()
        rows = self.random.choice([1, 1, 1, 2])
        df = self.columns(view, rows)
        df[self.times.get(view.name, "event_timestamp")][rows - 1] = self.random.choice(ODD_TIMES)
        return self.request("write at an odd time", view, df)

    def extra(self):
        view = self.view()
        df = self.columns(view, 2)
        df["no_such_column"] = self.random.choice(
            [[1, 2], ["a", None], [1, "a"], [{"a": 1}, {"b": 2}], [[1], [2]], [None, None]]
        )
        return self.request("write with an extra column", view, df)

    def ragged(self):
        view = self.view()
        df = self.columns(view, 2)
        df[self.random.choice(list(df))].append(None)
        return self.request("write with ragged columns", view, df)

    def shapes(self):
        """What pandas makes of other things than lists."""
        view = self.view()
        df = self.columns(view, 1)
        drawn = self.random.random()
        if drawn < 0.2:
            df = {}
        elif drawn < 0.4:
            df = {name: [] for name in df}
        elif drawn < 0.6:
            df = {name: column[0] for name, column in df.items()}
        elif drawn < 0.8:
            name = self.random.choice(list(df))
            df[name] = df[name][0]
        else:
            df = {name: {"0": column[0]} for name, column in df.items()}
        return self.request("write in another shape", view, df)

    def wrong_field(self):
        view = self.view()
        name, values = self.random.choice(WRONG_FIELDS)
        request = self.request("write with a wrong field", view, self.columns(view, 1))
        body = json.loads(request.body) | {name: self.random.choice(values)}
        if self.random.random() < 0.3:
            body.pop(self.random.choice(list(body)))
        request.body = json.dumps(body).encode()
        return request

    def unknown(self):
        view = self.view()
        name = self.random.choice(
            ["no_such_thing", view.name, *self.repo.on_demand, "labels", "kafka", *self.repo.services]
        )
        body = {"df": self.columns(view, 1), "feature_view_name": name, "push_source_name": name}
        # A view's own name is no push source, but it is a view.
        return Request("write to something else", json.dumps(body).encode(), PUSH)

    def malformed(self):
        return Request(
            "malformed write",
            self.random.choice([b"", b"{", b"null", b"[]", b"\xff"]),
            self.random.choice([PUSH, WRITE]),
            headers=dict(JSON),
        )


def offline(repo):
    """Writes that also or only go to the offline store, of which weir has none: compared with nobody."""
    view = next(
        (view for view in repo.views.values() if view.push_source and set(view.features.values()) <= set(WRITABLE)),
        None,
    )
    if not view:
        return []
    df = DrawnWrites(repo, "offline").columns(view, 1)
    bodies = [{"push_source_name": view.push_source, "df": df, "to": to} for to in ("offline", "online_and_offline")]
    return [Request("write offline", json.dumps(body).encode(), PUSH) for body in bodies]
