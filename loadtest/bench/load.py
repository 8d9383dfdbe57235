"""Loads, and what they cost whoever answers them. Every answer counts only if it is one: statuses are read, and around each
run the gateway's metrics say what its values were."""

import json
import re
import resource
import time
import urllib.request
from collections import Counter
from pathlib import Path

from process import LOAD_CORE, LOADTEST, REPO, SERVER_CORE, TICKS, Failed, run

GRPC = ["-H", "content-type: application/grpc", "-H", "te: trailers"]
WRK_SCRIPT = REPO / "loadtest/feast/bench_feast.lua"
# Requests of 100 items that touch 99 % of 20,000 entities.
SPREAD = ["--bodies", "1024"]
ONE_AT_A_TIME = ["--connections", "1", "--streams", "1"]
# As many callers over HTTP/1.1 as there are streams over HTTP/2.
CALLERS = 32


def call(server, *options):
    return json.loads(run([LOADTEST, "call", "--to", server.address, *options]))


def expect(server, share, *options):
    """One look at whole replies: load tools take any reply for a good one. On a busy machine a read may come too
    late and its rows into the cache only with the next, so there are a few tries."""
    seen = []
    for _ in range(5):
        got = call(server, *options)["provenance"]
        seen.append(got)
        total = sum(got.values())
        if {name: count / total for name, count in got.items()} == share:
            return
    raise Failed(f"{options}: the values come from {seen}, not from {share}")


def counted(server):
    """What a gateway's metrics say it served: values by provenance, refusals, the journal's rows."""
    if not server.admin:
        return Counter()
    text = urllib.request.urlopen(f"http://{server.admin}/metrics", timeout=5).read().decode()
    found = re.findall(r'^weir_(values|refusals|journal_rows)_total\{.*?(\w+)="(\w+)"\} (\d+)', text, re.MULTILINE)
    counts = Counter()
    # Several services may count under one label.
    for what, _, label, n in found:
        counts[f"{what}.{label.upper()}"] += int(n)
    return counts


def core_busy_s(core):
    """What a core has worked so far, for whomever: on the load's core, Redis and the load."""
    fields = re.search(rf"^cpu{core} (.*)$", Path("/proc/stat").read_text(), re.MULTILINE)[1].split()
    user, nice, system, _, _, *rest = map(int, fields)
    # irq, softirq and steal; guests are counted as users already.
    return (user + nice + system + sum(rest[:3])) / TICKS


def measured(server, load):
    """Runs `load` against `server`; adds what it cost the server, and which share of the values was what was asked
    for: holes and refusals are cheaper than answers, and load tools do not see them."""
    seen, before, busy, started = counted(server), server.cpu_s(), core_busy_s(LOAD_CORE), time.monotonic()
    result = load()
    cpu, wall, busy = server.cpu_s() - before, time.monotonic() - started, core_busy_s(LOAD_CORE) - busy
    result |= {"server_cpu_us": cpu * 1e6 / result["answered"], "server_cpu_share": cpu / result["seconds"], "load_core_share": busy / wall}
    served = counted(server) - seen
    total = lambda what: sum(n for name, n in served.items() if name.startswith(what))
    if total("values."):
        real = sum(served[f"values.{name}"] for name in ("CACHE", "STORE", "COMPUTED"))
        result["real_share"] = 0.0 if total("refusals.") else real / total("values.")
    if total("journal_rows."):
        result["kept_share"] = served["journal_rows.KEPT"] / total("journal_rows.")
    return result


def children_cpu_s():
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def h2load(server, body, seconds):
    """As fast as it gets, with one request for ever."""

    def load():
        before = children_cpu_s()
        url = f"http://{server.address}/weir.v1.FeatureService/GetFeatures"
        text = run(["h2load", "-c", "4", "-m", "8", "-D", f"{round(seconds * 1e3)}ms", "-d", body, *GRPC, url])
        cpu = children_cpu_s() - before
        found = re.search(r"requests: (\d+) total.* (\d+) succeeded", text)
        total, good = map(int, found.groups()) if found else (0, 0)
        if good != total or not total:
            raise Failed(f"{server.command[0]}: {text}")
        return {"answered": total, "seconds": seconds, "rps": total / seconds, "cpu_share": cpu / seconds}

    return measured(server, load)


def own_load(server, seconds, *options):
    """Our own closed loop: different requests, and every reply's status is read."""
    command = [LOADTEST, "load", "--to", server.address, "--seconds", seconds, *options]
    return measured(server, lambda: json.loads(run(command)))


def wrk(server, path, bodies, seconds, callers=CALLERS):
    """JSON over HTTP/1.1: the lines of a file, one after the other."""

    def load():
        before = children_cpu_s()
        url = f"http://{server.address}{path}"
        options = ["-t1", f"-c{callers}", f"-d{max(1, round(seconds))}s", "--timeout", "30s", "-s", WRK_SCRIPT]
        text = run(["wrk", *options, url, "--", bodies])
        cpu = children_cpu_s() - before
        found = re.search(r"^JSON (.*)$", text, re.MULTILINE)
        result = json.loads(found[1]) if found else {"answered": 0, "failed": 0}
        if result["failed"] or not result["answered"]:
            raise Failed(f"{server.command[0]}, {path}: {text}")
        return result | {"rps": result["answered"] / result["seconds"], "cpu_share": cpu / result["seconds"]}

    return measured(server, load)


def raw(redis, seconds, *options):
    """Bare reads, in the gateway's place and on the gateway's core."""
    command = [LOADTEST, "raw", "--to", redis.address, "--seconds", seconds, *options]
    return json.loads(run(command, core=SERVER_CORE))


def post(server, path, body):
    """One reply over HTTP, read."""
    request = urllib.request.Request(f"http://{server.address}{path}", body.encode(), {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=10) as reply:
            return reply.read()
    except OSError as why:
        said = why.read().decode(errors="replace")[:500] if hasattr(why, "read") else ""
        raise Failed(f"{server.command[0]}, {path}: {why} {said}") from None
