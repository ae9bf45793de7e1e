"""Real workers: a supervisor as a separate process on the test's database, and jobs for it."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Callable, Optional

import psutil
import pytest
from flask import Flask
from sqlalchemy import select

from tests.deadline import DEADLINE
from tests.worker_connection import worker_connection
from webapp.config import CHECKOUT, Config
from webapp.core import job_spec
from webapp.core.storage.transaction import Connection
from webapp.db.engines import reading
from webapp.db.models import Attempt, Event, Job, Worker
from webapp.jobs import actions, job_detail, settings
from worker.messages import Assignment

_START = """
import json, logging, sys
sys.path.insert(0, sys.argv[1])
logging.basicConfig(level=logging.DEBUG, format="%(asctime)s %(name)s %(message)s")
from webapp.config import load
from worker import program
from worker.loop import wakeup
from worker.supervisor import supervisor
options = json.loads(sys.argv[2])
for name, most in options.pop("limits", {}).items():
    import resource
    resource.setrlimit(getattr(resource, name), (most, most))
program.ENTRY = options.pop("entry", program.ENTRY)
wakeup.CHECK_EVERY = options.pop("check_every", wakeup.CHECK_EVERY)
if "calm" in options:
    from webapp.notifications import group_recovery
    group_recovery.CALM = options.pop("calm")
sys.exit(supervisor.run(load(), **options))
"""


# For behaviour that is the same without fork, as on Windows. There one database is enough.
_no_fork = pytest.param("no fork", id="no-fork", marks=[pytest.mark.only("sqlite"), pytest.mark.full])
both_ways = pytest.mark.parametrize("way", ["fork", _no_fork], indirect=True)


def assignment(slots: int = 1, labels: Sequence[str] = (), queues: Optional[Sequence[str]] = None) -> Assignment:
    """The assignment of one worker. `queues` None: all."""
    return Assignment("a-supervisor", 1, 1, slots, queues, labels, False)


class Queue:
    """Reads and changes the queue for a test, beside the workers."""

    def __init__(self, app: Flask, config: Config, eventually: Callable[..., Any]) -> None:
        self.app = app
        self.config = config
        self._eventually = eventually

    def enqueue(self, command: str, **fields: Any) -> str:
        return actions.enqueue([job_spec.parse({"command": command, **fields})], "person:test")[0]

    def set(self, **values: Any) -> None:
        for key, value in values.items():
            settings.set_setting(key, value, "person:test")

    def job(self, job_id: str) -> Job:
        with reading() as session:
            job = job_detail.find(session, job_id)
        assert job is not None
        return job

    def attempts(self, job_id: str) -> list[Attempt]:
        with reading() as session:
            return job_detail.attempts(session, self.job(job_id), with_output=True)

    def verbs(self, job_id: str) -> list[str]:
        with reading() as session:
            return [event.verb for event in job_detail.events(session, self.job(job_id))]

    def workers(self, state: str = "running") -> list[Worker]:
        with reading() as session:
            return list(session.scalars(select(Worker).where(Worker.state == state)))

    def events(self, subject: str) -> list[Event]:
        with reading() as session:
            return list(session.scalars(select(Event).where(Event.subject == subject)))

    def reaches(self, job_id: str, *states: str) -> Job:
        def reached() -> Optional[Job]:
            job = self.job(job_id)
            return job if job.state in states else None

        reached.__name__ = f"{job_id} in {states}"
        job: Job = self._eventually(reached)
        return job


class Fleet:
    """A supervisor with its workers, as processes. `limits`: of the system, such as RLIMIT_NOFILE. `prefix`: a command
    that starts them."""

    def __init__(self, log: Path, prefix: Sequence[str] = (), **options: Any) -> None:
        import json

        self.log = log
        with log.open("ab") as file:
            self.process = subprocess.Popen(
                [*prefix, sys.executable, "-c", _START, str(CHECKOUT), json.dumps(options)],
                stdout=file,
                stderr=file,
                stdin=subprocess.DEVNULL,
            )

    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def stop(self, number: int = signal.SIGTERM) -> int:
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(number)
        return self.process.wait(DEADLINE)

    def kill_all(self) -> None:
        """Kill all processes of the test."""
        with contextlib.suppress(psutil.Error):
            for child in psutil.Process(self.process.pid).children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    child.kill()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(DEADLINE)


@pytest.fixture
def queue(app: Flask, config: Config, eventually: Callable[..., Any]) -> Queue:
    return Queue(app, config, eventually)


@pytest.fixture
def connection(app: Flask) -> Iterator[Connection]:
    """A worker's connection in this process."""
    one = worker_connection()
    yield one
    one.close()


@pytest.fixture
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How processes of a fleet start: 'fork', or 'no fork' as on Windows."""
    name: str = getattr(request, "param", "fork")
    if name == "no fork":
        monkeypatch.setenv("PYTHONPATH", str(Path(__file__).with_name("no_fork")))
    return name


@pytest.fixture
def fleet(queue: Queue, tmp_path: Path, eventually: Callable[..., Any], way: str) -> Iterator[Callable[..., Fleet]]:
    """Start supervisors; with `ready=False` do not wait for their workers. All end with the test."""
    started: list[Fleet] = []

    def start(ready: bool = True, **options: Any) -> Fleet:
        before = {worker.id for worker in queue.workers()}
        one = Fleet(tmp_path / f"fleet-{len(started)}.log", **options)
        started.append(one)
        if ready:
            count = options.get("count", 1)
            eventually(lambda: len({worker.id for worker in queue.workers()} - before) >= count)
        return one

    yield start
    for one in started:
        sys.stdout.write(one.text())  # shown if the test fails
        one.kill_all()


@pytest.fixture
def alive() -> Callable[[int], bool]:
    def check(pid: int) -> bool:
        with contextlib.suppress(psutil.Error):
            return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
        return False

    return check


def read_pid(path: Path) -> int:
    """The pid that a command wrote; 0 until then."""
    with contextlib.suppress(OSError, ValueError):
        return int(path.read_text())
    return 0


@pytest.fixture
def pid_in(eventually: Callable[..., Any]) -> Callable[[Path], int]:
    return lambda path: int(eventually(lambda: read_pid(path)))
