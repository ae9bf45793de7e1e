"""The output of one attempt in bounded memory: the beginning and the end are kept, the middle is counted.

stdout and stderr are one sequence, in the order in which they arrived, with the lengths of their alternating runs. So a
page can show them interleaved and a program can separate them. One thread writes and another reads, hence the lock.

When they arrived is kept as one mark for each second with output, MOST_MARKS at most: of more, every second one stays.
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_right
from collections import deque
from typing import NamedTuple

from webapp.lib.stream_runs import add_run, encode_runs, encode_times
from worker.runner.report import ReportFile

MOST_MARKS = 500  # of one attempt, so that a job which writes for days needs little memory for them
_SEGMENT = 4096  # pieces of one stream are joined up to this size, because a piece of one byte would take 100


class CapturedOutput(NamedTuple):
    """The stored output of an attempt, as in `models.Attempt`.

    Attributes:
        data: the kept bytes.
        runs: lengths of alternating runs of them, stdout first: '12,5,3'.
        cut: offset in `data` where `dropped` bytes were left out, or None.
    """

    data: bytes = b""
    runs: str = ""
    cut: int | None = None
    dropped: int = 0
    times: str | None = None  # see lib/stream_runs.py


NOTHING = CapturedOutput()


class Chunk(NamedTuple):
    """A piece of live output. `position`: offset of its first byte in everything that was written."""

    position: int
    data: bytes
    runs: str
    times: str | None = None


class Capture:
    """The output of one running attempt. `report`: the file in which its command may report."""

    report: ReportFile | None = None
    total = 0
    _head_size = _tail_size = 0
    _next_mark, _step = 0.0, 1  # seconds

    def __init__(self, limit: int) -> None:
        """Keep at most `limit` bytes: half of them from the beginning, half from the end."""
        self._head_limit = limit - limit // 2
        self._tail_limit = limit // 2
        self._head: deque[tuple[int, bytearray]] = deque()
        self._tail: deque[tuple[int, bytearray]] = deque()
        self._lock = threading.Lock()
        self._begun = time.monotonic()
        self._marks: list[tuple[int, int]] = []  # position, second

    @property
    def middle(self) -> tuple[int, int]:
        """The range of positions, start and end, that would not be kept now."""
        return self._head_limit, max(self._head_limit, self.total - self._tail_limit)

    def write(self, stream: int, data: bytes) -> None:
        with self._lock:
            passed = time.monotonic() - self._begun
            if passed >= self._next_mark:
                self._mark(int(passed))
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

    def _mark(self, second: int) -> None:
        if len(self._marks) >= MOST_MARKS:
            del self._marks[1::2]
            self._step *= 2
        self._marks.append((self.total, second))
        self._next_mark = second + self._step

    def _times(self, start: int, end: int) -> list[tuple[int, int]]:
        """The marks of the bytes between two positions, with offsets from `start`."""
        first = max(bisect_right(self._marks, (start, 2**62)) - 1, 0)
        return [(max(at - start, 0), second) for at, second in self._marks[first:] if at < end]

    def since(self, position: int) -> list[Chunk]:
        """The output since a position that is still held: at most one piece of the head and one of the tail."""
        with self._lock:
            parts = ((0, self._head), (self.total - self._tail_size, self._tail))
            chunks = [chunk for start, segments in parts for chunk in _from(segments, start, position)]
            ends = ((one, one.position + len(one.data)) for one in chunks)
            return [one._replace(times=encode_times(self._times(one.position, end))) for one, end in ends]

    def kept(self) -> CapturedOutput:
        """The kept output."""
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
            times = self._times(0, self._head_size)
            if tail_start < self.total:
                times += [(self._head_size + at, second) for at, second in self._times(tail_start, self.total)]
            return CapturedOutput(
                bytes(data), encode_runs(runs), self._head_size if dropped else None, dropped, encode_times(times)
            )


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
