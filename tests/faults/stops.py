"""Suspended processes: workers past their lease, between claim and spawn, or while they hold the lock."""

from __future__ import annotations

import signal
import time
from typing import Optional

import psutil

from tests.deadline import DEADLINE
from tests.faults.rig import Rig, dies, eventually, is_alive, kill, wait_until

LEASE = 5  # seconds, the shortest that the setting allows


def stop_past_the_lease(rig: Rig, rounds: int) -> None:
    """STOP a worker for twice its lease, then CONT: it is replaced, and nothing of its attempt continues."""
    rig.run("config", "set", "lease", str(LEASE))
    supervisor = rig.workers(1)
    for _ in range(rounds):
        [job_id] = rig.submit(command=_long_at_first(rig))
        shell = rig.started(job_id)
        [worker] = rig.worker_pids()
        stopped = time.monotonic()
        kill(worker, signal.SIGSTOP)
        rig.reaches(job_id, "completed")
        assert not is_alive(shell)
        wait_until(stopped + 2 * LEASE + 1)
        kill(worker, signal.SIGCONT)
        dies(worker)
        eventually("another one is there", rig.worker_pids)
    rig.stop(supervisor)


def stop_between_claim_and_spawn(rig: Rig, rounds: int) -> None:
    """Suspend a worker past its lease between the commit of its claim and the start of the command."""
    rig.run("config", "set", "lease", str(LEASE))
    supervisor = rig.workers(1, shim=True)
    for _ in range(rounds):
        rig.order("stop-at-spawn")
        [job_id] = rig.submit()
        stopped = eventually("a worker has stopped itself", lambda: _stopped(rig))
        rig.reaches(job_id, "processing")
        assert not rig.ledger.started(job_id)
        rig.reaches(job_id, "completed")
        kill(stopped, signal.SIGCONT)
        dies(stopped)
        eventually("another one is there", rig.worker_pids)
        assert [line.attempt for line in rig.ledger.started(job_id)] == [2]
    rig.stop(supervisor)


def stop_with_the_lock(rig: Rig, rounds: int) -> None:
    """Suspend a worker that holds the write lock: the queue recovers without it."""
    rig.run("config", "set", "lease", str(LEASE))
    supervisor = rig.workers(2, shim=True)
    for _ in range(rounds):
        eventually("both workers are there", lambda: len(rig.worker_pids()) == 2)
        workers = set(rig.worker_pids())
        # Maintenance may be the first to take the lock: its supervisor replaces it.
        rig.order("stop-in-lock")
        stopped = eventually("a process has stopped itself", lambda: _stopped(rig))
        rig.submit(4)
        rig.rest()
        eventually("the stopped process is gone or goes on", lambda: _stopped(rig) is None)
        assert stopped not in workers or not is_alive(stopped)
    rig.stop(supervisor)


def stop_a_person_with_the_lock(rig: Rig, rounds: int) -> None:
    """Suspend (Ctrl-Z) a command that holds the write lock: maintenance continues it."""
    rig.run("config", "set", "lease", str(LEASE))
    supervisor = rig.workers(1)
    for _ in range(rounds):
        rig.order("stop-in-lock")
        [job_id] = rig.new_ids(1)
        command = rig.ledger.command()
        person = rig.start("enqueue", "--id", job_id, "--command", command, shim=True)
        assert eventually("the command has stopped itself", lambda: _stopped(rig)) == person.pid
        rig.submit(2)
        assert person.wait(DEADLINE) == 0
        rig.acknowledged.add(job_id)
        rig.rest()
    rig.stop(supervisor)


def _long_at_first(rig: Rig) -> str:
    return f"if [ $QUEUECTL_ATTEMPT = 1 ]; then {rig.ledger.command(600)}; else {rig.ledger.command()}; fi"


def _stopped(rig: Rig) -> Optional[int]:
    for process in rig.processes():
        if process.status() == psutil.STATUS_STOPPED:
            return int(process.pid)
    return None
