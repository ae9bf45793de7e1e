"""Our side of a section: homes filled with jobs, pools of workers, and their cost."""

from __future__ import annotations

import ctypes
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
from sqlalchemy import text

from tests.bench import Bench, BenchError
from tests.bench.scratch import Used, eventually, opened
from webapp.core.job_spec import JobSpec
from webapp.db.engines import reading
from webapp.jobs.actions import enqueue

ACTOR = "person:bench"
ENDED = "SELECT count(*) FROM jobs WHERE state = 'completed'"


def fill(home: Path, command: str, number: int) -> None:
    """Create a home with this number of jobs."""
    with opened(home):
        enqueue([JobSpec(command=command)] * number, ACTOR)


def ask(statement: str) -> list[tuple[float, ...]]:
    """The answer of the context's database."""
    with reading() as session:
        return [tuple(row) for row in session.execute(text(statement))]


def number(statement: str) -> int:
    return int(ask(statement)[0][0] or 0)


@dataclass(frozen=True)
class Drained:
    """An emptied queue: jobs per second from the first start to the last end, CPU seconds of all processes."""

    rate: float
    used: Used


def drain(bench: Bench, command: str, jobs: int, *options: str, environment: Mapping[str, str]) -> Drained:
    """Run the jobs of a new home with `worker start --drain`, and check that each ran once."""
    home = bench.scratch.home()
    fill(home, command, jobs)
    process = bench.scratch.manage(home, "worker", "start", *options, "--drain", **environment)
    used = bench.scratch.wait(process, within=60 + jobs / 20)
    return Drained(rate_of(home, jobs), used)


def rate_of(home: Path, jobs: int) -> float:
    """Jobs per second in this home. Raises BenchError unless all completed at their first attempt."""
    with opened(home):
        [(first, last, attempts)] = ask("SELECT min(started_at), max(finished_at), count(*) FROM attempts")
        completed = number(ENDED)
    if not completed == attempts == jobs:
        raise BenchError(f"of {jobs:,} jobs {completed:,} completed, with {attempts:,.0f} attempts.")
    return jobs / ((last - first) / 1e6)


@contextmanager
def workers(
    bench: Bench, home: Path, count: int, *options: str, **environment: str
) -> Iterator[subprocess.Popen[bytes]]:
    """Start a supervisor with this number of workers on the context's database, and wait for them."""
    process = bench.scratch.manage(home, "worker", "start", "--count", str(count), *options, **environment)
    running = "SELECT count(*) FROM workers WHERE state = 'running'"
    eventually("workers are there", lambda: number(running) == count or _ended(process), 60)
    if process.poll() is not None:
        raise bench.scratch.failed("the workers did not start")
    yield process
    bench.scratch.stop(process, within=60)


def _ended(process: subprocess.Popen[bytes]) -> bool:
    return process.poll() is not None


@dataclass(frozen=True)
class Pool:
    """The processes of one `worker start`, by pid. Those of the jobs' commands are none of them."""

    supervisor: int
    maintenance: list[int]
    workers: list[int]

    @property
    def all(self) -> list[int]:
        return [self.supervisor, *self.maintenance, *self.workers]


def pool_of(process: subprocess.Popen[bytes]) -> Pool:
    """The processes of a supervisor; the context's database knows which children are workers."""
    children = [child.pid for child in psutil.Process(process.pid).children()]
    known = {int(pid) for (pid,) in ask("SELECT pid FROM workers WHERE state = 'running'")}
    return Pool(process.pid, [pid for pid in children if pid not in known], [pid for pid in children if pid in known])


def cpu_of(pid: int) -> float:
    """The CPU seconds of a process, user and system, all its threads, without its children.

    By the process's CPU clock where there is one, in nanoseconds: an idle minute is less than the 10 ms steps of /proc.
    """
    if sys.platform == "linux":
        clock_id = ctypes.c_int()
        if ctypes.CDLL(None).clock_getcpuclockid(pid, ctypes.byref(clock_id)) == 0:
            return time.clock_gettime(clock_id.value)
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def pss_of(pid: int) -> float:
    """The memory of a process in MiB, what it shares divided among those that share it. Raises BenchError."""
    try:
        return float(psutil.Process(pid).memory_full_info().pss) / 1024**2
    except AttributeError:
        raise BenchError("this system does not tell what processes share (PSS).") from None
