"""Starts the processes that the tests and the benchmark compare: Redis, Feast's own feature servers, and weir.

Each gets free ports and a log file of its own, is waited for by asking it, and is ended with everything it started,
however this program ends. What did not start shows its log.
"""

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import grpc
import redis

REPO = Path(__file__).resolve().parents[2]
FEAST = Path(sys.executable).parent / "feast"

# Feast alone imports for five seconds on an idle core, and several may start at once.
START_S_MAX = 120
STOP_S_MAX = 10
# Between two questions whether a server is up: short next to any start, and cheap.
POLL_S = 0.05
LOG_LINES_SHOWN = 40

# From linux/prctl.h: the child gets a signal when its parent dies, even of SIGKILL.
PR_SET_PDEATHSIG = 1
LIBC = ctypes.CDLL(None)


class NotStarted(Exception):
    """A server that ended, or did not answer in time; the text holds the end of its log."""


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def end_with_parent():
    """The kernel means the thread that started it, so servers are started by a thread that stays: the main one."""
    os.setsid()
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


class Server:
    """A running process, the address it listens on, and its log."""

    def __init__(self, name, command, log, address, is_up, env=None):
        self.name, self.log, self.address, self.is_up = name, Path(log), address, is_up
        with self.log.open("ab") as out:
            self.process = subprocess.Popen(
                [str(part) for part in command],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                preexec_fn=end_with_parent,
                env=os.environ | (env or {}),
            )

    @property
    def url(self):
        return f"http://{self.address}"

    @property
    def port(self):
        return int(self.address.rsplit(":", 1)[1])

    def await_start(self):
        deadline = time.monotonic() + START_S_MAX
        while not self.is_up():
            ended = self.process.poll() is not None
            if ended or time.monotonic() > deadline:
                self.stop()
                why = f"ended with {self.process.returncode}" if ended else f"did not answer within {START_S_MAX} s"
                raise NotStarted(f"{self.name} {why}; the end of its log ({self.log}):\n{self.log_end()}")
            time.sleep(POLL_S)

    def log_end(self):
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-LOG_LINES_SHOWN:])

    def pids(self):
        """The process and all its descendants, for counting memory."""
        children = {}
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = stat.read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue
            children.setdefault(int(fields[1]), []).append(int(stat.parent.name))
        found, queue = [], [self.process.pid]
        while queue:
            pid = queue.pop()
            found.append(pid)
            queue += children.get(pid, [])
        return found

    def signal(self, number):
        try:
            # The server's session is its own, so this reaches its workers too and nobody else.
            os.killpg(self.process.pid, number)
        except ProcessLookupError:
            pass

    def stop(self):
        """Asks to end, as an operator would; then insists."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(timeout=STOP_S_MAX)
            except subprocess.TimeoutExpired:
                pass
        self.signal(signal.SIGKILL)
        self.process.wait()


def is_healthy(url):
    def ask():
        try:
            with urllib.request.urlopen(url, timeout=2) as reply:
                return reply.status == 200
        except (urllib.error.URLError, OSError):
            return False

    return ask


def is_ready_for_grpc(address):
    def ask():
        with grpc.insecure_channel(address) as channel:
            try:
                grpc.channel_ready_future(channel).result(timeout=1)
                return True
            except grpc.FutureTimeoutError:
                return False

    return ask


def bus_and_port():
    """A free port for a node of a Redis Cluster, whose other port, for the other nodes, is 10,000 higher."""
    while True:
        port = free_port()
        try:
            with socket.socket() as s:
                s.bind(("127.0.0.1", port + 10_000))
                return port
        except (OSError, OverflowError):
            continue


def answers_ping(port, password=None):
    def ask():
        try:
            return redis.Redis(port=port, password=password, socket_timeout=2).ping()
        except redis.RedisError:
            return False

    return ask


def end_on_sigterm():
    """SIGTERM ends this program like Ctrl-C does: every `with` is left in order."""

    def leave(*_):
        raise SystemExit("ended by SIGTERM")

    signal.signal(signal.SIGTERM, leave)


class Servers:
    """All servers of one run; leaving the `with` ends them, the last started first.

    The methods that start one return at once, so that several can start at a time; `ready` waits for all of them."""

    def __init__(self, logs):
        self.logs = Path(logs)
        self.logs.mkdir(parents=True, exist_ok=True)
        self.running = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop(self.running)

    def stop(self, servers):
        for server in reversed(list(servers)):
            server.stop()
            if server in self.running:
                self.running.remove(server)

    def ready(self):
        for server in self.running:
            server.await_start()

    def start(self, name, command, address, is_up, env=None):
        number = len(list(self.logs.iterdir()))
        server = Server(name, command, self.logs / f"{number:02}-{name}.log", address, is_up, env)
        self.running.append(server)
        return server

    def redis(self, folder, *more, port=None, password=None):
        folder, port = Path(folder), port or free_port()
        folder.mkdir(parents=True, exist_ok=True)
        options = ["--save", "", "--appendonly", "no", "--dir", folder, "--bind", "127.0.0.1", *more]
        if password:
            options += ["--requirepass", password]
        command = ["redis-server", "--port", port, *options]
        return self.start("redis", command, f"127.0.0.1:{port}", answers_ping(port, password))

    def feast_http(self, repo, workers=1):
        port = free_port()
        # By default a worker is replaced every thousand requests, and those of the moment with it.
        options = ["--no-access-log", "--workers", workers, "--max-requests", 0]
        return self.start(
            "feast-http",
            [FEAST, "-c", repo, "serve", "-h", "127.0.0.1", "-p", port, *options],
            f"127.0.0.1:{port}",
            is_healthy(f"http://127.0.0.1:{port}/health"),
            FEAST_ENV,
        )

    def feast_grpc(self, repo):
        address = f"127.0.0.1:{free_port()}"
        # A server of ten threads is what Feast's own documentation starts.
        command = [FEAST, "-c", repo, "listen", "-a", address, "-w", 10]
        return self.start("feast-grpc", command, address, is_ready_for_grpc(address), FEAST_ENV)

    def weir(self, repo, *more):
        listen, admin = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
        command = [weir_binary(), "serve", "--feast", repo, "--listen", listen, "--admin", admin, *more]
        return self.start("weir", command, listen, is_healthy(f"http://{listen}/health"))

    def floor(self, binary, reply, *options):
        """hyper by itself, which answers everything with these bytes."""
        address = f"127.0.0.1:{free_port()}"
        command = [binary, "floor", "--door", "http1", "--listen", address, "--reply", reply, *options]
        return self.start("floor", command, address, is_healthy(f"http://{address}/"))


# No calls home, and no page of warnings for every key of an older format.
FEAST_ENV = {"FEAST_USAGE": "False", "PYTHONWARNINGS": "ignore"}


def weir_binary():
    """WEIR, or the release build, or the debug build: the first that is there and knows about Feast."""
    named = os.environ.get("WEIR")
    places = [Path(named)] if named else [REPO / "target/release/weir", REPO / "target/debug/weir"]
    there = [place for place in places if place.is_file()]
    for place in there:
        known = subprocess.run([place, "serve", "--help"], capture_output=True, text=True)
        if "--feast" in known.stdout + known.stderr:
            return place
    if there:
        raise SystemExit(
            f"no `serve --feast` in {' or '.join(map(str, there))}: build anew, or name a binary in WEIR"
        )
    raise SystemExit(f"no weir at {' or '.join(map(str, places))}: cargo build --release -p weir")
