"""Another writer holds the database for long: nothing crashes, nobody is expired, limits and cancellations bite."""

from __future__ import annotations

import pytest

from tests.faults import locks
from tests.faults.rig import Rig


@pytest.mark.full
def test_a_lock_held_past_the_lease_expires_nobody_and_limits_bite_meanwhile(rig: Rig) -> None:
    locks.hold_past_the_lease(rig, 1)
    assert rig.judge() == []
    assert rig.losses() == 0


def test_a_cancellation_bites_while_nobody_can_write(rig: Rig) -> None:
    locks.cancel_while_the_lock_is_held(rig, 1)
    assert rig.judge() == []


@pytest.mark.full
def test_a_caller_is_told_that_the_database_is_busy(rig: Rig) -> None:
    locks.be_told_busy(rig, 1)
    assert rig.judge() == []
