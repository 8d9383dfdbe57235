"""What user code costs, and everything at once: a user, 500 items, a Wasm transform, an arm, the journal."""

import data
from hits import catalog
from load import ONE_AT_A_TIME, call, expect, h2load, own_load

TITLE = "Transforms, arms and the journal"
NEEDS = ["h2load"]
COMPUTED = ["--service", "computed"]
# Shape E.
ALL = ["--service", "all", "--items", "500", "--context", "user_id=u0000001"]
FEATURES = 20
USERS = 1_000


def with_users():
    """Shape E's catalog: features of items and of a user, with and without a transform of both."""
    names = data.NAMES[:FEATURES]
    users = [f"user:{n}" for n in names]
    items = [f"rows:{n}" for n in names]
    views = [data.view("rows", data.NAMES), data.view("user", names, "users.parquet", of="user")]
    return {
        "plain": [data.entity(), data.entity("user", "user_id"), *views, data.service("all", [*users, *items, "rows:f20", "rows:f21"], '"user_id"')],
        "all": [data.entity(), data.entity("user", "user_id"), *views, data.transform("user:f00"),
                data.service("all", [*users, *items, *data.COMPUTED], '"user_id"'), data.EXPERIMENT],
    }


def measure(stage):
    data.wide_rows(stage.data)
    data.parquet(stage.data / "users.parquet", "user_id", data.ids(USERS, "u"), data.NAMES[:FEATURES], data.numbers(USERS, FEATURES, 4))
    redis = stage.redis()
    url = f"redis://{redis.address}"
    # As many columns as `hits`, so that the difference between the two is the transform.
    computed = data.service("computed", [*(f"rows:{n}" for n in data.NAMES[:-2]), *data.COMPUTED])
    one_step = data.config(stage.data / "one-step", "", [*catalog(), data.transform(), computed])
    of = with_users()
    plain, quiet = data.config(stage.data / "plain", "", of["plain"]), data.config(stage.data / "quiet", "", of["all"])
    kept = data.config(stage.data / "all", f'[journal]\ndir = "{stage.work}/served"\n', of["all"])
    stage.load(plain, url)
    step, plain, quiet = stage.weir(one_step, url), stage.weir(plain, url), stage.weir(quiet, url)
    bodies = {name: stage.work / f"{name}.body" for name in ("stored", "computed", "all")}
    for server, ask in ((step, []), (step, COMPUTED), (plain, ALL), (quiet, ALL)):
        call(server, *ask)
    call(step, "--body", bodies["stored"])
    call(step, *COMPUTED, "--body", bodies["computed"])
    reply = stage.work / "all.reply"
    call(quiet, *ALL, "--body", bodies["all"], "--reply", reply)
    tonic = stage.floor(reply)

    def journalled():
        server = stage.weir(kept, url)
        try:
            # Fills the cache.
            call(server, *ALL)
            return h2load(server, bodies["all"], stage.seconds)
        finally:
            stage.drop(server)
            stage.forget("served")

    cases = {
        "stored": lambda: h2load(step, bodies["stored"], stage.seconds),
        "computed": lambda: h2load(step, bodies["computed"], stage.seconds),
        "stored_c1": lambda: own_load(step, stage.seconds, *ONE_AT_A_TIME),
        "computed_c1": lambda: own_load(step, stage.seconds, *COMPUTED, *ONE_AT_A_TIME),
        "tonic": lambda: h2load(tonic, bodies["all"], stage.seconds),
        "plain": lambda: h2load(plain, bodies["all"], stage.seconds),
        "quiet": lambda: h2load(quiet, bodies["all"], stage.seconds),
        "all": journalled,
    }

    def check():
        expect(step, {"CACHE": 1.0})
        expect(step, {"CACHE": 0.96, "COMPUTED": 0.04}, *COMPUTED)
        expect(plain, {"CACHE": 1.0}, *ALL)

    return stage.rounds(cases, check)


def table(out):
    added = out.rounds(lambda r: r["computed"]["server_cpu_us"] - r["stored"]["server_cpu_us"])
    behind = f"{out.rps('computed')}, against {out.rps('stored')}"
    out.add("one transform step, CPU a request, 100 rows", added, None, behind, 1, " µs")
    added = out.rounds(lambda r: r["computed_c1"]["p50_us"] - r["stored_c1"]["p50_us"])
    costs = out.micros(("computed_c1", "p50_us"), ("stored_c1", "p50_us"))
    out.add("one transform step, p50 at c = 1, 100 rows", added, None, costs, 1, " µs")
    out.throughput("E, cached: transform and arms ÷ neither", "quiet", "plain", None)
    kept = out.median("all", "kept_share")
    but = None if kept > 0.99 else "rows were dropped"
    out.throughput("E, cached: transform, arms and journal ÷ none", "all", "plain", None, f"; {kept:.0%} of the rows kept", but)
    out.throughput("E, cached: transform, arms and journal ÷ tonic", "all", "tonic", None)


def floors(ratios):
    yield "E, everything on, ÷ tonic", ratios("all", "tonic"), None
