"""A Redis cluster of three masters, 100 keys a request: the gateway against tonic and our own map of slots, and against a cluster
client that somebody would take instead."""

import json
import time

import data
from hits import catalog
from load import ONE_AT_A_TIME, SPREAD, call, expect, own_load, raw
from misses import IN_FLIGHT
from process import CLUSTER_CLIENT, SERVER_CORE, Failed, free_address, run

TITLE = "A Redis cluster of three masters"
NEEDS = ["redis-cli"]
MASTERS = 3
# A node listens for the others at a port that is so much higher.
BUS = 10_000
START_S_MAX = 20
CALLERS = 32


def node_address():
    while True:
        address = free_address()
        if int(address.split(":")[1]) + BUS < 2**16:
            return address


def masters(stage):
    started = []
    for n in range(MASTERS):
        (stage.work / f"node{n}").mkdir()
        options = ["--cluster-enabled", "yes", "--dir", stage.work / f"node{n}"]
        started.append(stage.redis(*options, address=node_address()))
    addresses = [node.address for node in started]
    run(["redis-cli", "--cluster", "create", *addresses, "--cluster-replicas", "0", "--cluster-yes"], core=None)
    deadline = time.monotonic() + START_S_MAX
    for node in started:
        while "cluster_state:ok" not in run(["redis-cli", "-p", node.port, "cluster", "info"], core=None):
            if time.monotonic() > deadline:
                raise Failed("the cluster does not come together")
            time.sleep(0.1)
    return started


def keys(path):
    """The requests of `data.bodies`, as the gateway's keys in Redis."""
    data.bodies(path, 100, data.ASKED)
    asked = [json.loads(line)["items"]["id"] for line in path.read_text().splitlines()]
    path.write_text("".join(" ".join(f"bench:rows@1:s{len(i)}:{i}" for i in ids) + "\n" for ids in asked))
    return path


def measure(stage):
    data.wide_rows(stage.data)
    nodes = masters(stage)
    url = f"redis-cluster://{nodes[0].address}"
    config = data.config(stage.data / "cluster", data.NO_CACHE, catalog())
    stage.load(config, url)
    misses = stage.weir(config, url)
    reply = stage.work / "hundred.reply"
    call(misses, "--reply", reply)
    tonic = stage.floor(reply)
    seconds, asked = stage.seconds, keys(stage.work / "keys")
    slots = ["--command", "get", "--cluster"]
    cases = {
        "tonic_c1": lambda: own_load(tonic, seconds, *SPREAD, *ONE_AT_A_TIME),
        "slots_c1": lambda: raw(nodes[0], seconds, *SPREAD, *slots),
        "miss_c1": lambda: own_load(misses, seconds, *SPREAD, *ONE_AT_A_TIME),
        "slots": lambda: raw(nodes[0], seconds, *SPREAD, *IN_FLIGHT, *slots),
        "miss": lambda: own_load(misses, seconds, *SPREAD),
    }
    if CLUSTER_CLIENT.exists():
        client = [CLUSTER_CLIENT, nodes[0].address, asked, seconds, CALLERS]
        cases["redis_rs"] = lambda: json.loads(run(client, core=SERVER_CORE))
    return stage.rounds(cases, lambda: expect(misses, {"STORE": 1.0}, *SPREAD))


def table(out):
    for key, raw_key, what, wanted in (("server_cpu_us", "cpu_us", "CPU a request", 1.2), ("p50_us", "p50_us", "p50 at c = 1", None)):
        ratios = out.rounds(lambda r: r["miss_c1"][key] / (r["tonic_c1"][key] + r["slots_c1"][raw_key]))
        costs = out.micros(("miss_c1", key), ("tonic_c1", key), ("slots_c1", raw_key))
        out.add(f"miss ÷ (tonic + own slot map), {what}, 100 × 50", ratios, ("≤", wanted) if wanted else None, costs)
    under = [("slots", "own slot map, no server", None)]
    if "redis_rs" in out.cases:
        under.append(("redis_rs", "redis-rs's cluster client, no server", 3))
    else:
        out.note("redis-rs's cluster client: not built (cargo build --release -p weir-loadtest --example cluster_client)")
    for name, what, wanted in under:
        ratios = out.rounds(lambda r: r["miss"]["rps"] / r[name]["rps"])
        behind = f"{out.rps('miss')}, against {out.median(name, 'rps'):,.0f} rps at {out.median(name, 'cpu_us'):.0f} µs CPU"
        out.add(f"misses ÷ {what}, 32 in flight, 100 × 50", ratios, ("≥", wanted) if wanted else None, behind)


def floors(ratios):
    yield "cluster misses, 100 × 50, ÷ own slot map", ratios("miss", "slots"), None
