"""Enormous and unprintable output."""

from __future__ import annotations

import pytest

from tests.faults import floods
from tests.faults.rig import Rig

pytestmark = pytest.mark.full


def test_floods_of_output_keep_both_ends_and_the_worker_stays_small(rig: Rig) -> None:
    print(floods.flood_the_worker(rig, 1))  # noqa: T201  shown where the test failed
    assert rig.judge() == []
