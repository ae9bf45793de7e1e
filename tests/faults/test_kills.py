"""Nothing is lost, repeated or left behind when processes are killed."""

from __future__ import annotations

from tests.faults import kills
from tests.faults.rig import Rig


def test_jobs_survive_workers_killed_at_random_points(rig: Rig) -> None:
    kills.kill_workers(rig, 6)
    for _ in range(20):  # on a busy machine all kills may hit between two jobs
        if rig.losses() == 0:
            kills.kill_workers(rig, 1)
    assert rig.judge() == []
    assert rig.losses() > 0


def test_jobs_survive_a_killed_supervisor(rig: Rig) -> None:
    kills.kill_supervisors(rig, 1)
    assert rig.judge() == []


def test_a_restart_adopts_or_ends_everything_left_after_a_kill_of_all_processes(rig: Rig) -> None:
    kills.kill_everything(rig, 1)
    assert rig.judge() == []
    assert rig.losses() >= 2
