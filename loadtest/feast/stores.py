"""The ways in which Feast can be told of a Redis, each as processes of its own on free ports: one server, one that
wants a password and another database, a cluster of three masters with a replica each, and a master that sentinels watch.

A layout's function starts everything, waits until it serves, and returns the connection string for Feast's settings.
"""

import subprocess
import time

import redis

from repo import SENTINEL_MASTER, Store
from servers import NotStarted, POLL_S, answers_ping, bus_and_port, free_port

# Feast splits parameters at commas and their values at the first "=", so all else may be in a password.
PASSWORD = "p=w&/+ü:@#7"
MASTERS, SENTINELS = 3, 3
# How soon a silent node is taken for dead: short, as the test waits for it.
NODE_TIMEOUT_MS = 1000
FORMED_S_MAX = 60


def single(running, folder):
    server = running.redis(folder)
    server.await_start()
    return Store(f"{server.address},db=0")


def password(running, folder):
    server = running.redis(folder, password=PASSWORD)
    server.await_start()
    return Store(f"localhost:{server.port},db=3,password={PASSWORD}")


def cluster(running, folder):
    # The slots of a dead master are missing for a second; those of the others shall be served all the while.
    options = ["--cluster-enabled", "yes", "--cluster-node-timeout", NODE_TIMEOUT_MS]
    options += ["--cluster-require-full-coverage", "no", "--repl-diskless-sync-delay", 0]
    nodes = [running.redis(folder / f"node-{n}", *options, port=bus_and_port()) for n in range(2 * MASTERS)]
    for node in nodes:
        node.await_start()
    addresses = [node.address for node in nodes]
    command = ["redis-cli", "--cluster", "create", *addresses, "--cluster-replicas", "1", "--cluster-yes"]
    made = subprocess.run(command, capture_output=True, text=True, timeout=FORMED_S_MAX)
    if made.returncode:
        raise NotStarted(f"no cluster was made: {made.stdout[-1000:]} {made.stderr[-1000:]}")
    clients = [redis.Redis(port=node.port) for node in nodes]
    await_that("the cluster is whole", lambda: all(is_whole(client) for client in clients))
    # Not all of the nodes: whoever is asked tells of the others.
    return Store(",".join(addresses[:2]), "redis_cluster", nodes)


def is_whole(client):
    state = client.cluster("info")["cluster_state"]
    of_all = sum(1 for node in client.cluster("nodes").values() if "slave" in node["flags"])
    return state == "ok" and of_all == MASTERS and has_caught_up(client)


def has_caught_up(client):
    """Whether a master's replicas have all it has, or a replica is in step with its master."""
    replication = client.info("replication")
    if replication["role"] == "slave":
        return replication["master_link_status"] == "up"
    replicas = [replication[f"slave{n}"] for n in range(replication["connected_slaves"])]
    return bool(replicas) and all(one["offset"] == replication["master_repl_offset"] for one in replicas)


def sentinel(running, folder):
    master = running.redis(folder / "master")
    replica = running.redis(
        folder / "replica", "--replicaof", f"127.0.0.1 {master.port}", "--repl-diskless-sync-delay", 0
    )
    for server in (master, replica):
        server.await_start()
    await_that("the replica has its data", lambda: has_caught_up(redis.Redis(port=replica.port)))
    watchers = []
    for n in range(SENTINELS):
        # A sentinel keeps what it learns in its settings, so they are a file.
        port, file = free_port(), folder / f"sentinel-{n}.conf"
        lines = [f"port {port}", "bind 127.0.0.1", f"dir {folder}"]
        lines += [f"sentinel monitor {SENTINEL_MASTER} 127.0.0.1 {master.port} 2"]
        lines += [f"sentinel down-after-milliseconds {SENTINEL_MASTER} {NODE_TIMEOUT_MS}"]
        file.write_text("\n".join(lines) + "\n")
        command = ["redis-server", file, "--sentinel"]
        watchers.append(running.start("sentinel", command, f"127.0.0.1:{port}", answers_ping(port)))
    for watcher in watchers:
        watcher.await_start()

    def know_one_another():
        known = [redis.Redis(port=one.port).sentinel_master(SENTINEL_MASTER) for one in watchers]
        return all(one["num-slaves"] == 1 and one["num-other-sentinels"] == SENTINELS - 1 for one in known)

    await_that("the sentinels know one another", know_one_another)
    return Store(",".join(watcher.address for watcher in watchers), "redis_sentinel", [master, replica])


def await_that(what, is_so):
    deadline = time.monotonic() + FORMED_S_MAX
    while not is_so():
        if time.monotonic() > deadline:
            raise NotStarted(f"not within {FORMED_S_MAX} s: {what}")
        time.sleep(POLL_S)
