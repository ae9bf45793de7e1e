"""The rig: real processes of the product with their own home, all of which end with it.

It remembers submitted and acknowledged jobs. It kills, stops and measures from outside.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Optional, TypeVar

import psutil

from tests.commands.conftest import ENTRY
from tests.deadline import DEADLINE
from tests.faults.invariant import JobRow, violations
from tests.faults.ledger import Ledger
from tests.faults.person import NAME, PASSWORD, Person
from webapp.config import CHECKOUT
from webapp.core.storage.sqlite import library as sqlite

MARK = "FAULTS_RIG"  # this variable marks every process and command of a rig
SHIM = Path(__file__).with_name("shim")
MAX_RETRIES = 3  # of jobs without their own
T = TypeVar("T")


class NotInTime(AssertionError):
    """A condition was not met by its deadline."""


@dataclass(frozen=True)
class Answer:
    """The exit code and output of a command."""

    code: int
    out: str
    err: str


def eventually(what: str, condition: Callable[[], Optional[T]], within: float = 0.0) -> T:
    """Wait until the condition returns a true value, and return it. Raises NotInTime after the deadline."""
    within = max(within, DEADLINE)
    deadline = time.monotonic() + within
    while True:
        result = condition()
        if result:
            return result
        if time.monotonic() > deadline:
            raise NotInTime(f"not within {within:g} s: {what}")
        time.sleep(0.02)


class Rig:
    """See the module. `folder` must exist and be empty; `home` may be elsewhere, on a disk that will fail."""

    def __init__(self, folder: Path, seed: int, home: Optional[Path] = None) -> None:
        self.folder = folder
        self.home = home or folder / "home"
        self.random = random.Random(seed)
        self.ledger = Ledger(folder / "ledger")
        self.submitted: set[str] = set()
        self.acknowledged: set[str] = set()
        self.mark = uuid.uuid4().hex
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("QUEUECTL_")},
            "QUEUECTL_HOME": str(self.home),
            "QUEUECTL_VENV": sys.prefix,
            MARK: self.mark,
        }
        self.checkout = CHECKOUT
        self._orders = folder / "orders"
        self._orders.mkdir()
        self._numbers = 0

    # --- processes ---

    def run(self, *argv: str, stdin: str = "", within: float = DEADLINE, **environment: str) -> Answer:
        """Run a command of the product to its end."""
        done = subprocess.run(
            [sys.executable, str(ENTRY), *argv],
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            cwd=self.folder,
            env={**self.environment, **environment},
            timeout=within,
        )
        return Answer(done.returncode, done.stdout, done.stderr)

    def start(self, *argv: str, shim: bool = False, before: tuple[str, ...] = ()) -> subprocess.Popen[bytes]:
        """Start a command in the background. With `shim`, its machine can misbehave, see `shim/sitecustomize.py`.

        `before`: arguments in front of the command, such as `unshare`. Output goes to `log`.
        """
        bent = {"FAULTS_SHIM": str(self._orders), "PYTHONPATH": str(SHIM)} if shim else {}
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [*before, sys.executable, str(ENTRY), *argv],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env={**self.environment, **bent},
                start_new_session=True,
            )

    @property
    def log(self) -> Path:
        return self.folder / "log"

    def said(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def workers(self, count: int = 1, *options: str, shim: bool = False) -> subprocess.Popen[bytes]:
        """Start a supervisor with this number of workers, and wait for them."""
        before = set(self.worker_pids())
        process = self.start("worker", "start", "--count", str(count), *options, shim=shim)
        eventually("workers are there", lambda: len(set(self.worker_pids()) - before) >= count, 30)
        return process

    def console(self, port: int) -> subprocess.Popen[bytes]:
        """Start a console on this port, and wait until it serves."""
        process = self.start("web", "--port", str(port))
        eventually("the console serves", lambda: Person(f"http://127.0.0.1:{port}").get("/healthz").status == 200, 30)
        return process

    def person(self, port: int) -> Person:
        """A signed-in admin."""
        answer = self.run("user", "add", NAME, "--role", "admin", "--password-stdin", stdin=PASSWORD + "\n")
        assert answer.code == 0, answer.err
        person = Person(f"http://127.0.0.1:{port}")
        person.log_in()
        return person

    def order(self, name: str, text: str = "") -> None:
        """Tell the shim which fault to simulate."""
        draft = self._orders / f".{name}"
        draft.write_text(text)
        draft.rename(self._orders / name)

    @staticmethod
    def stop(process: subprocess.Popen[bytes], within: float = DEADLINE) -> None:
        """Stop a process of the product as Ctrl-C does; it must exit cleanly."""
        process.terminate()
        assert process.wait(within) == 0

    def processes(self) -> list[psutil.Process]:
        """All living processes of this rig: the product's processes and their commands."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get(MARK) == self.mark and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def commands(self) -> list[psutil.Process]:
        """The processes that belong to a job."""
        found = []
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                if "QUEUECTL_TOKEN" in process.environ():
                    found.append(process)
        return found

    def kill_everything(self, spare: tuple[int, ...] = ()) -> None:
        """KILL all processes of the product at once; commands continue."""
        commands = {one.pid for one in self.commands()}
        mine = [one for one in self.processes() if one.pid not in commands and one.pid not in spare]
        for process in mine:
            kill(process.pid)
        psutil.wait_procs(mine, timeout=DEADLINE)

    def close(self) -> None:
        """End everything that is left, including commands."""
        deadline = time.monotonic() + DEADLINE
        while time.monotonic() < deadline:
            left = self.processes()
            if not left:
                return
            for process in left:
                kill(process.pid)
            psutil.wait_procs(left, timeout=2)

    # --- jobs ---

    def new_ids(self, number: int) -> list[str]:
        ids = [f"job-{self._numbers + place}" for place in range(1, number + 1)]
        self._numbers += number
        self.submitted |= set(ids)
        return ids

    def submit(self, number: int = 1, *, command: Optional[str] = None, seconds: float = 0, **fields: Any) -> list[str]:
        """Submit jobs with the command line. It must acknowledge them."""
        return self.submit_many([{"command": command or self.ledger.command(seconds), **fields} for _ in range(number)])

    def submit_many(self, specs: list[dict[str, Any]]) -> list[str]:
        ids = self.new_ids(len(specs))
        lines = [json.dumps({"id": id_, **spec}) for id_, spec in zip(ids, specs)]
        answer = self.run("enqueue", "--file", "-", stdin="\n".join(lines))
        assert answer.code == 0, answer.err
        self.acknowledged |= set(ids)
        return ids

    def mixed(self, number: int, longest: float = 0.3) -> list[str]:
        """Submit short and long jobs; some fail once, some always."""
        specs = []
        for _ in range(number):
            failures = self.random.choices((0, 1, 99), (8, 2, 1))[0]
            seconds = self.random.choice((0, round(self.random.uniform(0, longest), 2)))
            specs.append({"command": self.ledger.command(seconds, failures), "max_retries": 1})
        return self.submit_many(specs)

    # --- the database ---

    @property
    def database(self) -> Path:
        return self.home / "queue.db"

    @contextmanager
    def reading(self) -> Iterator[Any]:
        with closing(sqlite.connect(f"file:{self.database}?mode=ro", uri=True, timeout=DEADLINE)) as connection:
            yield connection

    def query(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        with self.reading() as connection:
            rows: list[tuple[Any, ...]] = connection.execute(statement, values).fetchall()
            return rows

    def rows(self) -> Mapping[str, JobRow]:
        with self.reading() as connection:
            connection.execute("BEGIN")
            ended: dict[int, dict[int, str]] = {}
            for seq, number, state in connection.execute("SELECT job_seq, number, state FROM attempts"):
                ended.setdefault(seq, {})[number] = state
            jobs = connection.execute("SELECT seq, id, state, attempts, failures, losses, max_retries FROM jobs")
            return {
                id_: JobRow(id_, state, done, failures, losses, MAX_RETRIES if own is None else own, ended.get(seq, {}))
                for seq, id_, state, done, failures, losses, own in jobs
            }

    def state(self, job_id: str) -> str:
        [(state,)] = self.query("SELECT state FROM jobs WHERE id = ?", job_id)
        return str(state)

    def worker_pids(self) -> list[int]:
        if not self.database.exists():
            return []
        with contextlib.suppress(sqlite.Error):  # it is being created
            return [pid for (pid,) in self.query("SELECT pid FROM workers WHERE state = 'running'")]
        return []

    def maintenance_pid(self, supervisor: int) -> int:
        """The pid of the maintenance process: the child that is not a worker."""
        workers = set(self.worker_pids())
        [maintenance] = [child.pid for child in psutil.Process(supervisor).children() if child.pid not in workers]
        return int(maintenance)

    def losses(self) -> int:
        return int(self.query("SELECT count(*) FROM attempts WHERE state = 'lost'")[0][0])

    def expiries(self) -> int:
        return int(self.query("SELECT count(*) FROM workers WHERE state = 'expired'")[0][0])

    # --- waiting and checking ---

    def reaches(self, job_id: str, *states: str, within: float = 0) -> None:
        eventually(f"{job_id} is {' or '.join(states)}", lambda: self.state(job_id) in states, within)

    def started(self, job_id: str, attempt: int = 1) -> int:
        """Wait for the first line of an attempt; return the pid of its shell."""

        def pid() -> int:
            return next((line.value for line in self.ledger.started(job_id) if line.attempt == attempt), 0)

        return eventually(f"attempt {attempt} of {job_id} begins", pid)

    def rest(self, within: float = 0) -> None:
        """Wait until all jobs have ended."""
        open_states = "('pending', 'processing', 'failed', 'scheduled')"
        statement = f"SELECT count(*) FROM jobs WHERE state IN {open_states}"
        eventually("all jobs have ended", lambda: self.query(statement)[0][0] == 0, within)

    def judge(self, *, may_repeat: bool = False) -> list[str]:
        """Violations of the invariant, when all jobs have ended."""
        found = violations(self.acknowledged, self.submitted, self.rows(), self.ledger.lines(), may_repeat=may_repeat)
        [(sound,)] = self.query("PRAGMA integrity_check(1)")
        if sound != "ok":
            found.append(f"the database is damaged: {sound}")
        found += [f"process {process.pid} outlives its claim" for process in self.commands()]
        return found


def free_port() -> int:
    with closing(socket.socket()) as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def dies(pid: int) -> None:
    eventually(f"process {pid} is gone", lambda: not is_alive(pid))


def wait_until(moment: float) -> None:
    """Sleep until a time of the monotonic clock: for faults with a duration, not to wait for a condition."""
    time.sleep(max(0.0, moment - time.monotonic()))


def kill(pid: int, number: int = signal.SIGKILL) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def is_alive(pid: int) -> bool:
    with contextlib.suppress(psutil.Error):
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    return False
