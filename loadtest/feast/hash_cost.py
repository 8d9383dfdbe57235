"""What one read of a Feast hash costs Redis, by HMGET of some fields and by HGETALL: where to go over from the one to the
other. Time is the server's own processor time, so that a busy machine does not spoil it.

    hash_cost.py [--fields N] [--reads N]
"""

import argparse
import random
import socket
import tempfile
from pathlib import Path

import redis
from feast.infra.online_stores.helpers import _mmh3
from feast.protos.feast.types.Value_pb2 import Value
from servers import Servers

# Hashes that are read in turn, so that none of them stays in the processor's cache.
HASHES = 20_000
# Commands sent at once, as one request for as many entities does.
BATCH = 100


def command(*words):
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--fields", type=int, default=50, help="features of the view")
    arguments.add_argument("--reads", type=int, default=20_000, help="reads of each kind")
    given = arguments.parse_args()
    fields = [_mmh3(f"view:f{n}") for n in range(given.fields)]
    with tempfile.TemporaryDirectory() as folder, Servers(Path(folder) / "logs") as running:
        server = running.redis(Path(folder) / "redis")
        server.await_start()
        port = int(server.address.rsplit(":", 1)[1])
        client, rng = redis.Redis(port=port), random.Random(1)
        fill(client, fields, rng)
        line = socket.create_connection(("127.0.0.1", port))

        def cost(*words):
            before = processor_s(client)
            for _ in range(given.reads // BATCH):
                names = (b"hash:%d" % rng.randrange(HASHES) for _ in range(BATCH))
                line.sendall(b"".join(command(words[0], name, *words[1:]) for name in names) + command(b"PING"))
                tail = b""
                while tail != b"+PONG\r\n":
                    tail = (tail + line.recv(1 << 20))[-7:]
            return (processor_s(client) - before) / given.reads * 1e6

        cost(b"HGETALL")
        print("| read | µs of Redis |\n|---|---|")
        print(f"| HGETALL of {given.fields + 1} fields | {cost(b'HGETALL'):.1f} |")
        for share in (0.02, 0.1, 0.2, 0.25, 0.33, 0.5, 1.0):
            wanted = rng.sample(fields, max(1, round(len(fields) * share))) + [b"_ts:view"]
            print(f"| HMGET of {len(wanted)} | {cost(b'HMGET', *wanted):.1f} |")


def fill(client, fields, rng):
    pipeline = client.pipeline(transaction=False)
    for n in range(HASHES):
        values = {field: Value(double_val=rng.random()).SerializeToString() for field in fields}
        pipeline.hset(f"hash:{n}", mapping={b"_ts:view": b"\x08\x01", **values})
        if n % 1000 == 999:
            pipeline.execute()


def processor_s(client):
    used = client.info("cpu")
    return used["used_cpu_user"] + used["used_cpu_sys"]


if __name__ == "__main__":
    main()
