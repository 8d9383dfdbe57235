"""Measures the gateway beside floors and peers, group by group, and writes tables, plots and JSON.

    loadtest/bench [--only GROUP…] [--rounds N] [--seconds S] [--out FILE.json] [--readme README.md]

Two cores, everything on loopback: the server under test has core 0 to itself, the load and Redis have core 1. What
is compared runs turn by turn in every round, and a ratio is the median of the rounds' ratios, so that a machine
that slows down in the middle slows both sides. A group that cannot be measured says why, and costs the others nothing.
README.md says what each line means.
"""

import argparse
import json
import os
import platform
import re
import shutil
import signal
import sys
import tempfile
import time
import traceback
from datetime import date
from pathlib import Path

import cluster
import everything
import feast_server
import hashes
import hits
import memory
import misses
import nginx
import plot
import shapes
from lines import Lines
from process import LOADTEST, REPO, WEIR, Failed, run
from stage import Stage

GROUPS = {
    "hits": hits,
    "misses": misses,
    "cluster": cluster,
    "hashes": hashes,
    "everything": everything,
    "shapes": shapes,
    "feast": feast_server,
    "memory": memory,
}
BEGIN, END = "<!-- bench -->\n", "<!-- /bench -->"
FLOORS_SVG, PEERS_SVG = "bench-floors.svg", "bench-peers.svg"
# Programs by the target that installs them.
SETUP = {"h2load": "setup-h2load", "wrk": "setup-wrk", "redis-server": "setup-redis", "redis-cli": "setup-redis"}


def measure(name, group, data, work, rounds, seconds):
    """What the group measured, or why it did not."""
    lacking = [program for program in ["redis-server", *group.NEEDS] if not shutil.which(program)]
    if lacking:
        return {"failed": f"not installed: {', '.join(f'{p} (make {SETUP[p]})' for p in lacking)}", "missing": True}
    if hasattr(group, "missing") and group.missing():
        return {"failed": group.missing(), "missing": True}
    folder = work / name
    folder.mkdir()
    started = time.monotonic()
    try:
        with Stage(name, data, folder, rounds, seconds) as stage:
            result = group.measure(stage)
    except Failed as why:
        return {"failed": str(why)}
    except Exception:
        # A mistake of ours, or a surprise of the machine's: the other groups are still worth something.
        return {"failed": traceback.format_exc()}
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    result["facts"]["took_s"] = time.monotonic() - started
    return result


def machine():
    cpu = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())

    def version(command, pattern=r"(.*)"):
        # wrk says its version and that it does not know the option.
        if not shutil.which(str(command[0])):
            return "not installed"
        said = run(["sh", "-c", '"$@" 2>&1 || true', "sh", *command], core=None)
        found = re.search(pattern, said)
        return found[1] if found else said.strip().splitlines()[0]

    return {
        "date": date.today().isoformat(),
        "cpu": cpu[1].strip() if cpu else platform.machine(),
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "weir": version([WEIR, "--version"]),
        "redis": version(["redis-server", "--version"], r"v=(\S+)"),
        "h2load": version(["h2load", "--version"]),
        "wrk": version(["wrk", "-v"], r"wrk (\S+)"),
        "nginx": nginx.version(),
        "redis_rs": re.search(r'name = "redis"\nversion = "(.*)"', (REPO / "Cargo.lock").read_text())[1],
        "load_average_before": os.getloadavg()[0],
    }


def text(report):
    """All tables, with what is behind them."""
    out = []
    for name, result in report["groups"].items():
        group = GROUPS[name]
        out += [f"### {group.TITLE}", ""]
        if "failed" in result:
            out += [f"**Not measured**: {result['failed'].strip().splitlines()[-1]}", ""]
            continue
        lines = Lines(result, report["groups"])
        group.table(lines)
        out += [lines.text(), ""]
        if name == "shapes":
            out += [f"![Requests a second by shape and peer, on a logarithmic axis]({PEERS_SVG})", ""]
    out += [f"![Shares of what the floors do, the targets in red]({FLOORS_SVG})", ""]
    facts = report["machine"]
    others = [r["facts"].get("others_share", 0) for r in report["groups"].values() if "facts" in r]
    out.append(
        f"{facts['date']}; {facts['cores']} cores of {facts['cpu']}, Linux {facts['kernel']}; {facts['weir']}, Redis {facts['redis']}, "
        f"{facts['h2load']}, wrk {facts['wrk']}, {facts['nginx']}, redis-rs {facts['redis_rs']}; {report['rounds']} rounds of {report['seconds']:g} s, "
        f"{report['took_s'] / 60:.1f} minutes in all. Other processes used up to {max(others, default=0):.0%} of the machine."
    )
    return "\n".join(out)


def plots(report):
    """By the names of their files, those that can be drawn."""
    measured = {name: Lines(result, report["groups"]) for name, result in report["groups"].items() if "facts" in result}
    drawn, shares = {}, []
    for name, lines in measured.items():
        ratios = lambda over, under: lines.rounds(lambda r: r[over]["rps"] / r[under]["rps"])
        shares += GROUPS[name].floors(ratios)
    if shares:
        drawn[FLOORS_SVG] = plot.ratios(shares)
    if "shapes" in measured:
        drawn[PEERS_SVG] = plot.rates(shapes.bars(measured["shapes"]))
    return drawn


def between_markers(readme, said):
    before, _, rest = readme.partition(BEGIN)
    _, _, after = rest.partition(END)
    if not after:
        raise SystemExit(f"the README has no {BEGIN.strip()} … {END}")
    return f"{before}{BEGIN}{said}\n{END}{after}"


def arguments():
    parser = argparse.ArgumentParser(prog="loadtest/bench", description="Measures the gateway beside floors and peers.")
    parser.add_argument("--only", nargs="+", choices=GROUPS, metavar="GROUP", help=f"some of {', '.join(GROUPS)}")
    parser.add_argument("--rounds", type=int, default=3, help="how often everything is measured [3]")
    parser.add_argument("--seconds", type=float, default=1.0, help="of each run [1]; wrk takes whole ones")
    parser.add_argument("--out", type=Path, default=REPO / "target/bench.json", help="everything measured, as JSON [target/bench.json]")
    parser.add_argument("--readme", type=Path, help="put tables and plots there")
    given = parser.parse_args()
    if given.rounds < 1 or not 0.5 <= given.seconds <= 60:
        parser.error("at least one round, of 0.5 to 60 seconds a run")
    if given.readme and given.only:
        parser.error("the README holds a whole run: --readme and --only do not go together")
    try:
        if given.readme and BEGIN not in given.readme.read_text():
            parser.error(f"{given.readme} has no {BEGIN.strip()}")
        given.out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as why:
        parser.error(str(why))
    if (os.cpu_count() or 1) < 2:
        parser.error("two cores are wanted: one for the server, one for the load")
    for binary in (WEIR, LOADTEST):
        if not binary.exists():
            parser.error(f"{binary} is not there: cargo build --release -p weir -p weir-loadtest")
    return given


def main():
    given = arguments()
    # SIGTERM ends this program like Ctrl-C does: every `with` is left in order.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))
    names = [name for name in GROUPS if not given.only or name in given.only]
    report = {"machine": machine(), "rounds": given.rounds, "seconds": given.seconds, "groups": {}}
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="weir-bench-") as work:
        data = Path(work) / "data"
        data.mkdir()
        for name in names:
            print(f"{name}: {GROUPS[name].TITLE}", file=sys.stderr)
            result = report["groups"][name] = measure(name, GROUPS[name], data, Path(work), given.rounds, given.seconds)
            if "failed" in result:
                print(f"{name}: NOT MEASURED: {result['failed']}", file=sys.stderr)
            report["took_s"] = time.monotonic() - started
            # After each group: what was measured is not lost, whatever comes.
            given.out.write_text(json.dumps(report, indent=1))
    said = text(report)
    print(said)
    folder = (given.readme or given.out).parent
    for name, drawn in plots(report).items():
        (folder / name).write_text(drawn)
    if given.readme:
        given.readme.write_text(between_markers(given.readme.read_text(), said))
    # What is not installed is no failure.
    sys.exit(1 if any("failed" in result and not result.get("missing") for result in report["groups"].values()) else 0)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("ended by Ctrl-C")
