"""What differs between two texts, line by line: an attempt's output and another's. Bounded in time.

`difflib` compares in a time that grows with the square of the lines, so the beginning and the end that both share are
set aside first, and of what is left at most MOST lines of each are compared.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Optional

MOST = 1000  # lines of each that are compared, behind the beginning that both share
CONTEXT = 3  # equal lines that are shown beside what differs
_DIGITS = re.compile(r"[0-9]+")


@dataclass(frozen=True)
class Row:
    """One line of a comparison. `sign` is ' ', '-' (only in the old), '+' (only in the new) or '…' (`text` says what
    is left out). `old` and `new` are line numbers, from 1."""

    sign: str
    text: str
    old: Optional[int] = None
    new: Optional[int] = None


@dataclass(frozen=True)
class Comparison:
    """Rows, and how many lines are only in the one or the other. `left_out`: lines that were too many to compare."""

    rows: list[Row]
    removed: int
    added: int
    alike: int
    left_out: int

    @property
    def same(self) -> bool:
        return not self.removed and not self.added and not self.left_out


def compare(old: Sequence[str], new: Sequence[str], *, ignore_digits: bool = False) -> Comparison:
    """Compare two texts. With `ignore_digits`, lines that differ in their numbers alone, such as times, are alike."""
    keys = [[_DIGITS.sub("0", line) for line in lines] if ignore_digits else list(lines) for lines in (old, new)]
    head = _shared(keys[0], keys[1])
    # What both end with is set aside, but not where it would be counted twice.
    tail = min(_shared(keys[0][::-1], keys[1][::-1]), len(old) - head, len(new) - head)
    middle = [lines[head : len(lines) - tail] for lines in keys]
    left_out = sum(max(len(lines) - MOST, 0) for lines in middle)
    if left_out:
        tail = 0  # it does not follow on what is compared
        middle = [lines[:MOST] for lines in middle]
    one, other = middle
    matcher = SequenceMatcher(None, one, other, autojunk=not _is_cheap(one, other))
    blocks = [("equal", 0, head, 0, head)] if head else []
    blocks += [(tag, a + head, b + head, c + head, d + head) for tag, a, b, c, d in matcher.get_opcodes()]
    ends = (head + len(one), head + len(other))
    if tail:
        blocks.append(("equal", ends[0], ends[0] + tail, ends[1], ends[1] + tail))
    rows = list(_rows(old, new, blocks))
    if left_out:
        rows.append(Row("…", f"{left_out:,} more lines are not compared"))
    changed = [block for block in blocks if block[0] != "equal"]
    return Comparison(
        rows,
        removed=sum(b - a for _, a, b, _, _ in changed),
        added=sum(d - c for _, _, _, c, d in changed),
        alike=sum(b - a for tag, a, b, _, _ in blocks if tag == "equal"),
        left_out=left_out,
    )


def _shared(one: Sequence[str], other: Sequence[str]) -> int:
    """How many lines both begin with."""
    for place, (a, b) in enumerate(zip(one, other)):
        if a != b:
            return place
    return min(len(one), len(other))


def _is_cheap(one: Sequence[str], other: Sequence[str]) -> bool:
    """Whether few lines repeat: one that stands in both a thousand times makes a million pairs."""
    counts: dict[str, int] = {}
    for line in other:
        counts[line] = counts.get(line, 0) + 1
    return sum(counts.get(line, 0) for line in one) <= 20 * MOST


def _rows(old: Sequence[str], new: Sequence[str], blocks: Sequence[tuple[str, int, int, int, int]]) -> Iterator[Row]:
    for place, (tag, a, b, c, d) in enumerate(blocks):
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
                    yield Row("…", f"{hidden:,} lines alike")
                continue
            yield Row(" ", new[c + offset], old=a + offset + 1, new=c + offset + 1)
