"""Draws the requests that a careful caller would send: features and services of every shape, few rows and many,
stored entities and unknown ones.

A request is bytes, headers and a path, so that two servers can be sent exactly the same. Its `kind` says what is
special about it and heads the lines of the report.
"""

import base64
import json
import random
from dataclasses import dataclass, field

from odd import JSON, READ, VERSIONS
from values import key_values

# How many rows a request asks for: mostly few, sometimes as many as a ranking model does.
ROWS = [1, 1, 1, 2, 2, 3, 5, 8, 20, 60, 200]
# Kinds of keys that no JSON spells, or that Feast cannot encode: every request for such a view fails the same way.
UNASKABLE = {"bytes", "float64", "bool"}
UNASKABLE_SHARE = 0.06
# Of a request's rows, those of entities that are not stored, and those asked for twice.
UNKNOWN_SHARE, REPEATED_SHARE = 0.15, 0.15


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


class Good:
    """Draws requests that a careful caller would send, about one repository."""

    def __init__(self, repo, seed):
        self.repo, self.random = repo, random.Random(seed)
        self.serving = [view for view in repo.views.values() if view.serves]
        self.askable = [view for view in self.serving if not set(view.keys.values()) & UNASKABLE]
        self.services = list(repo.services.values())
        self.values = {}
        for view in repo.views.values():
            for key, kind in view.keys.items():
                known = [row[key] for row in view.rows if key in row]
                self.values.setdefault(key, [kind, []])[1].extend(known)

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
        unknown = {
            "int64": 999_999,
            "int32": 99_999,
            "string": "nobody",
            "bytes": b"nobody",
            "time": 5,
            "float64": 9.5,
            "bool": True,
        }
        return self.random.choice([unknown[kind], self.random.choice(key_values(kind, 3, self.random))])

    def entities(self, parts, rows=None):
        """Columns for the views: `parts` are (caller's column to join key, view). The view with most keys chooses
        whole rows, since half of a known composite key is not a known key."""
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
        return Request(
            kind,
            json.dumps(body, ensure_ascii=self.random.random() < 0.3).encode("utf-8", "surrogatepass"),
            path,
            **more,
        )

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
        candidates = [service for service in self.services if not service.needs_python]
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
        body = {
            "entities": entities,
            "feature_service": service.name,
            "full_feature_names": self.random.random() < 0.9,
        }
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
            mark = (
                self.random.choice([f"@v{n}" for n in range(view.versions + 1)])
                if self.random.random() < 0.7
                else self.random.choice(VERSIONS)
            )
            body["features"].append(f"{view.name}{mark}:{self.random.choice(of_all_versions)}")
        if self.random.random() < 0.3:
            body["features"].append(f"{view.name}:{self.random.choice(list(view.features))}")
        body["include_feature_view_version_metadata"] = self.random.random() < 0.5
        body["full_feature_names"] = self.random.random() < 0.7
        return self.request("versions", body)
