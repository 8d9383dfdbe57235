"""Shapes A to D side by side, as many as a second in a closed loop: the gateway's gRPC and JSON, bare servers that send the same
bytes, and nginx with Lua on the same rows."""

import data
import feast_server
import nginx
from hashes import DOOR, door_bodies, same_answers
from load import call, expect, own_load, post, wrk
from process import LOADTEST, WEIR, run

TITLE = "Shapes A to D, beside nginx with Lua"
NEEDS = ["wrk"]
JSON = "/v1/features"
ENTITIES = {"a": data.ASKED, "b": 5_000, "c": data.ASKED, "d": 5_000}
ITEMS = {"a": 1, "b": 1, "c": 100, "d": 500}
SAID = {"a": "A: 1 × 50", "b": "B: 1 × 250 over 25 views", "c": "C: 100 × 50", "d": "D: 500 × 90 of 120"}
BODIES = {"a": 1024, "b": 1024, "c": 256, "d": 32}
# Requests under way at a time. Those that are not answered when time is up do not count, so where an answer takes long they are few.
IN_FLIGHT = {"a": 32, "b": 32, "c": 8, "d": 4}
# Every fourth of 120 is left out.
NINETY = [n for n in range(120) if n % 4]
MANY = [f"g{n:03}" for n in range(250)]
WIDE = [f"w{n:03}" for n in range(120)]
# By the name of the peer, what it is called.
PEERS = {
    "tonic": "bare tonic, gRPC",
    "grpc_hit": "Weir, gRPC, cached",
    "grpc_miss": "Weir, gRPC, from Redis",
    "http1": "bare hyper, JSON",
    "json_hit": "Weir, JSON, cached",
    "json_miss": "Weir, JSON, from Redis",
    "door_hit": "Weir in Feast's place, cached",
    "door_miss": "Weir in Feast's place, from hashes",
    "shared": "nginx + Lua, shared memory",
    "strings": "nginx + Lua, JSON strings in Redis",
    "hashes": "nginx + Lua, hashes in Redis",
    "feast": "Feast's Python server, 2 workers",
}


def views(shape):
    """What the peer has to know of a shape: views and their features."""
    if shape == "b":
        return {f"many{v:02}": MANY[10 * v : 10 * v + 10] for v in range(25)}
    if shape == "d":
        return {"wide": [WIDE[n] for n in NINETY]}
    return {"rows": data.NAMES}


def catalog():
    out = [data.entity(), data.EXPERIMENT, data.view("rows", data.NAMES), data.view("wide", WIDE, "wide.parquet")]
    out += [data.view(name, features, "many.parquet") for name, features in views("b").items()]
    out += [data.service(shape, [f"{view}:{f}" for view, fs in views(shape).items() for f in fs]) for shape in SAID]
    return out


def ask(shape, bodies=None):
    options = ["--service", shape, "--items", ITEMS[shape], "--keys", ENTITIES[shape]]
    return [*options, "--bodies", bodies or BODIES[shape]]


def fill(stage, redis, url, config):
    """Packed rows for the gateway; hashes and strings of the same numbers for nginx."""
    stage.load(config, url)
    if nginx.missing():
        return
    data.text_rows(redis, "rows", data.ids(data.ASKED), data.NAMES, data.numbers(data.ROWS, data.FEATURES)[: data.ASKED])
    many, wide = data.numbers(ENTITIES["b"], len(MANY), 2), data.numbers(ENTITIES["d"], len(WIDE), 3)
    for n, (view, features) in enumerate(views("b").items()):
        data.text_rows(redis, view, data.ids(len(many)), features, many[:, 10 * n : 10 * n + 10])
    data.text_rows(redis, "wide", data.ids(len(wide)), WIDE, wide)


def doors(stage, redis):
    """The gateway in Feast's place, with the rows of A and C in Feast's hashes: with a cache, and as Feast does it."""
    repo = stage.work / "repo"
    run([LOADTEST, "hashes", "--to", redis.address, "--repo", repo, "--keys", "1"], core=None)
    run([WEIR, "load", "--feast", repo, "wide", stage.data / "rows.parquet"], core=None)
    started = {}
    for name, kept_ms in (("door_hit", 86_400_000), ("door_miss", 0)):
        (stage.work / name).mkdir()
        (stage.work / name / "weir.toml").write_text(f'[feast]\nrepo = "."\nfresh_ms = {kept_ms}\nstale_ms = {kept_ms}\n')
        started[name] = stage.weir(stage.work / name, None, "--feast", repo)
    return started


def measure(stage):
    data.wide_rows(stage.data)
    data.parquet(stage.data / "many.parquet", "id", data.ids(ENTITIES["b"]), MANY, data.numbers(ENTITIES["b"], len(MANY), 2))
    data.parquet(stage.data / "wide.parquet", "id", data.ids(ENTITIES["d"]), WIDE, data.numbers(ENTITIES["d"], len(WIDE), 3))
    redis = stage.redis()
    url = f"redis://{redis.address}"
    quick = data.config(stage.data / "shapes-hits", "[cache]\ncapacity_mib = 1024\n", catalog())
    fill(stage, redis, url, quick)
    hits = stage.weir(quick, url)
    misses = stage.weir(data.config(stage.data / "shapes-misses", data.NO_CACHE, catalog()), url)
    feast = doors(stage, redis)
    cases, files = {}, {}
    for shape in SAID:
        files[shape] = data.bodies(stage.work / f"{shape}.json", ITEMS[shape], ENTITIES[shape], BODIES[shape], shape)
        cases |= of_shape(stage, shape, redis, hits, misses, feast, files[shape])
    result = stage.rounds(cases, lambda: check(hits, misses, files))
    result["facts"]["nginx"] = nginx.missing()
    return result


def fill_cache(server, path, file):
    """Every request once, so that nothing is new when it counts."""
    for body in file.read_text().splitlines():
        post(server, path, body)


def check(hits, misses, files):
    for shape in SAID:
        fill_cache(hits, JSON, files[shape])
        call(hits, *ask(shape))
        expect(hits, {"CACHE": 1.0}, *ask(shape))
        expect(misses, {"STORE": 1.0}, *ask(shape, 32))


def of_shape(stage, shape, redis, hits, misses, feast, file):
    """The peers of a shape, as cases; each was compared with the gateway before."""
    flight = IN_FLIGHT[shape]
    grpc = lambda server: own_load(server, stage.seconds, *ask(shape), "--streams", flight // 4)
    json_load = lambda server, path, file=file: wrk(server, path, file, stage.seconds, flight)
    reply, json_reply = stage.work / f"{shape}.reply", stage.work / f"{shape}.json-reply"
    first = file.read_text().splitlines()[0]
    call(hits, *ask(shape), "--reply", reply)
    json_reply.write_bytes(post(hits, JSON, first))
    tonic, http1 = stage.floor(reply), stage.floor(json_reply, "--door", "http1")
    cases = {
        "tonic": lambda: grpc(tonic),
        "grpc_hit": lambda: grpc(hits),
        "grpc_miss": lambda: grpc(misses),
        "http1": lambda: json_load(http1, JSON),
        "json_hit": lambda: json_load(hits, JSON),
        "json_miss": lambda: json_load(misses, JSON),
    }
    if shape in ("a", "c"):
        asked = door_bodies(stage.work / f"{shape}.door", ITEMS[shape], data.FEATURES, BODIES[shape])
        fill_cache(feast["door_hit"], DOOR, asked)
        for name, door in feast.items():
            same_answers(hits, door, asked, shape)
            cases[name] = lambda door=door: json_load(door, DOOR, asked)
    if not nginx.missing():
        peer = nginx.start(stage, redis, views(shape), shape)
        # A stored string is all of a row: with it, D would answer 120 features where 90 are asked for.
        for form in nginx.DOORS if shape != "d" else ("hashes",):
            nginx.same_values(peer, form, hits, first)
            if form == "shared":
                fill_cache(peer, f"/{form}", file)
            cases[form] = lambda form=form: json_load(peer, f"/{form}")
    return {f"{shape}_{name}": case for name, case in cases.items()}


def rates(out, shape):
    """What each peer of a shape has, in the order of PEERS."""
    there = {peer: out.median(f"{shape}_{peer}", "rps") for peer in PEERS if f"{shape}_{peer}" in out.cases}
    # Measured in a group of its own, with all cores.
    feast = feast_server.rate(out.groups.get("feast"), {"a": "1x50", "c": "100x50"}.get(shape))
    return there | ({"feast": feast} if feast else {})


def best_miss_form(out, shape):
    there = [form for form in ("strings", "hashes") if f"{shape}_{form}" in out.cases]
    return max(there, key=lambda form: out.median(f"{shape}_{form}", "rps")) if there else None


def table(out):
    if out.facts["nginx"]:
        out.note(f"nginx with Lua: {out.facts['nginx']}")
    for shape, what in (("a", "1 × 50"), ("c", "100 × 50")):
        out.throughput(f"JSON hits ÷ hyper over HTTP/1.1, {what}", f"{shape}_json_hit", f"{shape}_http1", None)
    if not out.facts["nginx"]:
        best = best_miss_form(out, "a")
        out.throughput(f"JSON misses ÷ nginx, its best from Redis ({best}), 1 × 50", "a_json_miss", f"a_{best}", 2)
        out.throughput("JSON misses ÷ nginx, hashes, 100 × 50", "c_json_miss", "c_hashes", 25)
        out.throughput("JSON misses ÷ nginx, strings, 100 × 50", "c_json_miss", "c_strings", None)
        for shape, what in (("a", "1 × 50"), ("c", "100 × 50")):
            out.throughput(f"JSON hits ÷ nginx, shared memory, {what}", f"{shape}_json_hit", f"{shape}_shared", 1)
            out.throughput(f"the same in Feast's place, {what}", f"{shape}_door_hit", f"{shape}_shared", None)
        for shape, what in (("a", "1 × 50"), ("c", "100 × 50")):
            out.throughput(f"gRPC misses ÷ nginx, its best from Redis, {what}", f"{shape}_grpc_miss", f"{shape}_{best_miss_form(out, shape)}", None)
    header = ["requests a second", *SAID.values()]
    out.extra = ["", "| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    for peer, name in PEERS.items():
        cells = [cell(out, shape, peer) for shape in SAID]
        if set(cells) != {"–"}:
            out.extra.append(f"| {name} | " + " | ".join(cells) + " |")
    out.extra += ["", "° The load's core was full, with Redis on it or without: more may have been possible."]


def cell(out, shape, peer):
    rate = rates(out, shape).get(peer)
    name = f"{shape}_{peer}"
    is_held_back = name in out.cases and out.is_held_back(name)
    return "–" if rate is None else f"{rate:,.0f}{'°' if is_held_back else ''}"


def bars(out):
    """For the plot: every shape with its peers, and what kind each is."""
    kind = lambda peer: "floor" if peer in ("tonic", "http1") else "peer" if peer in (*nginx.DOORS, "feast") else "weir"
    return [(said, [(PEERS[peer], kind(peer), rate) for peer, rate in rates(out, shape).items()]) for shape, said in SAID.items()]


def floors(ratios):
    yield "JSON hits, 1 × 50, ÷ hyper over HTTP/1.1", ratios("a_json_hit", "a_http1"), None
