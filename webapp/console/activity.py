"""Actions on jobs: the buttons that start them, and the activity page with their progress, stop and undo.

Each action is a POST to a verb, for one job, the selected jobs, or all matching jobs. If it needs confirmation, the
first answer is `_confirm.html`, whose button posts `confirmed`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple, Optional

from flask import Blueprint, abort, request, url_for
from flask.typing import ResponseReturnValue
from sqlalchemy import ColumnElement, select
from sqlalchemy.orm import Session

from webapp.console.display import times
from webapp.console.display.wording import VERBS, Verb
from webapp.console.frame import htmx
from webapp.console.frame.params import id_before, whole_number
from webapp.console.frame.person import actor, needs
from webapp.db.engines import reading
from webapp.db.models import BulkAction, Job
from webapp.insight import requeue_impact
from webapp.jobs import actions, activity, filters, job_detail, lifecycle, queries, search
from webapp.jobs import canary as canaries
from webapp.jobs.filters import FilterError, JobFilter
from webapp.jobs.flow import chains
from webapp.jobs.lifecycle import in_state
from webapp.lib import clock
from webapp.lib.text import plural
from webapp.web.request_info import came_from

pages = Blueprint("activity", __name__)
acts = Blueprint("acts", __name__)

MOST_TICKED = 1000  # ids in one form
ACTION_TIMEOUT_SECONDS = 20.0  # how long a browser waits for a bulk action; a supervisor finishes the rest
EXAMPLES = 5  # jobs in a confirmation
SHOWN_HELD = 3  # jobs in a message
PAGE = 50  # rows
SHOWN_JOBS = 20
LABELS = {**{verb.name: verb.label for verb in VERBS.values()}, "edit": "Edit & retry"}


# --- buttons ---------------------------------------------------------------------------------------------------------


@acts.post("/job/<job_id>/<verb_path>")
@needs("operator")
def on_one(job_id: str, verb_path: str) -> ResponseReturnValue:
    """Change one job. 409 if its state does not allow it any more, 404 if it is gone."""
    verb = VERBS.get(verb_path) or abort(404)
    with reading() as session:
        job = job_detail.existing(session, job_id)
    running = verb.name == "cancel" and job.state == "processing"
    if (verb.asks or running) and "confirmed" not in request.form:
        return _ask_for_one(verb, job)
    result = actions.apply(verb.name, [job_id], actor())
    if job_id in result.outcome.refused:
        return htmx.refused(lifecycle.refusal(verb.name, job_id, result.outcome.refused[job_id], result.outcome))
    gone = verb.name == "discard" and request.form.get("at") == "job"
    back = url_for("jobs.index") if verb.name == "discard" else url_for("job.show", job_id=job_id)
    past = "set to run now" if verb.name == "run_now" else verb.past.lower()
    message = f"Cancel requested for {job_id}." if result.outcome.asked else f"{job_id} {past}."
    return htmx.done(message, back=back, leave=gone, undo=result.undo)


def _ask_for_one(verb: Verb, job: Job) -> ResponseReturnValue:
    texts = {
        "cancel": "Its command is running. It gets TERM, and is killed if it does not stop. The job is not retried.",
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


@acts.post("/job/<job_id>/cancel-below")
@needs("operator")
def cancel_below(job_id: str) -> ResponseReturnValue:
    """Cancel all blocked jobs that depend on a job, directly or indirectly, after confirmation."""
    back = url_for("job.show", job_id=job_id)
    with reading() as session:
        ids = chains.blocked_below(session, job_detail.existing(session, job_id))
        examples = list(session.scalars(select(Job).where(Job.id.in_(ids[-EXAMPLES:])).order_by(Job.seq)))
    if not ids:
        return htmx.refused(f"No blocked jobs depend on {job_id}. Nothing changed.")
    if "confirmed" not in request.form:
        what = plural(len(ids), "job")
        text = f"They depend on {job_id}, directly or indirectly, and will not run. You can undo this."
        more = len(ids) - len(examples)
        title, button = f"Cancel {what} below {job_id}?", f"Cancel {what}"
        return htmx.ask(title, text, button, examples=examples, more=more, danger=True, back=back)
    result = chains.cancel_below(ids, actor(), ACTION_TIMEOUT_SECONDS)
    rest = "" if result.done else " so far. The rest follows in the background"
    return htmx.done(f"Cancelled {plural(result.moved, 'job')}{rest}.", back=back, undo=result.undo)


@acts.post("/jobs/<verb_path>")
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
        state, queue = form.get("state") or None, form.get("queue") or None
        wanted = search.parse(form.get("q", ""), state=state, queue=queue, zone=times.zone())
    except FilterError as error:
        abort(400, str(error))
    return replace(wanted, group=form.get("group") or None)


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
        held = _held(result)
        text += f", skipped {result.skipped:,} ({held or 'already changed'})." if result.skipped else "."
    elif result.skipped:
        skipped = plural(result.skipped, "job")
        why = _held(result) or "already changed, or in another state"
        return htmx.refused(f"Nothing changed. {skipped} skipped: {why}.")
    else:
        return htmx.refused("No jobs match any more. Nothing changed.")
    return htmx.done(text, back=url_for("jobs.index"), undo=result.undo)


def _held(result: actions.Result) -> str:
    """The first jobs that stay because another one holds their unique key."""
    held = result.outcome.held
    words = [f"{id_}, whose unique key {held[id_].text}" for id_ in list(held)[:SHOWN_HELD]]
    return "; ".join([*words, *([f"and {len(held) - SHOWN_HELD} more"] if len(held) > SHOWN_HELD else [])])


def on_all(verb: Verb, wanted: JobFilter) -> ResponseReturnValue:
    """Change all matching jobs after confirmation. This leaves out dead letters newer than the question."""
    confirmed = "confirmed" in request.form
    asked_at = whole_number(request.form.get("ended_by", "")) if confirmed else None
    if asked_at is None and wanted.state == "dead":
        asked_at = clock.now()
    wanted = replace(wanted, ended_by=asked_at)
    if not confirmed:
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
        "ended_by": str(wanted.ended_by or ""),
    }
    return htmx.ask(
        f"{verb.label} {jobs}?",
        f"{_how_many(verb, found)} {verb.consequence}",
        f"{verb.label} {jobs}",
        impact=impact,
        examples=found.examples,
        more=_more(number, len(found.examples)) if found.whole else 0,
        hidden=[(name, value) for name, value in fields.items() if value],
        back=came_from(url_for("jobs.index")),
    )


def _more(number: queries.Count, shown: int) -> str:
    return f"{number.number - shown:,}{'+' if number.capped else ''}" if number.number > shown else ""


def _impact(
    session: Session, verb: Verb, which: ColumnElement[bool], number: Optional[queries.Count] = None
) -> Optional[requeue_impact.Impact]:
    """The effect of requeueing dead letters. None for other verbs."""
    if verb.name != "requeue":
        return None
    dead = which & in_state("dead")
    number = number or queries.count(session, dead)
    return requeue_impact.of(session, dead, number) if number.number else None


def _how_many(verb: Verb, found: activity.Preview) -> str:
    if found.whole:
        return "All jobs matching right now."
    if verb.name in activity.COUNTED_EXACTLY:
        return f"At least {found.number.of('job')} match; there are too many jobs to search them all now."
    number = f"{found.number} jobs match" if found.number.number != 1 else "1 job matches"
    return (
        f"{number} among those searched in {filters.SEARCH_SECONDS:g} s. The action covers all jobs, so it may "
        "change many more."
    )


@pages.post("/dead/<group>/canary")
@needs("operator")
def canary(group: str) -> ResponseReturnValue:
    """Requeue one dead letter of a group, and the rest only if it completes."""
    wanted = JobFilter(state="dead", group=group)
    if "confirmed" not in request.form:
        return _ask_for_canary(wanted)
    rule = request.form.get("after", "1")
    if rule not in canaries.PASS_RULES:
        abort(400, f"after: {rule[:64]!r} is not a pass rule. Expected one of {', '.join(canaries.PASS_RULES)}.")
    act_id = canaries.start(wanted, actor(), request.form.get("id") or None, rule)
    with reading() as session:
        held = canaries.held_back(session, actions.find(session, act_id))
    text = f"Canary started; {held} {'job waits' if held.number == 1 else 'jobs wait'} for its result."
    return htmx.done(text, back=url_for("dead_letters.show", group=group), undo=act_id)


def _ask_for_canary(wanted: JobFilter) -> ResponseReturnValue:
    with reading() as session:
        number = queries.count(session, wanted.where())
        newest = select(Job).where(wanted.where(), in_state("dead")).order_by(Job.finished_at.desc()).limit(1)
        asked = request.form.get("id", "")  # on a job's page: this job
        job = session.scalar(newest.where(Job.id == asked) if asked else newest)
    if job is None:
        what = f"{asked[:128]} is not a dead letter any more." if asked else "This group is empty."
        return htmx.refused(f"{what} Nothing changed.")
    sizes = {rule: canaries.size(rule, number.number) for rule in canaries.PASS_RULES}
    if number.capped:
        sizes["10%"] = canaries.MOST_CANARIES
    by_size = {size: rule for rule, size in reversed(sizes.items()) if size < number.number}  # each size once
    choices = [
        (rule, f"{plural(size, 'job')}{' (10 %)' if rule == '10%' else ''} succeeded")
        for size, rule in sorted(by_size.items())
    ]
    more = "+" if number.capped else ""
    rest = "the other one is" if number.number == 2 else f"the other {number.number - 1:,}{more} are"
    text = (
        f"This job is requeued with retries reset. If it succeeds, {rest} requeued automatically. "
        "If it fails for good, is cancelled or discarded, nothing else is requeued."
    )
    if len(choices) > 1:
        text += " If you choose more than one job, the newest ones run first, and all of them must succeed."
    return htmx.ask(
        "Retry one first?",
        text,
        "Retry one first",
        examples=[job],
        hidden=[("id", job.id)],
        options=htmx.Options("after", "Requeue the others after", choices) if len(choices) > 1 else None,
        back=came_from(url_for("dead_letters.index")),
    )


# --- activity --------------------------------------------------------------------------------------------------------


class ActView(NamedTuple):
    """A bulk action as shown. `undoable`: the number of jobs that an undo would restore."""

    act: BulkAction
    title: str
    what: str
    undoable: queries.Count


def _view(session: Session, act: BulkAction) -> ActView:
    if act.undoes is not None:
        undone = session.get(BulkAction, act.undoes)
        what = f": {LABELS[undone.verb].lower()} {activity.what(undone)}" if undone is not None else ""
        return ActView(act, "Undo", f"of action {act.undoes}{what}", queries.Count(0))
    title = LABELS.get(act.verb, act.verb.capitalize()) if act.canary_seq is None else "Canary retry"
    return ActView(act, title, activity.what(act), actions.can_be_undone(session, act))


@pages.get("/activity")
def index() -> ResponseReturnValue:
    before = id_before()
    with reading() as session:
        acts = activity.newest(session, PAGE + 1, before)
        older = url_for("activity.index", before=acts[PAGE - 1].id) if len(acts) > PAGE else None
        return htmx.page(
            "activity",
            session,
            views=[_view(session, act) for act in acts[:PAGE]],
            older=("Older", older) if older else None,
            top=url_for("activity.index") if before is not None else None,
        )


@pages.get("/activity/<int(max=9007199254740991):act_id>")
def show(act_id: int) -> ResponseReturnValue:
    with reading() as session:
        act = actions.find(session, act_id)
        events = queries.events_of(session, f"act:{act_id}")
        return htmx.page(
            "act",
            session,
            view=_view(session, act),
            canaries=canaries.jobs(session, act, SHOWN_JOBS) if act.canary_seq is not None else [],
            group=json.loads(act.filter).get("group"),
            canary_rule=canaries.PASS_RULES.get(act.canary_rule or "1"),
            succeeded=canaries.completed(session, act),
            held_back=canaries.held_back(session, act) if act.state == "waiting" else None,
            taken_back=activity.undos_of(session, act_id),
            happened=[(event, json.loads(event.detail or "{}")) for event in reversed(events)],
            jobs=list(session.scalars(select(Job).where(Job.act_id == act_id).order_by(Job.seq).limit(SHOWN_JOBS))),
        )


@pages.post("/activity/<int(max=9007199254740991):act_id>/undo")
@needs("operator")
def undo(act_id: int) -> ResponseReturnValue:
    """Restore the jobs that have not been claimed or changed since. 409 if there are none."""
    result = actions.undo(act_id, actor(), ACTION_TIMEOUT_SECONDS)
    back = url_for("activity.show", act_id=act_id)
    if not result.done:
        message = f"Restored {plural(result.moved, 'job')} so far. The rest follows in the background."
        return htmx.done(message, back=back)
    with reading() as session:
        left = actions.find(session, act_id).moved - result.moved
    held = _held(result)
    why = f"not changed: {held}" if held else "already claimed or changed"
    rest = f" {plural(left, 'job')} {why}." if left > 0 else ""
    return htmx.done(f"Restored {plural(result.moved, 'job')}.{rest}", back=back)


@pages.post("/activity/<int(max=9007199254740991):act_id>/stop")
@needs("operator")
def stop(act_id: int) -> ResponseReturnValue:
    """Stop an action. 409 if it has finished."""
    if not actions.stop(act_id, actor()):
        return htmx.refused("Already finished. Nothing changed.")
    return htmx.done("Stopped. Jobs changed so far stay changed.", back=url_for("activity.show", act_id=act_id))
