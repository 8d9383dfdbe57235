"""Rows in the cache: the gateway against bare servers that send the same bytes, and what the journal costs it."""

import data
from load import SPREAD, call, expect, h2load, own_load

TITLE = "Rows in the cache"
NEEDS = ["h2load"]
ONE = ["--items", "1"]


def catalog():
    return [data.entity(), data.view("rows", data.NAMES), data.service("hits", [f"rows:{n}" for n in data.NAMES]), data.EXPERIMENT]


def measure(stage):
    data.wide_rows(stage.data)
    redis = stage.redis()
    url = f"redis://{redis.address}"
    quiet = data.config(stage.data / "hits", "", catalog())
    kept = data.config(stage.data / "kept", f'[journal]\ndir = "{stage.work}/served"\n', catalog())
    stage.load(quiet, url)
    hits = stage.weir(quiet, url)
    # Fills the cache, and gives h2load its requests and the floors their replies.
    bodies = {name: stage.work / f"{name}.body" for name in ("hundred", "one")}
    replies = {name: stage.work / f"{name}.reply" for name in bodies}
    for ask in (ONE, [], SPREAD):
        call(hits, *ask)
    call(hits, "--body", bodies["hundred"], "--reply", replies["hundred"])
    call(hits, *ONE, "--body", bodies["one"], "--reply", replies["one"])
    tonic = {name: stage.floor(reply) for name, reply in replies.items()}
    hyper = {name: stage.floor(reply, "--door", "hyper") for name, reply in replies.items()}

    def journalled(name, *ask):
        """Hits that are written down. A fresh gateway each time: the last one would still be sealing."""
        server = stage.weir(kept, url)
        try:
            expect(server, {"CACHE": 1.0}, *ask)
            return h2load(server, bodies[name], stage.seconds)
        finally:
            stage.drop(server)
            stage.forget("served")

    cases = {}
    for name, ask in (("hundred", []), ("one", ONE)):
        cases |= {
            f"hyper_{name}": lambda name=name: h2load(hyper[name], bodies[name], stage.seconds),
            f"tonic_{name}": lambda name=name: h2load(tonic[name], bodies[name], stage.seconds),
            f"hit_{name}": lambda name=name: h2load(hits, bodies[name], stage.seconds),
            f"journal_{name}": lambda name=name, ask=ask: journalled(name, *ask),
        }
    cases |= {
        "hyper_spread": lambda: own_load(hyper["hundred"], stage.seconds, *SPREAD),
        "tonic_spread": lambda: own_load(tonic["hundred"], stage.seconds, *SPREAD),
        "hit_spread": lambda: own_load(hits, stage.seconds, *SPREAD),
    }
    return stage.rounds(cases, lambda: expect(hits, {"CACHE": 1.0}, *SPREAD))


WHAT = (("hundred", "100 × 50, hot keys", 0.9), ("spread", "100 × 50, 20,000 spread keys", 0.75), ("one", "1 × 50", 0.9))


def table(out):
    for name, what, wanted in WHAT:
        out.throughput(f"hits ÷ tonic, {what}", f"hit_{name}", f"tonic_{name}", wanted)
    for name, what, _ in WHAT:
        out.throughput(f"hits ÷ hyper, {what}", f"hit_{name}", f"hyper_{name}", None)
    for name, what in (("hundred", "100 × 50"), ("one", "1 × 50")):
        kept = out.median(f"journal_{name}", "kept_share")
        # A journal that throws rows away is quick.
        but = None if kept > 0.99 else "**rows were dropped**"
        out.throughput(f"journal on ÷ off, {what}", f"journal_{name}", f"hit_{name}", 0.9, f"; {kept:.0%} of the rows kept", but)


def floors(ratios):
    for name, what, wanted in WHAT:
        yield f"hits, {what}, ÷ tonic", ratios(f"hit_{name}", f"tonic_{name}"), wanted
        yield f"hits, {what}, ÷ hyper", ratios(f"hit_{name}", f"hyper_{name}"), None
