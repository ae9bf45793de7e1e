"""Activity: bulk actions and canary retries, with progress, stop and undo."""

from __future__ import annotations

import json
from typing import NamedTuple

from flask import Blueprint, request, url_for
from flask.typing import ResponseReturnValue
from sqlalchemy import select
from sqlalchemy.orm import Session

from webapp.console.display.wording import VERBS
from webapp.console.frame import htmx
from webapp.console.frame.params import id_before
from webapp.console.frame.person import actor, needs
from webapp.console.job_actions import ACTION_TIMEOUT_SECONDS
from webapp.db.engines import reading
from webapp.db.models import BulkAction, Job
from webapp.jobs import actions, activity, queries
from webapp.jobs import canary as canaries
from webapp.jobs.filters import JobFilter
from webapp.jobs.lifecycle import in_state
from webapp.lib.text import plural
from webapp.web.request_info import came_from

pages = Blueprint("activity", __name__)

PAGE = 50  # rows
SHOWN_JOBS = 20
LABELS = {verb.name: verb.label for verb in VERBS.values()}


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
        canary = canaries.canary(session, act)
        events = queries.events_of(session, f"act:{act_id}")
        return htmx.page(
            "act",
            session,
            view=_view(session, act),
            canary=canary,
            held_back=canaries.held_back(session, act) if act.state == "waiting" else None,
            taken_back=activity.undos_of(session, act_id),
            happened=[(event, json.loads(event.detail or "{}")) for event in reversed(events)],
            jobs=list(session.scalars(select(Job).where(Job.act_id == act_id).order_by(Job.seq).limit(SHOWN_JOBS))),
        )


@pages.post("/activity/<int(max=9007199254740991):act_id>/undo")
@needs("operator")
def undo(act_id: int) -> ResponseReturnValue:
    """Restore the jobs that have not been claimed or changed since. 409 if there are none."""
    try:
        result = actions.undo(act_id, actor(), ACTION_TIMEOUT_SECONDS)
    except actions.CannotUndo as error:
        return htmx.refused(str(error))
    back = url_for("activity.show", act_id=act_id)
    if not result.done:
        message = f"Restored {plural(result.moved, 'job')} so far. The rest follows in the background."
        return htmx.done(message, back=back)
    with reading() as session:
        left = actions.find(session, act_id).moved - result.moved
    rest = f" {plural(left, 'job')} already claimed or changed." if left > 0 else ""
    return htmx.done(f"Restored {plural(result.moved, 'job')}.{rest}", back=back)


@pages.post("/activity/<int(max=9007199254740991):act_id>/stop")
@needs("operator")
def stop(act_id: int) -> ResponseReturnValue:
    """Stop an action. 409 if it has finished."""
    if not actions.stop(act_id, actor()):
        return htmx.refused("Already finished. Nothing changed.")
    return htmx.done("Stopped. Jobs changed so far stay changed.", back=url_for("activity.show", act_id=act_id))


@pages.post("/dead/<group>/canary")
@needs("operator")
def canary(group: str) -> ResponseReturnValue:
    """Requeue one dead letter of a group, and the rest only if it completes."""
    wanted = JobFilter(state="dead", group=group)
    back = url_for("dead_letters.index")
    if "confirmed" not in request.form:
        with reading() as session:
            number = queries.count(session, wanted.where())
            newest = select(Job).where(wanted.where(), in_state("dead")).order_by(Job.finished_at.desc()).limit(1)
            job = session.scalar(newest)
        if job is None:
            return htmx.refused("This group is empty. Nothing changed.")
        more = "+" if number.capped else ""
        rest = "the other one is" if number.number == 2 else f"the other {number.number - 1:,}{more} are"
        return htmx.ask(
            "Retry one first?",
            f"This job is requeued with retries reset. If it succeeds, {rest} requeued automatically. "
            "If it fails for good, is cancelled or discarded, nothing else is requeued.",
            "Retry one first",
            examples=[job],
            hidden=[("id", job.id)],
            back=came_from(back),
        )
    act_id = canaries.start(wanted, actor(), request.form.get("id") or None)
    with reading() as session:
        held = canaries.held_back(session, actions.find(session, act_id))
    text = f"Canary started; {held} {'job waits' if held.number == 1 else 'jobs wait'} for its result."
    return htmx.done(text, back=back, undo=act_id)
