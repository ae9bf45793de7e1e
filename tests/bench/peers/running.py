"""Installs the peers in a scratch environment and measures them: drain, pick-up and idle cost.

Every task writes its start and end to a file, in all peers.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Callable, Optional, TypeVar
from urllib.parse import urlsplit, urlunsplit

import psutil

from tests.bench import Bench, BenchError
from tests.bench.peers import POSTGRESQL, REDIS, Peer, known
from tests.bench.pool import cpu_of, pss_of
from tests.bench.scratch import eventually
from tests.bench.submit import free_port

Measured = TypeVar("Measured")
ADDRESS = "QUEUECTL_BENCH_POSTGRES"  # names a PostgreSQL in which a database may be made

# What every peer runs. `main` enqueues and tells how many a second: one after the other, or all by one call ("many").
# Of "clock" it tells how long each took to begin.
_JOB = """
import importlib, os, random, subprocess, sys, time

_file = os.open(os.environ["BENCH_TIMES"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)

def run():
    began = time.time_ns()
    code = subprocess.run('true', shell=True, capture_output=True).returncode
    os.write(_file, b"%d %d\\n" % (began, time.time_ns()))
    return code

def clock():
    done = subprocess.run('date +%s%N', shell=True, capture_output=True)
    os.write(_file, done.stdout)
    return done.returncode

def main(name, kind, number):
    peer = importlib.import_module(name)
    getattr(peer, "prepare", lambda: None)()
    if kind != "clock":
        began = time.monotonic()
        if kind == "many":
            peer.put_many(number)
        else:
            for _ in range(number):
                peer.PUT["run"]()
        print(number / (time.monotonic() - began))
        return
    put = peer.PUT[kind]
    with open(os.environ["BENCH_TIMES"], "rb") as told:
        for _ in range(number):
            began = time.time_ns()
            put()
            line = b""
            while not line.endswith(b"\\n"):
                time.sleep(0.012)
                line += told.readline()
            print((int(line) - began) / 1e6, flush=True)
            time.sleep(random.uniform(0, 0.02))

if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
"""
_WARM = 3  # of the samples, which are left out: the first ones load what later ones find


@dataclass
class Place:
    """Where the peers are installed, the servers they need, and their versions."""

    bench: Bench
    folder: Path
    redis: str = ""
    postgresql: str = ""
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def times(self) -> Path:
        return self.folder / "times"

    def program(self, name: str) -> str:
        return str(self.folder / "venv" / "bin" / name)

    def environment(self) -> dict[str, str]:
        more = {
            "BENCH_TIMES": str(self.times),
            "BENCH_REDIS": self.redis,
            "BENCH_POSTGRESQL": self.postgresql,
            "PYTHONPATH": str(self.folder),
        }
        return self.bench.scratch.environment(more=more)

    def start(self, *command: str) -> subprocess.Popen[bytes]:
        return self.bench.scratch.start(list(command), self.environment(), cwd=self.folder)

    def run(self, *command: str, within: float = 300) -> str:
        """Run a program to its end; return its output. Raises BenchError."""
        answer = self.folder / "answer"
        with answer.open("wb") as out:
            process = self.bench.scratch.start(list(command), self.environment(), cwd=self.folder, out=out.fileno())
            self.bench.scratch.wait(process, within)
        return answer.read_text()


@dataclass(frozen=True, eq=False)
class Running:
    """A peer that is installed."""

    peer: Peer
    place: Place

    @property
    def title(self) -> str:
        return f"{self.peer.title} {self.place.versions.get(self.peer.packages[0], '')}".strip()

    def at(self, postgresql: str) -> Running:
        """The same on another database."""
        return replace(self, place=replace(self.place, postgresql=postgresql))

    def as_processes(self) -> Running:
        """The same with as many processes as there are to be workers. Only of a peer that tells how."""
        return replace(self, peer=replace(self.peer, workers=self.peer.processes or self.peer.workers))

    def drain(self, workers: int, jobs: int) -> float:
        """Jobs a second, from the first start to the last end. Raises BenchError."""
        self.reset()
        self._put("run", jobs)
        with self.working(workers):
            return self._done(jobs)

    def drains(self, jobs: int) -> float:
        """The same of workers that are there, and of jobs that one call enqueues."""
        self.place.times.write_text("")
        self._put("many", jobs)
        return self._done(jobs)

    def _done(self, jobs: int) -> float:
        eventually(f"{self.title} has done its jobs", lambda: self._lines() >= jobs, 60 + jobs / 5, every=0.2)
        times = [tuple(map(int, line.split())) for line in self.place.times.read_text().splitlines()]
        if len(times) != jobs:
            raise BenchError(f"{self.title} was given {jobs:,} jobs and did {len(times):,}.")
        return jobs / ((max(end for _, end in times) - min(began for began, _ in times)) / 1e9)

    def pick_up(self, samples: int) -> list[float]:
        """Milliseconds from the call that enqueues to the command's own clock. Raises BenchError."""
        self.reset()
        with self.working(1):
            return self.picks_up(samples)

    def picks_up(self, samples: int) -> list[float]:
        """The same of workers that are there."""
        self.place.times.write_text("")
        told = self._put("clock", samples + _WARM)
        return [float(line) for line in told.splitlines()[_WARM:]]

    def stores(self, kind: str, jobs: int) -> float:
        """Jobs enqueued a second: `one` at a time, or `many` by one call. Raises BenchError."""
        return float(self._put(kind, jobs))

    def idle(self, workers: int, settling: float, window: float) -> tuple[float, float]:
        """CPU seconds a minute and PSS (MiB) of all its processes, its server's left out. Raises BenchError."""
        self.reset()
        with self.working(workers) as process:
            time.sleep(settling)
            return self.idles(process.pid, window)

    def idles(self, pid: int, window: float) -> tuple[float, float]:
        """The same of workers that are there."""
        family = [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]
        before, began = sum(map(cpu_of, family)), time.monotonic()
        time.sleep(window)
        spent = (sum(map(cpu_of, family)) - before) / ((time.monotonic() - began) / 60)
        return spent, sum(map(pss_of, family))

    def reset(self) -> None:
        """Empty its queue, or create it. Raises BenchError."""
        self.place.run(self.place.program("python"), "-c", self.peer.reset)
        self.place.times.write_text("")

    def _put(self, kind: str, number: int) -> str:
        job = str(self.place.folder / "bench_job.py")
        return self.place.run(self.place.program("python"), job, self.peer.name, kind, str(number))

    def _lines(self) -> int:
        return self.place.times.read_bytes().count(b"\n")

    @contextmanager
    def working(self, count: int) -> Iterator[subprocess.Popen[bytes]]:
        """Start this number of workers, which are killed at the end."""
        program, *options = self.peer.workers(count)
        words = [word.format(redis=self.place.redis) for word in options]
        process = self.place.start(self.place.program(program), *words)
        try:
            yield process
        finally:
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a peer and all its processes, after its work."""
    family = [psutil.Process(process.pid)] if process.poll() is None else []
    family += family[0].children(recursive=True) if family else []
    for one in family:
        with contextlib.suppress(psutil.Error):
            one.send_signal(signal.SIGKILL)
    process.wait()
    psutil.wait_procs(family, timeout=10)


def attempt(bench: Bench, peer: Running, look: Callable[[Running], Measured]) -> Optional[Measured]:
    """Measure a peer. After a failure it is left out, with its error."""
    try:
        return look(peer)
    except BenchError as error:
        bench.left_out.append(f"{peer.title}: {error}")
        bench.peers.remove(peer)
        return None


# --- installing ------------------------------------------------------------------------------------------------------


@contextmanager
def installed(bench: Bench, needs: Optional[str] = None) -> Iterator[None]:
    """`bench.peers` are all that can be measured here; why others cannot, `bench.left_out` says.

    `needs`: only those that need this.
    """
    place = Place(bench, bench.scratch.kept("peers"))
    candidates = [peer for peer in known() if needs in (None, peer.needs)]
    with contextlib.ExitStack() as servers:
        missing = {POSTGRESQL: _no_postgresql()}
        if any(peer.needs == REDIS for peer in candidates):
            missing[REDIS] = _redis(place, servers)
        wanted = [peer for peer in candidates if not missing.get(peer.needs)]
        for peer in candidates:
            if missing.get(peer.needs):
                bench.left_out.append(f"{peer.title}: {missing[peer.needs]}")
        try:
            _install(place, wanted)
            if any(peer.needs == POSTGRESQL for peer in wanted):
                _make_database(place, servers)
        except BenchError as error:
            bench.left_out.append(f"all peers: they could not be installed. {error}")
        else:
            bench.peers = [Running(peer, place) for peer in wanted]
        yield


def _install(place: Place, peers: Sequence[Peer]) -> None:
    packages = sorted({package for peer in peers for package in peer.packages})
    place.bench.say(f"installing {', '.join(packages)} in a scratch environment")
    place.run(sys.executable, "-m", "venv", str(place.folder / "venv"))
    pip = (place.program("python"), "-m", "pip", "--disable-pip-version-check")
    place.run(*pip, "install", "--quiet", *packages, within=900)
    listed = json.loads(place.run(*pip, "list", "--format", "json"))
    place.versions = {one["name"].lower(): one["version"] for one in listed}
    (place.folder / "bench_job.py").write_text(_JOB)
    for peer in peers:
        (place.folder / f"{peer.name}.py").write_text(peer.script)


def _redis(place: Place, servers: contextlib.ExitStack) -> str:
    """Start a private Redis with default settings. Returns why there is none."""
    program = shutil.which("redis-server")
    if program is None:
        return "there is no redis-server on the PATH."
    port = free_port()
    process = place.start(program, "--port", str(port), "--bind", "127.0.0.1", "--dir", str(place.folder))
    servers.callback(_end, process)
    place.redis = f"redis://127.0.0.1:{port}/0"
    return ""


def _no_postgresql() -> str:
    """Why there is no PostgreSQL; empty where there is one."""
    if os.environ.get(ADDRESS):
        return ""
    return f"it needs PostgreSQL; name one in {ADDRESS} (postgresql://user@host/database)."


_DATABASE = """
import psycopg, sys
with psycopg.connect(sys.argv[1], autocommit=True) as connection:
    connection.execute(sys.argv[2])
"""


def _make_database(place: Place, servers: contextlib.ExitStack) -> None:
    """Make a scratch database in the server that the environment names. Raises BenchError."""
    server = os.environ[ADDRESS]
    parts, name = urlsplit(server), f"queuectl_bench_{uuid.uuid4().hex[:12]}"
    place.run(place.program("python"), "-c", _DATABASE, server, f"CREATE DATABASE {name}")
    drop = f"DROP DATABASE {name} WITH (FORCE)"
    servers.callback(place.run, place.program("python"), "-c", _DATABASE, server, drop)
    place.postgresql = urlunsplit(parts._replace(path=f"/{name}"))
