"""One attempt's output: the last lines of it, what came since, the lines before, and the bytes as a download.

Positions count bytes in all that the attempt wrote; where the middle was dropped, `Place` translates them to offsets
in what is kept. Lines become HTML in `ansi.py`.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from itertools import accumulate
from typing import Optional

from flask import Blueprint, Response, abort, request
from flask.typing import ResponseReturnValue
from markupsafe import Markup

from webapp import story
from webapp.console import ansi, htmx
from webapp.db import reading
from webapp.story import Output

pages = Blueprint("output", __name__)

LINES = 1000  # shown at once


@dataclass(frozen=True)
class Lines:
    """A stretch of output as HTML.

    Attributes:
        html: whole lines, each an element.
        unfinished: the last line, if no newline has ended it yet.
        start: position of the first byte shown; more than 0 where there are earlier lines.
        next: position behind the last whole line, where the next stretch begins.
    """

    html: Markup
    unfinished: Markup
    start: int
    next: int
    live: bool


def view_of(kept: Output) -> Lines:
    """The last LINES lines."""
    return _stretch(kept, _back(kept.data, len(kept.data), LINES), len(kept.data))


def since(kept: Output, position: int) -> Lines:
    """What came behind a position, LINES lines at most: a page that fell behind skips some."""
    start = max(_offset(kept, position), _back(kept.data, len(kept.data), LINES))
    return _stretch(kept, start, len(kept.data))


def before(kept: Output, position: int) -> Lines:
    """LINES lines that end at a position."""
    end = _offset(kept, position)
    return _stretch(kept, _back(kept.data, end, LINES), end)


def _stretch(kept: Output, start: int, end: int) -> Lines:
    style = ansi.style_after(kept.data[:start])
    whole_end = kept.data.rfind(b"\n", start, end) + 1 or start
    ends = list(accumulate(kept.runs))
    cut = kept.cut if kept.dropped else None
    parts, offset = [], start
    for raw in kept.data[start:whole_end].split(b"\n")[:-1]:
        html, style = _line(raw, offset, style, ends, cut, kept.dropped)
        parts.append(html)
        offset += len(raw) + 1
    unfinished = ""
    if whole_end < end:
        unfinished, _ = _line(kept.data[whole_end:end], whole_end, style, ends, cut, kept.dropped)
    elif cut is not None and cut == end and not kept.live:
        unfinished = _cut_note(kept.dropped)
    return Lines(
        Markup("".join(parts)),  # noqa: S704 -- made of escaped text by ansi.py
        Markup(unfinished),  # noqa: S704
        _position(kept, start),
        _position(kept, whole_end),
        kept.live,
    )


def _line(
    raw: bytes, offset: int, style: ansi.Style, ends: list[int], cut: Optional[int], dropped: int
) -> tuple[str, ansi.Style]:
    """One line as an element, marked where it came from stderr; with the note where bytes were left out in it."""
    run = bisect_right(ends, offset)
    kind = ' class="err"' if run % 2 else ""
    if cut is None or not offset <= cut <= offset + len(raw):
        html, style = ansi.line(raw, style)
        return f"<div{kind}>{html}</div>", style
    head, style = ansi.line(raw[: cut - offset], style)
    tail, style = ansi.line(raw[cut - offset :], ansi.PLAIN)
    first = f"<div{kind}>{head}</div>" if cut > offset else ""
    return f"{first}{_cut_note(dropped)}<div{kind}>{tail}</div>", style


def _cut_note(dropped: int) -> str:
    return f'<div class="cut">{dropped:,} bytes were left out here: the output is longer than the limit</div>'


def _back(data: bytes, end: int, lines: int) -> int:
    """Where the last so many lines before `end` begin."""
    position = end - 1 if data[max(end - 1, 0) : end] == b"\n" else end
    for _ in range(lines):
        position = data.rfind(b"\n", 0, position)
        if position < 0:
            return 0
    return position + 1


def _offset(kept: Output, position: int) -> int:
    """A position in all that was written, as an offset in what is kept."""
    if kept.cut is None or position <= kept.cut:
        return min(position, len(kept.data))
    return min(max(position - kept.dropped, kept.cut), len(kept.data))


def _position(kept: Output, offset: int) -> int:
    return offset if kept.cut is None or offset < kept.cut else offset + kept.dropped


# --- requests --------------------------------------------------------------------------------------------------------


def _asked(job_id: str) -> tuple[int, Output]:
    """The attempt in the URL and its output, or 404."""
    number = request.args.get("attempt", type=int) or 0
    with reading() as session:
        job = story.find(session, job_id)
        kept = story.output(session, job, number) if job is not None and 0 < number < 2**31 else None
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
    """Fragments of the page's output: `from` a position on, or the lines `to` one. 204 where nothing is new."""
    number, kept = _asked(job_id)
    start, end = _place("from"), _place("to")
    if end is not None:
        return htmx.fragment("job/_earlier.html", job_id=job_id, number=number, output=before(kept, end))
    lines = since(kept, start or 0)
    seen = request.args.get("open", type=int)  # length of the unfinished line that the page shows
    length = len(kept.data) - _offset(kept, lines.next)
    if kept.live and not lines.html and seen == length:
        return Response("", 204)
    return htmx.fragment("job/_more.html", job_id=job_id, number=number, output=lines, length=length)


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
