"""Stdout and stderr in one sequence of bytes, with the lengths of their alternating runs, stdout first.

'0,5,3' means 5 bytes of stderr, then 3 of stdout. The times of the bytes are marks: '0@2,120@7' means that the first
120 bytes arrived from second 2 of the attempt on, the others from second 7 on.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Optional

STDOUT, STDERR = 0, 1


def add_run(runs: list[int], stream: int, length: int) -> None:
    """Append bytes of a stream."""
    if not length:
        return
    if not runs and stream == STDERR:
        runs.append(0)
    if len(runs) % 2 == stream:
        runs.append(length)
    else:
        runs[-1] += length


def spans(runs: Iterable[int]) -> Iterator[tuple[int, int, int]]:
    """The stream, start and end offset of each run that is not empty."""
    start = 0
    for index, length in enumerate(runs):
        if length:
            yield index % 2, start, start + length
        start += length


def encode_runs(runs: Iterable[int]) -> str:
    return ",".join(map(str, runs))


def decode_runs(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(",") if part)


Marks = Sequence[tuple[int, int]]  # offset of the first byte, seconds since the start of the attempt


def encode_times(marks: Marks) -> Optional[str]:
    """None if all arrived in the first second, as the output of most jobs does."""
    return ",".join(f"{offset}@{second}" for offset, second in marks) if any(second for _, second in marks) else None


def decode_times(text: Optional[str]) -> tuple[tuple[int, int], ...]:
    pairs = (part.split("@") for part in (text or "").split(",") if part)
    return tuple((int(offset), int(second)) for offset, second in pairs)
