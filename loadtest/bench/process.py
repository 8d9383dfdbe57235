"""Processes under test and processes that load them, each on a core of its own, and none that outlives this one."""

import ctypes
import os
import re
import resource
import signal
import socket
import subprocess
import time
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
WEIR = REPO / "target/release/weir"
LOADTEST = REPO / "target/release/weir-loadtest"
CLUSTER_CLIENT = REPO / "target/release/examples/cluster_client"

SERVER_CORE, LOAD_CORE = 0, 1
TICKS = os.sysconf("SC_CLK_TCK")
# A gateway compiles its transforms before it listens; a busy machine takes its time.
START_S_MAX = 60
STOP_S_MAX = 20
# A program that is run to its end takes seconds; one that hangs must not hang the benchmark.
RUN_S_MAX = 240

# From linux/prctl.h: the child gets a signal when its parent dies, even of SIGKILL.
PR_SET_PDEATHSIG = 1
LIBC = ctypes.CDLL(None)


class Failed(Exception):
    """What keeps a group from being measured; the others go on."""


def alone_on(core):
    """A session of its own: Linux shares busy cores among sessions (autogroup), and a server with more threads
    would otherwise get more of its core than its neighbour in the table."""

    def prepare():
        os.setsid()
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if core is not None:
            os.sched_setaffinity(0, {core})

    return prepare


def run(command, core=LOAD_CORE):
    """Runs a program to its end; what it says. Whatever interrupts us ends it too, in the order that it has for that."""
    command = [str(c) for c in command]
    said = " ".join(command)
    try:
        process = subprocess.Popen(command, preexec_fn=alone_on(core), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    except OSError as why:
        raise Failed(f"{said}: {why}") from None
    try:
        out, err = process.communicate(timeout=RUN_S_MAX)
    except BaseException as why:
        process.terminate()
        try:
            process.wait(timeout=STOP_S_MAX)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if isinstance(why, subprocess.TimeoutExpired):
            raise Failed(f"{said}: not done after {RUN_S_MAX} s") from None
        raise
    if process.returncode != 0:
        raise Failed(f"{said}\n{out}{err}")
    return out


def free_address():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{s.getsockname()[1]}"


class Server:
    """A process under test, with its processor time and memory (its children's too) as the kernel counts them."""

    def __init__(self, command, address, core=None, admin=None):
        self.address, self.admin = address, admin
        self.command = [str(c) for c in command]
        env = os.environ | {"RUST_LOG": "warn"}
        self.process = subprocess.Popen(self.command, preexec_fn=alone_on(core), stdout=subprocess.DEVNULL, env=env)
        try:
            self.await_port()
        except BaseException:
            self.kill()
            raise

    @property
    def port(self):
        return self.address.rsplit(":", 1)[1]

    def await_port(self):
        deadline = time.monotonic() + START_S_MAX
        while True:
            try:
                return socket.create_connection(("127.0.0.1", int(self.port)), timeout=1).close()
            except OSError:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    raise Failed(f"{' '.join(self.command)} did not start") from None
                time.sleep(0.02)

    def pids(self):
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        try:
            return [self.process.pid, *map(int, children.read_text().split())]
        except OSError:
            return [self.process.pid]

    def cpu_s(self):
        total = 0
        for pid in self.pids():
            fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            total += int(fields[11]) + int(fields[12])
        return total / TICKS

    def rss_mb(self):
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) / 1e3

    def kill(self):
        """At once, with its children: what a journal still holds in shared memory would otherwise be sealed first, and stay behind."""
        try:
            maps = Path(f"/proc/{self.process.pid}/maps").read_text()
        except OSError:
            maps = ""
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()
        for path in set(re.findall(r"/dev/shm/\S+", maps)):
            Path(path).unlink(missing_ok=True)

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(timeout=STOP_S_MAX)
            except subprocess.TimeoutExpired:
                pass
        self.kill()


class Others:
    """How much of the machine went to processes that are none of ours."""

    def __init__(self, servers):
        self.servers = list(servers)
        self.before, self.started = self.busy_s() - self.own_s(), time.monotonic()

    def busy_s(self):
        user, nice, system, _, _, *rest = map(int, Path("/proc/stat").read_text().split("\n")[0].split()[1:])
        # irq, softirq and steal; guests are counted as users already.
        return (user + nice + system + sum(rest[:3])) / TICKS

    def own_s(self):
        used = [resource.getrusage(who) for who in (resource.RUSAGE_CHILDREN, resource.RUSAGE_SELF)]
        return sum(u.ru_utime + u.ru_stime for u in used) + sum(server.cpu_s() for server in self.servers)

    def share(self):
        spent = self.busy_s() - self.own_s() - self.before
        return max(spent, 0) / (time.monotonic() - self.started) / os.cpu_count()
