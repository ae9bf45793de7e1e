"""Acknowledged jobs survive any end of the console."""

from __future__ import annotations

import pytest

from tests.faults import posts
from tests.faults.rig import Rig

pytestmark = pytest.mark.full


def test_acknowledged_jobs_survive_a_killed_console_and_a_repeated_form_creates_one_job(rig: Rig) -> None:
    posts.kill_console_in_mid_post(rig, 3)
    assert rig.judge() == []
    assert len(rig.rows()) == 3
