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

VIEW = "driver_stats"
# From the kill until weir must be right again: the cluster's own second and its election, many times over.
RECOVERY_S_MAX = 30
# So many whole answers in a row, one every POLL_S, and it has recovered.
RIGHT_AT_LAST, POLL_S = 40, 0.02
DOWN = "while a master is lost"


def lose_a_master(pair, tally):
    """Every answer is counted in `tally`; returns lines for the report."""
    view, line = pair.reference.views[VIEW], Line(pair.http[1])
    client = pair.candidate.client()
    owners = [client.get_node_from_key(redis_key(pair.candidate, view, row)).port for row in view.rows]
    body = {
        "entities": {key: [row[key] for row in view.rows] for key in view.keys},
        "features": [f"{VIEW}:{name}" for name in view.features],
    }
    request = Request("a master is lost", json.dumps(body).encode(), headers=dict(JSON))
    before = by_row(Line(pair.http[0]).send(request))
    masters = [server for server in pair.candidate.store.servers if server.port in owners]
    dead = next(server for server in masters if server.port == owners[0])
    for master in masters:
        await_that("the replicas have everything", lambda master=master: has_caught_up(plain(master)))
    lost = [n for n, owner in enumerate(owners) if owner == dead.port]

    def ask(when):
        """Whether all rows were as before; counts the two sorts of keys apart."""
        reply = line.send(request)
        rows = by_row(reply)
        example = lambda: {"request": request.as_json(), "status": reply.status, "body": reply.body.decode()[:3000]}
        if rows is None:
            tally.add(pair.name, f"{when}: an answer at all", ERROR, example)
            return False
        different = [n for n, row in enumerate(rows) if row != before[n]]
        others = ANSWER if any(n not in lost for n in different) else None
        tally.add(pair.name, f"{when}: keys of the other masters", others, example)
        wrong = [n for n in different if n in lost and (when != DOWN or not is_gone(rows[n]))]
        tally.add(pair.name, f"{when}: keys of the lost master", ANSWER if wrong else None, example)
        return not different

    ask("before a master is lost")
    dead.process.kill()
    killed = time.monotonic()
    right, asked, degraded = 0, 0, 0
    while right < RIGHT_AT_LAST and time.monotonic() < killed + RECOVERY_S_MAX:
        is_right = ask(DOWN)
        asked, degraded, right = asked + 1, degraded + (not is_right), right + 1 if is_right else 0
        # What a cache might still know does not count before there is somebody to ask.
        if not has_taken_over(pair.candidate.store.servers, dead):
            right = 0
        recovered = time.monotonic() - killed
        time.sleep(POLL_S)
    for _ in range(RIGHT_AT_LAST):
        ask("after the failover")
    line.close()
    note = f"{len(lost)} of {len(owners)} keys lost their master; {degraded} of {asked} answers went without them"
    return [(right >= RIGHT_AT_LAST, f"{note}; right again {recovered:.1f} s after the kill")]


def has_taken_over(servers, dead):
    return sum(plain(server).info("replication")["role"] == "master" for server in servers if server is not dead) == MASTERS


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
