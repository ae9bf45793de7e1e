"""What the console has acknowledged is there, whatever happens to the console."""

from __future__ import annotations

import pytest

from tests.faults import posts
from tests.faults.rig import Rig

pytestmark = pytest.mark.full


def test_what_a_console_acknowledged_survives_its_death_and_a_form_sent_again_makes_one_job(rig: Rig) -> None:
    posts.kill_console_in_mid_post(rig, 3)
    assert rig.judge() == []
    assert len(rig.rows()) == 3
