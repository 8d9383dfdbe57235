"""Kills a master of weir's Redis Cluster while weir is asked, and judges every answer from then on: keys of the other
masters as before, the dead one's as before or clearly not there, and all as before once a replica has taken over.
"""

import json
import time

import redis
from feast.infra.online_stores.helpers import _redis_key
from feast.protos.feast.types.EntityKey_pb2 import EntityKey

from compare import ANSWER, ERROR
from exchange import Line
from good_requests import Request
from odd import JSON
from stores import MASTERS, await_that, has_caught_up
from values import KEYS

# Views of one entity. weir is asked for the first before the kill and may still know its values; for the second only
# afterwards (unless a read before happened to want it), so nobody knows what the lost master had.
KNOWN, UNKNOWN = "driver_stats", "driver_profile"
# From the kill until weir must be right again: the cluster's own second and its election, many times over.
RECOVERY_S_MAX = 30
# So many whole answers in a row, one every POLL_S, and it has recovered.
RIGHT_AT_LAST, POLL_S = 40, 0.02
DOWN = "while a master is lost"


class AllRows:
    """A request for all rows of a view that Feast can answer, and what it answers."""

    def __init__(self, pair, name):
        view, client = pair.reference.views[name], pair.candidate.client()
        self.name, self.pair = name, pair
        feast = Line(pair.http[0])
        # Feast fails where one row's time is beyond the year 9999, so such a row would hide all others.
        rows = [row for row in view.rows if feast.send(self.asking(view, [row])).status == 200]
        self.owners = [client.get_node_from_key(redis_key(pair.candidate, view, row)).port for row in rows]
        self.request = self.asking(view, rows)
        self.before = by_row(feast.send(self.request))
        feast.close()
        self.answers, self.degraded = 0, 0

    def asking(self, view, rows):
        body = {
            "entities": {key: [row[key] for row in rows] for key in view.keys},
            "features": [f"{view.name}:{feature}" for feature in view.features],
        }
        return Request("a master is lost", json.dumps(body).encode(), headers=dict(JSON))

    def ask(self, line, when, lost, tally):
        """Whether all rows were as before; counts the two sorts of keys apart."""
        reply = line.send(self.request)
        rows, repo, what = by_row(reply), self.pair.name, f"{when}: {self.name}"
        example = lambda: {
            "request": self.request.as_json(),
            "status": reply.status,
            "body": reply.body.decode("utf-8", "replace")[:6000],
        }
        self.answers += 1
        if rows is None or len(rows) != len(self.before):
            tally.add(repo, f"{what}, an answer at all", ERROR, example)
            return False
        different = [n for n, row in enumerate(rows) if row != self.before[n]]
        self.degraded += bool(different)
        of_others = [n for n in different if self.owners[n] != lost]
        tally.add(repo, f"{what}, keys of the other masters", ANSWER if of_others else None, example)
        wrong = [n for n in different if self.owners[n] == lost and not (when == DOWN and is_gone(rows[n]))]
        tally.add(repo, f"{what}, keys of the lost master", ANSWER if wrong else None, example)
        return not different


def lose_a_master(pair, tally):
    """Every answer is counted in `tally`; returns lines for the report."""
    known, unknown = (AllRows(pair, name) for name in (KNOWN, UNKNOWN))
    line, held = Line(pair.http[1]), pair.candidate.store.servers
    masters = [server for server in held if server.port in known.owners]
    for master in masters:
        await_that("the replicas have everything", lambda master=master: has_caught_up(plain(master)))
    dead = next(server for server in masters if server.port == known.owners[0])
    known.ask(line, "before a master is lost", dead.port, tally)
    dead.process.kill()
    killed = time.monotonic()
    right, recovered = 0, 0
    while right < RIGHT_AT_LAST and time.monotonic() < killed + RECOVERY_S_MAX:
        are_right = [view.ask(line, DOWN, dead.port, tally) for view in (known, unknown)]
        # What a cache might still know does not count before there is somebody to ask.
        right = right + 1 if all(are_right) and has_taken_over(held, dead) else 0
        if right == 1:
            recovered = time.monotonic() - killed
        time.sleep(POLL_S)
    for _ in range(RIGHT_AT_LAST):
        for view in (known, unknown):
            view.ask(line, "after the failover", dead.port, tally)
    line.close()
    without = ", ".join(f"{view.degraded} of {view.answers} of {view.name}" for view in (known, unknown))
    lost = f"{known.owners.count(dead.port)} of {len(known.owners)} keys lost their master"
    note = f"{lost}; answers without them: {without}"
    return [(right >= RIGHT_AT_LAST, f"{note}; right again {recovered:.1f} s after the kill")]


def has_taken_over(servers, dead):
    roles = [plain(server).info("replication")["role"] for server in servers if server is not dead]
    return roles.count("master") == MASTERS


def plain(server):
    return redis.Redis(port=server.port)


def redis_key(repo, view, row):
    key = EntityKey(join_keys=list(row), entity_values=[KEYS[view.keys[k]][1](value) for k, value in row.items()])
    return _redis_key(repo.project, key, entity_key_serialization_version=3)


def by_row(reply):
    """Per row what was said of each column, or nothing when it is no answer."""
    if reply.status != 200:
        return None
    answer = json.loads(reply.body)
    names, columns = answer["metadata"]["feature_names"], answer["results"]
    rows = zip(*(zip(one["values"], one["statuses"], one["event_timestamps"]) for one in columns))
    return [dict(zip(names, row)) for row in rows]


def is_gone(row):
    """Nothing is made up: a value that cannot be had is null and INVALID."""
    return all((value, status) == (None, "INVALID") for name, (value, status, _) in row.items() if name != "driver_id")
