"""The wall clock is set under running workers."""

from __future__ import annotations

import psutil
import pytest

from tests.faults import clocks
from tests.faults.rig import Rig
from worker import processes


@pytest.mark.full
def test_a_clock_set_by_an_hour_marks_only_a_suspended_worker_lost_and_moves_due_times(rig: Rig) -> None:
    clocks.set_the_clock(rig, 1)
    assert rig.judge() == []
    assert rig.losses() == 0


def test_a_process_keeps_its_start_time_when_the_clock_is_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Linux computes the boot time, and so start times, backwards from the wall clock.
    pid = psutil.Process().pid
    before = processes.started(pid)
    monkeypatch.setattr("psutil._pslinux.boot_time", lambda: 1.0)
    monkeypatch.setattr("psutil._pslinux.BOOT_TIME", 1.0, raising=False)
    assert before is not None
    assert processes.is_alive(pid, before)
