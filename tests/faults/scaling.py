"""Scaling while processes are killed or suspended: no job is interrupted, and the desired number is reached."""

from __future__ import annotations

import contextlib
import json
import signal
import time
from typing import Any

import psutil

from tests.faults.rig import Rig, dies, eventually, kill

MOST = 4  # workers


def kill_maintenance_while_scaling(rig: Rig, rounds: int) -> None:
    """Scale up and down while jobs run, and KILL the maintenance process at a random moment after each request."""
    supervisor = rig.workers(2)
    for _ in range(rounds):
        rig.mixed(6)
        _scale(rig, rig.random.randint(0, MOST))
        time.sleep(rig.random.uniform(0, 0.5))  # a random moment, not a wait for a condition
        kill(_maintenance(rig, supervisor.pid))
    _scale(rig, 1)
    rig.rest()
    eventually("one worker is left", lambda: len(rig.worker_pids()) == 1, 30)
    rig.stop(supervisor)


def kill_supervisors_while_scaling(rig: Rig, rounds: int) -> None:
    """KILL a supervisor that was just scaled: its workers finish and exit, and it is recorded as stopped."""
    for _ in range(rounds):
        supervisor = rig.workers(2)
        ids = rig.mixed(10)
        rig.started(ids[0])
        family = psutil.Process(supervisor.pid).children()
        _scale(rig, rig.random.choice((0, 1, MOST)))
        time.sleep(rig.random.uniform(0, 4))
        with contextlib.suppress(psutil.Error):
            family += psutil.Process(supervisor.pid).children()
        kill(supervisor.pid)
        supervisor.wait()
        for process in family:
            dies(process.pid)
        assert not _supervisors(rig)
        successor = rig.workers(1)
        rig.rest()
        rig.stop(successor)


def stop_a_supervisor_while_scaling(rig: Rig, rounds: int) -> None:
    """STOP a supervisor: surplus workers exit without it, and it reaches the desired number once it continues."""
    supervisor = rig.workers(3)
    for _ in range(rounds):
        long = rig.submit(3, seconds=2)
        for job_id in long:
            rig.started(job_id)
        kill(supervisor.pid, signal.SIGSTOP)
        _scale(rig, 1)
        eventually("two are asked to leave", lambda: _wishes(rig).count("stop") + 3 - len(_wishes(rig)) == 2)
        for job_id in long:
            rig.reaches(job_id, "completed")
        eventually("two have left", lambda: len(rig.worker_pids()) == 1)
        _scale(rig, 3)
        kill(supervisor.pid, signal.SIGCONT)
        eventually("there are three again", lambda: _wishes(rig) == ["run"] * 3, 30)
    rig.stop(supervisor)


def _supervisors(rig: Rig) -> list[dict[str, Any]]:
    answer = rig.run("worker", "supervisors", "--json")
    assert answer.code == 0, answer.err
    found: list[dict[str, Any]] = json.loads(answer.out)
    return found


def _scale(rig: Rig, number: int) -> None:
    [one] = _supervisors(rig)
    answer = rig.run("worker", "scale", one["id"], str(number))
    assert answer.code == 0, answer.err


def _wishes(rig: Rig) -> list[str]:
    return [wish for (wish,) in rig.query("SELECT wish FROM workers WHERE state = 'running'")]


def _maintenance(rig: Rig, supervisor: int) -> int:
    """The pid of the maintenance process: the child that never was a worker. A new worker has no row yet."""

    def found() -> int:
        workers = {pid for (pid,) in rig.query("SELECT pid FROM workers")}
        others = [child.pid for child in psutil.Process(supervisor).children() if child.pid not in workers]
        return others[0] if len(others) == 1 else 0

    return eventually("the maintenance process is there", found)
