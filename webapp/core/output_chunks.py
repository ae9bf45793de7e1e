"""Joins the chunks in which a worker stores the output of a running attempt."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Optional

from webapp.lib.stream_runs import add_run, decode_runs, spans


@dataclass(frozen=True)
class Joined:
    """Output with its runs, see `lib/stream_runs.py`. `cut`: where `dropped` bytes are missing; None if none are."""

    data: bytes
    runs: tuple[int, ...]
    cut: Optional[int]
    dropped: int


def join(chunks: Iterable[tuple[int, bytes, str]]) -> Joined:
    """Join chunks of (position, data, runs), in order. Chunks that were dropped in the middle become the cut."""
    joined, runs, cut, dropped, end = bytearray(), list[int](), None, 0, 0
    for position, data, encoded in chunks:
        if position > end:
            cut, dropped = len(joined), dropped + position - end
        for stream, start, stop in spans(decode_runs(encoded)):
            add_run(runs, stream, stop - start)
        joined += data
        end = position + len(data)
    return Joined(bytes(joined), tuple(runs), cut, dropped)
