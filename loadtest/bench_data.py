"""Makes what the benchmark serves: a catalog of one wide view, and its rows as Parquet.

    bench_data.py DIR COMPONENT

Writes DIR/rows.parquet and one configuration folder each for `hits` (cache on, no transform), `misses` (no
cache), `journal` (as hits, written down) and `transform` (as hits, and a service that computes two of its
features). The same numbers every time.
"""

import shutil
import sys
from pathlib import Path

import numpy
import pyarrow
import pyarrow.parquet

ROWS = 100_000
FEATURES = 50
NAMES = [f"f{n:02}" for n in range(FEATURES)]
DOC = 'owner = "bench@example.com"\ndescription = "For the benchmark."\n'

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


def service(name: str, features: list[str]) -> str:
    listed = ", ".join(f'"{feature}"' for feature in features)
    # A budget that nothing exceeds: every reply does the same work.
    return f'[[service]]\nname = "{name}"\n{DOC}context = []\nitems = ["id"]\nbudget_ms = 2000\nfeatures = [{listed}]\n'


def rows_view() -> str:
    features = "".join(f'[[view.feature]]\nname = "{n}"\ntype = "f64"\ndescription = "A number."\n' for n in NAMES)
    return (
        f'[[entity]]\nname = "thing"\n{DOC}keys = [{{ name = "id", type = "string" }}]\n'
        f'[[view]]\nname = "rows"\nversion = 1\nentity = "thing"\n{DOC}source = "../rows.parquet"\n'
        # A day: nothing goes stale while it is being measured.
        f'event_time = "event_time"\nfresh_for_ms = 86400000\nstale_for_ms = 86400000\n{features}'
    )


def transform() -> str:
    outputs = "".join(
        f'[[transform.output]]\nname = "{name}"\ntype = "f64"\ndefault = 0.0\ndescription = "A number."\n'
        for name in ("crosswind_mph", "headwind_mph")
    )
    return (
        f'[[transform]]\nname = "crosswind"\nversion = 1\n{DOC}component = "plugins/transform.wasm"\n'
        "time_limit_ms = 1000\nmemory_limit_mib = 16\n"
        'inputs = { wind_speed_mph = "rows:f00", wind_dir_deg = "rows:f01", runway_heading_deg = "rows:f02" }\n'
        f"{outputs}"
    )


def write(folder: Path, settings: str, catalog: list[str]) -> None:
    (folder / "catalog").mkdir(parents=True)
    (folder / "weir.toml").write_text(f'namespace = "bench"\n{settings}')
    (folder / "catalog" / "catalog.toml").write_text("\n".join(catalog))


def main(folder: Path, component: Path) -> None:
    random = numpy.random.default_rng(1)
    columns = {"id": [f"e{n:07}" for n in range(ROWS)]}
    columns["event_time"] = pyarrow.array([1_700_000_000_000_000] * ROWS, pyarrow.timestamp("us", "UTC"))
    columns |= {name: random.normal(size=ROWS) for name in NAMES}
    pyarrow.parquet.write_table(pyarrow.table(columns), folder / "rows.parquet", compression="snappy")

    stored = [f"rows:{name}" for name in NAMES]
    catalog = [rows_view(), service("hits", stored), EXPERIMENT]
    # As many columns as `hits`, so that the difference between the two is the transform.
    computed = service("computed", [*stored[:-2], "crosswind:crosswind_mph", "crosswind:headwind_mph"])
    write(folder / "hits", "", catalog)
    write(folder / "misses", "[cache]\ncapacity_mib = 0\n", catalog)
    write(folder / "journal", f'[journal]\ndir = "{folder}/journal/served"\n', catalog)
    write(folder / "transform", "", [*catalog, transform(), computed])
    (folder / "transform" / "plugins").mkdir()
    shutil.copy(component, folder / "transform" / "plugins" / "transform.wasm")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), Path(sys.argv[2]))
