"""One attempt's output as its job's page has it: the last lines or those around one, a search, a comparison; what came
since, the lines before, and the bytes as a download. Lines are made in `console/output_lines.py`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Optional

from flask import Blueprint, Response, abort, request
from flask.typing import ResponseReturnValue
from sqlalchemy.orm import Session

from webapp.console import ansi, htmx
from webapp.console.output_lines import (
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
from webapp.db.engines import reading
from webapp.db.models import Job
from webapp.jobs import job_detail
from webapp.jobs.job_detail import Output
from webapp.lib import text_diff

pages = Blueprint("output", __name__)

LONGEST_SEARCH = 200  # characters


@dataclass(frozen=True)
class Found:
    """What a search found: how many lines, and which of them (from 1) the page stands at."""

    number: int
    at: int

    @property
    def shown(self) -> str:
        most = "+" if self.number == MOST_HITS else ""
        return f"{self.at:,} of {self.number:,}{most} line{'' if self.number == 1 else 's'}" if self.number else ""


@dataclass(frozen=True)
class Opened:
    """The output as the page opens: `marked` where it stands at a line that the URL names, in whatever way."""

    lines: Lines
    find: str = ""
    found: Optional[Found] = None
    notice: str = ""
    marked: bool = False


def opened(kept: Output, attempt: int, asked: Mapping[str, str]) -> Opened:
    """The part of the output that the page's URL asks for; what makes no sense there counts as not asked."""
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
            f"There is no line {name}. Behind line {numbered:,} bytes were left out, so that those which follow have "
            "no number."
        )
    else:
        text = f"There is no line {name}: the output has {numbered:,} so far." if kept.live else (
            f"There is no line {name}: the output has {numbered:,}.")  # fmt: skip
    return Opened(view_of(kept, Look(attempt, pattern)), find, notice=text)


def _at_hit(kept: Output, attempt: int, find: str, hit: str) -> Opened:
    pattern = pattern_of(find)
    places = hits(kept, pattern)
    where = "" if len(kept.data) <= SEARCHED else f" Its last {SEARCHED >> 20} MiB were searched."
    if not places:
        nothing = f"\N{LEFT SINGLE QUOTATION MARK}{find}\N{RIGHT SINGLE QUOTATION MARK} is not in this output.{where}"
        return Opened(view_of(kept, Look(attempt)), find, Found(0, 0), nothing)
    number = int(hit) if hit.isdecimal() and len(hit) < 7 else 1
    number = min(max(number, 1), len(places))
    offset = places[number - 1]
    lines = around(kept, offset, Look(attempt, pattern, offset))
    return Opened(lines, find, Found(len(places), number), where.strip(), marked=True)


def compared(
    session: Session, job: Job, attempt: int, kept: Output, others: Sequence[int], asked: Mapping[str, str]
) -> Optional[tuple[int, text_diff.Comparison]]:
    """The attempt that the URL wants to compare with, and what differs; None where it names none of the others."""
    text = asked.get("against", "")
    against = int(text) if text.isdecimal() and len(text) < 10 else 0
    if against not in others or against == attempt:
        return None
    other = job_detail.output(session, job, against)
    if other is None:
        return None
    return against, text_diff.compare(_texts(other), _texts(kept), ignore_digits="digits" in asked)


def _texts(kept: Output) -> list[str]:
    """The lines as a reader sees them, with one for what was left out."""
    cut = kept.cut if kept.dropped and kept.cut is not None else None
    parts = [kept.data] if cut is None else [kept.data[:cut], kept.data[cut:]]
    texts = [[ansi.text_of(raw)[: ansi.LONGEST_LINE] for raw in part.split(b"\n")] for part in parts]
    for lines in texts:
        if lines[-1] == "":
            lines.pop()
    note = [f"[… {kept.dropped:,} bytes were left out here …]"]
    return texts[0] if cut is None else [*texts[0], *note, *texts[1]]


def _offset(kept: Output, text: str) -> Optional[int]:
    """A place in a URL, a position or the name of a line, as a position. None: it is none."""
    match = NAME.match(text)
    if match is None:
        return None
    if match["kind"] != "L":
        return int(match["number"])
    return find_line(kept, text)  # its offset is its position: lines behind the cut have no number


# --- requests --------------------------------------------------------------------------------------------------------


def _asked(job_id: str) -> tuple[int, Output]:
    """The attempt in the URL and its output, or 404."""
    number = request.args.get("attempt", type=int) or 0
    with reading() as session:
        job = job_detail.find(session, job_id)
        kept = job_detail.output(session, job, number) if job is not None and 0 < number < 2**31 else None
    if kept is None:
        abort(404, "There is no such attempt. Its job may have been discarded.")
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
    """Fragments of the page's output: `from` a position on, or the lines `to` one. 204 where nothing is new.

    `later`: the next lines of a page that stands somewhere in the middle, and not what has come lately.
    """
    number, kept = _asked(job_id)
    start, end, look = _place("from"), _place("to"), Look(number)
    if end is not None:
        return htmx.fragment("job/_earlier.html", job_id=job_id, number=number, output=before(kept, end, look))
    later = "later" in request.args
    lines = after(kept, start or 0, look) if later else since(kept, start or 0, look)
    seen = request.args.get("open", type=int)  # length of the unfinished line that the page shows
    length = len(kept.data) - offset_of(kept, lines.next)
    if kept.live and not lines.html and seen == length and not later:
        return Response("", 204)
    return htmx.fragment("job/_more.html", job_id=job_id, number=number, output=lines, length=length, later=later)


@pages.get("/job/<job_id>/download")
def download(job_id: str) -> ResponseReturnValue:
    """The kept bytes as they came, as a file that no browser will take for a page."""
    number, kept = _asked(job_id)
    data = kept.data
    if kept.dropped and kept.cut is not None:
        note = f"\n[… {kept.dropped} bytes were left out here …]\n".encode()
        data = data[: kept.cut] + note + data[kept.cut :] if "exact" not in request.args else data
    response = Response(data, content_type="application/octet-stream")
    response.headers.set("Content-Disposition", "attachment", filename=f"{_file_name(job_id)}-attempt-{number}.log")
    return response


def _file_name(job_id: str) -> str:
    return "".join(char if char.isascii() and (char.isalnum() or char in "._-") else "_" for char in job_id)
