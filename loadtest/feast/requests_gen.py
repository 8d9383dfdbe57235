"""Draws requests for a repository from a seed: good ones, and every kind of wrong one that we could think of."""

import json

from good_requests import Good, Request, in_json
from odd import (
    BAD_BODIES,
    CONTENT_TYPES,
    ELSEWHERE,
    ODD_LITERALS,
    ODD_REFS,
    ODD_VALUES,
    TRUE_BY_OTHER_NAMES,
    WRONG_FIELDS,
)


class Drawn(Good):
    """An endless sequence of requests about one repository, the same for the same seed."""

    def __init__(self, repo, seed):
        super().__init__(repo, f"requests {seed}")
        self.kinds = [
            # (share, how)
            (22, self.plain), (10, self.service), (4, self.many), (3, self.every_feature), (3, self.version),
            (5, self.odd_value), (3, self.odd_column), (2, self.odd_literal), (3, self.unknown_columns), (3,
            self.missing_keys),
            (2, self.entity_names), (2, self.ragged), (2, self.empty), (4, self.odd_refs), (2, self.repeated_refs),
            (2, self.collision), (3, self.both_or_neither), (2, self.unknown_names), (1, self.disabled), (2,
            self.extra_keys),
            (2, self.wrong_field), (1, self.other_truth), (1, self.bad_body), (1, self.content_type), (1,
            self.elsewhere),
            (1, self.other_encoding), (1, self.surrogates), (1, self.precomputed), (1, self.double_keys), (1,
            self.extra_fields), (2, self.search),
        ]  # fmt: skip

    def __iter__(self):
        shares = [share for share, _ in self.kinds]
        while True:
            [(_, how)] = self.random.choices(self.kinds, shares)
            drawn = how()
            if drawn:
                yield drawn

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
            body["entities"].setdefault(
                key, values if self.random.random() < 0.7 else [self.random.choice(ODD_VALUES) for _ in range(rows)]
            )
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
                values = (
                    body["entities"].pop(key) if self.random.random() < 0.8 else list(reversed(body["entities"][key]))
                )
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
        made = [
            view.name,
            f"{view.name}:",
            f":{feature}",
            f"{view.name}:{feature}:x",
            f"{view.name}:nothing",
            f"{view.name}:no'thing",
            f"{view.name}:{feature} ",
            f"{view.name}::{feature}",
            f"{view.name}__{feature}",
        ]
        for _ in range(self.random.randint(1, 2)):
            body["features"].insert(
                self.random.randint(0, len(body["features"])), self.random.choice(ODD_REFS + made)
            )
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
        body["features"].insert(
            self.random.randint(0, 1), f"{closed[0].name}:{self.random.choice([*closed[0].features, 'nothing'])}"
        )
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
        body[self.random.choice(["full_feature_names", "include_feature_view_version_metadata"])] = (
            self.random.choice(TRUE_BY_OTHER_NAMES)
        )
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
        features = self.random.choice(
            [
                [ref],
                [ref],
                [],
                [ref, f"{other.name}:x"],
                ["no_such_view:x"],
                [view.name],
                [f"{view.name}@v1:x"],
                [f"{view.name}:nothing"],
            ]
        )
        body = {"features": features, "query": [0.1, 0.2], "top_k": 3}
        more = {
            "api_version": [1, 2, 3, "2", None],
            "query": [None, [], "x"],
            "top_k": [None, 0, "x", "4", 1.5],
            "query_string": ["abc", None],
            "feature_service": ["no_such_service", *[service.name for service in self.services[:2]]],
            "filters": [None, {"type": "eq", "key": "a", "value": 1}, {"a": 1}],
            "distance_metric": ["L2", None, 1],
        }
        for name, values in more.items():
            if self.random.random() < 0.2:
                body[name] = self.random.choice(values)
        return self.request("search", body, self.random.choice(["/search", "/retrieve-online-documents"]))
