"""The stored output of one attempt, and how the chunks of a running attempt are joined."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, Optional

from webapp.lib.stream_runs import add_run, decode_runs, decode_times, spans


class Output(NamedTuple):
    """Stdout and stderr in order of arrival.

    Attributes:
        data: the stored bytes.
        runs: lengths of alternating runs of `data`, stdout first.
        cut: offset in `data` where `dropped` bytes are missing, or None.
        live: the attempt still runs; more may come.
        times: marks of (offset in `data`, seconds since the start), see `lib/stream_runs.py`. Empty: not known, or all
            in the first second.
    """

    data: bytes
    runs: tuple[int, ...]
    cut: Optional[int] = None
    dropped: int = 0
    live: bool = False
    times: tuple[tuple[int, int], ...] = ()

    @property
    def is_deleted(self) -> bool:
        """Whether retention deleted it. The output limit leaves the ends."""
        return self.dropped > 0 and not (self.data or self.live)

    def stream(self, which: int) -> bytes:
        """The bytes of one stream: 1 stdout, 2 stderr."""
        return b"".join(self.data[start:end] for stream, start, end in spans(self.runs) if stream == which - 1)


def join(chunks: Iterable[tuple[int, bytes, str, Optional[str]]]) -> Output:
    """Join chunks of (position, data, runs, times), in order. Chunks that were dropped in the middle become the cut."""
    joined, runs, cut, dropped, end = bytearray(), list[int](), None, 0, 0
    times = list[tuple[int, int]]()
    for position, data, encoded, marks in chunks:
        if position > end:
            cut, dropped = len(joined), dropped + position - end
        for stream, start, stop in spans(decode_runs(encoded)):
            add_run(runs, stream, stop - start)
        times += ((len(joined) + offset, second) for offset, second in decode_times(marks))
        joined += data
        end = position + len(data)
    return Output(bytes(joined), tuple(runs), cut, dropped, live=True, times=tuple(times))
