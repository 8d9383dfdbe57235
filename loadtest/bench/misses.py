"""Packed rows that no cache has: the gateway against bare servers and bare reads of the same rows."""

import data
from hits import catalog
from load import ONE_AT_A_TIME, SPREAD, call, expect, own_load, raw

TITLE = "Packed rows from Redis"
NEEDS = []
# What the streams of a load have under way at a time.
IN_FLIGHT = ["--in-flight", "32"]


def measure(stage):
    data.wide_rows(stage.data)
    redis = stage.redis()
    url = f"redis://{redis.address}"
    config = data.config(stage.data / "misses", data.NO_CACHE, catalog())
    stage.load(config, url)
    misses = stage.weir(config, url)
    reply = stage.work / "hundred.reply"
    call(misses, "--reply", reply)
    tonic = stage.floor(reply)
    mux = stage.floor(reply, "--redis", redis.address)
    columns = stage.floor(reply, "--redis", redis.address, "--columns")
    seconds = stage.seconds
    cases = {
        "tonic_c1": lambda: own_load(tonic, seconds, *SPREAD, *ONE_AT_A_TIME),
        "mget_c1": lambda: raw(redis, seconds, *SPREAD),
        "miss_c1": lambda: own_load(misses, seconds, *SPREAD, *ONE_AT_A_TIME),
        "columns_c1": lambda: own_load(columns, seconds, *SPREAD, *ONE_AT_A_TIME),
        "get_c1": lambda: raw(redis, seconds, *SPREAD, "--command", "get"),
        "mget": lambda: raw(redis, seconds, *SPREAD, *IN_FLIGHT),
        "get": lambda: raw(redis, seconds, *SPREAD, *IN_FLIGHT, "--command", "get"),
        "mux": lambda: own_load(mux, seconds, *SPREAD),
        "columns": lambda: own_load(columns, seconds, *SPREAD),
        "miss": lambda: own_load(misses, seconds, *SPREAD),
        "tonic": lambda: own_load(tonic, seconds, *SPREAD),
    }

    def check():
        expect(misses, {"STORE": 1.0}, *SPREAD)
        call(mux, *SPREAD)
        call(columns, *SPREAD)

    return stage.rounds(cases, check)


def table(out):
    for key, raw_key, what, wanted in (
        ("server_cpu_us", "cpu_us", "CPU a request", 1.0),
        ("p50_us", "p50_us", "p50 at c = 1", 0.9),
    ):
        ratios = out.rounds(lambda r: r["miss_c1"][key] / (r["tonic_c1"][key] + r["mget_c1"][raw_key]))
        costs = out.micros(("miss_c1", key), ("tonic_c1", key), ("mget_c1", raw_key))
        out.add(f"miss ÷ (tonic + raw MGET), {what}, 100 × 50", ratios, ("≤", wanted), costs)
        ratios = out.rounds(lambda r: r["miss_c1"][key] / r["columns_c1"][key])
        costs = out.micros(("miss_c1", key), ("columns_c1", key))
        out.add(f"miss ÷ tonic over a bare mux, {what}, 100 × 50", ratios, None, costs)
    out.throughput("misses ÷ tonic over a bare mux, 32 in flight, 100 × 50", "miss", "columns", 0.85)
    out.throughput("the same, rows only counted", "miss", "mux", None)
    out.throughput("misses ÷ tonic without a store, 32 in flight, 100 × 50", "miss", "tonic", None)
    for name, what in (("mget", "MGET"), ("get", "100 pipelined GETs")):
        ratios = out.rounds(lambda r: r["miss"]["rps"] / r[name]["rps"])
        behind = f"{out.median('miss', 'rps'):,.0f} rps, against {out.median(name, 'rps'):,.0f} rps"
        out.add(f"misses ÷ raw {what}, 32 in flight, 100 × 50", ratios, None, behind)
    ratios = out.rounds(lambda r: r["get_c1"]["p50_us"] / r["mget_c1"]["p50_us"])
    out.add("raw: 100 pipelined GETs ÷ MGET, p50 at c = 1", ratios, None, out.micros(("get_c1", "p50_us"), ("mget_c1", "p50_us")))


def floors(ratios):
    yield "misses, 100 × 50, ÷ tonic over a bare mux", ratios("miss", "columns"), 0.85
    yield "misses, 100 × 50, ÷ the same, rows only counted", ratios("miss", "mux"), None
    yield "misses, 100 × 50, ÷ raw MGET", ratios("miss", "mget"), None
