"""Another writer holds the database for long: nothing crashes, no worker is lost, limits and cancellations work."""

from __future__ import annotations

import pytest

from tests.faults import locks
from tests.faults.rig import Rig


@pytest.mark.full
def test_a_lock_held_past_the_lease_marks_no_worker_lost_and_limits_still_work(rig: Rig) -> None:
    locks.hold_past_the_lease(rig, 1)
    assert rig.judge() == []
    assert rig.losses() == 0


def test_a_cancellation_works_while_the_database_is_locked(rig: Rig) -> None:
    locks.cancel_while_the_lock_is_held(rig, 1)
    assert rig.judge() == []


@pytest.mark.full
def test_a_caller_gets_the_message_that_the_database_is_busy(rig: Rig) -> None:
    locks.be_told_busy(rig, 1)
    assert rig.judge() == []
