"""Measures the gateway against its floors and prints a Markdown table, ratios first.

    loadtest/bench.py [--rounds N] [--seconds S] [--out FILE.json]

Two cores, everything on loopback: the server under test has core 0 to itself, the load and Redis have core 1. What
is compared runs turn by turn in every round, and a ratio is the median of the rounds' ratios, so that a machine
that slows down in the middle slows both sides. README.md says what each line means.
"""

import argparse
import json
import os
import platform
import re
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from datetime import date
from pathlib import Path

from bench_table import table

REPO = Path(__file__).resolve().parent.parent
WEIR = REPO / "target/release/weir"
LOADTEST = REPO / "target/release/weir-loadtest"
PYTHON = REPO / "target/py/bin/python"
COMPONENT = REPO / "deploy/demo/plugins/crosswind.wasm"

SERVER_CORE, LOAD_CORE = 0, 1
TICKS = os.sysconf("SC_CLK_TCK")
GRPC = ["-H", "content-type: application/grpc", "-H", "te: trailers"]
# Requests of 100 items that touch 99 % of 20,000 entities.
SPREAD = ["--bodies", "1024"]
ONE_AT_A_TIME = ["--connections", "1", "--streams", "1"]


def alone_on(core):
    """A session of its own: Linux shares busy cores among sessions (autogroup), and a server with more threads
    would otherwise get more of its core than its neighbour in the table."""

    def prepare():
        os.setsid()
        if core is not None:
            os.sched_setaffinity(0, {core})

    return prepare


class Server:
    """A process under test, with its processor time and memory as the kernel counts them."""

    def __init__(self, command, address, core=None, admin=None):
        self.address, self.admin = address, admin
        null, env = subprocess.DEVNULL, os.environ | {"RUST_LOG": "warn"}
        self.process = subprocess.Popen([str(c) for c in command], preexec_fn=alone_on(core), stdout=null, env=env)
        self.await_port()

    def await_port(self):
        host, port = self.address.split(":")
        deadline = time.monotonic() + 20
        while True:
            try:
                return socket.create_connection((host, int(port)), timeout=1).close()
            except OSError:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit(f"{self.process.args[0]} did not start") from None
                time.sleep(0.02)

    def cpu_s(self):
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def rss_mb(self):
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) / 1e3

    def kill(self):
        """At once: what a journal still holds in shared memory would otherwise be sealed first, and stay behind."""
        maps = Path(f"/proc/{self.process.pid}/maps").read_text()
        self.process.kill()
        self.process.wait()
        for path in set(re.findall(r"/dev/shm/\S+", maps)):
            Path(path).unlink(missing_ok=True)

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.kill()


class Others:
    """How much of the machine went to processes that are none of ours."""

    def __init__(self, servers):
        self.servers = list(servers)
        self.before, self.started = self.busy_s() - self.own_s(), time.monotonic()

    def busy_s(self):
        user, nice, system, _, _, *rest = map(int, Path("/proc/stat").read_text().split("\n")[0].split()[1:])
        # irq, softirq and steal; guests are counted as users already.
        return (user + nice + system + sum(rest[:3])) / TICKS

    def own_s(self):
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        return ended.ru_utime + ended.ru_stime + sum(server.cpu_s() for server in self.servers)

    def share(self):
        spent = self.busy_s() - self.own_s() - self.before
        return spent / (time.monotonic() - self.started) / os.cpu_count()


def free_address():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{s.getsockname()[1]}"


def weir(config, store, *more):
    listen, admin = free_address(), free_address()
    options = ["--config", config, "--store", store, "--listen", listen, "--admin", admin, *more]
    return Server([WEIR, "serve", *options], listen, SERVER_CORE, admin)


def run(command, core=LOAD_CORE):
    done = subprocess.run([str(c) for c in command], preexec_fn=alone_on(core), capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return done.stdout


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
    raise SystemExit(f"{options}: the values come from {seen}, not from {share}")


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


def measured(server, load):
    """Runs `load` against `server`; adds what it cost the server, and which share of the values was what was asked
    for: holes and refusals are cheaper than answers, and load tools do not see them."""
    seen, before, started = counted(server), server.cpu_s(), time.monotonic()
    result = load()
    cpu, wall = server.cpu_s() - before, time.monotonic() - started
    result |= {"server_cpu_us": cpu * 1e6 / result["answered"], "server_cpu_share": cpu / wall}
    served = counted(server) - seen
    total = lambda what: sum(n for name, n in served.items() if name.startswith(what))
    if total("values."):
        real = sum(served[f"values.{name}"] for name in ("CACHE", "STORE", "COMPUTED"))
        result["real_share"] = 0.0 if total("refusals.") else real / total("values.")
    if total("journal_rows."):
        result["kept_share"] = served["journal_rows.KEPT"] / total("journal_rows.")
    return result


def h2load(server, body, seconds):
    """As fast as it gets, with one request for ever."""

    def load():
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        url = f"http://{server.address}/weir.v1.FeatureService/GetFeatures"
        text = run(["h2load", "-c", "4", "-m", "8", "-D", f"{round(seconds * 1e3)}ms", "-d", body, *GRPC, url])
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        total, good = map(int, re.search(r"requests: (\d+) total.* (\d+) succeeded", text).groups())
        if good != total or not total:
            raise SystemExit(text)
        return {"answered": total, "rps": total / seconds, "cpu_share": cpu / seconds}

    return measured(server, load)


def own_load(server, seconds, *options):
    """Our own closed loop: different requests, and every reply's status is read."""
    command = [LOADTEST, "load", "--to", server.address, "--seconds", seconds, *options]
    return measured(server, lambda: json.loads(run(command)))


def raw_mget(redis, seconds):
    """In the gateway's place, on the gateway's core."""
    command = [LOADTEST, "raw-mget", "--to", redis.address, "--seconds", seconds, *SPREAD]
    return json.loads(run(command, core=SERVER_CORE))


def journalled(config, redis, body, seconds, *ask):
    """Hits that are written down. A fresh gateway each time: the last one would still be sealing."""
    server = weir(config, redis)
    expect(server, {"CACHE": 1.0}, *ask)
    result = h2load(server, body, seconds)
    server.kill()
    run(["rm", "-rf", Path(config) / "served"])
    return result


def load_seconds(config, redis, url):
    """`weir load` into an empty Redis, as often as there are rounds."""
    host, port = redis.address.split(":")
    with socket.create_connection((host, int(port))) as s:
        s.sendall(b"FLUSHALL\r\n")
        if not s.recv(16).startswith(b"+OK"):
            raise SystemExit("Redis was not emptied")
    started = time.monotonic()
    run([WEIR, "load", "--config", config, "--store", url], core=None)
    return time.monotonic() - started


def demo_rss_mb(work):
    """Memory of `weir demo` once it has replayed its flights (its client, in the same process, included), and the
    most it ever had."""
    doors = ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--journal", work / "demo"]
    command = [str(c) for c in [WEIR, "demo", "--json", "--config", REPO / "deploy/demo", *doors]]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        # It prints its summary and goes on serving.
        if not any(line.startswith("{") for line in process.stdout):
            raise SystemExit("the demo ended before its summary")
        status = Path(f"/proc/{process.pid}/status").read_text()
        return [int(re.search(rf"{field}:\s+(\d+) kB", status)[1]) / 1e3 for field in ("VmRSS", "VmHWM")]
    finally:
        process.terminate()
        process.wait(timeout=30)


def bench(work, rounds, seconds):
    run([PYTHON, REPO / "loadtest/bench_data.py", work, COMPONENT], core=None)
    address = free_address()
    options = ["--bind", "127.0.0.1", "--port", address.split(":")[1], "--save", "", "--appendonly", "no"]
    redis = Server(["redis-server", *options, "--dir", work], address)
    servers = {"redis": redis}
    try:
        return measure(work, servers, f"redis://{address}", rounds, seconds)
    finally:
        # Redis last: nobody should complain of its absence.
        for server in reversed(servers.values()):
            server.stop()


def measure(work, servers, url, rounds, seconds):
    redis = servers["redis"]
    facts = {"load_s": [load_seconds(work / "hits", redis, url) for _ in range(rounds)]}
    os.sched_setaffinity(redis.process.pid, {LOAD_CORE})

    hits = servers["hits"] = weir(work / "hits", url)
    facts["idle_rss_mb"] = hits.rss_mb()
    misses = servers["misses"] = weir(work / "misses", url)
    transform = servers["transform"] = weir(work / "transform", url)
    computed, one = ["--service", "computed"], ["--items", "1"]

    # Fills the caches, and gives h2load its requests and the floors their replies.
    for server, ask in [(hits, one), (hits, []), (hits, SPREAD), (transform, []), (transform, computed)]:
        call(server, *ask)
    bodies = {name: work / f"{name}.body" for name in ("hundred", "one", "computed")}
    replies = {name: work / f"{name}.reply" for name in ("hundred", "one")}
    call(hits, "--body", bodies["hundred"], "--reply", replies["hundred"])
    call(hits, *one, "--body", bodies["one"], "--reply", replies["one"])
    call(transform, *computed, "--body", bodies["computed"])
    for name, reply in replies.items():
        floor = free_address()
        command = [LOADTEST, "floor", "--listen", floor, "--reply", reply]
        servers[f"floor_{name}"] = Server(command, floor, SERVER_CORE)
    floor, floor_one = servers["floor_hundred"], servers["floor_one"]

    def check():
        expect(hits, {"CACHE": 1.0}, *SPREAD)
        expect(misses, {"STORE": 1.0}, *SPREAD)
        expect(transform, {"CACHE": 1.0})
        expect(transform, {"CACHE": 0.96, "COMPUTED": 0.04}, *computed)

    # In this order, so that what is divided by each other are neighbours.
    cases = {
        "floor_hot": lambda: h2load(floor, bodies["hundred"], seconds),
        "hit_hot": lambda: h2load(hits, bodies["hundred"], seconds),
        "journal_hot": lambda: journalled(work / "journal", url, bodies["hundred"], seconds),
        "floor_spread": lambda: own_load(floor, seconds, *SPREAD),
        "hit_spread": lambda: own_load(hits, seconds, *SPREAD),
        "miss_spread": lambda: own_load(misses, seconds, *SPREAD),
        "floor_one": lambda: h2load(floor_one, bodies["one"], seconds),
        "hit_one": lambda: h2load(hits, bodies["one"], seconds),
        "journal_one": lambda: journalled(work / "journal", url, bodies["one"], seconds, *one),
        "floor_c1": lambda: own_load(floor, seconds, *SPREAD, *ONE_AT_A_TIME),
        "raw_c1": lambda: raw_mget(redis, seconds),
        "miss_c1": lambda: own_load(misses, seconds, *SPREAD, *ONE_AT_A_TIME),
        "stored": lambda: h2load(transform, bodies["hundred"], seconds),
        "computed": lambda: h2load(transform, bodies["computed"], seconds),
        "stored_c1": lambda: own_load(transform, seconds, *ONE_AT_A_TIME),
        "computed_c1": lambda: own_load(transform, seconds, *computed, *ONE_AT_A_TIME),
    }
    check()
    results = {name: [] for name in cases}
    others = Others(servers.values())
    for number in range(rounds):
        print(f"round {number + 1} of {rounds}", file=sys.stderr)
        for name, case in cases.items():
            results[name].append(case())
    facts["others_share"] = others.share()
    check()
    facts["serving_rss_mb"] = hits.rss_mb()
    journal = ["--journal", work / "demo-idle"]
    servers["demo"] = weir(REPO / "deploy/demo", "embedded", *journal)
    facts["demo_idle_rss_mb"] = servers["demo"].rss_mb()
    facts["demo_rss_mb"], facts["demo_peak_rss_mb"] = demo_rss_mb(work)
    return {"machine": machine(), "rounds": rounds, "seconds": seconds, "facts": facts, "cases": results}


def machine():
    cpu = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    version = lambda *command: run(command, core=None).strip().splitlines()[0]
    return {
        "date": date.today().isoformat(),
        "cpu": cpu[1].strip() if cpu else platform.machine(),
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "weir": version(WEIR, "--version"),
        "redis": re.search(r"v=(\S+)", version("redis-server", "--version"))[1],
        "h2load": version("h2load", "--version"),
        "load_average_before": os.getloadavg()[0],
    }


def main():
    parser = argparse.ArgumentParser(description="Measures the gateway against its floors.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each run")
    parser.add_argument("--out", type=Path, help="write everything measured here, as JSON")
    given = parser.parse_args()
    if (os.cpu_count() or 1) < 2:
        raise SystemExit("two cores are wanted: one for the server, one for the load")
    with tempfile.TemporaryDirectory(prefix="weir-bench-") as work:
        report = bench(Path(work), given.rounds, given.seconds)
    if given.out:
        given.out.write_text(json.dumps(report, indent=1))
    facts = report["machine"]
    print(table(report))
    others = report["facts"]["others_share"]
    print(f"\n{facts['date']}; {facts['cores']} cores of {facts['cpu']}, Linux {facts['kernel']}; {facts['weir']}, "
          f"Redis {facts['redis']}, {facts['h2load']}; {report['rounds']} rounds of {report['seconds']} s. "
          f"Other processes used {others:.0%} of the machine.")


if __name__ == "__main__":
    main()
