"""A wall clock that is set an hour ahead or back under running workers."""

from __future__ import annotations

from functools import partial

from tests.faults.rig import Rig, eventually
from tests.faults.stops import LEASE

HOUR = 3600


def set_the_clock(rig: Rig, rounds: int) -> None:
    """Nobody expires, and due times follow the wall clock.

    The processes see another time than the machine has (`shim/sitecustomize.py`): a real step would hit everything else
    that runs here, and a time namespace shifts every clock but this one.
    """
    rig.run("config", "set", "lease", str(LEASE))
    for _ in range(rounds):
        rig.order("offset", "0")
        supervisor = rig.workers(2, shim=True)
        workers = set(rig.worker_pids())
        [long] = rig.submit(seconds=LEASE + 4)
        [later] = rig.submit(delay=HOUR - 60)
        rig.started(long)
        assert rig.state(later) == "scheduled"
        rig.order("offset", str(HOUR))
        rig.reaches(later, "completed", within=20)  # its time has come
        rig.order("offset", str(-HOUR))
        eventually("all workers have beaten by the clock that was set back", partial(_beat_before, rig, later))
        rig.reaches(long, "completed", within=LEASE + 20)
        rig.submit(2)
        rig.rest()
        assert rig.expiries() == 0
        assert set(rig.worker_pids()) == workers
        rig.stop(supervisor)


def _beat_before(rig: Rig, job_id: str) -> bool:
    """Whether every worker says that it was seen last before this job was made, which cannot be."""
    statement = "SELECT max(seen_at) < (SELECT created_at FROM jobs WHERE id = ?) FROM workers WHERE state = 'running'"
    return bool(rig.query(statement, job_id)[0][0])
