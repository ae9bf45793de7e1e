r"""A command's output as safe HTML: colours as classes, `\r` applied, all other terminal controls removed.

All output is escaped. It never becomes an attribute, except for the class names that are made here.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, Optional

from markupsafe import escape

from webapp.lib.text import ESCAPE, show_controls

LONGEST_LINE = 4000  # characters; the rest of a line is counted and is in the download

RESETS = (b"\x1b[0m", b"\x1b[m")
STYLE_LOOK_BACK = 256 * 1024
SGR = re.compile(b"(?:\x1b\\[|\xc2\x9b)([0-9;:]*)m")


@dataclass(frozen=True)
class Style:
    """A text style. Colours are numbers of the 256-colour palette; None is the default."""

    ink: Optional[int] = None
    ground: Optional[int] = None
    bold: bool = False
    faint: bool = False
    italic: bool = False
    underline: bool = False
    reverse: bool = False
    strike: bool = False

    @property
    def classes(self) -> str:
        ink, ground = (self.ground, self.ink) if self.reverse else (self.ink, self.ground)
        names = [f"f{ink}"] if ink is not None else []
        names += [f"g{ground}"] if ground is not None else []
        names += ["inv"] if self.reverse and ink is None and ground is None else []
        flags = {"bo": self.bold, "fa": self.faint, "it": self.italic, "un": self.underline, "st": self.strike}
        return " ".join(names + [name for name, on in flags.items() if on])


PLAIN = Style()
_FLAGS = {1: "bold", 2: "faint", 3: "italic", 4: "underline", 7: "reverse", 9: "strike"}
# What each parameter changes. 30 to 37 and 90 to 97 are ink, 40 to 47 and 100 to 107 ground: dark and bright colours.
_CHANGES: dict[int, dict[str, Any]] = {
    **{code: {name: True} for code, name in _FLAGS.items()},
    22: {"bold": False, "faint": False},
    **{code + 20: {name: False} for code, name in _FLAGS.items() if code > 2},
    **{30 + number: {"ink": number} for number in range(8)},
    **{90 + number: {"ink": number + 8} for number in range(8)},
    39: {"ink": None},
    **{40 + number: {"ground": number} for number in range(8)},
    **{100 + number: {"ground": number + 8} for number in range(8)},
    49: {"ground": None},
}


def apply(style: Style, parameters: str) -> Style:
    """The style after one `m` sequence. Unknown parameters are ignored."""
    numbers = [int(part) if part.isdecimal() and len(part) < 4 else 0 for part in re.split("[;:]", parameters or "0")]
    position = 0
    while position < len(numbers):
        code = numbers[position]
        position += 1
        if code == 0:
            style = PLAIN
        elif code in _CHANGES:
            style = replace(style, **_CHANGES[code])
        elif code in {38, 48}:
            colour, position = _extended(numbers, position)
            if colour is not None:
                style = replace(style, ink=colour) if code == 38 else replace(style, ground=colour)
    return style


def _extended(numbers: list[int], position: int) -> tuple[Optional[int], int]:
    """The colour after a 38 or 48: `5;n`, or `2;r;g;b` as the nearest of the 256."""
    kind = numbers[position] if position < len(numbers) else 0
    if kind == 5 and position + 1 < len(numbers):
        number = numbers[position + 1]
        return (number if number < 256 else None), position + 2
    if kind == 2 and position + 3 < len(numbers):
        red, green, blue = (min(number, 255) for number in numbers[position + 1 : position + 4])
        return nearest(red, green, blue), position + 4
    return None, position + 1


def nearest(red: int, green: int, blue: int) -> int:
    """The nearest colour of the colour cube or the grey ramp."""
    levels = (0, 95, 135, 175, 215, 255)
    cube = [min(range(6), key=lambda index: abs(levels[index] - value)) for value in (red, green, blue)]
    grey = min(max(round(((red + green + blue) / 3 - 8) / 10), 0), 23)
    off_cube = sum((levels[index] - value) ** 2 for index, value in zip(cube, (red, green, blue)))
    off_grey = sum((8 + 10 * grey - value) ** 2 for value in (red, green, blue))
    return 232 + grey if off_grey < off_cube else 16 + 36 * cube[0] + 6 * cube[1] + cube[2]


def style_after(data: bytes, end: int) -> Style:
    """The style at offset `end`, for a page that begins there.

    It looks back to the last reset, at most STYLE_LOOK_BACK bytes.
    """
    start = max(end - STYLE_LOOK_BACK, *(data.rfind(reset, max(end - STYLE_LOOK_BACK, 0), end) for reset in RESETS), 0)
    style = PLAIN
    for match in SGR.finditer(data, start, end):
        style = apply(style, match[1].decode("ascii"))
    return style


def line(data: bytes, style: Style, pattern: Optional[re.Pattern[str]] = None) -> tuple[str, Style]:
    r"""One line without its newline as HTML, and the style after it. `\r` overwrites, as on a terminal.

    Matches of the pattern are marked.
    """
    runs, style = _shown(data, style)
    return _html(_marked(runs, pattern) if pattern is not None else [(*run, False) for run in runs]), style


def text_of(data: bytes) -> str:
    """The visible text of a line."""
    text = data.decode("utf-8", "replace")
    if text.isascii() and "\x1b" not in text and "\r" not in text and "\b" not in text:
        return text
    return "".join(part for part, _ in _shown(data, PLAIN)[0])


def _shown(data: bytes, style: Style) -> tuple[list[tuple[str, Style]], Style]:
    text = data.decode("utf-8", "replace").rstrip("\r")
    if "\r" not in text and "\b" not in text:
        return _runs(text, style)
    cells: list[tuple[str, Style]] = []
    for part in text.split("\r"):
        runs, style = _runs(part, style)
        _overwrite(cells, runs)
    return _joined(cells), style


def _marked(runs: list[tuple[str, Style]], pattern: re.Pattern[str]) -> list[tuple[str, Style, bool]]:
    """Split runs at the start and end of each match. A match may span several runs."""
    line = "".join(text for text, _ in runs)[:LONGEST_LINE]
    edges = [edge for match in pattern.finditer(line) for edge in match.span()]
    parts: list[tuple[str, Style, bool]] = []
    offset = 0
    for text, style in runs:
        end = offset + len(text)
        cuts = [offset, *sorted({edge for edge in edges if offset < edge < end}), end]
        for first, last in zip(cuts, cuts[1:]):
            inside = bisect_right(edges, first) % 2 == 1
            parts.append((text[first - offset : last - offset], style, inside))
        offset = end
    return parts


def _runs(text: str, style: Style) -> tuple[list[tuple[str, Style]], Style]:
    """Split a text at its escape sequences into styled runs. Apply `m`, drop all others."""
    runs, position = [], 0
    for match in ESCAPE.finditer(text):
        if match.start() > position:
            runs.append((text[position : match.start()], style))
        if match["final"] == "m":
            style = apply(style, match["csi"])
        position = match.end()
    if position < len(text):
        runs.append((text[position:], style))
    return runs, style


def _overwrite(cells: list[tuple[str, Style]], runs: list[tuple[str, Style]]) -> None:
    """Write runs over a line from the first column. A backspace moves one column back."""
    column = 0
    for text, style in runs:
        for char in text:
            if char == "\b":
                column = max(column - 1, 0)
            elif column < len(cells):
                cells[column] = (char, style)
                column += 1
            elif len(cells) <= LONGEST_LINE:
                cells.append((char, style))
                column += 1


def _joined(cells: list[tuple[str, Style]]) -> list[tuple[str, Style]]:
    return [("".join(char for char, _ in some), style) for style, some in groupby(cells, key=lambda cell: cell[1])]


def _html(runs: list[tuple[str, Style, bool]]) -> str:
    parts, room = [], LONGEST_LINE
    for text, style, marked in runs:
        shown = str(escape(show_controls(text[:room])))
        shown = f"<mark>{shown}</mark>" if marked and shown else shown
        parts.append(f'<span class="{style.classes}">{shown}</span>' if style.classes else shown)
        room -= min(len(text), room)
    left = sum(len(text) for text, *_ in runs) - LONGEST_LINE
    if left > 0:
        parts.append(f'<span class="note">… {left:,} more characters</span>')
    return "".join(parts)
