"""Kills: workers at random points, the supervisor and its maintenance process, everything at once."""

from __future__ import annotations

import time

import psutil

from tests.faults.rig import Rig, dies, eventually, is_alive, kill

GENERATION = 8  # kills under one supervisor, which restarts processes after growing pauses
BACK_AT_ONCE = 5.0  # seconds; well under any lease


def kill_workers(rig: Rig, rounds: int) -> None:
    """KILL one worker after another, each at a random moment; sometimes also the maintenance process."""
    rig.run("config", "set", "backoff_base", "1")
    left = rounds
    while left > 0:
        supervisor = rig.workers(3, "--slots", "2")
        for _ in range(min(left, GENERATION)):
            rig.mixed(8)
            _kill_one(rig, supervisor.pid)
        left -= GENERATION
        rig.rest()
        rig.stop(supervisor)


def _kill_one(rig: Rig, supervisor: int) -> None:
    pids = eventually("a worker lives", rig.worker_pids)
    if rig.random.random() < 0.2:
        maintenance_pids = {child.pid for child in psutil.Process(supervisor).children()} - set(pids)
        for pid in maintenance_pids:
            kill(pid)
    time.sleep(rig.random.uniform(0, 0.3))  # a random moment, not a wait for a condition
    pid = rig.random.choice(pids)
    kill(pid)
    eventually(
        "its supervisor gives the jobs of a killed worker back at once",
        lambda: (
            not rig.query(
                "SELECT 1 FROM jobs JOIN workers ON workers.id = jobs.worker_id"
                " WHERE jobs.state = 'processing' AND workers.pid = ? AND workers.state != 'running'",
                pid,
            )
            and pid not in rig.worker_pids()
        ),
        BACK_AT_ONCE + 10,
    )


def kill_supervisors(rig: Rig, rounds: int) -> None:
    """KILL a supervisor: its workers finish their jobs and exit, and a new supervisor takes over the rest."""
    for _ in range(rounds):
        supervisor = rig.workers(2)
        ids = rig.mixed(12)
        rig.started(ids[0])
        family = psutil.Process(supervisor.pid).children()
        time.sleep(rig.random.uniform(0, 0.2))
        kill(supervisor.pid)
        supervisor.wait()
        for process in family:
            dies(process.pid)
        successor = rig.workers(2)
        rig.rest()
        rig.stop(successor)


def kill_everything(rig: Rig, rounds: int) -> None:
    """KILL all processes of the product at once while commands continue: a restart ends or adopts them."""
    for _ in range(rounds):
        rig.workers(2, "--slots", "2")
        long = rig.submit(2, seconds=600)  # longer than any test: only the loss may end them
        rig.mixed(8)
        shells = [rig.started(job_id) for job_id in long]
        time.sleep(rig.random.uniform(0, 0.3))
        rig.kill_everything()
        assert all(is_alive(shell) for shell in shells)
        rig.run("cancel", *long)
        successor = rig.workers(2)
        rig.rest()
        assert not any(is_alive(shell) for shell in shells)
        assert [rig.state(job_id) for job_id in long] == ["cancelled", "cancelled"]
        rig.stop(successor)
