"""The thread that attends to commands while the main thread waits for the database, and what it reads."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any, Callable

import pytest

from worker.loop.standby import READ_EVERY, STAND_IN_AFTER, STUCK_AFTER, Standby


class Attendance:
    """Records which thread attends, and whether two do so at once."""

    def __init__(self) -> None:
        self.by: list[str] = []
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


class Reads:
    """A connection that reports token `a` as cancelled; reads can fail or block."""

    def __init__(self) -> None:
        self.made = 0
        self.closed = 0
        self.stopped = threading.Event()
        self.fails = False
        self.unblocked = threading.Event()
        self.unblocked.set()

    def connect(self) -> Any:
        self.made += 1
        return self

    def query(self, _statement: str, values: dict[str, Any]) -> list[tuple[str]]:
        assert values == {"worker": "w1"}
        self.unblocked.wait()
        if self.fails:
            raise OSError("no server")
        return [("a",)]

    def stop(self, tokens: set[str]) -> None:
        assert tokens == {"a"}
        self.stopped.set()

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def reads() -> Iterator[Reads]:
    one = Reads()
    yield one
    one.unblocked.set()


@pytest.fixture
def standby(attendance: Attendance, reads: Reads) -> Standby:
    one = Standby(attendance.attend, attendance.woken.set, reads.connect, "w1", reads.stop)
    one.start()
    return one


def test_it_attends_during_a_long_turn_and_stops_with_it(
    standby: Standby, attendance: Attendance, eventually: Callable[..., Any]
) -> None:
    standby.need(True)
    with standby:
        eventually(lambda: len(attendance.by) >= 3)
        assert standby.stands_in
    attendance.attend(0)  # fails while the other one exists
    eventually(lambda: not standby.stands_in)
    assert set(attendance.by) == {"standby", threading.current_thread().name}


def test_it_ignores_short_turns(standby: Standby, attendance: Attendance) -> None:
    standby.need(True)
    for _ in range(2000):
        with standby:
            pass
        attendance.attend(0)
    assert set(attendance.by) == {threading.current_thread().name}


def test_it_rests_while_nothing_runs(standby: Standby, attendance: Attendance, reads: Reads) -> None:
    with standby:
        assert not reads.stopped.wait(STUCK_AFTER + 4 * STAND_IN_AFTER)
    assert attendance.by == []


def test_during_a_stuck_turn_it_stops_cancelled_jobs_and_then_closes_the_connection(
    standby: Standby, attendance: Attendance, reads: Reads, eventually: Callable[..., Any]
) -> None:
    standby.need(True)
    with standby:
        assert reads.stopped.wait(10)
        reads.stopped.clear()
        assert reads.stopped.wait(10), "it reads again"
        assert (reads.made, reads.closed) == (1, 0)
    eventually(lambda: reads.closed == 1)


def test_a_blocked_read_does_not_stop_it_from_attending_and_is_the_only_read(
    standby: Standby, attendance: Attendance, reads: Reads, eventually: Callable[..., Any]
) -> None:
    standby.need(True)
    reads.unblocked.clear()
    with standby:
        eventually(lambda: reads.made == 1)
        seen = len(attendance.by)
        eventually(lambda: len(attendance.by) > seen + 2 * READ_EVERY / STAND_IN_AFTER)
        assert reads.made == 1
    with standby:
        reads.unblocked.set()
        assert reads.stopped.wait(10), "the next stuck turn still has its reader"


def test_a_failed_read_is_retried(standby: Standby, reads: Reads, eventually: Callable[..., Any]) -> None:
    standby.need(True)
    reads.fails = True
    with standby:
        eventually(lambda: reads.closed >= 2)
        reads.fails = False
        assert reads.stopped.wait(10)


def test_it_attends_again_after_an_error(
    standby: Standby, attendance: Attendance, eventually: Callable[..., Any]
) -> None:
    standby.need(True)
    attendance.fails = True
    with standby:
        eventually(lambda: len(attendance.by) >= 3)
