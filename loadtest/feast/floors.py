"""What no server in front of this Redis can pass on this machine: hyper that sends the same bytes without looking anything up,
Redis that answers the same commands to its own load tool, and both together: hyper that asks Redis for every request, and
looks neither at what it is asked nor at what it is told."""

import csv
import subprocess

import redis

from servers import REPO

LOADTEST = REPO / "target/release/weir-loadtest"
# As `gateway/store/src/hash.rs` asks: from this share of a hash's fields on for the whole of it.
WHOLE_FROM = 0.3
# A second and a half of one hash at a time.
COMMANDS = 100_000


def text_hash(server, example):
    """A hash like `example`, but with a name and fields that can be given on a command line. All names are as long."""
    connection = redis.Redis(port=server.port)
    values = connection.hgetall(example)
    names = {field: f"{n:04}" if len(field) == 4 else field.decode() for n, field in enumerate(sorted(values))}
    connection.hset("floor", mapping={names[field]: value for field, value in values.items()})
    return [name for name in names.values() if len(name) == 4], next(name for name in names.values() if len(name) != 4)


class Redis:
    """Redis asked by `redis-benchmark` for what a request needs: one hash for each entity, all of them in one piece."""

    def __init__(self, server, fields, time_field, entities, features):
        self.server, self.entities = server, entities
        is_whole = features + 1 >= WHOLE_FROM * (len(fields) + 1)
        self.command = ["HGETALL", "floor"] if is_whole else ["HMGET", "floor", *fields[:features], time_field]

    def commands(self):
        """What a request needs, as Redis reads it."""
        strings = [part.encode() for part in self.command]
        one = b"*%d\r\n" % len(strings) + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in strings)
        return one * self.entities

    def load(self, callers, _seconds, _file):
        options = ["-p", self.server.port, "-c", callers, "-P", self.entities, "-n", COMMANDS, "--csv"]
        command = [str(part) for part in ["redis-benchmark", *options, *self.command]]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        (row,) = csv.DictReader(line for line in done.stdout.splitlines() if line.startswith('"'))
        return {"rps": float(row["rps"]) / self.entities}


def table(report):
    """What would be needed for the target, and what there is at most."""
    floors = {"bare": "bare hyper, the same bytes", "redis": "Redis alone", "both": "hyper that asks Redis"}
    lines = [f"| entities × features, callers | {' | '.join(floors.values())} | Feast × target | weir ÷ the lowest floor |"]
    lines.append("|---" * (len(floors) + 3) + "|")
    middle = lambda runs: sorted(run["rps"] for run in runs)[len(runs) // 2]
    for name, case in report["cases"].items():
        found, weir, feast = [middle(case[floor]) for floor in floors], middle(case["weir"]), middle(case["feast"])
        target = 30 if name.startswith("100x50") else 40
        what = name.replace("x", " × ").replace(" c=", ", ")
        wanted = f"{target * feast:,.0f}" if name.startswith(("1x10 ", "100x50 ")) else "–"
        at_most = " | ".join(f"{rps:,.0f}" for rps in found)
        lines.append(f"| {what} | {at_most} | {wanted} | {weir / min(found):.2f} |")
    return "\n".join(lines)
