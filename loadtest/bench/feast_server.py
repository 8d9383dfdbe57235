"""Feast's own Python server, and the gateway in its place, on one Redis: a few cells of what `make bench-feast` measures in full."""

import json
import statistics

from process import REPO, WEIR, run

TITLE = "In Feast's place, beside Feast's Python server"
NEEDS = ["wrk"]
PYTHON = REPO / "target/feast/bin/python"
FEAST = REPO / "target/feast/bin/feast"
CALLERS = (8, 32)
# By entities and features: how many times Feast's requests a second are wanted.
CELLS = {"1x10": 40, "1x50": None, "100x50": 30}
# How much longer Feast may take, and how much more memory it may have, at least.
P99_TIMES, RSS_TIMES = 20, 8


def missing():
    """Why there is no Feast to measure, or None."""
    return None if FEAST.exists() else "Feast is not installed (make setup-feast, some 700 MB)"


def measure(stage):
    report = stage.work / "feast.json"
    options = ["--shapes", *CELLS, "--callers", *CALLERS, "--one-worker", "no"]
    options += ["--rounds", stage.number, "--seconds", max(1, round(stage.seconds)), "--out", report]
    # Feast's workers want all cores: nothing is pinned here, on either side.
    run(["env", f"WEIR={WEIR}", PYTHON, REPO / "loadtest/feast/bench_feast.py", *options], core=None)
    measured = json.loads(report.read_text())
    cases = {f"{cell} {who}": runs for cell, both in measured["cases"].items() for who, runs in both.items()}
    facts = {"others_share": measured["facts"]["others_share"], "memory_mb": measured["facts"]["memory_mb"]}
    return {"cases": cases, "facts": facts | {"feast": measured["machine"]["feast"], "python": measured["machine"]["python"]}}


def table(out):
    for cell, wanted in CELLS.items():
        what = cell.replace("x", " × ")
        for callers in CALLERS:
            ours, theirs = f"{cell} c={callers} weir", f"{cell} c={callers} feast"
            ratios = out.rounds(lambda r: r[ours]["rps"] / r[theirs]["rps"])
            behind = ", against ".join(
                f"{out.median(one, 'rps'):,.0f} rps at {out.median(one, 'cpu_us'):,.0f} µs CPU" for one in (ours, theirs)
            )
            out.add(f"requests a second ÷ Feast's, {what}, {callers} callers", ratios, ("≥", wanted) if wanted else None, behind, 1)
            ratios = out.rounds(lambda r: r[theirs]["p99_us"] / r[ours]["p99_us"])
            behind = ", against ".join(f"{out.median(one, 'p99_us') / 1e3:.2f} ms" for one in (theirs, ours))
            out.add(f"Feast's p99 ÷ ours, {what}, {callers} callers", ratios, ("≥", P99_TIMES) if wanted else None, behind, 1)
    for when, taken in out.facts["memory_mb"]:
        theirs, ours = taken["Rss"]["feast"], taken["Rss"]["weir"]
        out.add(f"Feast's RSS ÷ ours, {when}", [theirs / ours], ("≥", RSS_TIMES), f"{theirs:.0f} MB, against {ours:.0f} MB", 1)
    out.extra = ["", f"Feast {out.facts['feast']} on Python {out.facts['python']}, 2 workers; nothing pinned."]


def rate(measured, shape):
    """Feast's requests a second at a shape like `1x50`, or None."""
    runs = (measured or {}).get("cases", {}).get(f"{shape} c={CALLERS[-1]} feast")
    return statistics.median(run["rps"] for run in runs) if runs else None


def floors(ratios):
    return ()
