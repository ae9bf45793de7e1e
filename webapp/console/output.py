"""The output of an attempt on the job page: lines, search, comparison, live updates and download. `console/output_lines.py` makes
the lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Optional

from flask import Blueprint, Response, abort, request
from flask.typing import ResponseReturnValue
from sqlalchemy.orm import Session

from webapp.console.display import ansi
from webapp.console.display.output_lines import (
    MOST_HITS,
    NAME,
    SEARCHED,
    Lines,
    Look,
    after,
    around,
    before,
    find_line,
    hits,
    last_numbered,
    offset_of,
    pattern_of,
    since,
    view_of,
)
from webapp.console.frame import htmx
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
        most = "+" if self.number == MOST_HITS else ""
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
    look = Look(attempt)
    for name, stretch in (("to", before), ("from", after)):
        place = _offset(kept, asked.get(name, ""))
        if place is not None:
            return Opened(stretch(kept, place, look))
    return Opened(view_of(kept, look))


def _at_line(kept: Output, attempt: int, name: str, find: str) -> Opened:
    pattern = pattern_of(find) if find else None
    try:
        offset = find_line(kept, name)
    except ValueError:
        offset, name = None, name[:20]
    if offset is not None:
        return Opened(around(kept, offset, Look(attempt, pattern, offset)), find, marked=True)
    numbered, name = last_numbered(kept), name.lstrip("L")
    if kept.dropped:
        text = (
            f"Line {name} does not exist. Some output was left out after line {numbered:,}, so later lines have no "
            "number."
        )
    else:
        text = f"Line {name} does not exist. The output has {plural(numbered, 'line')}{' so far' if kept.live else ''}."
    return Opened(view_of(kept, Look(attempt, pattern)), find, notice=text)


def _at_hit(kept: Output, attempt: int, find: str, hit: str) -> Opened:
    pattern = pattern_of(find)
    places = hits(kept, pattern)
    where = "" if len(kept.data) <= SEARCHED else f" Only the last {SEARCHED >> 20} MiB were searched."
    if not places:
        nothing = f"\N{LEFT SINGLE QUOTATION MARK}{find}\N{RIGHT SINGLE QUOTATION MARK} not found.{where}"
        return Opened(view_of(kept, Look(attempt)), find, Found(0, 0), nothing)
    number = int(hit) if hit.isdecimal() and len(hit) < 7 else 1
    number = min(max(number, 1), len(places))
    offset = places[number - 1]
    lines = around(kept, offset, Look(attempt, pattern, offset))
    return Opened(lines, find, Found(len(places), number), where.strip(), marked=True)


def compared(
    session: Session, job: Job, attempt: int, kept: Output, others: Sequence[int], asked: Mapping[str, str]
) -> Optional[tuple[int, text_diff.Comparison]]:
    """The attempt to compare with, and the differences. None if the URL names no other attempt."""
    text = asked.get("against", "")
    against = int(text) if text.isdecimal() and len(text) < 10 else 0
    if against not in others or against == attempt:
        return None
    other = job_detail.output(session, job, against)
    if other is None:
        return None
    return against, text_diff.compare(_texts(other), _texts(kept), ignore_digits="digits" in asked)


def _texts(kept: Output) -> list[str]:
    """The lines as displayed, with a line for left-out bytes."""
    cut = kept.cut if kept.dropped and kept.cut is not None else None
    parts = [kept.data] if cut is None else [kept.data[:cut], kept.data[cut:]]
    texts = [[ansi.text_of(raw)[: ansi.LONGEST_LINE] for raw in part.split(b"\n")] for part in parts]
    for lines in texts:
        if lines[-1] == "":
            lines.pop()
    note = [f"[… {kept.dropped:,} bytes left out here …]"]
    return texts[0] if cut is None else [*texts[0], *note, *texts[1]]


def _offset(kept: Output, text: str) -> Optional[int]:
    """A position from a URL parameter (a position or a line name), or None."""
    match = NAME.match(text)
    if match is None:
        return None
    if match["kind"] != "L":
        return int(match["number"])
    return find_line(kept, text)  # before the cut, offset and position are equal


# --- requests --------------------------------------------------------------------------------------------------------


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
    text = request.args.get(name)
    if text is None:
        return None
    if not text.isdecimal() or len(text) > 18:
        abort(400)
    return int(text)


@pages.get("/job/<job_id>/output")
def show(job_id: str) -> ResponseReturnValue:
    """Output lines as fragments: `from` a position on, or the lines before `to`. 204 if nothing is new.

    `later`: the next lines of a page in the middle of the output, not new output.
    """
    number, kept = _asked(job_id)
    start, end, look = _place("from"), _place("to"), Look(number)
    if end is not None:
        return htmx.fragment("job/_earlier.html", job_id=job_id, number=number, output=before(kept, end, look))
    later = "later" in request.args
    lines = after(kept, start or 0, look) if later else since(kept, start or 0, look)
    seen = request.args.get("open", type=int)  # length of the unfinished line on the page
    length = len(kept.data) - offset_of(kept, lines.next)
    if kept.live and not lines.html and seen == length and not later:
        return Response("", 204)
    return htmx.fragment("job/_more.html", job_id=job_id, number=number, output=lines, length=length, later=later)


@pages.get("/job/<job_id>/download")
def download(job_id: str) -> ResponseReturnValue:
    """The kept bytes as a file."""
    number, kept = _asked(job_id)
    data = kept.data
    if kept.dropped and kept.cut is not None:
        note = f"\n[… {kept.dropped} bytes left out here …]\n".encode()
        data = data[: kept.cut] + note + data[kept.cut :] if "exact" not in request.args else data
    response = Response(data, content_type="application/octet-stream")
    response.headers.set("Content-Disposition", "attachment", filename=f"{_file_name(job_id)}-attempt-{number}.log")
    return response


def _file_name(job_id: str) -> str:
    return "".join(char if char.isascii() and (char.isalnum() or char in "._-") else "_" for char in job_id)
