"""The output of an attempt on the job page: search, comparison, live updates and download.

`display/output_lines.py` makes the lines.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Optional

from flask import Blueprint, Response, abort, request
from flask.typing import ResponseReturnValue
from sqlalchemy.orm import Session

from webapp.console.display import ansi, output_lines
from webapp.console.display.output_lines import Lines, RenderOptions
from webapp.console.frame import htmx
from webapp.console.frame.params import attachment, whole_number
from webapp.db.engines import reading
from webapp.db.models import Job
from webapp.jobs import job_detail
from webapp.jobs.job_detail import Output
from webapp.lib import text_diff
from webapp.lib.text import plural

pages = Blueprint("output", __name__)

LONGEST_SEARCH = 200  # characters


@dataclass(frozen=True)
class Found:
    """The result of a search: the number of lines, and the current one (from 1)."""

    number: int
    at: int

    @property
    def shown(self) -> str:
        most = "+" if self.number == output_lines.MOST_HITS else ""
        return f"{self.at:,} of {self.number:,}{most} line{'' if self.number == 1 else 's'}" if self.number else ""


@dataclass(frozen=True)
class Opened:
    """The output when the page opens. `marked`: it shows a line from the URL."""

    lines: Lines
    find: str = ""
    found: Optional[Found] = None
    notice: str = ""
    marked: bool = False


def opened(kept: Output, attempt: int, asked: Mapping[str, str]) -> Opened:
    """The part of the output that the URL asks for. Invalid parameters are ignored."""
    find = asked.get("find", "").strip()[:LONGEST_SEARCH]
    if asked.get("line", "").strip():
        return _at_line(kept, attempt, asked["line"].strip(), find)
    if find:
        return _at_hit(kept, attempt, find, asked.get("hit", ""))
    options = RenderOptions(attempt)
    for name, part in (("to", output_lines.before), ("from", output_lines.after)):
        position = _position(kept, asked.get(name, ""))
        if position is not None:
            return Opened(part(kept, position, options))
    return Opened(output_lines.view_of(kept, options))


def _at_line(kept: Output, attempt: int, name: str, find: str) -> Opened:
    pattern = output_lines.pattern_of(find) if find else None
    try:
        offset = output_lines.find_line(kept, name)
    except ValueError:
        offset, name = None, name[:20]
    if offset is not None:
        return Opened(output_lines.around(kept, offset, RenderOptions(attempt, pattern, offset)), find, marked=True)
    numbered, name = output_lines.last_numbered(kept), name.lstrip("L")
    if kept.dropped:
        text = f"Some output was left out after line {numbered:,}, so later lines have no number."
    else:
        text = f"The output has {plural(numbered, 'line')}{' so far' if kept.live else ''}."
    return Opened(
        output_lines.view_of(kept, RenderOptions(attempt, pattern)), find, notice=f"Line {name} does not exist. {text}"
    )


def _at_hit(kept: Output, attempt: int, find: str, hit: str) -> Opened:
    pattern = output_lines.pattern_of(find)
    places = output_lines.hits(kept, pattern)
    where = (
        ""
        if len(kept.data) <= output_lines.SEARCHED
        else f" Only the last {output_lines.SEARCHED >> 20} MiB were searched."
    )
    if not places:
        nothing = f"\N{LEFT SINGLE QUOTATION MARK}{find}\N{RIGHT SINGLE QUOTATION MARK} not found.{where}"
        return Opened(output_lines.view_of(kept, RenderOptions(attempt)), find, Found(0, 0), nothing)
    number = min(max(whole_number(hit, 6) or 1, 1), len(places))
    offset = places[number - 1]
    lines = output_lines.around(kept, offset, RenderOptions(attempt, pattern, offset))
    return Opened(lines, find, Found(len(places), number), where.strip(), marked=True)


def compared(
    session: Session, job: Job, attempt: int, kept: Output, others: Sequence[int], asked: Mapping[str, str]
) -> Optional[tuple[int, text_diff.Comparison]]:
    """The attempt to compare with, and the differences. None if the URL names no other attempt."""
    against = whole_number(asked.get("against", ""), 9)
    if against is None or against not in others or against == attempt:
        return None
    other = job_detail.output(session, job, against)
    if other is None:
        return None
    return against, text_diff.compare(_texts(other), _texts(kept), _without_digits if "digits" in asked else str)


def _without_digits(line: str) -> str:
    """Lines that differ only in numbers, such as times, are the same."""
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


def _position(kept: Output, text: str) -> Optional[int]:
    """A position from a URL parameter (a position or a line name), or None."""
    match = output_lines.NAME.match(text)
    if match is None:
        return None
    # Before the cut, where lines have numbers, offset and position are equal.
    return output_lines.find_line(kept, text) if match["kind"] == "L" else int(match["number"])


def _asked(job_id: str) -> tuple[int, Output]:
    """The attempt in the URL and its output, or 404."""
    number = request.args.get("attempt", type=int) or 0
    with reading() as session:
        job = job_detail.find(session, job_id)
        kept = job_detail.output(session, job, number) if job is not None and 0 < number < 2**31 else None
    if kept is None:
        abort(404, "This attempt does not exist. Its job may have been discarded.")
    return number, kept


def _place(name: str) -> Optional[int]:
    place = whole_number(request.args.get(name, ""))
    if place is None and name in request.args:
        abort(400)
    return place


@pages.get("/job/<job_id>/output")
def show(job_id: str) -> ResponseReturnValue:
    """Output lines as fragments: `from` a position on, or the lines before `to`. 204 if nothing is new.

    `later`: the next lines of a page in the middle of the output, not new output.
    """
    number, kept = _asked(job_id)
    start, end, options = _place("from"), _place("to"), RenderOptions(number)
    if end is not None:
        return htmx.fragment(
            "job/_earlier.html", job_id=job_id, number=number, output=output_lines.before(kept, end, options)
        )
    later = "later" in request.args
    lines = output_lines.after(kept, start or 0, options) if later else output_lines.since(kept, start or 0, options)
    seen = request.args.get("open", type=int)  # length of the unfinished line on the page
    length = len(kept.data) - output_lines.offset_of(kept, lines.next)
    if kept.live and not lines.html and seen == length and not later:
        return Response("", 204)
    return htmx.fragment("job/_more.html", job_id=job_id, number=number, output=lines, length=length, later=later)


@pages.get("/job/<job_id>/download")
def download(job_id: str) -> ResponseReturnValue:
    """The kept bytes as a file."""
    number, kept = _asked(job_id)
    data, cut = kept.data, output_lines.cut_of(kept)
    if cut is not None and "exact" not in request.args:
        data = data[:cut] + f"\n[… {kept.dropped} bytes left out here …]\n".encode() + data[cut:]
    name = re.sub(r"[^A-Za-z0-9._-]", "_", job_id)
    return attachment(data, "application/octet-stream", f"{name}-attempt-{number}.log")
