"""Compares two texts line by line, in bounded time: the outputs of two attempts.

The time of `difflib` grows with the square of the lines. So equal lines at the start, at the end and in between are
skipped first. The rest is compared in windows of WINDOW lines, until MAX_DIFFERENT lines differ.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Callable, Optional

WINDOW = 400  # lines of each text that are compared at once
MAX_DIFFERENT = 2000  # different lines until the comparison stops
MIN_WINDOW_COST = 20  # each window counts as at least so many different lines, which limits the number of windows
SYNC_LINES = 3  # equal lines in a row at which a window may end: a single equal line may be a coincidence
CONTEXT = 3  # equal lines shown before and after different ones
SKIPPED = "skipped"
Block = tuple[str, int, int, int, int]


@dataclass(frozen=True)
class Row:
    """A line of a comparison. `sign` is ' ', '-' (only in the old text), '+' (only in the new one) or '…' (`text` says
    what is omitted). `old` and `new` are line numbers from 1."""

    sign: str
    text: str
    old: Optional[int] = None
    new: Optional[int] = None


@dataclass(frozen=True)
class Comparison:
    """Rows and the numbers of removed, added and equal lines. `left_out`: lines that were not compared."""

    rows: list[Row]
    removed: int
    added: int
    alike: int
    left_out: int

    @property
    def same(self) -> bool:
        return not self.removed and not self.added and not self.left_out


def compare(old: Sequence[str], new: Sequence[str], key: Callable[[str], str] = str) -> Comparison:
    """Compare two texts. Lines with the same key are equal."""
    blocks, rest = _blocks([key(line) for line in old], [key(line) for line in new])
    changed = [block for block in blocks if block[0] != "equal"]
    return Comparison(
        list(_rows(old, new, blocks)),
        removed=sum(b - a for tag, a, b, _, _ in changed if tag != SKIPPED),
        added=sum(d - c for tag, _, _, c, d in changed if tag != SKIPPED),
        alike=sum(b - a for tag, a, b, _, _ in blocks if tag == "equal"),
        left_out=rest,
    )


def _blocks(one: Sequence[str], other: Sequence[str]) -> tuple[list[Block], int]:
    """Opcodes as in `difflib`, and the number of lines left out."""
    most = min(len(one), len(other)) - _shared(one, other, 0, 0)
    tail = 0
    while tail < most and one[-1 - tail] == other[-1 - tail]:
        tail += 1
    blocks: list[Block] = []
    a = b = spent = rest = 0
    while a < len(one) or b < len(other):
        shared = _shared(one, other, a, b)
        if shared:
            blocks.append(("equal", a, a + shared, b, b + shared))
            a, b = a + shared, b + shared
            continue
        # Equal lines at the end are not compared, unless the equal lines at the start overlap them.
        last_a, last_b = max(len(one) - tail, a), max(len(other) - tail, b)
        if a == last_a or b == last_b:
            blocks.append(("replace", a, last_a, b, last_b))
            if (a, b) == (last_a, last_b):
                blocks[-1] = ("replace", a, len(one), b, len(other))
            a, b = blocks[-1][2], blocks[-1][4]
            continue
        if spent >= MAX_DIFFERENT:
            rest = max(last_a - a, last_b - b)
            blocks.append((SKIPPED, a, last_a, b, last_b))
            a, b = last_a, last_b
            continue
        ahead = _window(one[a : min(a + WINDOW, last_a)], other[b : min(b + WINDOW, last_b)],
                        whole=a + WINDOW >= last_a and b + WINDOW >= last_b)  # fmt: skip
        blocks += [(tag, i + a, j + a, k + b, m + b) for tag, i, j, k, m in ahead]
        spent += max(MIN_WINDOW_COST, sum(max(j - i, m - k) for tag, i, j, k, m in ahead if tag != "equal"))
        a, b = blocks[-1][2], blocks[-1][4]
    return _joined(blocks), rest


def _window(one: Sequence[str], other: Sequence[str], *, whole: bool) -> list[Block]:
    """Opcodes of one window up to its last equal part; all of them at the end, or if nothing is equal."""
    found = SequenceMatcher(None, one, other, autojunk=False).get_opcodes()
    for least in () if whole else (SYNC_LINES, 1):
        for place in range(len(found) - 1, 0, -1):
            tag, i, j, _, _ = found[place]
            if tag == "equal" and j - i >= least:
                return list(found[:place])
    return list(found)


def _joined(blocks: Sequence[Block]) -> list[Block]:
    """Merge neighbours of one kind, which come from adjacent windows."""
    joined: list[Block] = []
    for tag, a, b, c, d in blocks:
        kind = tag if tag in ("equal", SKIPPED) else "replace"
        if joined and joined[-1][0] == kind and kind != SKIPPED:
            joined[-1] = (kind, joined[-1][1], b, joined[-1][3], d)
        else:
            joined.append((kind, a, b, c, d))
    return joined


def _shared(one: Sequence[str], other: Sequence[str], a: int, b: int) -> int:
    """The number of equal lines from these positions."""
    number = 0
    while a + number < len(one) and b + number < len(other) and one[a + number] == other[b + number]:
        number += 1
    return number


def _rows(old: Sequence[str], new: Sequence[str], blocks: Sequence[Block]) -> Iterator[Row]:
    for place, (tag, a, b, c, d) in enumerate(blocks):
        if tag == SKIPPED:
            yield Row("…", f"{max(b - a, d - c):,} lines are not compared: too many differ")
            continue
        if tag != "equal":
            yield from (Row("-", old[number], old=number + 1) for number in range(a, b))
            yield from (Row("+", new[number], new=number + 1) for number in range(c, d))
            continue
        first = CONTEXT if place > 0 else 0
        last = CONTEXT if place < len(blocks) - 1 else 0
        hidden = b - a - first - last
        for offset in range(b - a):
            if hidden > 1 and first <= offset < b - a - last:
                if offset == first:
                    yield Row("…", f"{hidden:,} equal lines")
                continue
            yield Row(" ", new[c + offset], old=a + offset + 1, new=c + offset + 1)
