"""Stdout and stderr in one sequence of bytes, with the lengths of their alternating runs, stdout first.

'0,5,3' means 5 bytes of stderr, then 3 of stdout.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

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
