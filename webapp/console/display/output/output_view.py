"""The part of an attempt's output that the URL of its job's page asks for, and its comparison with another output."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Optional

from webapp.console.display.output import ansi, output_lines
from webapp.console.display.output.output_lines import Lines, RenderOptions
from webapp.console.frame.params import whole_number
from webapp.core.output import Output
from webapp.lib import text_diff
from webapp.lib.text import plural

LONGEST_SEARCH = 200  # characters
END = "end"  # names the last line with text, which the error of a failed attempt quotes


@dataclass(frozen=True)
class Opened:
    """The output when the page opens. `marked`: it shows a line from the URL.

    A search has `hits` lines; the current one is number `hit`, from 1. `first_err` names the first line of stderr.
    """

    lines: Lines
    find: str = ""
    hits: int = 0
    hit: int = 0
    notice: str = ""
    marked: bool = False
    first_err: str = ""


def opened(kept: Output, options: RenderOptions, asked: Mapping[str, str]) -> Opened:
    """The part of the output that the URL asks for. Invalid parameters are ignored."""
    return replace(_opened(kept, options, asked), first_err=output_lines.first_of_stderr(kept))


def _opened(kept: Output, options: RenderOptions, asked: Mapping[str, str]) -> Opened:
    find = asked.get("find", "").strip()[:LONGEST_SEARCH]
    if asked.get("line", "").strip():
        return _at_line(kept, options, asked["line"].strip(), find)
    if find:
        return _at_hit(kept, options, find, asked.get("hit", ""))
    for name, part in (("to", output_lines.before), ("from", output_lines.after)):
        position = _position(kept, asked.get(name, ""))
        if position is not None:
            return Opened(part(kept, position, options))
    return Opened(output_lines.view_of(kept, options))


def _at_line(kept: Output, options: RenderOptions, name: str, find: str) -> Opened:
    if find:
        options = replace(options, pattern=output_lines.pattern_of(find))
    try:
        offset = output_lines.last_with_text(kept) if name == END else output_lines.find_line(kept, name)
    except ValueError:
        offset, name = None, name[:20]
    if offset is not None:
        return Opened(output_lines.around(kept, offset, replace(options, marked=offset)), find, marked=True)
    if name == END:
        return Opened(output_lines.view_of(kept, options), find)
    numbered, name = output_lines.last_numbered(kept), name.lstrip("L")
    if kept.dropped:
        text = f"Some output was left out after line {numbered:,}, so later lines have no number."
    else:
        text = f"The output has {plural(numbered, 'line')}{' so far' if kept.live else ''}."
    return Opened(output_lines.view_of(kept, options), find, notice=f"Line {name} does not exist. {text}")


def _at_hit(kept: Output, options: RenderOptions, find: str, hit: str) -> Opened:
    pattern = output_lines.pattern_of(find)
    places = output_lines.hits(kept, pattern)
    where = (
        ""
        if len(kept.data) <= output_lines.SEARCHED
        else f" Only the last {output_lines.SEARCHED >> 20} MiB were searched."
    )
    if not places:
        nothing = f"\N{LEFT SINGLE QUOTATION MARK}{find}\N{RIGHT SINGLE QUOTATION MARK} not found.{where}"
        return Opened(output_lines.view_of(kept, options), find, notice=nothing)
    number = min(max(whole_number(hit, 6) or 1, 1), len(places))
    offset = places[number - 1]
    lines = output_lines.around(kept, offset, replace(options, pattern=pattern, marked=offset))
    return Opened(lines, find, len(places), number, where.strip(), marked=True)


def _position(kept: Output, text: str) -> Optional[int]:
    """A position from a URL parameter (a position or a line name), or None."""
    match = output_lines.NAME.match(text)
    if match is None:
        return None
    # Before the cut, where lines have numbers, offset and position are equal.
    return output_lines.find_line(kept, text) if match["kind"] == "L" else int(match["number"])


# --- comparison ------------------------------------------------------------------------------------------------------


def compare(before: Output, after: Output, *, digits: bool) -> text_diff.Comparison:
    """The differences of two outputs. Not `digits`: lines that differ only in numbers, such as times, are the same."""
    return text_diff.compare(_texts(before), _texts(after), str if digits else _without_digits)


def _without_digits(line: str) -> str:
    return re.sub("[0-9]+", "0", line)


def _texts(kept: Output) -> list[str]:
    """The lines as displayed, with a line for left-out bytes."""
    cut = output_lines.cut_of(kept)
    if cut is None:
        return _lines(kept.data)
    return [*_lines(kept.data[:cut]), f"[… {kept.dropped:,} bytes left out here …]", *_lines(kept.data[cut:])]


def _lines(data: bytes) -> list[str]:
    lines = [ansi.text_of(raw)[: ansi.LONGEST_LINE] for raw in data.split(b"\n")]
    return lines[:-1] if lines[-1] == "" else lines
