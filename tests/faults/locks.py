"""Another writer that holds the database lock, also for longer than the lease."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Callable

from tests.faults.rig import Rig, dies, wait_until
from tests.faults.stops import LEASE

# A foreign program, which does not use queue.lock. With the id of a job it also requests its stop, as `cancel` does.
_STRANGER = """
import fcntl, sys
from webapp.core.storage.sqlite import library as sqlite
database, lock, job_id = sys.argv[1:]
print("ready", flush=True)
sys.stdin.readline()
if lock:
    file = open(lock, "w")
    fcntl.flock(file, fcntl.LOCK_EX)
connection = sqlite.connect(database, isolation_level=None, timeout=30)
connection.execute("BEGIN IMMEDIATE")
if job_id:
    ask = "UPDATE jobs SET cancel_requested_at = 1, cancel_requested_by = 'person:ana' WHERE id = ?"
    assert connection.execute(ask, (job_id,)).rowcount == 1
    connection.execute("UPDATE control SET revision = revision + 1")
    connection.execute("COMMIT")
    if not lock:
        connection.execute("BEGIN IMMEDIATE")
print("held", flush=True)
sys.stdin.read()
"""

LIMIT = 6  # seconds: long enough to take the lock on a busy machine


@contextmanager
def held(rig: Rig, *, with_flock: bool = False, cancelling: str = "") -> Iterator[None]:
    """Hold SQLite's write lock, or (with_flock) the product's, during the block."""
    with stranger(rig, with_flock=with_flock, cancelling=cancelling) as take:
        take()
        yield


@contextmanager
def stranger(rig: Rig, *, with_flock: bool = False, cancelling: str = "") -> Iterator[Callable[[], None]]:
    """A started program, ready to take the lock at once. It holds the lock from `take()` to the end."""
    lock = str(rig.home / "queue.lock") if with_flock else ""
    with subprocess.Popen(
        [sys.executable, "-c", _STRANGER, str(rig.database), lock, cancelling],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**rig.environment, "PYTHONPATH": str(rig.checkout)},
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        stdin, stdout = process.stdin, process.stdout

        def take() -> None:
            stdin.write(b"\n")
            stdin.flush()
            assert stdout.readline() == b"held\n"

        assert stdout.readline() == b"ready\n"
        yield take


def hold_past_the_lease(rig: Rig, rounds: int, *, seconds: float = 2 * LEASE + 2) -> None:
    """A foreign transaction for longer than the lease: time limits work meanwhile, and no worker is marked lost.

    Not even if maintenance is the first to write again, before the heartbeats.
    """
    rig.run("config", "set", "lease", str(LEASE))
    rig.run("config", "set", "kill_grace", "1")
    supervisor = rig.workers(2, "--slots", "2", shim=True)
    workers = set(rig.worker_pids())
    for _ in range(rounds):
        rig.order("unlucky", " ".join(map(str, workers)))
        with stranger(rig) as take:
            [longer] = rig.submit(seconds=round(seconds + LIMIT))
            rig.started(longer)
            [limited] = rig.submit(seconds=600, timeout=LIMIT, max_retries=0)
            shell = rig.started(limited)
            take()
            began = time.monotonic()
            dies(shell)
            assert rig.state(limited) == "processing", "it could write: the lock was not held"
            wait_until(began + seconds)
        rig.reaches(limited, "dead")
        rig.order("unlucky")
        [fresh] = rig.submit()
        rig.reaches(fresh, "completed")
        rig.reaches(longer, "completed")
    assert rig.expiries() == 0
    assert set(rig.worker_pids()) == workers
    assert "Traceback" not in rig.said()
    rig.stop(supervisor)


def cancel_while_the_lock_is_held(rig: Rig, rounds: int) -> None:
    """Cancel a running job, then block all writes: the command is ended anyway."""
    rig.run("config", "set", "kill_grace", "1")
    supervisor = rig.workers(1)
    for _ in range(rounds):
        [job_id] = rig.submit(seconds=600)
        shell = rig.started(job_id)
        with held(rig, with_flock=True, cancelling=job_id):
            dies(shell)
            assert rig.state(job_id) == "processing"
        rig.reaches(job_id, "cancelled")
    rig.stop(supervisor)


def be_told_busy(rig: Rig, rounds: int) -> None:
    """A caller that cannot get the lock gets one line, and nothing is done partially."""
    rig.submit()
    for _ in range(rounds):
        [job_id] = rig.new_ids(1)
        with held(rig, with_flock=True):
            answer = rig.run("enqueue", "--id", job_id, "--command", "true")
            assert (answer.code, answer.out) == (6, "")
            assert answer.err.count("\n") == 1
            assert "busy" in answer.err
        assert not rig.query("SELECT 1 FROM jobs WHERE id = ?", job_id)
    supervisor = rig.workers(1)
    rig.rest()
    rig.stop(supervisor)
