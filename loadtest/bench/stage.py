"""Where a group is measured: its folder, its servers, and its rounds. Whatever it started ends with it."""

import shutil
import socket
import sys

from process import LOAD_CORE, LOADTEST, SERVER_CORE, WEIR, Failed, Others, Server, free_address, run


class Stage:
    """One group's. The data, made once for all groups, are in `data`."""

    def __init__(self, name, data, work, rounds, seconds):
        self.name, self.data, self.work, self.number, self.seconds = name, data, work, rounds, seconds
        self.servers, self.repeated = [], []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        # Redis was the first: nobody should complain of its absence.
        while self.servers:
            self.servers.pop().stop()

    def start(self, command, address=None, core=SERVER_CORE, admin=None):
        server = Server(command, address or free_address(), core, admin)
        self.servers.append(server)
        return server

    def redis(self, *more, address=None):
        address = address or free_address()
        port = address.split(":")[1]
        options = ["--bind", "127.0.0.1", "--port", port, "--save", "", "--appendonly", "no", "--dir", self.work]
        # What comes later in the command line wins.
        return self.start(["redis-server", *options, *more], address, LOAD_CORE)

    def weir(self, config, store, *more):
        listen, admin = free_address(), free_address()
        options = ["--config", config, "--listen", listen, "--admin", admin, *more]
        if store:
            options += ["--store", store]
        return self.start([WEIR, "serve", *options], listen, SERVER_CORE, admin)

    def load(self, config, store):
        """Fills the store with the rows of a configuration."""
        run([WEIR, "load", "--config", config, "--store", store], core=None)

    def forget(self, folder):
        shutil.rmtree(self.work / folder, ignore_errors=True)

    def floor(self, reply, *more):
        listen = free_address()
        return self.start([LOADTEST, "floor", "--listen", listen, "--reply", reply, *more], listen)

    def tried(self, name, case):
        """A run that failed is repeated once, and told of: a refusal under noise shall not cost a whole group."""
        try:
            return case()
        except Failed as why:
            self.repeated.append(name)
            print(f"{self.name}: {name} is repeated: {why}", file=sys.stderr)
            return case()

    def progress(self, said):
        """A line that the next one overwrites, for those who look."""
        if sys.stderr.isatty():
            print(f"\r{said:72}\r", end="", file=sys.stderr, flush=True)

    def drop(self, server):
        """Ends a server before the group does, at once."""
        self.servers.remove(server)
        server.kill()

    def rounds(self, cases, check=lambda: None):
        """Runs all cases in turn, as often as there are rounds; their results by name, and what others did meanwhile.
        What is divided by each other stands side by side in `cases`."""
        check()
        results = {name: [] for name in cases}
        others = Others(self.servers)
        for number in range(self.number):
            for name, case in cases.items():
                self.progress(f"{self.name}: round {number + 1} of {self.number}, {name}")
                results[name].append(self.tried(name, case))
        self.progress("")
        facts = {"others_share": others.share(), "repeated": self.repeated}
        check()
        return {"cases": results, "facts": facts}


def flush(redis):
    """Empties a Redis."""
    with socket.create_connection(("127.0.0.1", int(redis.port))) as s:
        s.sendall(b"FLUSHALL\r\n")
        if not s.recv(16).startswith(b"+OK"):
            raise Failed("Redis was not emptied")
