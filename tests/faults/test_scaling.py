"""Scaling loses no job and is completed, whatever is killed or suspended meanwhile."""

from __future__ import annotations

import pytest

from tests.faults import scaling
from tests.faults.rig import Rig

pytestmark = pytest.mark.full


def test_the_desired_number_survives_killed_maintenance_and_no_job_is_interrupted(rig: Rig) -> None:
    scaling.kill_maintenance_while_scaling(rig, 3)
    assert rig.judge() == []
    assert rig.losses() == 0


def test_jobs_survive_a_supervisor_killed_while_it_scales(rig: Rig) -> None:
    scaling.kill_supervisors_while_scaling(rig, 1)
    assert rig.judge() == []
    assert rig.losses() == 0


def test_a_suspended_supervisor_scales_down_and_catches_up(rig: Rig) -> None:
    scaling.stop_a_supervisor_while_scaling(rig, 1)
    assert rig.judge() == []
    assert rig.losses() == 0
