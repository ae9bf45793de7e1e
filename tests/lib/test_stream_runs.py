"""Two streams in one sequence: the lengths of their runs, as numbers and as a text."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from webapp.lib.stream_runs import add_run, decode_runs, encode_runs, spans

_writes = st.lists(st.tuples(st.sampled_from([0, 1]), st.integers(0, 9)), max_size=20)


@given(_writes)
def test_each_byte_keeps_its_stream_and_its_place(writes: list[tuple[int, int]]) -> None:
    runs: list[int] = []
    for stream, length in writes:
        add_run(runs, stream, length)
    assert decode_runs(encode_runs(runs)) == tuple(runs)
    assert all(runs[1:])
    told = [(place, stream) for stream, start, end in spans(runs) for place in range(start, end)]
    assert told == list(enumerate(stream for stream, length in writes for _ in range(length)))


def test_a_run_is_a_number_in_a_text() -> None:
    assert encode_runs([0, 5, 3]) == "0,5,3"
    assert decode_runs("") == ()
    assert list(spans((0, 5, 3))) == [(1, 0, 5), (0, 5, 8)]
