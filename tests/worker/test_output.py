"""The limits of captured output: head and tail are kept exactly, the rest is counted."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from webapp.core.output import Output
from webapp.lib.stream_runs import decode_runs
from worker.runner.output import Capture

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
