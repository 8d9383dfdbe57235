"""Rows as Feast keeps them, read for every request: through the gateway's own API and through Feast's door, against bare reads of
the same hashes."""

import json

import data
from load import ONE_AT_A_TIME, SPREAD, call, expect, own_load, post, raw, wrk
from misses import IN_FLIGHT
from process import LOADTEST, Failed, run

TITLE = "Feast's hashes from Redis"
NEEDS = ["wrk"]
DOOR = "/get-online-features"
ONE = ["--items", "1"]
ONES = ["--items", "1", "--bodies", "1024"]


def door_bodies(path, items, features, count=256):
    """The requests of `data.bodies`, as Feast's clients say them."""
    data.bodies(path, items, data.ASKED, count)
    refs = [f"wide:{name}" for name in data.NAMES[:features]]
    asked = [{"features": refs, "entities": json.loads(line)["items"]} for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(one, separators=(",", ":")) + "\n" for one in asked))
    return path


def measure(stage):
    redis = stage.redis()
    repo = stage.work / "repo"
    run([LOADTEST, "hashes", "--to", redis.address, "--repo", repo, "--keys", data.ASKED], core=None)
    catalog = [data.entity(), data.hashes_view(data.NAMES), data.service("hits", [f"rows:{n}" for n in data.NAMES]), data.EXPERIMENT]
    native = stage.weir(data.config(stage.data / "hashes", data.NO_CACHE, catalog), f"redis://{redis.address}")
    # Feast keeps no rows either, not even for when Redis is away.
    settings = stage.work / "door"
    settings.mkdir()
    (settings / "weir.toml").write_text('[feast]\nrepo = "."\nfresh_ms = 0\nstale_ms = 0\n')
    door = stage.weir(settings, None, "--feast", repo)
    reply = stage.work / "hundred.reply"
    call(native, "--reply", reply)
    tonic = stage.floor(reply)
    files = {shape: door_bodies(stage.work / f"door-{shape[0]}x{shape[1]}", *shape) for shape in ((1, 10), (1, 50), (100, 50))}
    seconds = stage.seconds
    cases = {
        "tonic_c1": lambda: own_load(tonic, seconds, *SPREAD, *ONE_AT_A_TIME),
        "raw_c1": lambda: raw(redis, seconds, *SPREAD, "--command", "hgetall"),
        "miss_c1": lambda: own_load(native, seconds, *SPREAD, *ONE_AT_A_TIME),
        "raw": lambda: raw(redis, seconds, *SPREAD, *IN_FLIGHT, "--command", "hgetall"),
        "miss": lambda: own_load(native, seconds, *SPREAD),
        "door": lambda: wrk(door, DOOR, files[100, 50], seconds),
        "raw_one": lambda: raw(redis, seconds, *ONES, *IN_FLIGHT, "--command", "hgetall"),
        "miss_one": lambda: own_load(native, seconds, *ONES),
        "door_one": lambda: wrk(door, DOOR, files[1, 50], seconds),
        "raw_ten": lambda: raw(redis, seconds, *ONES, *IN_FLIGHT, "--command", "hmget", "--features", "10"),
        "door_ten": lambda: wrk(door, DOOR, files[1, 10], seconds),
    }

    def check():
        expect(native, {"STORE": 1.0}, *SPREAD)
        same_answers(native, door, files[100, 50])

    return stage.rounds(cases, check)


def same_answers(native, door, file, service="hits"):
    """Both doors have the same values."""
    asked = json.loads(file.read_text().splitlines()[0])
    ours = json.loads(post(native, "/v1/features", json.dumps({"service": service, "items": asked["entities"]})))
    theirs = json.loads(post(door, DOOR, json.dumps(asked)))
    ours = {column["name"].split(":")[1]: column["values"] for column in ours["features"]}
    theirs = {name: column["values"] for name, column in zip(theirs["metadata"]["feature_names"], theirs["results"]) if name != "id"}
    if ours != theirs or len(ours) != data.FEATURES:
        raise Failed("the two doors answer with different values")


def table(out):
    for key, raw_key, what in (("server_cpu_us", "cpu_us", "CPU a request"), ("p50_us", "p50_us", "p50 at c = 1")):
        ratios = out.rounds(lambda r: r["miss_c1"][key] / (r["tonic_c1"][key] + r["raw_c1"][raw_key]))
        costs = out.micros(("miss_c1", key), ("tonic_c1", key), ("raw_c1", raw_key))
        out.add(f"miss ÷ (tonic + raw HGETALL), {what}, 100 × 50", ratios, None, costs)
    for over, under, what in (
        ("miss", "raw", "gRPC ÷ raw HGETALL, 100 × 50"),
        ("door", "raw", "Feast's door, JSON ÷ raw HGETALL, 100 × 50"),
        ("miss_one", "raw_one", "gRPC ÷ raw HGETALL, 1 × 50"),
        ("door_one", "raw_one", "Feast's door, JSON ÷ raw HGETALL, 1 × 50"),
        ("door_ten", "raw_ten", "Feast's door, JSON ÷ raw HMGET, 1 × 10"),
    ):
        ratios = out.rounds(lambda r: r[over]["rps"] / r[under]["rps"])
        out.add(f"{what}, 32 in flight", ratios, None, f"{out.rps(over)}, against {out.median(under, 'rps'):,.0f} rps")


def floors(ratios):
    yield "Feast's hashes, gRPC, 100 × 50, ÷ raw HGETALL", ratios("miss", "raw"), None
    yield "Feast's hashes, Feast's door, 100 × 50, ÷ raw HGETALL", ratios("door", "raw"), None
