"""Measures weir beside the real Feast feature server on the same Redis, and prints a Markdown table, ratios first.

    bench_feast.py [--shapes 1x10 …] [--callers 8 …] [--one-worker no] [--rounds N] [--seconds S] [--out FILE.json]

JSON over HTTP/1.1, asked by wrk in a closed loop. One machine, nothing pinned: servers, Redis and load share its
cores, as Feast's workers want all of them. What is compared runs turn by turn in every round, and a ratio is the
median of the rounds' ratios. Every answer is a fresh read from Redis on both sides. Latencies of a closed loop
flatter the slow: a late answer holds back the requests that would have waited.
"""

import argparse
import json
import os
import platform
import random
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from datetime import date, timedelta
from importlib import metadata
from pathlib import Path

import redis
from feast import FeatureStore
from feast.infra.online_stores.redis import RedisOnlineStore
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value

import floors
from compare import http
from exchange import Line
from repo import NOW, Options, Store, build
from good_requests import Request
from odd import JSON
from servers import REPO, NotStarted, Servers, end_on_sigterm, weir_binary

ENTITIES = 20_000
FEATURES = [f"f{n:02}" for n in range(50)]
# Entities × features of a request.
SHAPES = [(1, 10), (1, 50), (10, 10), (100, 10), (100, 50)]
# Callers that ask again as soon as they have their answer.
CALLERS = [8, 32]
# So many different requests that no two neighbours ask for the same.
BODIES = 64
# Feast starts one worker unless it is told otherwise; two are one for each core here.
FEAST_WORKERS, FEAST_DEFAULT_WORKERS = 2, 1
# The default beside the rest at one number of callers says enough about it.
DEFAULT_ASKED_BY = CALLERS[0]
WARM_UP_S = 1
TICKS = os.sysconf("SC_CLK_TCK")
SCRIPT = Path(__file__).with_suffix(".lua")


def describe(draft):
    draft.entity("driver", "int64", join_key="driver_id")
    draft.view("wide", ["driver"], {name: "float64" for name in FEATURES}, count=0)


def fill(folder):
    """All rows with Feast's own writer; the same numbers every time."""
    store = FeatureStore(repo_path=str(folder))
    view, rng = store.get_feature_view("wide"), random.Random(1)
    for start in range(0, ENTITIES, 1000):
        rows = []
        for n in range(start, start + 1000):
            key = EntityKey(join_keys=["driver_id"], entity_values=[Value(int64_val=n)])
            values = {name: Value(double_val=rng.gauss(0, 1)) for name in FEATURES}
            rows.append((key, values, NOW - timedelta(seconds=n), None))
        RedisOnlineStore().online_write_batch(store.config, view, rows, None)


def bodies(entities, features):
    rng = random.Random(entities * 1000 + features)
    refs = [f"wide:{name}" for name in FEATURES[:features]]
    asked = [
        {"entities": {"driver_id": rng.sample(range(ENTITIES), entities)}, "features": refs} for _ in range(BODIES)
    ]
    return [json.dumps(body, separators=(",", ":")) for body in asked]


class Measured:
    """One server with what it costs."""

    def __init__(self, name, server):
        self.name, self.server = name, server

    def memory_mb(self, which):
        """Memory of the whole process tree: Pss counts pages that forked workers share once, Rss for each of them."""
        total = 0
        for pid in self.server.pids():
            try:
                rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
            except OSError:
                continue
            total += int(re.search(rf"^{which}:\s+(\d+) kB", rollup, re.MULTILINE)[1])
        return total / 1e3

    def cpu_s(self):
        total = 0
        for pid in self.server.pids():
            fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            total += int(fields[11]) + int(fields[12])
        return total / TICKS

    def load(self, callers, seconds, file):
        command = [
            "wrk",
            "-t1",
            f"-c{callers}",
            f"-d{seconds}s",
            "--timeout",
            "30s",
            "-s",
            SCRIPT,
            f"{self.server.url}/get-online-features",
            "--",
            file,
        ]
        before = self.cpu_s()
        done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
        cpu = self.cpu_s() - before
        found = re.search(r"^JSON (.*)$", done.stdout, re.MULTILINE)
        if done.returncode or not found:
            raise SystemExit(f"{done.stdout}{done.stderr}")
        result = json.loads(found[1])
        if result["failed"] or not result["answered"]:
            raise SystemExit(f"{self.name}: {result}")
        return result | {"rps": result["answered"] / result["seconds"], "cpu_us": cpu * 1e6 / result["answered"]}


class Others:
    """How much of the machine went to processes that are none of ours: with much of it, times are theirs too."""

    def __init__(self, servers):
        self.servers = servers
        self.before, self.started = self.busy_s() - self.own_s(), time.monotonic()

    def busy_s(self):
        user, nice, system, _, _, *rest = map(int, Path("/proc/stat").read_text().split("\n")[0].split()[1:])
        return (user + nice + system + sum(rest[:3])) / TICKS

    def own_s(self):
        loads, self_used = (resource.getrusage(who) for who in (resource.RUSAGE_CHILDREN, resource.RUSAGE_SELF))
        used = loads.ru_utime + loads.ru_stime + self_used.ru_utime + self_used.ru_stime
        return used + sum(server.cpu_s() for server in self.servers)

    def share(self):
        spent = self.busy_s() - self.own_s() - self.before
        return max(spent, 0) / (time.monotonic() - self.started) / os.cpu_count()


def same_answers(servers, files):
    """Load tools take any reply for a good one, so each shape's first answer is compared before anything is timed.
    Returns what the last of the servers said to each."""
    last = {}
    for shape, file in files.items():
        request = Request("bench", file.read_text().splitlines()[0].encode(), headers=dict(JSON))
        replies = [Line(one.server.address).send(request) for one in servers]
        for one, reply in zip(servers, replies):
            difference = http(replies[0], reply)
            if difference or reply.status != 200:
                raise SystemExit(
                    f"{one.name} answers {shape} differently ({difference}): {reply.status} {reply.body[:300]}"
                )
        last[shape] = replies[-1].body
    return last


def without_cache(folder):
    """A configuration that keeps no rows at all, not even for when Redis is away: Feast keeps none either."""
    folder.mkdir()
    (folder / "weir.toml").write_text('[feast]\nrepo = "."\nfresh_ms = 0\nstale_ms = 0\n')
    return folder


def bench(work, running, rounds, seconds, shapes, all_callers, has_default):
    store = running.redis(work / "redis")
    running.ready()
    repo = build(work / "repo", Store(store.address), Options("bench"), describe, 1)
    fill(repo.folder)
    started = {
        "weir": running.weir(str(repo.folder), "--config", without_cache(work / "weir")),
        "feast": running.feast_http(str(repo.folder), FEAST_WORKERS),
    }
    if has_default:
        started["feast_default"] = running.feast_http(str(repo.folder), FEAST_DEFAULT_WORKERS)
    running.ready()
    servers = {name: Measured(name, server) for name, server in started.items()}
    files = {}
    for shape in shapes:
        files[shape] = work / f"bodies-{shape[0]}x{shape[1]}"
        files[shape].write_text("\n".join(bodies(*shape)) + "\n")
    replies = same_answers([*(one for name, one in servers.items() if name != "weir"), servers["weir"]], files)
    bare, alone, both = {}, {}, {}
    hashes = floors.text_hash(store, redis.Redis(port=store.port).randomkey())
    for shape, reply in replies.items():
        file = work / f"reply-{shape[0]}x{shape[1]}"
        file.write_bytes(reply)
        bare[shape] = Measured("bare", running.floor(floors.LOADTEST, file))
        alone[shape] = floors.Redis(store, *hashes, *shape)
        commands = file.with_name(f"{file.name}-commands")
        commands.write_bytes(alone[shape].commands())
        asks = ["--redis", store.address, "--commands", commands]
        both[shape] = Measured("both", running.floor(floors.LOADTEST, file, *asks))
    running.ready()
    for one in servers.values():
        one.load(CALLERS[0], WARM_UP_S, files[shapes[0]])
    facts = {"memory_mb": [("after some requests", memory(servers))]}
    others = Others([*servers.values(), Measured("redis", store)])
    cases = {}
    for number in range(rounds):
        for shape in shapes:
            for callers in all_callers:
                print(
                    f"\rround {number + 1} of {rounds}: {shape[0]} × {shape[1]}, {callers} callers   ",
                    end="",
                    file=sys.stderr,
                )
                for name, one in (
                    servers | {"bare": bare[shape], "redis": alone[shape], "both": both[shape]}
                ).items():
                    if name == "feast_default" and callers != DEFAULT_ASKED_BY:
                        continue
                    case = cases.setdefault(f"{shape[0]}x{shape[1]} c={callers}", {})
                    case.setdefault(name, []).append(one.load(callers, seconds, files[shape]))
    print(f"\r{'':60}\r", end="", file=sys.stderr)
    facts["others_share"] = others.share()
    facts["memory_mb"].append(("after the load", memory(servers)))
    return {"machine": machine(), "rounds": rounds, "seconds": seconds, "facts": facts, "cases": cases}


def memory(servers):
    return {which: {name: one.memory_mb(which) for name, one in servers.items()} for which in ("Rss", "Pss")}


def machine():
    cpu = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    version = lambda *command: subprocess.run(command, capture_output=True, text=True).stdout.strip().splitlines()[0]
    return {
        "date": date.today().isoformat(),
        "cpu": cpu[1].strip() if cpu else platform.machine(),
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "weir": version(str(weir_binary()), "--version")
        + (" (debug build)" if "debug" in str(weir_binary()) else ""),
        "feast": metadata.version("feast"),
        "python": platform.python_version(),
        "redis": re.search(r"v=(\S+)", version("redis-server", "--version"))[1],
    }


def times(ratio):
    return f"{ratio:.0f}×" if ratio >= 10 else f"{ratio:.1f}×"


def table(report):
    """Ratios first, then what is behind them."""
    lines = [
        "| entities × features, callers | requests a second, weir ÷ Feast (rounds) | p50, Feast ÷ weir "
        "| p99, Feast ÷ weir | CPU a request, Feast ÷ weir | behind it |"
    ]
    lines.append("|---|---|---|---|---|---|")
    for name, case in report["cases"].items():
        weir, feast = case["weir"], case["feast"]
        over = [ours["rps"] / theirs["rps"] for ours, theirs in zip(weir, feast)]
        under = {
            key: statistics.median(theirs[key] / ours[key] for ours, theirs in zip(weir, feast) if ours[key])
            for key in ("p50_us", "p99_us", "cpu_us")
        }
        middle = lambda runs, key: statistics.median(run[key] for run in runs)
        behind = "; ".join(
            f"{label} {middle(runs, 'rps'):,.0f} rps, p50 {middle(runs, 'p50_us') / 1e3:.2f} ms, "
            f"p99 {middle(runs, 'p99_us') / 1e3:.2f} ms"
            for label, runs in [("weir", weir), ("Feast", feast)]
        )
        if "feast_default" in case:
            behind += f"; Feast with one worker {middle(case['feast_default'], 'rps'):,.0f} rps"
        spread = f" ({times(min(over))[:-1]}–{times(max(over))[:-1]})" if len(over) > 1 else ""
        ratios = " | ".join(times(under[key]) for key in ("p50_us", "p99_us", "cpu_us"))
        what = name.replace("x", " × ").replace(" c=", ", ")
        lines.append(f"| {what} | **{times(statistics.median(over))}**{spread} | {ratios} | {behind} |")
    lines.append("")
    lines.append("| memory of all processes | weir | Feast, 2 workers | Feast, 1 worker | 2 workers ÷ weir |")
    lines.append("|---|---|---|---|---|")
    for label, taken in report["facts"]["memory_mb"]:
        for which, mb in taken.items():
            ratio = mb["feast"] / mb["weir"]
            default = f"{mb['feast_default']:.0f} MB" if "feast_default" in mb else "–"
            lines.append(
                f"| {which.upper()} {label} | **{mb['weir']:.0f} MB** | {mb['feast']:.0f} MB "
                f"| {default} | {ratio:.1f}× |"
            )
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description="Measures weir beside the real Feast feature server.")
    shape = lambda text: tuple(map(int, text.split("x")))
    parser.add_argument("--shapes", nargs="+", type=shape, default=SHAPES, help="entities x features, like 1x10")
    parser.add_argument("--callers", nargs="+", type=int, default=CALLERS, help="that ask at a time")
    parser.add_argument("--one-worker", choices=("yes", "no"), default="yes", help="measure Feast's default too")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=2, help="of each run")
    parser.add_argument(
        "--out", type=Path, default=REPO / "target/bench-feast.json", help="everything measured, as JSON"
    )
    given = parser.parse_args()
    end_on_sigterm()
    weir_binary()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory(prefix="weir-bench-feast-") as work, Servers(Path(work) / "logs") as running:
        try:
            has_default = given.one_worker == "yes"
            report = bench(Path(work), running, given.rounds, given.seconds, given.shapes, given.callers, has_default)
        except NotStarted as why:
            raise SystemExit(str(why)) from None
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(report, indent=1))
    print(table(report))
    print(f"\n{floors.table(report)}")
    facts = report["machine"]
    print(
        f"\n{facts['date']}; {facts['cores']} cores of {facts['cpu']}, Linux {facts['kernel']}; {facts['weir']}, "
        f"Feast {facts['feast']} on Python {facts['python']}, Redis {facts['redis']}, wrk; "
        f"{report['rounds']} rounds of {report['seconds']} s; {ENTITIES:,} entities. "
        f"Other processes used {report['facts']['others_share']:.0%} of the machine."
    )


if __name__ == "__main__":
    main()
