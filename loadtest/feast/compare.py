"""Judges two servers' replies to one request: equal, or different in a named way.

Columns are compared by name and not by place, since Feast's own order changes from run to run. Whether a text that
Python made up for an exception is the same is told apart from whether the answer is.
"""

import json
import re
from collections import Counter
from dataclasses import dataclass

from feast.protos.feast.types.Value_pb2 import Value
from google.protobuf.message import DecodeError

# Ways to differ. Those of the first line fail the test; the last is only reported.
STATUS, ANSWER, ERROR, STORE, HEADER = "status", "answer", "error", "store", "header"
MESSAGE = "message"
FAILING = (STATUS, ANSWER, ERROR, STORE, HEADER)


@dataclass
class Reply:
    status: int
    headers: dict
    body: bytes


def text_of(value):
    """One spelling for one value; 1 and 1.0 are two, as they are for a caller's JSON reader."""
    return json.dumps(value, sort_keys=True)


def columns(answer):
    """An answer with its columns ordered by name; what is not as long as its names is left as it came."""
    names = answer.get("metadata", {}).get("feature_names")
    results = answer.get("results")
    if not isinstance(names, list) or not isinstance(results, list) or len(names) != len(results):
        return text_of(answer)
    paired = sorted(zip(names, map(text_of, results)))
    views = sorted(map(text_of, answer["metadata"].get("feature_view_metadata", [])))
    rest = {key: value for key, value in answer.items() if key not in ("metadata", "results")}
    meta = {
        key: value
        for key, value in answer["metadata"].items()
        if key not in ("feature_names", "feature_view_metadata")
    }
    has_views = "feature_view_metadata" in answer["metadata"]
    return text_of([paired, views, has_views, rest, meta])


def parsed(body):
    try:
        return json.loads(body) if body else None
    except ValueError:
        return body.decode("utf-8", "replace")


# Python prints sets in an order of their own: of names, and of types.
COLLISION = re.compile(r"Duplicate features named (.*) found\.\n", re.DOTALL)
TYPES = re.compile(r"\{(<class '[^{}]*)\}")
# Columns of a gRPC request are a protobuf map, and come in any order too.
PROVIDED = re.compile(r"Provided join_key_values: \[(.*)\]", re.DOTALL)
# Which field of a map, or of which column, Arrow stumbles upon first follows that order too.
STUMBLED = re.compile(r"\('Could not convert .* with type Value: .*, 'Conversion failed for column .*'\)", re.DOTALL)
# As does the column that is converted first, where several cannot be.
UNCONVERTED = re.compile(
    r"Value with native type value cannot be converted into Feast value type"
    r"|int\(\) argument must be a string, a bytes-like object or a real number, not 'Value'"
    r"|Type `<class 'feast\.types\.Value_pb2\.Value'>` not in \{[^{}]*\}"
)
LISTED = re.compile(r"Required request data source features \[(.*)\] not found")


def without_order(message, is_grpc=False):
    found = COLLISION.search(message) or LISTED.search(message) or (is_grpc and PROVIDED.search(message))
    if found:
        start, end = found.span(1)
        message = message[:start] + ", ".join(sorted(found[1].split(", "))) + message[end:]
    if is_grpc:
        message = STUMBLED.sub("Could not convert a Value", message)
        message = UNCONVERTED.sub("Could not convert a Value", message)
    return TYPES.sub(lambda m: "{" + ", ".join(sorted(m[1].split(", "))) + "}", message)


def feast_error(body):
    """A Feast exception in a JSON string that holds JSON, as the SDK reads it; None when it is something else."""
    if not isinstance(body, str):
        return None
    try:
        inner = json.loads(body)
    except ValueError:
        return None
    if not isinstance(inner, dict) or not {"module", "class", "message"} <= inner.keys():
        return None
    return inner | {"message": without_order(inner["message"])}


def http(reference, candidate):
    """How the candidate's reply differs from the reference's: None, or one of the words above."""
    if reference.status != candidate.status:
        return STATUS
    kinds = [reply.headers.get("content-type") for reply in (reference, candidate)]
    ours, theirs = parsed(reference.body), parsed(candidate.body)
    if reference.status == 200:
        if isinstance(ours, dict) and isinstance(theirs, dict):
            same = columns(ours) == columns(theirs)
        else:
            same = reference.body == candidate.body
        if not same:
            return ANSWER
        return None if kinds[0] == kinds[1] else HEADER
    if reference.status == 422 and isinstance(ours, dict):
        is_alike = isinstance(theirs, dict) and isinstance(theirs.get("detail"), list)
        return None if is_alike else ERROR
    if reference.status in (307, 405):
        names = ("location", "allow")
        said = [{name: reply.headers.get(name) for name in names} for reply in (reference, candidate)]
        # Each redirects to itself.
        if said[0]["location"] and said[1]["location"]:
            for one in said:
                one["location"] = "/" + one["location"].split("/", 3)[-1]
        if said[0] != said[1]:
            return HEADER
    if (error := feast_error(ours)) is not None:
        return None if error == feast_error(theirs) else ERROR
    if isinstance(ours, str):
        if not isinstance(theirs, str) or feast_error(theirs) is not None:
            return ERROR
        return None if without_order(ours) == without_order(theirs) else MESSAGE
    return None if text_of(ours) == text_of(theirs) else ERROR


# The remaining time of a key is given in seconds and read at two moments.
TTL_S_APART = 2


def same_value(ours, theirs):
    """The same bytes, or the same map: protobuf leaves the order of a map's entries to the writer."""
    if ours == theirs or ours is None or theirs is None:
        return ours == theirs
    try:
        return deterministic(ours) == deterministic(theirs)
    except DecodeError:
        return False


def deterministic(blob):
    value = Value.FromString(blob)
    if value.WhichOneof("val") not in ("map_val", "struct_val", "map_list_val", "struct_list_val"):
        return blob
    return value.SerializeToString(deterministic=True)


def stored(reference, candidate):
    """How two Redis contents, {key: (hash, ttl)} each, differ, as lines: keys, fields, bytes, and remaining times."""
    lines = []
    for key in sorted(reference.keys() | candidate.keys()):
        if key not in candidate or key not in reference:
            where = "candidate" if key not in candidate else "reference"
            lines.append(f"{key!r} is missing in the {where}")
            continue
        (ours, our_ttl), (theirs, their_ttl) = reference[key], candidate[key]
        for name in sorted(ours.keys() | theirs.keys()):
            if not same_value(ours.get(name), theirs.get(name)):
                lines.append(f"{key!r} {name!r}: {ours.get(name)!r} and {theirs.get(name)!r}")
        if (our_ttl < 0) != (their_ttl < 0) or abs(our_ttl - their_ttl) > TTL_S_APART:
            lines.append(f"{key!r} lives {our_ttl} s and {their_ttl} s")
    return lines


def contents(client):
    keys = sorted(client.scan_iter(count=1000))
    with client.pipeline(transaction=False) as ask:
        for key in keys:
            ask.hgetall(key)
            ask.ttl(key)
        found = iter(ask.execute())
    return {key: (hashed, ttl) for key, (hashed, ttl) in zip(keys, zip(found, found))}


class Tally:
    """Counts per kind of request, and the first differences with what repeats them."""

    def __init__(self, keep):
        self.keep, self.kept, self.counts = keep, [], {}

    def add(self, repo, kind, difference, example):
        self.counts.setdefault((repo, kind), Counter())[difference or "equal"] += 1
        if difference:
            seen = sum(1 for one in self.kept if one["kind"] == kind and one["difference"] == difference)
            # Of each sort some, so that one frequent difference does not hide the others.
            if seen < self.keep:
                self.kept.append({"repo": repo, "kind": kind, "difference": difference} | example())

    def failed(self):
        return sum(counts[way] for counts in self.counts.values() for way in FAILING)
