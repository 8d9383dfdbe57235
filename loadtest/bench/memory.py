"""How much memory the gateway has, and how long its rows take into Redis."""

import json
import re
import statistics
import subprocess
import time
from pathlib import Path

import data
from hits import catalog
from load import SPREAD, own_load
from process import LOADTEST, REPO, WEIR, Failed, alone_on, run
from stage import flush

TITLE = "Memory and loading"
NEEDS = []
DEMO = REPO / "deploy/demo"


def measure(stage):
    data.wide_rows(stage.data)
    redis = stage.redis()
    url = f"redis://{redis.address}"
    config = data.config(stage.data / "memory", "", catalog())
    facts = {"load_s": []}
    for _ in range(stage.number):
        flush(redis)
        started = time.monotonic()
        stage.load(config, url)
        facts["load_s"].append(time.monotonic() - started)
    facts["hashes_s"] = feast_load_s(stage, redis)
    gateway = stage.weir(config, url)
    facts["idle_rss_mb"] = gateway.rss_mb()
    own_load(gateway, stage.seconds, *SPREAD)
    facts["serving_rss_mb"] = gateway.rss_mb()
    demo = stage.weir(DEMO, "embedded", "--journal", stage.work / "demo-idle")
    facts["demo_idle_rss_mb"] = demo.rss_mb()
    facts["demo_rss_mb"], facts["demo_peak_rss_mb"] = demo_rss_mb(stage.work)
    return {"cases": {}, "facts": facts}


def feast_load_s(stage, redis):
    """`weir load --feast` of the same rows."""
    repo = stage.work / "repo"
    run([LOADTEST, "hashes", "--to", redis.address, "--repo", repo, "--keys", "1"], core=None)
    took = []
    for _ in range(stage.number):
        flush(redis)
        started = time.monotonic()
        run([WEIR, "load", "--feast", repo, "wide", stage.data / "rows.parquet"], core=None)
        took.append(time.monotonic() - started)
    return took


def demo_rss_mb(work):
    """Memory of `weir demo` once it has replayed its flights (its client, in the same process, included), and the
    most it ever had."""
    doors = ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--journal", work / "demo"]
    command = [str(c) for c in [WEIR, "demo", "--json", "--config", DEMO, *doors]]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, preexec_fn=alone_on(None))
    try:
        # It prints its summary and goes on serving.
        if not any(line.startswith("{") for line in process.stdout):
            raise Failed("the demo ended before its summary")
        status = Path(f"/proc/{process.pid}/status").read_text()
        return [int(re.search(rf"{field}:\s+(\d+) kB", status)[1]) / 1e3 for field in ("VmRSS", "VmHWM")]
    finally:
        process.terminate()
        process.wait(timeout=30)


def table(out):
    facts = out.facts
    for key, what, wanted in (("load_s", "`weir load`, 100,000 × 50, packed", 2), ("hashes_s", "`weir load --feast`, 100,000 × 50", 6)):
        rate = f"{data.ROWS / statistics.median(facts[key]):,.0f} rows a second"
        out.add(what, facts[key], ("≤", wanted), rate, 2, " s")
    out.add("RSS, idle, no plugins", [facts["idle_rss_mb"]], ("≤", 60), "one view, one service", 0, " MB")
    out.add("RSS after serving", [facts["serving_rss_mb"]], None, "20,000 rows of 50 in the cache, a load of 32 in flight", 0, " MB")
    behind = "two components, the rows in process, the journal open"
    out.add("RSS, idle, with the demo's configuration", [facts["demo_idle_rss_mb"]], ("≤", 100), behind, 0, " MB")
    peak = f"its client included; {facts['demo_peak_rss_mb']:.0f} MB at its peak"
    out.add("RSS of `weir demo`, all flights replayed", [facts["demo_rss_mb"]], ("≤", 100), peak, 0, " MB")


def floors(ratios):
    return ()
