"""The page of one job: its state and why, output, facts, attempts and history; its edit form; its masked variables.

The output can be searched, compared, followed and downloaded. `display/output_view.py` and `display/output_lines.py`
make its lines.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, Optional

from flask import Blueprint, Response, abort, request, url_for
from flask.typing import ResponseReturnValue
from markupsafe import Markup
from sqlalchemy.orm import Session

from webapp.console.display import chain, env_values, job_flow, job_head, notification_text, timeline, times
from webapp.console.display.forms import SubmitForm
from webapp.console.display.output import output_lines, output_view
from webapp.console.display.output.output_lines import RenderOptions
from webapp.console.display.output.output_view import opened
from webapp.console.display.wait_reason import why
from webapp.console.display.wording import Verb, verbs_for
from webapp.console.frame import htmx
from webapp.console.frame.params import attachment, whole_number
from webapp.console.frame.person import actor, needs
from webapp.core.flow import limits
from webapp.core.job_spec import SpecError
from webapp.core.output import Output
from webapp.core.states import ARROWS, TERMINAL
from webapp.db import audit
from webapp.db.engines import reading, writing
from webapp.db.models import Attempt, Job
from webapp.insight import failure_evidence, usual_time
from webapp.insight.queues import some_names
from webapp.jobs import editing, job_detail, job_phases, lifecycle, queries, settings
from webapp.jobs.filters import JobFilter
from webapp.jobs.job_detail import existing
from webapp.lib import text_diff
from webapp.notifications import actions as notify
from webapp.notifications import views
from webapp.web.request_info import came_from

pages = Blueprint("job", __name__)

SHOWN_ATTEMPTS = 50  # in the history, so that a job with 1,000 retries loads fast
MOST_OTHERS = 100  # attempts in the Compare list
SHOWN_MESSAGES = 5  # of notifications
OUTPUT_PLACE = Markup('<section id="output"></section>')  # where the page has the output
SUCCESS = "success"  # what the output is compared with: the last success of this command


@pages.get("/job/<job_id>")
def show(job_id: str) -> ResponseReturnValue:
    with reading() as session:
        job = existing(session, job_id)
        ended = job_detail.attempts(session, job)
        events = job_detail.events(session, job)
        values = settings.load(session)
        phases = job_phases.phases(job, ended, events)
        shown = ended if "all" in request.args else ended[-SHOWN_ATTEMPTS:]
        history = timeline.merged(job, job_detail.timeline(job, ended, events), shown, phases)
        # The output is outside of what a refresh changes.
        back = job_head.way_back()
        output = {} if htmx.is_partial() else _output(session, job, ended, request.args.get("attempt", ""))
        return htmx.page(
            "job",
            session,
            job=job,
            head=job_head.of(job),
            back=back,
            here_back=job_head.with_way_back(back),
            output_place=OUTPUT_PLACE,
            watched="watch" in request.args and job.state not in TERMINAL,
            why=why(session, job),
            alike=_alike(session, job),
            to_go=_to_go(session, job),
            verbs=_verbs(job),
            editable=job.state in ARROWS["edit"].leaves,
            retries=values.max_retries if job.max_retries is None else job.max_retries,
            timeout=job.timeout if job.timeout is not None else values.job_timeout or None,  # None: no limit
            **chain.values_of(session, job),
            env=env_values.masked(env_values.of_job(job)),
            mask=env_values.MASK,
            history=history if "all" in request.args else history[: timeline.SHOWN],
            older=0 if "all" in request.args else max(len(history) - timeline.SHOWN, len(ended) - len(shown)),
            limit_keys=limits.split(job.limits),
            bar=timeline.bar_of(phases),
            last_attempt=ended[-1] if ended else None,
            notifications=_notifications(session, job),
            **job_flow.of(session, job),
            **output,
        )


def _alike(session: Session, job: Job) -> Optional[queries.Count]:
    """How many dead letters failed as this one did. None: it is not dead."""
    if job.state != "dead" or not job.error_key:
        return None
    return queries.count(session, JobFilter(state="dead", group=job.error_key).where())


def _to_go(session: Session, job: Job) -> Optional[dict[str, Any]]:
    """Since when it runs, and how long its command usually does. None: it does not run, or that is not known."""
    if job.state != "processing" or job.started_at is None:
        return None
    usual = usual_time.usual(session, job.command)
    return {"since": times.iso(job.started_at), "usual": usual} if usual is not None else None


def _notifications(session: Session, job: Job) -> dict[str, Any]:
    """The channels that get a message when it ends, other channels, and the newest messages about it."""
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


# --- output on the page ----------------------------------------------------------------------------------------------


@pages.get("/job/<job_id>/newest")
def newest(job_id: str) -> ResponseReturnValue:
    """The output of the newest attempt, for a page that was opened before it started."""
    with reading() as session:
        job = existing(session, job_id)
        output = _output(session, job, job_detail.attempts(session, job))
        return htmx.fragment("job/_output.html", job=job, back=job_head.NOWHERE, **output)


def _output(session: Session, job: Job, ended: Sequence[Attempt], wanted: str = "") -> dict[str, Any]:
    """Values for the output of the wanted attempt, or of the newest one if that does not exist."""
    running = [job.attempts] if job.state == "processing" else []
    numbers = sorted({*(one.number for one in ended), *running}, reverse=True)
    chosen = [one for one in numbers if one == whole_number(wanted)]
    number = next(iter(chosen or numbers), 0)
    values = {"numbers": numbers, "newest": not chosen, "shown": number, "timed": "times" in request.args}
    kept = job_detail.output(session, job, number) if number else None
    if kept is None:
        return {**values, "opened": None, "compared": None, "others": []}
    others = [one for one in numbers if one != number]
    found, compared, notice = opened(kept, _options(job, ended, number), request.args), None, ""
    against = request.args.get("against", "")
    if against == SUCCESS:
        compared, notice = _with_success(session, job, kept)
    elif whole_number(against, 9) in others:
        compared = _compared(f"attempt {against}", f"attempt {number}", _of(session, job, int(against)), kept)
    return {
        **values,
        "opened": found,
        "notice": notice or found.notice,
        "most_hits": output_lines.MOST_HITS,
        "compared": compared,
        "others": others[:MOST_OTHERS],
        "has_times": bool(kept.times),
        "ended_badly": not kept.live and ended[-1].number == number and ended[-1].state == "failed",
    }


def _options(job: Job, ended: Sequence[Attempt], number: int) -> RenderOptions:
    """With the times of the lines, if the URL asks for them."""
    if "times" not in request.args:
        return RenderOptions(number)
    row = next((one for one in ended if one.number == number), None)
    return RenderOptions(number, started=job.started_at if row is None else row.started_at)


def _of(session: Session, job: Job, number: int) -> Output:
    kept = job_detail.output(session, job, number)
    if kept is None:
        raise lifecycle.NotFound("this attempt does not exist any more.")
    return kept


def _with_success(session: Session, job: Job, kept: Output) -> tuple[Optional[dict[str, Any]], str]:
    """The comparison with the last success of this command, or why there is none."""
    good = failure_evidence.good_run(session, job)
    if good is None:
        return None, "No successful run of this command was found among the newest jobs."
    name = f"the last success ({good.job.id if good.job.seq != job.seq else f'attempt {good.attempt}'})"
    return {**_compared(name, "this job", _of(session, good.job, good.attempt), kept), "good": good}, ""


def _compared(before: str, after: str, old: Output, new: Output) -> dict[str, Any]:
    """The differences of two outputs, and what to call each."""
    result: text_diff.Comparison = output_view.compare(old, new, digits="digits" not in request.args)
    return {"before": before, "after": after, "it": result, "good": None}


# --- edit and retry --------------------------------------------------------------------------------------------------


@pages.get("/job/<job_id>/edit")
@needs("operator")
def edit(job_id: str) -> ResponseReturnValue:
    """The form with the job's values. Values that look like secrets are masked."""
    with reading() as session:
        job = existing(session, job_id)
        if job.state not in ARROWS["edit"].leaves:
            return htmx.refused(lifecycle.refusal("edit", job_id, job.state))
        form = SubmitForm.of_job(job, keep_trace=True)
        return _edit_page(session, job, form, job.changed_at)


@pages.post("/job/<job_id>/edit")
@needs("operator")
def save(job_id: str) -> ResponseReturnValue:
    """Change the job and requeue it. 409 if it has changed since the form was opened."""
    with reading() as session:
        job = existing(session, job_id)
    seen = whole_number(request.form.get("seen", ""))
    sent = {**request.form, "many": "", "id": "", "notify": "", "after": "", "start": "now"}
    form = SubmitForm.read(sent, env_values.of_job(job))
    if not form.errors:
        changes = form.changes
        shown = SubmitForm.of_job(job).values
        if all(form.values[name] == shown[name] for name in ("unique", "unique_while")):
            del changes["unique"]  # a period that stays does not begin anew
        try:
            result = editing.edit(job_id, changes, actor(), seen=seen)
        except SpecError as error:
            form.take(error)
        except lifecycle.KeyHeld as error:
            form.errors["unique"] = f"{error.holder.key!r} {error.holder.text}."
        except editing.Conflict as error:
            return htmx.refused(str(error))
        else:
            back = url_for("job.show", job_id=job_id)
            return htmx.done(f"{job_id} edited and requeued.", back=back, leave=True, undo=result.undo)
    with reading() as session:
        return _edit_page(session, job, form, seen or job.changed_at), 422


def _edit_page(session: Session, job: Job, form: SubmitForm, seen: int) -> str:
    return htmx.form_page(
        "job/edit.html",
        session,
        job=job,
        form=form,
        seen=seen,
        defaults=settings.load(session),
        queues=some_names(session, 200),
        mask=env_values.MASK,
    )


@pages.post("/job/<job_id>/env")
@needs("operator")
def reveal(job_id: str) -> ResponseReturnValue:
    """Show the masked variables. The audit trail has who saw them."""
    with writing(wakes_workers=False) as session:
        job = existing(session, job_id)
        env = env_values.of_job(job)
        names = [name for name, value in env.items() if env_values.looks_secret(name, value)]
        change = {"after": {"env": ", ".join(names)}}
        audit.note(session, "reveal", [f"job:{job_id}"], actor(), details=[change])
    shown = {name: env[name] for name in names}
    back = came_from(url_for("job.show", job_id=job_id))
    if not htmx.is_partial():
        return htmx.form_page("job/env.html", job=job, secrets=shown, back=back)
    response = htmx.fragment("job/_env_dialog.html", job=job, secrets=shown, back=back)
    response.headers["HX-Trigger"] = json.dumps({"ask": {}})
    return response


# --- notify me -------------------------------------------------------------------------------------------------------


@pages.post("/job/<job_id>/notify")
@needs("operator")
def watch(job_id: str) -> ResponseReturnValue:
    """Send a message to `channel` when the job ends. 409 if it has ended."""
    channel = request.form.get("channel", "")
    if not channel:
        return htmx.refused("Select a channel. Nothing changed.")
    if not notify.watch(job_id, channel, actor()):
        return htmx.refused(f"{channel} is already notified when it ends. Nothing changed.")
    return htmx.done(f"{channel} gets a message when {job_id} ends.", back=url_for("job.show", job_id=job_id))


@pages.post("/job/<job_id>/unnotify")
@needs("operator")
def unwatch(job_id: str) -> ResponseReturnValue:
    channel = request.form.get("unwatch", "")
    if not notify.unwatch(job_id, channel, actor()):
        return htmx.refused(f"{channel} is not notified of this job. Nothing changed.")
    return htmx.done(f"{channel} no longer gets a message when {job_id} ends.", back=url_for("job.show", job_id=job_id))


# --- more output -----------------------------------------------------------------------------------------------------


def _asked(job_id: str) -> tuple[RenderOptions, Output]:
    """How to show the attempt in the URL, and its output, or 404."""
    number = request.args.get("attempt", type=int) or 0
    with reading() as session:
        job = job_detail.find(session, job_id)
        kept = job_detail.output(session, job, number) if job is not None and 0 < number < 2**31 else None
        if job is None or kept is None:
            abort(404, "This attempt does not exist. Its job may have been discarded.")
        row = None if kept.live else job_detail.attempt(session, job, number)
        return _options(job, [] if row is None else [row], number), kept


def _place(name: str) -> Optional[int]:
    place = whole_number(request.args.get(name, ""))
    if place is None and name in request.args:
        abort(400)
    return place


@pages.get("/job/<job_id>/output")
def more_output(job_id: str) -> ResponseReturnValue:
    """Output lines as fragments: `from` a position on, or the lines before `to`. 204 if nothing is new.

    `later`: the next lines of a page in the middle of the output, not new output. `times`: with the time of each line.
    """
    options, kept = _asked(job_id)
    start, end = _place("from"), _place("to")
    place = {"job_id": job_id, "number": options.attempt, "timed": "times" in request.args}
    if end is not None:
        return htmx.fragment("job/_earlier.html", output=output_lines.before(kept, end, options), **place)
    later = "later" in request.args
    lines = output_lines.after(kept, start or 0, options) if later else output_lines.since(kept, start or 0, options)
    seen = request.args.get("open", type=int)  # length of the unfinished line on the page
    length = len(kept.data) - output_lines.offset_of(kept, lines.next)
    if kept.live and not lines.html and seen == length and not later:
        return Response("", 204)
    return htmx.fragment("job/_more.html", output=lines, length=length, later=later, **place)


@pages.get("/job/<job_id>/download")
def download(job_id: str) -> ResponseReturnValue:
    """The kept bytes as a file."""
    options, kept = _asked(job_id)
    data, cut = kept.data, output_lines.cut_of(kept)
    if cut is not None and "exact" not in request.args:
        data = data[:cut] + f"\n[… {kept.dropped} bytes left out here …]\n".encode() + data[cut:]
    name = re.sub(r"[^A-Za-z0-9._-]", "_", job_id)
    return attachment(data, "application/octet-stream", f"{name}-attempt-{options.attempt}.log")
