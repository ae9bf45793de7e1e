"""Acknowledged data survives a power cut."""

from __future__ import annotations

import pytest

from tests.faults import power
from tests.faults.machine import Impossible
from tests.faults.rig import Rig


def test_acknowledged_data_survives_a_power_cut_and_would_not_without_syncs(rig: Rig) -> None:
    try:
        assert power.cut_the_power(rig, cuts=10, turns=40) == []
    except Impossible as reason:
        pytest.skip(str(reason))
    assert rig.judge(may_repeat=True) == []
