"""Asks the real Feast and weir the same things and counts where they differ: reads, writes and gRPC, over a fixed
rich repository in several set-ups and over random ones.

    differential.py [--requests N] [--seed S] [--only REPO …] [--failures FILE]     weir, from $WEIR or target/
    differential.py --self                                        Feast against Feast: is the test itself right?
    differential.py --only REPO --work DIR --against URL          a server that somebody starts by hand

Each side has its own Redis with the same data. Answers, status codes, Feast's own errors and what is in Redis after a
write must be the same, or the exit code is 1; texts that Python made up for an exception are compared and reported.
"""

import argparse
import json
import random
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Callable

import random_repo
import rich
import servers
import stores
from compare import ANSWER, FAILING, MESSAGE, STORE, Tally, contents, http, stored
from exchange import Line
from failover import lose_a_master
from grpc_calls import Stubs, compared, reads as grpc_reads, writes as grpc_writes
from repo import Options, build, copied, copy_data
from good_requests import Request
from odd import JSON
from requests_gen import Drawn
from servers import Servers, end_on_sigterm
from writes import DrawnWrites, offline

# Of all requests: reads over HTTP, writes, reads and writes over gRPC.
WRITE_SHARE, GRPC_SHARE, GRPC_WRITE_SHARE = 0.2, 0.15, 0.05
# What a set-up gets that is about the way to Redis, against one request for all others.
FEWER = 0.25
# Callers at a time, so that Feast's two processors are busy and its workers see one another's requests.
CALLERS = 4
# Registries of many views take a while to be read; two workers would see different moments of it.
FEAST_WORKERS = 1
AGAINST_START_S_MAX = 600
DIFFERENCES_SHOWN = 12


@dataclass
class Setup:
    """A repository and its Redis. Projects differ, since a key ends with its project's name."""

    options: Options
    describe: Callable
    seed: int
    # How its Redis is laid out: a function of `stores`.
    layout: Callable = stores.single
    # Of the requests; where only the way to Redis differs, fewer show it.
    share: float = 1


def setups(seed):
    return {
        "rich": Setup(Options("rich"), rich.describe, 1),
        "rich-versions": Setup(Options("rich_versions", has_versions=True, key_ttl_s=3600), rich.describe, 2),
        "rich-v2-keys": Setup(Options("rich_v2", key_version=2, key_ttl_s=86400), rich.describe, 3),
        f"random-{seed}": Setup(Options(f"random_{seed}", has_versions=True), random_repo.describe, seed),
        f"random-{seed + 1}": Setup(Options(f"random_{seed + 1}", key_version=2), random_repo.describe, seed + 1),
        f"random-{seed + 2}": Setup(Options(f"random_{seed + 2}"), random_repo.describe, seed + 2),
        "password": Setup(Options("rich_password"), rich.describe, 4, stores.password, FEWER),
        "cluster": Setup(Options("rich_cluster"), rich.describe, 5, stores.cluster, FEWER),
        "sentinel": Setup(Options("rich_sentinel", key_ttl_s=3600), rich.describe, 6, stores.sentinel, FEWER),
    }


class Pair:
    """The reference and the candidate for one repository, running, with the same data."""

    def __init__(self, name, setup, given, running):
        folder = given.work / name
        self.name, self.seed = name, f"{given.seed} {setup.seed}"
        ours, theirs = (setup.layout(running, folder / f"redis-{side}") for side in ("reference", "candidate"))
        self.reference = build(folder / "reference", ours, setup.options, setup.describe, setup.seed)
        self.candidate = copied(self.reference, folder / "candidate", theirs)
        ours, theirs = str(self.reference.folder), str(self.candidate.folder)
        started = [running.feast_http(ours, FEAST_WORKERS), running.feast_grpc(ours)]
        if given.self:
            started += [running.feast_http(theirs, FEAST_WORKERS), running.feast_grpc(theirs)]
        elif given.against:
            started.append(Elsewhere(given.against, theirs))
        else:
            started.append(running.weir(theirs))
        running.ready()
        self.http = (started[0].address, started[2].address)
        # weir answers both protocols at one address.
        self.grpc = (started[1].address, started[-1].address)

    def same_data(self):
        copy_data(self.reference, self.candidate)


class Elsewhere:
    """A server that this program did not start."""

    def __init__(self, url, folder):
        self.address = url.removeprefix("http://").rstrip("/")
        print(f"waiting for a server at {url} that serves {folder}", file=sys.stderr)
        deadline = time.monotonic() + AGAINST_START_S_MAX
        while not servers.is_healthy(f"http://{self.address}/health")():
            if time.monotonic() > deadline:
                raise SystemExit(f"nobody answers at {url}")
            time.sleep(servers.POLL_S)


def shown(reply):
    body = reply.body.decode("utf-8", "replace")
    return {"status": reply.status, "body": body[:3000], "content-type": reply.headers.get("content-type")}


def read(pair, count, tally, progress):
    """Reads change nothing, so several callers may ask at a time."""
    requests = list(islice(Drawn(pair.reference, pair.seed), count))

    def one_caller(part):
        lines = [Line(address) for address in pair.http]
        for request in part:
            replies = [line.send(request) for line in lines]
            judge(pair, request, replies, tally, progress)
        for line in lines:
            line.close()

    in_callers(one_caller, requests)


def judge(pair, request, replies, tally, progress):
    difference = http(*replies)
    example = lambda: {"request": request.as_json(), "reference": shown(replies[0]), "candidate": shown(replies[1])}
    tally.add(pair.name, request.kind, difference, example)
    progress.step(bool(difference))
    return difference


def in_callers(work, things):
    with ThreadPoolExecutor(CALLERS) as pool:
        for future in [pool.submit(work, things[n::CALLERS]) for n in range(CALLERS)]:
            future.result()


class StoreWatch:
    """Compares the two stores after each write; after a difference they are made the same again."""

    def __init__(self, pair):
        self.pair, self.clients = pair, (pair.reference.client(), pair.candidate.client())

    def difference(self):
        lines = stored(*(contents(client) for client in self.clients))
        if lines:
            self.pair.same_data()
        return lines


def write(pair, count, tally, progress):
    lines = [Line(address) for address in pair.http]
    watch = StoreWatch(pair)
    for request in islice(DrawnWrites(pair.reference, pair.seed), count):
        replies = [line.send(request) for line in lines]
        judge(pair, request, replies, tally, progress)
        in_redis(pair, request, watch, tally)


def in_redis(pair, request, watch, tally):
    lines = watch.difference()
    example = lambda: {"request": request.as_json(), "redis": lines[:20]}
    tally.add(pair.name, f"{request.kind}, in Redis", STORE if lines else None, example)


def said(reply):
    """A gRPC reply for the list of failures."""
    code, text = reply
    return {"code": code, "reply": str(text)[:3000]}


def grpc_read(pair, count, tally, progress):
    calls = list(islice(grpc_reads(pair.reference, pair.seed), count))

    def one_caller(part):
        stubs = [Stubs(address) for address in pair.grpc]
        for call in part:
            replies = [stub.send(call) for stub in stubs]
            judge_grpc(pair, call, replies, tally, progress)
        for stub in stubs:
            stub.close()

    in_callers(one_caller, calls)


def judge_grpc(pair, call, replies, tally, progress):
    difference = compared(*replies)
    example = lambda: {"request": call.as_json(), "reference": said(replies[0]), "candidate": said(replies[1])}
    tally.add(pair.name, call.kind, difference, example)
    progress.step(bool(difference))


def grpc_write(pair, count, tally, progress):
    stubs = [Stubs(address) for address in pair.grpc]
    watch = StoreWatch(pair)
    for call in islice(grpc_writes(pair.reference, pair.seed), count):
        replies = [stub.send(call) for stub in stubs]
        judge_grpc(pair, call, replies, tally, progress)
        in_redis(pair, call, watch, tally)
    for stub in stubs:
        stub.close()


def serving_service(pair, count, tally, progress):
    """The service that Go's and Java's clients call. Python's server has none, so weir's two must say the same."""
    from feast.protos.feast.serving.ServingService_pb2 import GetFeastServingInfoRequest

    reference, candidate = (Stubs(address) for address in pair.grpc)
    for call in islice(grpc_reads(pair.reference, f"{pair.seed} serving"), count):
        # Python's server never says which versions it served, Go's does when it is asked.
        call.message.include_feature_view_version_metadata = False
        replies = [reference.send(call), candidate.send(call, candidate.serving)]
        call.kind = "ServingService, as GrpcFeatureServer"
        judge_grpc(pair, call, replies, tally, progress)
    try:
        version = candidate.serving.GetFeastServingInfo(GetFeastServingInfoRequest(), timeout=30).version
        tally.add(pair.name, "GetFeastServingInfo", None if version else ANSWER, lambda: {"version": version})
    except Exception as why:
        tally.add(pair.name, "GetFeastServingInfo", ANSWER, lambda why=why: {"error": str(why)})
    for stub in (reference, candidate):
        stub.close()


def apart(pair):
    """What weir cannot do as Feast does it: it shall say so clearly. Lines for the report."""
    line, found = Line(pair.http[1]), []
    for name, view in pair.reference.on_demand.items():
        feature = view.features[0].name
        body = {"entities": {"driver_id": [1001], "distance": [1.0]}, "features": [f"{name}:{feature}"]}
        reply = line.send(Request("on demand", json.dumps(body).encode(), headers=dict(JSON)))
        text = reply.body.decode("utf-8", "replace")
        is_clear = reply.status >= 400 and name in text and "wasm" in text.lower()
        found.append((is_clear, f"on-demand view {name}: {reply.status} {text[:200]}"))
    for request in offline(pair.reference):
        reply = line.send(request)
        text = reply.body.decode("utf-8", "replace")
        is_clear = reply.status >= 400 and "offline store" in text
        found.append((is_clear, f"{json.loads(request.body)['to']}: {reply.status} {text[:200]}"))
    return found


class Progress:
    def __init__(self):
        self.done, self.different, self.label = 0, 0, ""

    def start(self, label):
        self.label = label

    def step(self, is_different):
        self.done += 1
        self.different += is_different
        if self.done % 100 == 0:
            print(
                f"\r{self.done} requests, {self.different} different   ({self.label})      ", end="", file=sys.stderr
            )


def run(name, setup, given, tally, progress, notes):
    each = given.requests * setup.share / given.shares
    counts = {
        "reads": (read, round(each * (1 - WRITE_SHARE - GRPC_SHARE - GRPC_WRITE_SHARE))),
        "gRPC": (grpc_read, round(each * GRPC_SHARE)),
        "writes": (write, round(each * WRITE_SHARE)),
        "gRPC writes": (grpc_write, round(each * GRPC_WRITE_SHARE)),
    }
    if not given.self:
        counts["ServingService"] = (serving_service, round(each * GRPC_SHARE / 3))
    with Servers(given.work / name / "logs") as running:
        pair = Pair(name, setup, given, running)
        for what, (how, count) in counts.items():
            if given.parts and what not in given.parts:
                continue
            progress.start(f"{name}: {what}")
            how(pair, count, tally, progress)
        if not given.self:
            notes += [(name, *note) for note in apart(pair)]
            if setup.layout is stores.cluster and (not given.parts or "failover" in given.parts):
                progress.start(f"{name}: failover")
                notes += [(name, *note) for note in lose_a_master(pair, tally)]


def report(tally, notes, given, seconds):
    print(f"\r{'':70}\r", end="", file=sys.stderr)
    ways = [*FAILING, MESSAGE]
    rows = {}
    for (repo, _), counts in tally.counts.items():
        row = rows.setdefault(repo, dict.fromkeys(["requests", "equal", *ways], 0))
        row["requests"] += counts.total()
        for way, count in counts.items():
            row[way] += count
    print("| repository | compared | equal | " + " | ".join(ways) + " |")
    print("|---" * (3 + len(ways)) + "|")
    for repo, row in [
        *rows.items(),
        ("**all**", {key: sum(r[key] for r in rows.values()) for key in next(iter(rows.values()), {})}),
    ]:
        print(f"| {repo} | " + " | ".join(str(row.get(key, 0)) for key in ["requests", "equal", *ways]) + " |")
    by_kind = {}
    for (_, kind), counts in tally.counts.items():
        by_kind.setdefault(kind, dict.fromkeys(["equal", *ways], 0))
        for way, count in counts.items():
            by_kind[kind][way] += count
    different = {kind: row for kind, row in by_kind.items() if any(row[way] for way in ways)}
    if different:
        print("\n| differences in | equal | " + " | ".join(ways) + " |")
        print("|---" * (2 + len(ways)) + "|")
        for kind, row in sorted(different.items(), key=lambda item: -sum(item[1][way] for way in FAILING)):
            print(f"| {kind} | " + " | ".join(str(row[way]) for way in ["equal", *ways]) + " |")
    for repo, is_clear, line in notes:
        print(f"{'apart' if is_clear else 'UNCLEAR'}: {repo}: {line}")
    print(f"\nseed {given.seed}, {seconds:.0f} s; every difference kept: {given.failures}")
    with given.failures.open("w") as out:
        order = {way: n for n, way in enumerate(ways)}
        for one in sorted(tally.kept, key=lambda one: order[one["difference"]]):
            out.write(json.dumps(one, ensure_ascii=False, default=repr) + "\n")


def arguments():
    parser = argparse.ArgumentParser(description="Compares weir with the real Feast, request by request.")
    parser.add_argument("--requests", type=int, default=4800, help="in all repositories together")
    parser.add_argument("--seed", type=int, default=1, help="of the requests and of the random repositories")
    parser.add_argument(
        "--only",
        nargs="+",
        help="some set-ups: rich, rich-versions, rich-v2-keys, random-N, password, cluster, sentinel",
    )
    parser.add_argument(
        "--parts", nargs="*", help="some of: reads, gRPC, writes, 'gRPC writes', ServingService, failover"
    )
    parser.add_argument("--failures", type=Path, default=servers.REPO / "target/feast-differences.jsonl")
    parser.add_argument("--keep", type=int, default=DIFFERENCES_SHOWN, help="differences of each sort to write down")
    parser.add_argument("--self", action="store_true", help="compare Feast with Feast")
    parser.add_argument(
        "--against", metavar="URL", help="compare with a server started by hand on DIR/REPO/candidate"
    )
    parser.add_argument(
        "--work", type=Path, help="keep repositories, logs and data in this folder, which must be empty"
    )
    return parser.parse_args()


def main():
    given = arguments()
    end_on_sigterm()
    if given.against and not (given.only and len(given.only) == 1 and given.work):
        raise SystemExit("--against wants --only and --work: somebody has to know what to serve")
    if not given.self and not given.against:
        servers.weir_binary()
    chosen = setups(given.seed)
    if given.only:
        for name in given.only:
            if name.startswith("random-"):
                chosen |= setups(int(name.removeprefix("random-")))
        chosen = {name: chosen[name] for name in given.only}
    given.shares = sum(setup.share for setup in chosen.values())
    tally, notes, progress = Tally(given.keep), [], Progress()
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="weir-feast-") as temporary:
        given.work = given.work or Path(temporary)
        random.seed(given.seed)
        try:
            for name, setup in chosen.items():
                run(name, setup, given, tally, progress, notes)
        except servers.NotStarted as why:
            raise SystemExit(str(why)) from None
    report(tally, notes, given, time.monotonic() - started)
    sys.exit(1 if tally.failed() or any(not is_clear for _, is_clear, _ in notes) else 0)


if __name__ == "__main__":
    main()
