"""What the benchmark serves: catalogs of wide views, their rows as Parquet, and the forms that others keep the same rows in.
The same numbers every time."""

import json
import shutil
import socket

import numpy
import pyarrow
import pyarrow.parquet

from process import REPO, Failed

ROWS = 100_000
FEATURES = 50
# Asked for: more entities than a processor's caches hold, and few enough that all of them come up.
ASKED = 20_000
NAMES = [f"f{n:02}" for n in range(FEATURES)]
DOC = 'owner = "bench@example.com"\ndescription = "For the benchmark."\n'
COMPONENT = REPO / "deploy/demo/plugins/crosswind.wasm"
# A day: nothing goes stale while it is being measured.
KEPT = "fresh_for_ms = 86400000\nstale_for_ms = 86400000\n"
NO_CACHE = "[cache]\ncapacity_mib = 0\n"

# An arm for every caller, so that assignment and the arms in the reply are paid for.
EXPERIMENT = f"""
[[layer]]
name = "bench"
salt = "layer-bench"

[[experiment]]
name = "bench"
layer = "bench"
salt = "bench"
status = "running"
{DOC}
[[experiment.arm]]
name = "control"
weight = 5000

[[experiment.arm]]
name = "other"
weight = 5000
params = {{ note = "nothing else" }}
"""


def entity(name="thing", key="id"):
    return f'[[entity]]\nname = "{name}"\n{DOC}keys = [{{ name = "{key}", type = "string" }}]\n'


def view(name, features, source="rows.parquet", of="thing", more=""):
    listed = "".join(f'[[view.feature]]\nname = "{n}"\ntype = "f64"\ndescription = "A number."\n' for n in features)
    source = f'source = "../{source}"\nevent_time = "event_time"\n' if source else ""
    return f'[[view]]\nname = "{name}"\nversion = 1\nentity = "{of}"\n{DOC}{source}{KEPT}{more}{listed}'


def hashes_view(features):
    """The view that `weir-loadtest hashes` fills."""
    more = 'layout = "feast"\n[view.feast]\nproject = "bench"\nview = "wide"\n'
    return view("rows", features, source=None, more=more)


def service(name, features, context=""):
    listed = ", ".join(f'"{feature}"' for feature in features)
    # A budget that nothing exceeds: every reply does the same work.
    return (
        f'[[service]]\nname = "{name}"\n{DOC}context = [{context}]\nitems = ["id"]\nbudget_ms = 2000\n'
        f"features = [{listed}]\n"
    )


def transform(heading="rows:f02"):
    outputs = "".join(
        f'[[transform.output]]\nname = "{name}"\ntype = "f64"\ndefault = 0.0\ndescription = "A number."\n'
        for name in ("crosswind_mph", "headwind_mph")
    )
    return (
        f'[[transform]]\nname = "crosswind"\nversion = 1\n{DOC}component = "plugins/transform.wasm"\n'
        "time_limit_ms = 1000\nmemory_limit_mib = 16\n"
        f'inputs = {{ wind_speed_mph = "rows:f00", wind_dir_deg = "rows:f01", runway_heading_deg = "{heading}" }}\n'
        f"{outputs}"
    )


COMPUTED = ["crosswind:crosswind_mph", "crosswind:headwind_mph"]


def config(folder, settings, catalog):
    """A configuration folder; with a transform in its catalog it gets the component too."""
    (folder / "catalog").mkdir(parents=True)
    (folder / "weir.toml").write_text(f'namespace = "bench"\n{settings}')
    (folder / "catalog" / "catalog.toml").write_text("\n".join(catalog))
    if any("transform.wasm" in part for part in catalog):
        if not COMPONENT.exists():
            raise Failed(f"{COMPONENT} is not there: make plugins")
        (folder / "plugins").mkdir()
        shutil.copy(COMPONENT, folder / "plugins" / "transform.wasm")
    return folder


def numbers(rows, columns, seed=1):
    return numpy.random.default_rng(seed).normal(size=(rows, columns))


def parquet(path, key, ids, names, values):
    columns = {key: ids, "event_time": pyarrow.array([1_700_000_000_000_000] * len(ids), pyarrow.timestamp("us", "UTC"))}
    columns |= {name: values[:, n] for n, name in enumerate(names)}
    pyarrow.parquet.write_table(pyarrow.table(columns), path, compression="snappy")


def ids(count, letter="e"):
    return [f"{letter}{n:07}" for n in range(count)]


def wide_rows(folder):
    """100,000 rows of 50 numbers, made once."""
    path = folder / "rows.parquet"
    if not path.exists():
        parquet(path, "id", ids(ROWS), NAMES, numbers(ROWS, FEATURES))
    return path


def bodies(path, items, entities, count=256, service="hits"):
    """Requests as JSON, one a line; every peer reads the items from the same place."""
    drawn = numpy.random.default_rng(items).integers(0, entities, size=(count, items))
    with path.open("w") as out:
        for number, row in enumerate(drawn):
            asked = {"service": service, "items": {"id": [f"e{n:07}" for n in row]}, "unit": f"u{number}"}
            out.write(json.dumps(asked, separators=(",", ":")) + "\n")
    return path


class Pipe:
    """A connection to Redis that sends in pieces and looks at every reply: one byte line each."""

    SEND_BYTES = 4 << 20

    def __init__(self, redis):
        self.socket = socket.create_connection(("127.0.0.1", int(redis.port)))
        self.out, self.size, self.asked = [], 0, 0

    def send(self, *parts):
        pieces = [f"*{len(parts)}\r\n".encode()]
        for part in parts:
            part = part if isinstance(part, bytes) else part.encode()
            pieces.append(b"$%d\r\n%s\r\n" % (len(part), part))
        self.out.append(b"".join(pieces))
        self.size, self.asked = self.size + len(self.out[-1]), self.asked + 1
        if self.size > self.SEND_BYTES:
            self.flush()

    def flush(self):
        self.socket.sendall(b"".join(self.out))
        came, asked = b"", self.asked
        self.out, self.size, self.asked = [], 0, 0
        while came.count(b"\n") < asked:
            more = self.socket.recv(1 << 20)
            if not more:
                raise Failed("Redis closed the connection")
            came += more
        if b"-" in came:
            raise Failed(f"Redis said {came[came.index(b'-'):][:200]}")

    def close(self):
        self.flush()
        self.socket.close()


def text_rows(redis, view_name, ids, names, values):
    """Rows as somebody without a gateway would keep them: a hash of texts, and a string of JSON."""
    pipe = Pipe(redis)
    for key, row in zip(ids, values.tolist()):
        texts = [repr(value) for value in row]
        pipe.send("HSET", f"h:{view_name}:{key}", *(part for pair in zip(names, texts) for part in pair))
        joined = ",".join(f'"{name}":{text}' for name, text in zip(names, texts))
        pipe.send("SET", f"s:{view_name}:{key}", f"{{{joined}}}")
    pipe.close()
