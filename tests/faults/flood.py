"""Writes the output of a job of `floods.py`: `flood.py KIND`. Tests compare with the same bytes.

Imports nothing of queuectl, because a job runs this file by its path.
"""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Iterator

MIB = 1024**2
SPLIT = "zażółć gęślą jaźń, 読み込み中, 😀\n".encode()  # characters of two, three and four bytes


def pieces(kind: str) -> Iterator[bytes]:
    """The output, in the parts in which it is written."""
    return {
        "lines": _lines,
        "no newline": _no_newline,
        "bars": _bars,
        "random": _random,
        "NUL": _nul,
        "split UTF-8": _split,
        "long UTF-8": _long,
    }[kind]()


def _lines() -> Iterator[bytes]:
    """100 MB of different lines."""
    for first in range(0, 1_000_000, 1000):
        yield b"".join(b"%08d %s\n" % (number, b"x" * 90) for number in range(first, first + 1000))


def _no_newline() -> Iterator[bytes]:
    """10 MB without a newline."""
    for first in range(0, 1_250_000, 5000):
        yield b"".join(b"%08d" % number for number in range(first, first + 5000))


def _bars() -> Iterator[bytes]:
    r"""A progress bar that rewrites its line with `\r` many times."""
    for step in range(50_000):
        part = step * 40 // 50_000
        yield b"\r%6.2f%% [%s%s]" % (step / 500, b"#" * part, b"." * (40 - part))
    yield b"\rdone\n"


def _random() -> Iterator[bytes]:
    """Like /dev/urandom, but the same each time."""
    luck = random.Random(7)
    for _ in range(48):
        yield luck.getrandbits(8 * MIB // 8).to_bytes(MIB // 8, "little")


def _nul() -> Iterator[bytes]:
    """Text and NUL bytes, then only NUL bytes."""
    for number in range(20_000):
        yield b"a\0b %d \0\0\n" % number
    yield bytes(MIB)


def _split() -> Iterator[bytes]:
    """Split characters: one write for each byte."""
    for byte in SPLIT * 10:
        yield bytes([byte])


def _long() -> Iterator[bytes]:
    """Characters of three bytes that do not align with the cut."""
    yield b"." + "読".encode() * MIB + b"."


if __name__ == "__main__":
    for piece in pieces(sys.argv[1]):
        rest = memoryview(piece)
        while rest:
            rest = rest[os.write(1, rest) :]
