"""Commands that do not end, and workers that die or hang at the worst moment."""

from __future__ import annotations

import pytest

from tests.faults import trees
from tests.faults.rig import Rig

pytestmark = pytest.mark.full


def test_daemons_end_with_their_job(rig: Rig) -> None:
    trees.leave_daemons(rig, 1)
    assert rig.judge() == []


def test_a_command_that_ignores_the_stop_request_is_killed_after_the_grace(rig: Rig) -> None:
    trees.ignore_the_request_to_end(rig, 1)
    assert rig.judge() == []


def test_a_poison_job_becomes_a_dead_letter_and_its_seven_neighbours_do_not(rig: Rig) -> None:
    trees.poison_among_seven(rig, 1)
    assert rig.judge() == []


def test_a_job_cancelled_before_its_worker_died_does_not_run_again(rig: Rig) -> None:
    trees.cancel_then_die(rig, 1)
    assert rig.judge() == []


def test_a_worker_marked_lost_settles_nothing_and_no_retry_is_used_up(rig: Rig) -> None:
    trees.settle_too_late(rig, 1)
    assert rig.judge() == []
