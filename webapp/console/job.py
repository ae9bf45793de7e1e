"""The page of one job: state and actions, explanation, command, details, timeline, attempts, and their output.

The output can be searched, compared, followed and downloaded. `display/output_lines.py` makes its lines.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Optional

from flask import Blueprint, Response, abort, request, url_for
from flask.typing import ResponseReturnValue
from sqlalchemy.orm import Session

from webapp.console.display import ansi, notification_text, output_lines, timeline
from webapp.console.display.output_lines import Lines, RenderOptions
from webapp.console.display.wait_reason import why
from webapp.console.display.wording import Verb, verbs_for
from webapp.console.frame import htmx
from webapp.console.frame.params import attachment, whole_number
from webapp.console.frame.person import actor, needs
from webapp.core.output import Output
from webapp.core.states import TERMINAL
from webapp.db.engines import reading
from webapp.db.models import Attempt, Job
from webapp.jobs import job_detail, job_phases, lifecycle, queries, settings
from webapp.lib import text_diff
from webapp.lib.text import capitalize, plural
from webapp.notifications import actions as notify
from webapp.notifications import views

pages = Blueprint("job", __name__)

SHOWN_ATTEMPTS = 50  # in the table, so that a job with 1,000 retries loads fast
MOST_OTHERS = 100  # attempts in the Compare list
SHOWN_MESSAGES = 5  # of notifications
LONGEST_SEARCH = 200  # characters


@pages.get("/job/<job_id>")
def show(job_id: str) -> ResponseReturnValue:
    with reading() as session:
        job = _found(session, job_id)
        ended = job_detail.attempts(session, job)
        events = job_detail.events(session, job)
        values = settings.load(session)
        phases = job_phases.phases(job, ended, events)
        # The output is outside the live region.
        output = {} if htmx.is_partial() else _output(session, job, ended, request.args.get("attempt", ""))
        return htmx.page(
            "job",
            session,
            job=job,
            watched="watch" in request.args and job.state not in TERMINAL,
            why=why(session, job),
            verbs=_verbs(job),
            retries=values.max_retries if job.max_retries is None else job.max_retries,
            timeout=job.timeout if job.timeout is not None else values.job_timeout or None,  # None: no limit
            batch={"key": job.batch, "others": queries.size_of_batch(job.batch) - 1} if job.batch else None,
            env=json.loads(job.env) if job.env else {},
            timeline=timeline.merged(job_detail.timeline(job, ended, events), phases),
            timeline_shown=timeline.SHOWN,
            bar=timeline.bar_of(phases),
            attempts=list(reversed(ended if "all" in request.args else ended[-SHOWN_ATTEMPTS:])),
            earlier=0 if "all" in request.args else max(len(ended) - SHOWN_ATTEMPTS, 0),
            notifications=_notifications(session, job),
            **output,
        )


def _notifications(session: Session, job: Job) -> dict[str, Any]:
    """Which channels hear of its end, which else could, and the newest messages about it."""
    watching = [] if job.state in TERMINAL else views.watches(session, job.seq)
    names = [] if job.state in TERMINAL else views.channel_names(session)
    messages = views.deliveries(session, job=job, limit=SHOWN_MESSAGES)
    return {
        "watching": watching,
        "others": [name for name in names if name not in watching],
        "messages": messages,
        "summaries": notification_text.summaries(session, messages),
        "has_ended": job.state in TERMINAL,
    }


def _verbs(job: Job) -> list[Verb]:
    """The actions that its state allows, without "run now": that button is beside the explanation."""
    return [] if job.cancel_requested_at is not None else [one for one in verbs_for(job.state) if one.name != "run_now"]


def _found(session: Session, job_id: str) -> Job:
    """The job, or NotFound."""
    job = job_detail.find(session, job_id)
    if job is None:
        raise lifecycle.NotFound(f"job {job_id!r} does not exist. It may have been discarded.")
    return job


# --- output on the page ----------------------------------------------------------------------------------------------


@pages.get("/job/<job_id>/newest")
def newest(job_id: str) -> ResponseReturnValue:
    """The output of the newest attempt, for a page that was opened before it started."""
    with reading() as session:
        job = _found(session, job_id)
        output = _output(session, job, job_detail.attempts(session, job))
        return htmx.fragment("job/_output.html", job=job, **output)


def _output(session: Session, job: Job, ended: Sequence[Attempt], wanted: str = "") -> dict[str, Any]:
    """Values for the output of the wanted attempt, or of the newest one if that does not exist."""
    running = [job.attempts] if job.state == "processing" else []
    numbers = sorted({*(one.number for one in ended), *running}, reverse=True)
    chosen = [one for one in numbers if one == whole_number(wanted)]
    number = next(iter(chosen or numbers), 0)
    values = {"numbers": numbers, "newest": not chosen, "shown": number}
    kept = job_detail.output(session, job, number) if number else None
    if kept is None:
        return {**values, "opened": None, "compared": None, "others": []}
    others = [one for one in numbers if one != number]
    return {
        **values,
        "opened": opened(kept, number, request.args),
        "most_hits": output_lines.MOST_HITS,
        "compared": _compared(session, job, kept, others),
        "others": others[:MOST_OTHERS],
    }


@dataclass(frozen=True)
class Opened:
    """The output when the page opens. `marked`: it shows a line from the URL.

    A search has `hits` lines; the current one is number `hit`, from 1.
    """

    lines: Lines
    find: str = ""
    hits: int = 0
    hit: int = 0
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
        return Opened(output_lines.view_of(kept, RenderOptions(attempt)), find, notice=nothing)
    number = min(max(whole_number(hit, 6) or 1, 1), len(places))
    offset = places[number - 1]
    lines = output_lines.around(kept, offset, RenderOptions(attempt, pattern, offset))
    return Opened(lines, find, len(places), number, where.strip(), marked=True)


def _compared(
    session: Session, job: Job, kept: Output, others: Sequence[int]
) -> Optional[tuple[int, text_diff.Comparison]]:
    """The attempt to compare with, and the differences. None if the URL names no other attempt."""
    against = whole_number(request.args.get("against", ""), 9)
    other = job_detail.output(session, job, against) if against is not None and against in others else None
    if against is None or other is None:
        return None
    return against, text_diff.compare(_texts(other), _texts(kept), _without_digits if "digits" in request.args else str)


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


# --- notify me -------------------------------------------------------------------------------------------------------


@pages.post("/job/<job_id>/notify")
@needs("operator")
def watch(job_id: str) -> ResponseReturnValue:
    """Send a message to `channel` when the job ends. 409 if it has ended."""
    channel = request.form.get("channel", "")
    if not channel:
        return htmx.refused("Select a channel. Nothing changed.")
    try:
        changed = notify.watch(job_id, channel, actor())
    except notify.Conflict as error:
        return htmx.refused(capitalize(str(error)))
    if not changed:
        return htmx.refused(f"{channel} hears of it already. Nothing changed.")
    return htmx.done(f"{channel} gets a message when {job_id} ends.", back=url_for("job.show", job_id=job_id))


@pages.post("/job/<job_id>/unnotify")
@needs("operator")
def unwatch(job_id: str) -> ResponseReturnValue:
    channel = request.form.get("unwatch", "")
    if not notify.unwatch(job_id, channel, actor()):
        return htmx.refused(f"{channel} does not hear of it. Nothing changed.")
    return htmx.done(f"{channel} gets no message when {job_id} ends.", back=url_for("job.show", job_id=job_id))


# --- more output -----------------------------------------------------------------------------------------------------


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
def more_output(job_id: str) -> ResponseReturnValue:
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
