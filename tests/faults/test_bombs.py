"""Commands that use too many resources are stopped by their limits."""

from __future__ import annotations

import pytest

from tests.faults import bombs
from tests.faults.machine import Impossible
from tests.faults.rig import Rig

pytestmark = pytest.mark.full


def test_memory_and_process_bombs_harm_no_other_job(rig: Rig) -> None:
    try:
        bombs.set_off(rig, 1)
    except Impossible as reason:
        pytest.skip(str(reason))
    assert rig.judge() == []
