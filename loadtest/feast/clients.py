"""Uses weir as Feast's users do, with Feast's own client code: the SDK's remote online store, the gRPC stubs, and the
offline store that reads a feature log. What a client gets from weir must be what it gets from the real server.

    clients.py [sdk] [grpc] [log] [--self]

Without names all three are run. `--self` puts a second real Feast where weir belongs (`sdk` and `grpc` only).
Exits with 1 when anything differs.
"""

import argparse
import json
import math
import random
import re
import subprocess
import sys
import tempfile
import warnings
from itertools import islice
from pathlib import Path

import grpc
import pandas
from feast import FeatureStore
from feast.data_source import PushMode
from feast.feature_logging import FeatureServiceLoggingSource
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from pyarrow import parquet

import rich
from compare import contents, feast_error, stored
from exchange import Line
from grpc_calls import Stubs, compared, reads
from repo import Options, Store, build, copied, copy_data
from good_requests import Request
from odd import JSON
from servers import NotStarted, Servers, end_on_sigterm

HERE = Path(__file__).resolve().parent
SEED = 11
# Per service and per list of features, each with short and with full names.
ROWS = 5
GRPC_CALLS = 60
# What makes a row ordinary: a float holds its integers, and nanoseconds its times, with years to spare.
EXACT_BELOW, TIMES_BELOW = 2**53, "2100"
# The rich data hold hardly any such row, so some are written.
ORDINARY_WRITTEN = 30
SDK_KINDS = {
    "int64",
    "int32",
    "float64",
    "float32",
    "bool",
    "string",
    "bytes",
    "time",
    "uuid",
    "decimal",
    "json",
    "zoned",
}
# weir answers both of Feast's services; their names are what reflection lists.
SERVICES = {"GrpcFeatureServer", "feast.serving.ServingService", "grpc.health.v1.Health"}


class Checks:
    """Counts what was compared, and says what differs."""

    def __init__(self):
        self.done, self.failed = 0, 0

    def equal(self, what, reference, candidate):
        self.done += 1
        if reference != candidate:
            self.failed += 1
            print(f"DIFFERENT: {what}\n    Feast: {str(reference)[:500]}\n    here:  {str(candidate)[:500]}")

    def true(self, what, is_so, seen=""):
        self.done += 1
        if not is_so:
            self.failed += 1
            print(f"FAILED: {what} {str(seen)[:500]}")


def comparable(value):
    """NaN equals NaN here, and a float differs from an integer."""
    if isinstance(value, float) and math.isnan(value):
        return "NaN"
    if isinstance(value, dict):
        return sorted((key, comparable(one)) for key, one in value.items())
    if isinstance(value, (list, tuple)):
        return [comparable(one) for one in value]
    return value if isinstance(value, (str, bytes, bool, type(None))) else repr(value)


def outcome(call, tries=5):
    """What a call gives or raises, comparable: an exception is its class and its text."""
    try:
        return comparable(call())
    except Exception as why:
        # Feast's server hangs up after an error without saying so, and the SDK may be sending on that line already.
        if "Connection aborted" in str(why) and tries > 1:
            return outcome(call, tries - 1)
        # Of a 500 the SDK says no more than that it tried again, and at which port.
        message = re.sub(r"port=\d+", "port=…", str(why))
        error = feast_error(
            json.dumps({"module": type(why).__module__, "class": type(why).__name__, "message": message})
        )
        return error["class"], error["message"]


def remote_store(folder, repo, address):
    """A client's own configuration: the shared registry file, and a server's address in place of a store."""
    folder.mkdir(parents=True)
    lines = [
        f"project: {repo.project}",
        "provider: local",
        f"registry: {repo.folder}/data/registry.db",
        "online_store:",
        "  type: remote",
        f"  path: http://{address}",
        "  connection_retries: 0",
        "entity_key_serialization_version: 3",
    ]
    (folder / "feature_store.yaml").write_text("\n".join(lines) + "\n")
    return FeatureStore(repo_path=str(folder))


def sdk(pair, checks):
    """FeatureStore with `online_store: remote`: reads, errors by class, writes and pushes, and documents."""
    stores = [
        remote_store(pair.work / f"client-{side}", repo, address)
        for side, repo, address in zip(("reference", "candidate"), (pair.reference, pair.candidate), pair.http)
    ]

    def both(what, call):
        checks.equal(what, *(outcome(lambda store=store: call(store)) for store in stores))

    for what, features, rows in asked(pair.reference):
        for full in (False, True):

            def ask(store):
                wanted = store.get_feature_service(features) if isinstance(features, str) else features
                answer = store.get_online_features(features=wanted, entity_rows=rows, full_feature_names=full)
                return answer.to_dict()

            both(f"get_online_features of {what}, full names {full}", ask)
    row = [{"driver_id": 1001}]
    for what, call in {
        "an unknown view": lambda store: store.get_online_features(["no_such_view:x"], row).to_dict(),
        "an unknown feature": lambda store: store.get_online_features(["driver_stats:no"], row).to_dict(),
        "a disabled view": lambda store: store.get_online_features(["disabled:d"], row).to_dict(),
        "a collision": lambda store: store.get_online_features(
            ["driver_stats:rating", "driver_profile:rating"], row
        ).to_dict(),
        "a missing key": lambda store: store.get_online_features(
            ["driver_stats:tier"], [{"customer_id": "k1"}]
        ).to_dict(),
        "a null key": lambda store: store.get_online_features(["driver_stats:tier"], [{"driver_id": None}]).to_dict(),
        "documents": lambda store: store.retrieve_online_documents(
            [0.1, 0.2], 2, ["every_type:f_float32s"]
        ).to_dict(),
        "documents, version 2": lambda store: store.retrieve_online_documents_v2(
            ["every_type:f_float32s"], 2, [0.1]
        ).to_dict(),
    }.items():
        both(what, call)
    writes(pair, both, checks)


def asked(repo):
    """(what, features or the name of a service, entity rows)"""
    rng = random.Random(SEED)
    for name in (
        "drivers",
        "narrow",
        "renamed",
        "journeys",
        "composite",
        "odd names",
        "streams",
        "logged",
        "with_disabled",
    ):
        service = repo.services[name]
        rows = []
        for n in range(ROWS):
            row = {}
            for mapping, view in service.parts:
                stored_row = repo.views[view].rows[n]
                row |= {column: stored_row[key] for column, key in mapping.items()}
            rows.append(row)
        yield f"service {name!r}", name, rows
    for name in (
        "driver_stats",
        "customer_stats",
        "driver_customer",
        "locations",
        "every_type",
        "evolving",
        "hourly",
    ):
        view = repo.views[name]
        # The SDK guesses types from JSON and gives up on nested and empty lists, from whatever server they come.
        plain = [feature for feature, kind in view.features.items() if kind in SDK_KINDS]
        refs = [f"{name}:{feature}" for feature in rng.sample(plain, min(8, len(plain)))]
        yield f"features of {name!r}", refs, view.rows[:ROWS]


def writes(pair, both, checks):
    clients = pair.reference.client(), pair.candidate.client()
    when = pandas.Timestamp("2031-05-06T07:08:09.123456")
    trips = {
        "driver_id": [1, 1002],
        "speed": [1.5, None],
        "trips": [7, 8],
        "note": ["a", "é"],
        "event_timestamp": [when] * 2,
    }
    pairs = {
        "driver_id": [1],
        "customer_id": ["k1"],
        "score": [0.25],
        "seen": [1_700_000_000],
        "event_timestamp": [when],
    }
    older = trips | {"event_timestamp": [when - pandas.Timedelta(days=1)] * 2, "trips": [0, 0]}
    newer = trips | {"event_timestamp": [when + pandas.Timedelta(days=1)] * 2, "trips": [9, 9]}
    for what, call in {
        "write_to_online_store": lambda store: store.write_to_online_store("pushed_trips", pandas.DataFrame(trips)),
        "write_to_online_store of older rows": lambda store: store.write_to_online_store(
            "pushed_trips", pandas.DataFrame(older)
        ),
        "push": lambda store: store.push("pushed_trips_push", pandas.DataFrame(newer), to=PushMode.ONLINE),
        "push to a composite key": lambda store: store.push(
            "pushed_pairs_push", pandas.DataFrame(pairs), to=PushMode.ONLINE
        ),
        "push to an unknown source": lambda store: store.push(
            "no_such_push", pandas.DataFrame(trips), to=PushMode.ONLINE
        ),
    }.items():
        both(what, call)
        checks.equal(f"Redis after {what}", [], stored(*map(contents, clients)))
        copy_data(pair.reference, pair.candidate)


def over_grpc(pair, checks):
    """Feast's stubs against both services, and the health and reflection services that `feast listen` has too."""
    reference, candidate = (Stubs(address) for address in pair.grpc)
    for call in islice(reads(pair.reference, SEED), GRPC_CALLS):
        replies = [reference.send(call), candidate.send(call)]
        difference = compared(*replies)
        checks.true(f"{call.kind}: {difference}", difference in (None, "message"), call.as_json())
    health = health_pb2_grpc.HealthStub(candidate.channel).Check(health_pb2.HealthCheckRequest(), timeout=10)
    checks.true("health is SERVING", health.status == health_pb2.HealthCheckResponse.SERVING, health)
    if pair.is_self:
        return
    asked = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
    try:
        listed = next(
            reflection_pb2_grpc.ServerReflectionStub(candidate.channel).ServerReflectionInfo(asked, timeout=10)
        )
        names = {service.name for service in listed.list_services_response.service}
        checks.true(f"reflection lists {sorted(SERVICES)}", SERVICES <= names, sorted(names))
    except grpc.RpcError as why:
        checks.true("reflection answers", False, why.details())


def answered(address, service, rows):
    body = {"feature_service": service, "entities": {"driver_id": rows}, "full_feature_names": True}
    return Line(address).send(Request("log", json.dumps(body).encode(), headers=dict(JSON)))


def logged_by_weir(pair, checks, service, rows, name):
    """A new journal of one request: weir's answer, the journal's folder, and the files of the feature log in it."""
    journal = pair.work / name
    server = pair.running.weir(str(pair.candidate.folder), "--journal", str(journal))
    server.await_start()
    reply = answered(server.address, service, rows)
    checks.true("the answer to be logged", reply.status == 200, reply.body)
    pair.running.stop([server])
    files = sorted((journal / "feast").glob(f"*{service}*/**/*.parquet"))
    checks.true(f"a feature log of {service!r} under {journal}/feast", bool(files), sorted(journal.rglob("*"))[:20])
    return json.loads(reply.body) if files and reply.status == 200 else None, journal, files


def write_ordinary(pair):
    """Rows of the log's two views as most of Feast's users have them, put there by Feast. Returns their keys."""
    rng, count = random.Random(SEED), ORDINARY_WRITTEN
    keys = {"driver_id": [5000 + n for n in range(count)]}
    start = pandas.Timestamp("2026-01-02T03:04:05.678901")
    keys["event_timestamp"] = [start + pandas.Timedelta(minutes=n) for n in range(count)]
    stats = {
        "conv_rate": [rng.uniform(0, 1) for _ in range(count)],
        "acc_rate": [rng.randrange(1024) / 1024 for _ in range(count)],
        "avg_daily_trips": [rng.randrange(10**6) for _ in range(count)],
        "rating": [rng.randrange(6) for _ in range(count)],
        "tier": [rng.choice(["gold", "Zürich", "東京", ""]) for _ in range(count)],
    }
    profile = {
        "name": [f"driver {n}" for n in range(count)],
        "is_active": [True] * count,
        "rating": [4.5] * count,
    }
    store = FeatureStore(repo_path=str(pair.reference.folder))
    store.write_to_online_store("driver_stats", pandas.DataFrame(keys | stats))
    store.write_to_online_store("driver_profile", pandas.DataFrame(keys | profile))
    copy_data(pair.reference, pair.candidate)
    return keys["driver_id"]


def ordinary(answer):
    """Of an answer's rows the keys of those that hold nothing but numbers and text that every tool can carry."""

    def is_ordinary(value, status, time):
        # JSON spells what is no number as text.
        is_finite = value not in ("NaN", "Infinity", "-Infinity")
        is_small = isinstance(value, str) or isinstance(value, (int, float)) and abs(value) < EXACT_BELOW
        return status == "PRESENT" and is_finite and is_small and time < TIMES_BELOW

    names, columns = answer["metadata"]["feature_names"], answer["results"]
    rows = zip(*(zip(one["values"], one["statuses"], one["event_timestamps"]) for one in columns))
    found = [dict(zip(names, row)) for row in rows]
    return [
        row["driver_id"][0]
        for row in found
        if all(is_ordinary(*cell) for name, cell in row.items() if name != "driver_id")
    ]


def log(pair, checks):
    """weir with a journal: what it answered for a feature service, read back by Feast as that service's log."""
    service = "logged"
    stored_rows = [row["driver_id"] for row in pair.candidate.views["driver_stats"].rows]
    rows = [*stored_rows[:20], 999_999]
    answer, journal, files = logged_by_weir(pair, checks, service, rows, "journal")
    if answer is None:
        return
    store = FeatureStore(repo_path=str(pair.candidate.folder))
    declared = FeatureServiceLoggingSource(store.get_feature_service(service), store.project).get_schema(
        store.registry
    )
    found = parquet.read_schema(files[0])
    checks.equal("the log's columns", declared.names, found.names)
    served = dict(zip(answer["metadata"]["feature_names"], (column["values"] for column in answer["results"])))
    logged = {
        row["driver_id"]: row for file in files for row in parquet.read_table(file, partitioning=None).to_pylist()
    }
    checks.equal("the logged entities", sorted(rows), sorted(logged))
    for column, values in served.items():
        for key, value in zip(served["driver_id"], values):
            # JSON spells what is no number as text.
            value = (
                {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}.get(value, value)
                if column != "driver_stats__tier"
                else value
            )
            checks.equal(f"logged {column} of {key}", comparable(value), comparable(logged.get(key, {}).get(column)))
    # Everything else that Feast does with a log: pulls, writes elsewhere, monitors, validates. It does so with dask and
    # pandas, which carry neither a null beside a huge integer, nor infinities, nor the year 9999: a log without those.
    asked = stored_rows + write_ordinary(pair)
    reference = answered(pair.http[0], service, asked)
    rows = ordinary(json.loads(reference.body)) if reference.status == 200 else []
    checks.true(f"{ORDINARY_WRITTEN} ordinary rows among {len(asked)}", len(rows) >= ORDINARY_WRITTEN, rows)
    answer, journal, files = logged_by_weir(pair, checks, service, rows, "ordinary-journal")
    if answer is None:
        return
    read = subprocess.run(
        [sys.executable, HERE / "read_log.py", journal, pair.candidate.folder, service],
        capture_output=True,
        text=True,
    )
    checks.true("Feast reads the log", read.returncode == 0, (read.stdout + read.stderr)[-1500:])
    print(read.stdout.strip())


class Pair:
    """A real Feast and weir (or a second Feast) on copies of the rich repository."""

    def __init__(self, work, running, is_self, parts):
        self.work, self.running, self.is_self = work, running, is_self
        redises = [running.redis(work / f"redis-{side}") for side in ("reference", "candidate")]
        running.ready()
        self.reference = build(work / "reference", Store(redises[0].address), Options("rich"), rich.describe, SEED)
        self.candidate = copied(self.reference, work / "candidate", Store(redises[1].address))
        ours, theirs = str(self.reference.folder), str(self.candidate.folder)
        started = [running.feast_http(ours)]
        if not {"sdk", "grpc"} & set(parts):
            running.ready()
            self.http = [started[0].address]
            return
        started.append(running.feast_grpc(ours))
        started += [running.feast_http(theirs), running.feast_grpc(theirs)] if is_self else [running.weir(theirs)]
        running.ready()
        self.http = started[0].address, started[2].address
        self.grpc = started[1].address, started[-1].address


def main():
    parser = argparse.ArgumentParser(description="Uses weir with Feast's own clients.")
    parser.add_argument("parts", nargs="*", choices=[[], "sdk", "grpc", "log"], help="all, when none is named")
    parser.add_argument("--self", action="store_true", help="Feast against Feast")
    given = parser.parse_args()
    end_on_sigterm()
    warnings.simplefilter("ignore")
    parts = given.parts or ["sdk", "grpc", *([] if given.self else ["log"])]
    checks = Checks()
    with tempfile.TemporaryDirectory(prefix="weir-clients-") as work, Servers(Path(work) / "logs") as running:
        try:
            pair = Pair(Path(work), running, given.self, parts)
            for part in parts:
                {"sdk": sdk, "grpc": over_grpc, "log": log}[part](pair, checks)
        except NotStarted as why:
            raise SystemExit(str(why)) from None
    print(f"{', '.join(parts)}: {checks.done} checks, {checks.failed} failed")
    sys.exit(1 if checks.failed else 0)


if __name__ == "__main__":
    main()
