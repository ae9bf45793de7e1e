"""The limits of captured output: head and tail are kept exactly, the rest is counted."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from webapp.core.output import Output, join
from webapp.lib.stream_runs import decode_runs, decode_times
from worker.runner.output import MOST_MARKS, Capture

_writes = st.lists(st.tuples(st.sampled_from([0, 1]), st.binary(min_size=1, max_size=40)), max_size=60)


def _told(writes: list[tuple[int, bytes]], limit: int) -> tuple[Capture, bytes]:
    capture = Capture(limit)
    for stream, data in writes:
        capture.write(stream, data)
    return capture, b"".join(data for _, data in writes)


@given(_writes, st.integers(8, 200))
def test_the_beginning_and_the_end_are_kept(writes: list[tuple[int, bytes]], limit: int) -> None:
    capture, whole = _told(writes, limit)
    kept = capture.kept()
    assert len(kept.data) <= limit
    assert len(kept.data) + kept.dropped == len(whole)
    if kept.cut is None:
        assert kept.data == whole
    else:
        assert kept.data[: kept.cut] == whole[: kept.cut]
        assert whole.endswith(kept.data[kept.cut :])
        assert kept.cut == limit - limit // 2


@given(_writes, st.integers(8, 4000))
def test_the_two_streams_can_be_told_apart(writes: list[tuple[int, bytes]], limit: int) -> None:
    capture, _ = _told(writes, limit)
    kept = capture.kept()
    runs = decode_runs(kept.runs)
    assert sum(runs) == len(kept.data)
    if kept.cut is None:
        output = Output(kept.data, runs)
        assert output.stream(1) == b"".join(data for stream, data in writes if stream == 0)
        assert output.stream(2) == b"".join(data for stream, data in writes if stream == 1)


@given(_writes, st.integers(8, 200), st.integers(1, 7))
def test_live_parts_joined_together_equal_the_kept_output(
    writes: list[tuple[int, bytes]], limit: int, every: int
) -> None:
    capture = Capture(limit)
    position, pieces = 0, []
    for number, (stream, data) in enumerate(writes):
        capture.write(stream, data)
        if number % every == 0:
            for chunk in capture.since(position):
                pieces.append(chunk)
                position = chunk.position + len(chunk.data)
    whole = b"".join(data for _, data in writes)
    for chunk in pieces:
        assert whole[chunk.position : chunk.position + len(chunk.data)] == chunk.data
        assert sum(decode_runs(chunk.runs)) == len(chunk.data)
    positions = [chunk.position for chunk in pieces]
    assert positions == sorted(positions)


def test_the_times_of_output_are_kept_by_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("worker.runner.output.time.monotonic", lambda: now)
    capture = Capture(20)
    for now, data in ((0.2, b"12345"), (0.9, b"678"), (3.5, b"90"), (3.9, b"12"), (7.0, b"3456789012345")):  # noqa: B007
        capture.write(0, data)
    kept = capture.kept()
    assert (kept.data, kept.cut, kept.dropped) == (b"1234567890" + b"6789012345", 10, 5)
    assert decode_times(kept.times) == ((0, 0), (8, 3), (10, 7))
    chunks = [(one.position, one.data, one.runs, one.times) for one in capture.since(0)]
    assert join(chunks).times == ((0, 0), (8, 3), (10, 7))


def test_output_of_the_first_second_has_no_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.runner.output.time.monotonic", lambda: 0.0)
    capture = Capture(100)
    capture.write(0, b"one")
    assert capture.kept().times is None
    assert capture.since(0)[0].times is None


def test_a_job_that_writes_for_days_has_few_times(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("worker.runner.output.time.monotonic", lambda: now)
    capture = Capture(2**20)
    for now in range(5000):  # noqa: B007
        capture.write(0, b"x")
    marks = decode_times(capture.kept().times)
    assert len(marks) <= MOST_MARKS
    assert all(second == offset for offset, second in marks)
    assert marks[-1][1] > 4900
