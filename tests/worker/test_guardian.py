"""Who attends to the commands while the main thread waits for the database."""

from __future__ import annotations

import threading
from typing import Any, Callable

import pytest

from worker.loop.guardian import LOOK, STUCK, Guardian


class Attendance:
    """What is attended to: by whom, and whether by two at once."""

    def __init__(self) -> None:
        self.by: list[str] = []
        self.stuck = threading.Event()
        self.woken = threading.Event()
        self.fails = False
        self._there = threading.Lock()

    def attend(self, seconds: float) -> None:
        assert self._there.acquire(blocking=False), "two at once"
        self.by.append(threading.current_thread().name)
        self.woken.wait(seconds)
        self.woken.clear()
        self._there.release()
        if self.fails:
            raise RuntimeError("cannot")


@pytest.fixture
def attendance() -> Attendance:
    return Attendance()


@pytest.fixture
def guardian(attendance: Attendance) -> Guardian:
    one = Guardian(attendance.attend, attendance.woken.set, attendance.stuck.set)
    one.start()
    return one


def test_it_attends_while_a_turn_lasts_and_leaves_when_it_ends(
    guardian: Guardian, attendance: Attendance, eventually: Callable[..., Any]
) -> None:
    guardian.need(True)
    with guardian.turn():
        eventually(lambda: len(attendance.by) >= 3)
        assert guardian.stands_in
    attendance.attend(0)  # fails where the other is still there
    eventually(lambda: not guardian.stands_in)
    assert set(attendance.by) == {"guardian", threading.current_thread().name}


def test_short_turns_are_nothing_to_it(guardian: Guardian, attendance: Attendance) -> None:
    guardian.need(True)
    for _ in range(2000):
        with guardian.turn():
            pass
        attendance.attend(0)
    assert set(attendance.by) == {threading.current_thread().name}


def test_it_rests_while_nothing_runs(guardian: Guardian, attendance: Attendance) -> None:
    with guardian.turn():
        assert not attendance.stuck.wait(STUCK + 4 * LOOK)
    assert attendance.by == []


def test_a_turn_that_is_stuck_is_told_once(
    guardian: Guardian, attendance: Attendance, eventually: Callable[..., Any]
) -> None:
    guardian.need(True)
    with guardian.turn():
        assert attendance.stuck.wait(10)
        attendance.stuck.clear()
        seen = len(attendance.by)
        eventually(lambda: len(attendance.by) > seen + 5)
        assert not attendance.stuck.is_set()


def test_it_comes_again_when_attending_failed(
    guardian: Guardian, attendance: Attendance, eventually: Callable[..., Any]
) -> None:
    guardian.need(True)
    attendance.fails = True
    with guardian.turn():
        eventually(lambda: len(attendance.by) >= 3)
