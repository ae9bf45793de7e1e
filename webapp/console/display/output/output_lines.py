"""Parts of an attempt's output as HTML lines. Each line has a name for links.

A position counts bytes in the whole output. If the middle was dropped, an offset counts bytes in the kept data. Lines
before the cut are named by number (`L120`). The number of dropped lines is unknown, so lines after the cut are named by
the position of their first byte (`B1048600`). Both names are stable. `ansi.py` makes the HTML of a line.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import accumulate, islice
from typing import Optional

from markupsafe import Markup

from webapp.console.display import times
from webapp.console.display.output import ansi
from webapp.core.output import Output
from webapp.lib import clock
from webapp.lib.stream_runs import STDERR, spans

LINES = 1000  # shown at once
ABOVE = 250  # of them, lines above a requested line
SEARCHED = 2 * 1024 * 1024  # a search reads the last so many bytes
MOST_HITS = 1000  # lines that a search counts
NEWLINE = b"\n"
NAME = re.compile(r"(?P<kind>[LB]?)(?P<number>[0-9]{1,18})\Z")


@dataclass(frozen=True)
class RenderOptions:
    """How output is shown: the attempt, the search pattern, the linked line."""

    attempt: int = 1
    pattern: Optional[re.Pattern[str]] = None
    marked: Optional[int] = None  # offset in the kept data
    started: Optional[int] = None  # of the attempt (microseconds): show the time of each line, if it is known


DEFAULT_OPTIONS = RenderOptions()


@dataclass(frozen=True)
class Lines:
    """A part of the output as HTML.

    Attributes:
        html: whole lines, each an element.
        unfinished: the last line, if it has no newline yet.
        start: position of the first byte shown; 0 if there are no earlier lines.
        next: position after the last whole line, where the next part begins.
        more: there are more kept lines after this part.
    """

    html: Markup
    unfinished: Markup
    start: int
    next: int
    live: bool
    more: bool = False


def view_of(kept: Output, options: RenderOptions = DEFAULT_OPTIONS) -> Lines:
    """The last LINES lines."""
    return _part(kept, _back(kept.data, len(kept.data), LINES), len(kept.data), options)


def since(kept: Output, position: int, options: RenderOptions = DEFAULT_OPTIONS) -> Lines:
    """New output after a position, LINES lines at most. A note says how many lines were skipped."""
    asked, least = offset_of(kept, position), _back(kept.data, len(kept.data), LINES)
    found = _part(kept, max(asked, least), len(kept.data), options)
    skipped = kept.data.count(b"\n", asked, least) if asked < least else 0
    if not skipped:
        return found
    note = Markup('<div class="cut">{:,} lines arrived too fast and are not shown. Reload the page to see them.</div>')
    return replace(found, html=note.format(skipped) + found.html)


def before(kept: Output, position: int, options: RenderOptions = DEFAULT_OPTIONS) -> Lines:
    """LINES lines before a position."""
    end = offset_of(kept, position)
    return _part(kept, _back(kept.data, end, LINES), end, options)


def after(kept: Output, position: int, options: RenderOptions = DEFAULT_OPTIONS) -> Lines:
    """LINES lines from a position on."""
    start = offset_of(kept, position)
    return _part(kept, start, _forward(kept.data, start, LINES), options)


def around(kept: Output, offset: int, options: RenderOptions = DEFAULT_OPTIONS) -> Lines:
    """LINES lines around an offset; the last ones, if it is among them."""
    start = _back(kept.data, offset, ABOVE)
    end = _forward(kept.data, start, LINES)
    if end == len(kept.data):
        start = _back(kept.data, end, LINES)
    return _part(kept, start, end, options)


# --- places ----------------------------------------------------------------------------------------------------------


def cut_of(kept: Output) -> Optional[int]:
    """The offset at which bytes were left out. None if the output is complete."""
    return kept.cut if kept.dropped else None


def find_line(kept: Output, name: str) -> Optional[int]:
    """The offset of a line named `L120`, `120` or `B98765`. None if it does not exist. Raises ValueError."""
    match = NAME.match(name)
    if match is None:
        raise ValueError("not a line name")
    number, cut = int(match["number"]), cut_of(kept)
    if match["kind"] == "B":
        offset = offset_of(kept, number)
        left_out = cut is not None and cut <= number < cut + kept.dropped
        if left_out or offset >= len(kept.data):
            return None
        begin = kept.data.rfind(b"\n", 0, offset) + 1
        return max(begin, cut) if cut is not None and offset >= cut else begin
    head = kept.data[:cut]
    parts = head.split(b"\n", number - 1) if 0 < number <= len(head) + 1 else []
    offset = len(head) - len(parts[-1]) if parts else 0
    return offset if parts and len(parts) == number and offset < len(head) else None


def last_numbered(kept: Output) -> int:
    """The number of lines before the cut, or of all lines."""
    head = kept.data[: cut_of(kept)]
    return head.count(b"\n") + (not head.endswith(b"\n") and bool(head))


def last_with_text(kept: Output) -> Optional[int]:
    """The offset of the last line that is not empty. None: there is none."""
    end = len(kept.data.rstrip())
    return kept.data.rfind(b"\n", 0, end) + 1 if end else None


def first_of_stderr(kept: Output) -> str:
    """The name of the first line that has bytes of stderr, or ''."""
    begin = next((start for stream, start, _ in spans(kept.runs) if stream == STDERR), None)
    if begin is None:
        return ""
    cut = cut_of(kept)
    if cut is None or begin < cut:
        return f"L{kept.data.count(NEWLINE, 0, begin) + 1}"
    return f"B{_position(kept, max(kept.data.rfind(NEWLINE, 0, begin) + 1, cut))}"


def offset_of(kept: Output, position: int) -> int:
    """The offset of a position."""
    if kept.cut is None or position <= kept.cut:
        return min(position, len(kept.data))
    return min(max(position - kept.dropped, kept.cut), len(kept.data))


def _position(kept: Output, offset: int) -> int:
    return offset if kept.cut is None or offset < kept.cut else offset + kept.dropped


def _back(data: bytes, end: int, lines: int) -> int:
    """The start of the last `lines` lines before `end`."""
    position = end - 1 if data[max(end - 1, 0) : end] == b"\n" else end
    for _ in range(lines):
        position = data.rfind(b"\n", 0, position)
        if position < 0:
            return 0
    return position + 1


def _forward(data: bytes, start: int, lines: int) -> int:
    """The end of `lines` lines from `start` on."""
    position = start
    for _ in range(lines):
        found = data.find(b"\n", position)
        if found < 0:
            return len(data)
        position = found + 1
    return position


# --- search ----------------------------------------------------------------------------------------------------------


def pattern_of(text: str) -> re.Pattern[str]:
    """A pattern for literal text, ignoring case."""
    return re.compile(re.escape(text), re.IGNORECASE)


def hits(kept: Output, pattern: re.Pattern[str]) -> list[int]:
    """Offsets of matching lines in the last SEARCHED bytes, MOST_HITS at most."""
    data = kept.data
    start = 0 if len(data) <= SEARCHED else data.find(b"\n", len(data) - SEARCHED) + 1
    found = (offset for offset, raw in _lines(kept, start, len(data)) if pattern.search(ansi.text_of(raw)))
    return list(islice(found, MOST_HITS))


# --- lines -----------------------------------------------------------------------------------------------------------


def _lines(kept: Output, start: int, end: int) -> Iterator[tuple[int, bytes]]:
    """The offset and bytes of each line, without newline. A line with the cut in it comes in two parts."""
    cut = cut_of(kept)
    edges = [start, *([cut] if cut is not None and start <= cut < end else []), end]
    for first, last in zip(edges, edges[1:]):
        offset = first
        for raw in kept.data[first:last].split(b"\n"):
            if offset < last:  # else it is what follows the last newline: nothing
                yield offset, raw
            offset += len(raw) + 1


def _part(kept: Output, start: int, end: int, options: RenderOptions) -> Lines:
    data = kept.data
    whole_end = data.rfind(b"\n", start, end) + 1 or start
    page = _Page(kept, start, options)
    whole = "".join(page.line(offset, raw) for offset, raw in _lines(kept, start, whole_end))
    # An unfinished line has no name yet: the whole line will get it.
    rest = "".join(page.line(offset, raw, named=not kept.live) for offset, raw in _lines(kept, whole_end, end))
    if cut_of(kept) == end and not kept.live:
        rest += _cut_note(kept)
    return Lines(
        Markup(whole),  # noqa: S704 -- ansi.py escapes it
        Markup(rest),  # noqa: S704
        _position(kept, start),
        _position(kept, whole_end),
        kept.live,
        end < len(data),
    )


class _Page:
    """Turns lines into HTML, and carries style and line number from line to line."""

    def __init__(self, kept: Output, start: int, options: RenderOptions) -> None:
        self._kept = kept
        self._cut = cut_of(kept)
        self._options = options
        self._ends = list(accumulate(kept.runs))
        self._style = ansi.style_after(kept.data, start)
        self._number = kept.data.count(b"\n", 0, start)

    def line(self, offset: int, raw: bytes, *, named: bool = True) -> str:
        """One line as an element, with a class for stderr; before it, a note for dropped bytes."""
        self._number += 1
        note = ""
        if offset == self._cut:
            self._style = ansi.PLAIN
            note = _cut_note(self._kept)
        html, self._style = ansi.line(raw, self._style, self._options.pattern)
        classes = ["err"] if bisect_right(self._ends, offset) % 2 else []
        here = self._clock(offset)
        if self._options.marked == offset:
            classes.append("marked")
            here = f'<span id="at"></span>{here}'
        kind = f' class="{" ".join(classes)}"' if classes else ""
        if not named:
            return f"{note}<div{kind}>{here}{html}</div>"
        numbered = self._cut is None or offset < self._cut
        name = f"L{self._number}" if numbered else f"B{_position(self._kept, offset)}"
        shown = self._number if numbered else "\N{MIDDLE DOT}"
        # Not in the tab order: keyboard users have the Line field.
        link = (
            f'<a href="?attempt={self._options.attempt}&amp;line={name}#{name}" data-n="{shown}" tabindex="-1"'
            f' aria-hidden="true"></a>'
        )
        return f'{note}<div id="{name}"{kind}>{link}{here}{html}</div>'

    def _clock(self, offset: int) -> str:
        """When the first byte of a line arrived, in the user's time zone."""
        marks = self._kept.times
        if self._options.started is None or not marks:
            return ""
        place = bisect_right(marks, (offset, 2**62)) - 1
        moment = times.local(self._options.started + clock.seconds(marks[place][1] if place >= 0 else 0))
        return f'<span class="clock">{moment:%H:%M:%S}</span>'


def _cut_note(kept: Output) -> str:
    what = "deleted by retention" if kept.is_deleted else "left out here (output limit)"
    return f'<div class="cut">{kept.dropped:,} bytes {what}</div>'
