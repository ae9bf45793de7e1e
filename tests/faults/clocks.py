"""Sets the wall clock an hour ahead or back under running workers."""

from __future__ import annotations

import signal
from functools import partial

import psutil

from tests.faults.rig import Rig, dies, eventually, kill
from tests.faults.stops import LEASE
from webapp.core.storage.locks import WriteLock

HOUR = 3600
LIMIT = 4  # seconds


def set_the_clock(rig: Rig, rounds: int) -> None:
    """Only a suspended worker is marked lost, time limits keep their length, and due times follow the wall clock.

    The processes see a shifted time (`shim/sitecustomize.py`): a real step would affect everything on this machine, and
    a time namespace shifts every clock except the wall clock. The clock of maintenance is an hour ahead of that of the
    workers: code that compared times of two machines would mark all workers lost.
    """
    rig.run("config", "set", "lease", str(LEASE))
    expired = set()
    for _ in range(rounds):
        rig.order("offset", "0")
        supervisor = rig.workers(3, shim=True)
        maintenance = rig.maintenance_pid(supervisor.pid)
        _set(rig, maintenance, 0)
        still, *lively = rig.worker_pids()
        eventually("a worker stands still that holds nobody up", partial(_stop_without_the_lock, rig, still))
        [long] = rig.submit(seconds=LEASE + 4, timeout=HOUR // 2)
        [limited] = rig.submit(seconds=600, timeout=LIMIT, max_retries=0)
        [later] = rig.submit(delay=HOUR - 60)
        rig.started(long)
        shell = rig.started(limited)
        assert rig.state(later) == "scheduled"
        _set(rig, maintenance, HOUR)
        rig.reaches(later, "completed")  # its time has come
        _set(rig, maintenance, -HOUR)
        eventually("the others have beaten by the clock that was set back", partial(_beat_before, rig, later))
        dies(shell)
        rig.reaches(limited, "dead")
        rig.reaches(long, "completed")
        # It started before the clock was set back: its lease continues and does not restart an hour later.
        dies(still)
        eventually("another one is there", lambda: len(rig.worker_pids()) == 3)
        rig.submit(2)
        rig.rest()
        assert rig.query("SELECT DISTINCT reason FROM attempts WHERE state = 'failed'") == [("timeout",)]
        expired.add(still)
        assert {pid for (pid,) in rig.query("SELECT pid FROM workers WHERE state = 'expired'")} == expired
        assert set(lively) < set(rig.worker_pids())
        rig.stop(supervisor)


def _set(rig: Rig, maintenance: int, offset: int) -> None:
    rig.order(f"offset-{maintenance}", str(offset + HOUR))
    rig.order("offset", str(offset))


def _stop_without_the_lock(rig: Rig, pid: int) -> bool:
    """STOP a process. If it holds the write lock, which is another fault (`stops.py`), continue it and try again."""
    kill(pid, signal.SIGSTOP)
    eventually("it stands still", lambda: psutil.Process(pid).status() == psutil.STATUS_STOPPED)
    if WriteLock(rig.home / "queue.lock").holder() != pid:
        return True
    kill(pid, signal.SIGCONT)
    return False


def _beat_before(rig: Rig, job_id: str) -> bool:
    """Whether every worker seems to have been seen last before this job was created, which is impossible."""
    statement = "SELECT max(seen_at) < (SELECT created_at FROM jobs WHERE id = ?) FROM workers WHERE state = 'running'"
    return bool(rig.query(statement, job_id)[0][0])
