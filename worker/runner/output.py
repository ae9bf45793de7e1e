"""What one attempt writes, in bounded memory: its beginning and its end are kept, the middle is counted.

stdout and stderr are kept in one sequence, as they came, with the lengths of their alternating runs beside it: so a
page can show them interleaved and a program can have each alone. Written by the thread that reads the pipes and read
by the one that stores them, hence the lock.
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass

from webapp.lib.stream_runs import add_run, encode_runs

_SEGMENT = 4096  # neighbours of one stream grow together up to this size, so that single bytes do not cost 100 each


@dataclass(frozen=True)
class CapturedOutput:
    """What is stored of an attempt's output, as in `models.Attempt`.

    Attributes:
        data: the kept bytes.
        runs: lengths of alternating runs of them, stdout first: '12,5,3'.
        cut: offset in `data` where `dropped` bytes were left out, or None.
    """

    data: bytes = b""
    runs: str = ""
    cut: int | None = None
    dropped: int = 0


NOTHING = CapturedOutput()


@dataclass(frozen=True)
class Chunk:
    """A piece of live output. `position` is its first byte's, counted over all that was written."""

    position: int
    data: bytes
    runs: str


class Capture:
    """The output of one running attempt."""

    def __init__(self, limit: int) -> None:
        """Keep at most `limit` bytes: the first half of it and the last."""
        self._head_limit = limit - limit // 2
        self._tail_limit = limit // 2
        self._head: deque[tuple[int, bytearray]] = deque()
        self._tail: deque[tuple[int, bytearray]] = deque()
        self._head_size = 0
        self._tail_size = 0
        self._lock = threading.Lock()
        self.total = 0

    @property
    def middle(self) -> tuple[int, int]:
        """The range of positions, first and behind the last, that will not be kept as things stand."""
        return self._head_limit, max(self._head_limit, self.total - self._tail_limit)

    def write(self, stream: int, data: bytes) -> None:
        with self._lock:
            self.total += len(data)
            room = self._head_limit - self._head_size
            if room > 0:
                _append(self._head, stream, data[:room])
                self._head_size += min(room, len(data))
                data = data[room:]
            if len(data) >= self._tail_limit:
                self._tail.clear()
                self._tail_size, data = 0, data[-self._tail_limit :]
            if data:
                _append(self._tail, stream, data)
                self._tail_size += len(data)
                while self._tail_size - len(self._tail[0][1]) >= self._tail_limit:
                    self._tail_size -= len(self._tail.popleft()[1])

    def since(self, position: int) -> list[Chunk]:
        """What came since a position, as far as it is still held: at most a piece of the head and one of the tail."""
        with self._lock:
            parts = ((0, self._head), (self.total - self._tail_size, self._tail))
            return [chunk for start, segments in parts for chunk in _from(segments, start, position)]

    def kept(self) -> CapturedOutput:
        """What is left at the end."""
        if not self.total:
            return NOTHING
        with self._lock:
            tail_start = max(self.total - min(self._tail_size, self._tail_limit), self._head_size)
            dropped = tail_start - self._head_size
            runs, data = list[int](), bytearray()
            pieces = list(self._head)
            surplus = self._tail_size - (self.total - tail_start)
            for stream, segment in self._tail:
                pieces.append((stream, segment[surplus:]))
                surplus = max(0, surplus - len(segment))
            for stream, segment in pieces:
                add_run(runs, stream, len(segment))
                data += segment
            return CapturedOutput(bytes(data), encode_runs(runs), self._head_size if dropped else None, dropped)


def _append(segments: deque[tuple[int, bytearray]], stream: int, data: bytes) -> None:
    if segments and segments[-1][0] == stream and len(segments[-1][1]) < _SEGMENT:
        segments[-1][1].extend(data)
    else:
        segments.append((stream, bytearray(data)))


def _from(segments: deque[tuple[int, bytearray]], start: int, position: int) -> list[Chunk]:
    runs, data, first = list[int](), bytearray(), max(start, position)
    for stream, segment in segments:
        skip = max(0, position - start)
        start += len(segment)
        if skip < len(segment):
            piece = segment[skip:]
            add_run(runs, stream, len(piece))
            data += piece
    return [Chunk(first, bytes(data), encode_runs(runs))] if data else []
