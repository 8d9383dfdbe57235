"""The gRPC half of the differential test: typed requests made from the drawn JSON ones, sent with Feast's own stubs,
and their replies compared column by column.
"""

import json
import random
from dataclasses import dataclass

import grpc
from feast.protos.feast.serving import (
    GrpcServer_pb2,
    GrpcServer_pb2_grpc,
    ServingService_pb2,
    ServingService_pb2_grpc,
)
from feast.protos.feast.types.Value_pb2 import Int64List, RepeatedValue, StringList, Value
from google.protobuf.json_format import MessageToJson

from compare import ANSWER, MESSAGE, STATUS, without_order
from requests_gen import Drawn
from values import KEYS, TYPES, key_values
from writes import DrawnWrites

ANSWER_S_MAX = 30
# What makes sense without JSON's own mistakes.
KINDS = {
    "features", "feature service", "all features of a view", "versions", "odd value", "other entities' keys",
    "missing key", "ragged columns", "no rows", "odd reference", "repeated reference", "collisions", "unknown name",
    "disabled view", "unknown column", "both or neither",
}  # fmt: skip


@dataclass
class Call:
    kind: str
    method: str
    message: object

    def as_json(self):
        return {
            "method": self.method,
            "message": json.loads(MessageToJson(self.message, preserving_proto_field_name=True)),
        }


def typed(value, kind):
    """A JSON value as a typed one: of the key's kind where it fits, else of the nearest."""
    if value is None:
        return Value()
    try:
        if kind == "bytes":
            return Value(bytes_val=value.encode() if isinstance(value, str) else value)
        if kind and type(value) in (int, str):
            return KEYS[kind][1](value)
    except (TypeError, ValueError, OverflowError):
        pass
    if isinstance(value, bool):
        return Value(bool_val=value)
    if isinstance(value, int):
        return Value(int64_val=value) if -(2**63) <= value < 2**63 else Value(double_val=float(value))
    if isinstance(value, float):
        return Value(double_val=value)
    if isinstance(value, str):
        return Value(string_val=value.encode("utf-8", "replace").decode())
    if isinstance(value, list):
        return Value(int64_list_val=Int64List(val=[1])) if value else Value(string_list_val=StringList())
    return Value(null_val=0)


def reads(repo, seed):
    """GetOnlineFeatures, for ever."""
    kinds = {key: kind for view in repo.views.values() for key, kind in view.keys.items()}
    for service in repo.services.values():
        for mapping, name in service.parts:
            kinds |= {column: repo.views[name].keys[key] for column, key in mapping.items()}
    rng = random.Random(f"grpc {seed}")
    for request in Drawn(repo, f"grpc {seed}"):
        if request.kind not in KINDS:
            continue
        body = json.loads(request.body.decode("utf-8", "surrogatepass"))
        message = ServingService_pb2.GetOnlineFeaturesRequest(full_feature_names=bool(body.get("full_feature_names")))
        message.include_feature_view_version_metadata = bool(body.get("include_feature_view_version_metadata"))
        if body.get("feature_service") is not None:
            message.feature_service = plain(body["feature_service"])
        elif "features" in body:
            message.features.val.extend(plain(ref) for ref in body["features"])
        for name, column in body["entities"].items():
            # An int64 for an int32 key is what clients in other languages send.
            kind = kinds.get(name)
            if kind == "int32" and rng.random() < 0.2:
                kind = "int64"
            message.entities[plain(name)].CopyFrom(RepeatedValue(val=[typed(value, kind) for value in column]))
        if not depends_on_order(repo, message):
            yield Call(f"gRPC {request.kind}", "GetOnlineFeatures", message)


def depends_on_order(repo, message):
    """Whether Feast's answer follows the order of the columns, which is a protobuf map's and thus anybody's: two
    columns for one key of a view, the later wins; or several columns, one of which cannot be sorted."""
    columns = message.entities
    service = repo.services.get(message.feature_service)
    for mapping, _ in service.parts if service else []:
        if any(column != key and key in columns and column in columns for column, key in mapping.items()):
            return True
    mixed = any(len({value.WhichOneof("val") for value in column.val}) > 1 for column in columns.values())
    return mixed and len(columns) > 1


def plain(text):
    return text.encode("utf-8", "replace").decode()


def writes(repo, seed):
    """Push and WriteToOnlineStore: one row a call, as texts or typed."""
    drawn = DrawnWrites(repo, f"grpc {seed}")
    rng = drawn.random
    number = 0
    while drawn.views:
        number += 1
        view = drawn.view()
        row = {key: KEYS[kind][1](rng.choice(key_values(kind, 6, rng))) for key, kind in view.keys.items()}
        row |= {name: TYPES[kind][1](rng) if rng.random() < 0.9 else Value() for name, kind in view.features.items()}
        # Producers in other languages have no better type for a time than a text.
        row[drawn.times.get(view.name, "event_timestamp")] = Value(string_val=drawn.time())
        for name in drawn.more.get(view.name, []):
            row[name] = Value(int64_val=1) if name.endswith("_n") else Value(string_val=drawn.time())
        if rng.random() < 0.1:
            row.pop(rng.choice(list(row)))
        is_push = bool(view.push_source) and rng.random() < 0.6
        made = GrpcServer_pb2.PushRequest() if is_push else GrpcServer_pb2.WriteToOnlineStoreRequest()
        made.allow_registry_cache = rng.random() < 0.8
        if is_push:
            made.stream_feature_view = rng.choice([view.push_source] * 12 + ["no_such_source"])
            made.to = rng.choice(["online"] * 12 + ["", "zz"])
        else:
            made.feature_view_name = rng.choice([view.name] * 12 + ["no_such_view"])
        is_typed = rng.random() < 0.7
        both = rng.random() < 0.03
        for name, value in row.items():
            if is_typed or both:
                made.typed_features[name].CopyFrom(value)
            if not is_typed or both:
                field = value.WhichOneof("val")
                made.features[name] = "" if field is None else str(getattr(value, field))
        yield Call(
            "gRPC Push" if is_push else "gRPC WriteToOnlineStore", "Push" if is_push else "WriteToOnlineStore", made
        )


class Stubs:
    """One channel, and both services that Feast's clients know."""

    def __init__(self, address):
        self.channel = grpc.insecure_channel(address)
        self.python = GrpcServer_pb2_grpc.GrpcFeatureServerStub(self.channel)
        self.serving = ServingService_pb2_grpc.ServingServiceStub(self.channel)

    def send(self, call, service=None):
        """(status code, reply or details)"""
        try:
            reply = getattr(service or self.python, call.method)(call.message, timeout=ANSWER_S_MAX)
            return "OK", reply
        except grpc.RpcError as why:
            return why.code().name, why.details()

    def close(self):
        self.channel.close()


def columns(reply):
    """A reply with its columns ordered by name."""
    if not isinstance(reply, ServingService_pb2.GetOnlineFeaturesResponse):
        return reply.SerializeToString(deterministic=True)
    names = list(reply.metadata.feature_names.val)
    if len(names) != len(reply.results):
        return reply.SerializeToString(deterministic=True)
    views = sorted(view.SerializeToString(deterministic=True) for view in reply.metadata.feature_view_metadata)
    paired = sorted(
        (name, result.SerializeToString(deterministic=True)) for name, result in zip(names, reply.results)
    )
    return paired, views, reply.status


def compared(reference, candidate):
    if reference[0] != candidate[0]:
        return STATUS
    if reference[0] == "OK":
        return None if columns(reference[1]) == columns(candidate[1]) else ANSWER
    said = [without_order(reply[1], is_grpc=True) for reply in (reference, candidate)]
    return None if said[0] == said[1] else MESSAGE
