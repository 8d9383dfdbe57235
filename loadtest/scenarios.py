"""Plays the scenarios one after the other and prints a Markdown table of their verdicts.

    loadtest/scenarios.py [--out FOLDER] [--readme README.md] [NAME…]

FOLDER gets every verdict as JSON, the README the table between its markers. Ends with 1 when something that was expected does not hold, or when a run was void.
"""

import argparse
import json
import os
import platform
import re
import subprocess
import sys
from datetime import date
from pathlib import Path

HERE = Path(__file__).resolve().parent
LOADTEST = HERE.parent / "target/release/weir-loadtest"
BEGIN, END = "<!-- scenarios -->\n", "<!-- /scenarios -->"


def play(scenario, out):
    """The verdict; None when there is none."""
    verdict = out / f"{scenario.stem}.json"
    verdict.unlink(missing_ok=True)
    # A session of its own: Linux shares a busy core among sessions (autogroup).
    done = subprocess.run([LOADTEST, "run", scenario, "--json", verdict], stdout=subprocess.PIPE, start_new_session=True)
    if not verdict.exists():
        print(f"{scenario.name}: ended with {done.returncode} and without a verdict", file=sys.stderr)
        return None
    return json.loads(verdict.read_text())


def number(value):
    return "–" if value is None else f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def lines(verdict):
    void = verdict["verdict"] == "invalid"
    for phase in verdict["phases"]:
        judged = []
        for one in phase["expected"]:
            mark = "void" if void else "met" if one["holds"] else "**missed**"
            judged.append(f"{one['figure']} {number(one['got'])} {one['sign']} {number(one['wanted'])} {mark}")
        what = f"{verdict['scenario']}: {verdict['description']}"
        if len(verdict["phases"]) > 1:
            what += f", {phase['name']}"
        ms = phase["answered_ms"]
        counts = ", ".join(f"{phase[key]:,} {key}" for key in ("refused", "too_late", "timed_out", "dropped") if phase[key])
        yield (f"| {what} | {phase['offered_rps']:,.0f} → {phase['goodput_rps']:,.0f} | {phase.get('real_share') or 0:.1%} | {number(ms['p50'])} / {number(ms['p99'])} "
               f"/ {number(ms['p999'])} | {'; '.join(judged)} | {counts or '–'} |")


def table(verdicts):
    rows = ["| scenario | offered → in time, a second | real values | p50 / p99 / p99.9 of answers, ms | expected | not answered |", "|---|---|---|---|---|---|"]
    rows += [line for verdict in verdicts for line in lines(verdict)]
    lag = max((verdict["generator"]["lag_p99_ms"] for verdict in verdicts), default=0)
    cpu = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    machine = f"{os.cpu_count()} cores of {cpu[1].strip() if cpu else platform.machine()}, Linux {platform.release()}"
    return "\n".join(rows) + (f"\n\n{date.today().isoformat()}; {machine}. The generator's own lag was {lag:.2f} ms at p99 in its worst run; "
                              f"load average {os.getloadavg()[0]:.1f} at the end.")


def main():
    parser = argparse.ArgumentParser(description="Plays the scenarios and prints their verdicts.")
    parser.add_argument("names", nargs="*", help="scenarios, by the names of their files [default: all]")
    parser.add_argument("--out", type=Path, default=HERE.parent / "target/scenarios")
    parser.add_argument("--readme", type=Path, help="put the table between the markers of this file")
    given = parser.parse_args()
    names = given.names or sorted(path.stem for path in HERE.glob("scenarios/*.toml"))
    given.out.mkdir(parents=True, exist_ok=True)
    verdicts = []
    for name in names:
        print(f"scenario {name}", file=sys.stderr)
        verdicts.append(play(HERE / f"scenarios/{name}.toml", given.out))
    played = [verdict for verdict in verdicts if verdict]
    said = table(played)
    print(said)
    if given.readme:
        before, _, rest = given.readme.read_text().partition(BEGIN)
        _, _, after = rest.partition(END)
        if not after:
            raise SystemExit(f"{given.readme} has no {BEGIN.strip()} … {END}")
        given.readme.write_text(f"{before}{BEGIN}{said}\n{END}{after}")
    sys.exit(0 if all(verdict and verdict["verdict"] == "pass" for verdict in verdicts) else 1)


if __name__ == "__main__":
    main()
