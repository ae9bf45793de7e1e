"""Nothing is lost, repeated or left behind when processes are suspended."""

from __future__ import annotations

import pytest

from tests.faults import stops
from tests.faults.rig import Rig


@pytest.mark.full
def test_a_worker_stopped_past_its_lease_is_replaced_and_nothing_of_its_attempt_continues(rig: Rig) -> None:
    stops.stop_past_the_lease(rig, 1)
    assert rig.judge() == []
    assert rig.losses() == 1


def test_a_worker_stopped_between_claim_and_spawn_never_starts_its_job(rig: Rig) -> None:
    stops.stop_between_claim_and_spawn(rig, 1)
    assert rig.judge() == []
    assert rig.losses() == 1


@pytest.mark.full
def test_a_worker_stopped_while_it_holds_the_write_lock_does_not_stop_the_queue(rig: Rig) -> None:
    stops.stop_with_the_lock(rig, 1)
    assert rig.judge() == []


@pytest.mark.full
def test_a_command_stopped_while_it_holds_the_write_lock_is_continued(rig: Rig) -> None:
    stops.stop_a_person_with_the_lock(rig, 1)
    assert rig.judge() == []
