"""The buttons that change jobs: one job, the selected jobs, or all matching jobs. Some ask for confirmation.

Each action is a POST to a verb. If it needs confirmation, the first answer is `_confirm.html`, whose button posts
`confirmed`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Optional

from flask import Blueprint, abort, request, url_for
from flask.typing import ResponseReturnValue
from sqlalchemy import ColumnElement, select
from sqlalchemy.orm import Session

from webapp.console.display.wording import VERBS, Verb
from webapp.console.frame import htmx
from webapp.console.frame.params import whole_number
from webapp.console.frame.person import actor, needs
from webapp.db.engines import reading
from webapp.db.models import Job
from webapp.insight import requeue_impact
from webapp.jobs import actions, activity, filters, job_detail, lifecycle, queries, search
from webapp.jobs.filters import FilterError, JobFilter
from webapp.jobs.lifecycle import in_state
from webapp.lib import clock
from webapp.lib.text import plural
from webapp.web.request_info import came_from

pages = Blueprint("acts", __name__)

MOST_TICKED = 1000  # ids in one form
ACTION_TIMEOUT_SECONDS = 20.0  # how long a browser waits for a bulk action; a supervisor finishes the rest
EXAMPLES = 5


@pages.post("/job/<job_id>/<verb_path>")
@needs("operator")
def on_one(job_id: str, verb_path: str) -> ResponseReturnValue:
    """Change one job. 409 if its state does not allow it any more, 404 if it is gone."""
    verb = VERBS.get(verb_path) or abort(404)
    with reading() as session:
        job = job_detail.find(session, job_id)
    if job is None:
        raise lifecycle.NotFound(actions.refusal(verb.name, job_id, None))
    running = verb.name == "cancel" and job.state == "processing"
    if (verb.asks or running) and "confirmed" not in request.form:
        return _ask_for_one(verb, job)
    result = actions.apply(verb.name, [job_id], actor())
    if job_id in result.outcome.refused:
        return htmx.refused(actions.refusal(verb.name, job_id, result.outcome.refused[job_id]))
    gone = verb.name == "discard" and request.form.get("at") == "job"
    back = url_for("jobs.index") if verb.name == "discard" else url_for("job.show", job_id=job_id)
    past = "set to run now" if verb.name == "run_now" else verb.past.lower()
    message = f"Cancel requested for {job_id}." if result.outcome.asked else f"{job_id} {past}."
    return htmx.done(message, back=back, leave=gone, undo=result.undo)


def _ask_for_one(verb: Verb, job: Job) -> ResponseReturnValue:
    texts = {
        "cancel": "Its command is running. It is asked to stop, then killed. The job is not retried.",
        "discard": "The job, its attempts and output are deleted. This cannot be undone.",
    }
    return htmx.ask(
        f"{verb.label} {job.id}?",
        texts[verb.name],
        f"{verb.label} job",
        examples=[job],
        hidden=[("at", request.form.get("at", ""))],
        back=came_from(url_for("job.show", job_id=job.id)),
    )


@pages.post("/jobs/<verb_path>")
@needs("operator")
def on_many(verb_path: str) -> ResponseReturnValue:
    """Change the selected jobs, or all jobs that match the list's filter."""
    verb = VERBS.get(verb_path) or abort(404)
    if "all" in request.form:
        return on_all(verb, _wanted())
    ids = list(dict.fromkeys(request.form.getlist("id")))[:MOST_TICKED]
    if not ids:
        text = "No jobs selected. Select jobs, then press the button again."
        if htmx.is_partial():
            return htmx.toast(text, "error", 422, refresh=False)
        return htmx.done(text, back=url_for("jobs.index"), level="error")  # only without JavaScript
    single_and_harmless = len(ids) == 1 and not verb.danger
    if not single_and_harmless and "confirmed" not in request.form:
        return _ask_for_ids(verb, ids)
    return _report(verb, actions.apply(verb.name, ids, actor(), within=ACTION_TIMEOUT_SECONDS))


def _wanted() -> JobFilter:
    """The list's filter, from the hidden fields of the form."""
    form = request.form
    try:
        wanted = search.parse(form.get("q", ""), state=form.get("state") or None, queue=form.get("queue") or None)
    except FilterError as error:
        abort(400, str(error))
    return replace(wanted, group=form.get("group") or None, output="output" in form or None)


def _as_shown(wanted: JobFilter) -> JobFilter:
    """The filter that was confirmed. It leaves out dead letters newer than the question."""
    ended_by = whole_number(request.form.get("ended_by", ""))
    if "confirmed" in request.form and ended_by is not None:
        return replace(wanted, ended_by=ended_by)
    return replace(wanted, ended_by=clock.now()) if wanted.state == "dead" else wanted


def _ask_for_ids(verb: Verb, ids: Sequence[str]) -> ResponseReturnValue:
    with reading() as session:
        known = {job.id: job for job in session.scalars(select(Job).where(Job.id.in_(ids[:EXAMPLES])))}
        impact = _impact(session, verb, Job.id.in_(ids))
    examples = [known[id_] for id_ in ids[:EXAMPLES] if id_ in known]  # in list order
    button = f"{verb.label} {plural(len(ids), 'job')}"
    return htmx.ask(
        f"{button}?",
        verb.consequence,
        button,
        impact=impact,
        examples=examples,
        more=len(ids) - len(examples),
        hidden=[("id", id_) for id_ in ids],
        back=came_from(url_for("jobs.index")),
    )


def _report(verb: Verb, result: actions.Result) -> ResponseReturnValue:
    text = f"{verb.past} {plural(result.moved, 'job')}"
    if not result.done:
        text += " so far. The rest follows in the background."
    elif result.moved:
        text += f", skipped {result.skipped:,} (already changed)." if result.skipped else "."
    elif result.skipped:
        skipped = plural(result.skipped, "job")
        return htmx.refused(f"Nothing changed. {skipped} skipped: already changed, or in another state.")
    else:
        return htmx.refused("No job matches any more. Nothing changed.")
    return htmx.done(text, back=url_for("jobs.index"), undo=result.undo)


def on_all(verb: Verb, wanted: JobFilter) -> ResponseReturnValue:
    """Change all matching jobs after confirmation."""
    wanted = _as_shown(wanted)
    if "confirmed" not in request.form:
        return _ask_for_all(verb, wanted)
    return _report(verb, actions.apply(verb.name, wanted, actor(), within=ACTION_TIMEOUT_SECONDS))


def _ask_for_all(verb: Verb, wanted: JobFilter) -> ResponseReturnValue:
    with reading() as session:
        found = activity.preview(session, verb.name, wanted, EXAMPLES)
        known = wanted.state == "dead" and found.whole
        impact = _impact(session, verb, wanted.where(), found.number) if known else None
    number = found.number
    if found.whole and not number.number:
        return htmx.refused(f"No matching job is in a state that allows {verb.label.lower()}.")
    jobs = (f"{number} jobs" if number.number != 1 else "1 job") if found.whole else "all matching jobs"
    fields = {
        "all": "1",
        "state": wanted.state,
        "q": search.to_text(wanted, without=("state",)),
        "group": wanted.group,
        "output": "1" if wanted.output else "",
        "ended_by": str(wanted.ended_by or ""),
    }
    return htmx.ask(
        f"{verb.label} {jobs}?",
        f"{_how_many(found)} {verb.consequence}",
        f"{verb.label} {jobs}",
        impact=impact,
        examples=found.examples,
        more=number.number - len(found.examples) if found.whole else 0,
        hidden=[(name, value) for name, value in fields.items() if value],
        back=came_from(url_for("jobs.index")),
    )


def _impact(
    session: Session, verb: Verb, which: ColumnElement[bool], number: Optional[queries.Count] = None
) -> Optional[requeue_impact.Impact]:
    """The effect of requeueing dead letters. None for other verbs."""
    if verb.name != "requeue":
        return None
    dead = which & in_state("dead")
    number = number or queries.count(session, dead)
    return requeue_impact.of(session, dead, number) if number.number else None


def _how_many(found: activity.Preview) -> str:
    if found.whole:
        return "All jobs matching right now."
    number = f"{found.number} jobs match" if found.number.number != 1 else "1 job matches"
    return (
        f"{number} among the first {filters.SEARCH_CAP:,} jobs searched. The action covers all jobs, so it may "
        "change many more."
    )
