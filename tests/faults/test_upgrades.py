"""A newer version upgrades the database under running processes of this one."""

from __future__ import annotations

import pytest

from tests.faults import upgrades
from tests.faults.rig import Rig

pytestmark = pytest.mark.full


def test_after_an_upgrade_old_workers_exit_cleanly_and_nothing_is_lost(rig: Rig) -> None:
    upgrades.take_over(rig, 1)
    assert rig.judge() == []
