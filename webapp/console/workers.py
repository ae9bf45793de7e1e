"""Workers and supervisors: the list, draining and stopping a worker, scaling a supervisor."""

from __future__ import annotations

from itertools import groupby
from typing import Optional

from flask import Blueprint, abort, request, url_for
from flask.typing import ResponseReturnValue
from sqlalchemy.orm import Session

from webapp.console.display.wait_reason import START_COMMAND
from webapp.console.frame import htmx
from webapp.console.frame.params import whole_number
from webapp.console.frame.person import actor, needs
from webapp.db.engines import reading
from webapp.insight import fleet
from webapp.insight.fleet import WorkerView
from webapp.jobs import lifecycle, settings, worker_actions
from webapp.lib import clock
from webapp.lib.text import plural
from webapp.web.request_info import came_from

pages = Blueprint("workers", __name__)

SHOW_ENDED = clock.seconds(3600)  # how long a stopped worker stays on the page
MOST_ENDED = 20  # a worker that crashes at each start leaves many
WISHES = {
    "quiet": ("quiet", "is draining: it finishes its jobs and takes no new ones."),
    "resume": ("run", "takes jobs again."),
    "stop": ("stop", "is stopping: it finishes its jobs first."),
}


@pages.get("/workers")
def index() -> ResponseReturnValue:
    with reading() as session:
        workers = fleet.workers(session, settings.load(session).lease, ended_since=clock.now() - SHOW_ENDED)
        running = [view for view in workers if view.worker.state == "running"]
        ended = [view for view in workers if view.worker.state != "running"]
        ended.sort(key=lambda view: view.worker.stopped_at or 0, reverse=True)
        supervisors = fleet.supervisors(session, running)
        return htmx.page(
            "workers",
            session,
            hosts=[(name, list(some)) for name, some in groupby(supervisors, key=lambda one: one.host)],
            running=running,
            short={one.worker.id: one.text for one in fleet.shortages(session)},
            ended=ended[:MOST_ENDED],
            more_ended=max(0, len(ended) - MOST_ENDED),
            start_command=START_COMMAND,
        )


@pages.post("/worker/<worker_id>/<wish>")
@needs("admin")
def wish_of(worker_id: str, wish: str) -> ResponseReturnValue:
    """Drain, resume or stop a worker. 409 if it is ending. Stopping the last worker needs confirmation."""
    if wish not in WISHES:
        abort(404)
    if wish == "stop" and "confirmed" not in request.form:
        with reading() as session:
            views = _going_on(session)
        if [view.worker.id for view in views] == [worker_id]:
            jobs = views[0].jobs
            runs = " It finishes these jobs first:" if jobs else ""
            return htmx.ask(
                "Stop the last worker?",
                f"No other worker is running. Jobs will wait until you scale up or start a worker.{runs}",
                "Stop worker",
                examples=jobs[:5],
                more=len(jobs) - 5,
                back=came_from(url_for("workers.index")),
                danger=True,
            )
    word, effect = WISHES[wish]
    outcome = worker_actions.request_state(word, [worker_id], actor())
    if worker_id in outcome.refused:
        state = outcome.refused[worker_id]
        if state is None:
            raise lifecycle.NotFound(f"worker {worker_id!r} does not exist.")
        return htmx.refused(f"Worker {worker_id} is already {fleet.state_text(state)}. Nothing changed.")
    scaled = outcome.scaled[0] if outcome.scaled else None
    pool = f" Pool {scaled.before} → {scaled.after}." if scaled is not None else ""
    undo = _undo(scaled) if scaled is not None else None
    return htmx.done(f"Worker {worker_id} {effect}{pool}", back=url_for("workers.index"), undo=undo)


def _undo(scaled: worker_actions.Scaled) -> Optional[htmx.Undo]:
    """The button that gives the supervisor its number of workers back. A worker that stops is replaced by a new one."""
    if scaled.before == scaled.after:
        return None
    return htmx.Undo(url_for("workers.scale", supervisor_id=scaled.supervisor), "workers", str(scaled.before))


def _going_on(session: Session) -> list[WorkerView]:
    """Live workers that are not stopping."""
    views = fleet.workers(session, settings.load(session).lease)
    return [view for view in views if view.alive and view.worker.requested_state != "stop"]


@pages.get("/supervisor/<supervisor_id>")
def supervisor(supervisor_id: str, typed: Optional[str] = None, problem: str = "") -> str:
    """The page of a supervisor, or NotFound. `typed` is the number after an error."""
    with reading() as session:
        views = fleet.supervisors(session, fleet.workers(session, settings.load(session).lease))
        view = next((view for view in views if view.id == supervisor_id), None)
        if view is None:
            raise lifecycle.NotFound(f"supervisor {supervisor_id!r} does not exist or has stopped.")
        return htmx.form_page(
            "workers/supervisor.html",
            session,
            view=view,
            typed=str(view.wanted or 0) if typed is None else typed,
            problem=problem,
            most=worker_actions.MAX_WORKERS,
        )


@pages.post("/supervisor/<supervisor_id>/scale")
@needs("admin")
def scale(supervisor_id: str) -> ResponseReturnValue:
    """Set the number of workers, or add or remove one. Removing the last worker needs confirmation."""
    typed = request.form.get("workers", "").strip()
    by = {"-1": -1, "+1": 1}.get(request.form.get("by", ""), 0)
    to = whole_number(typed, 9)
    try:
        if not by and to is None:
            raise worker_actions.ScaleError(
                f"{typed!r} is not allowed; expected a whole number from 0 to {worker_actions.MAX_WORKERS}."
            )
        if "confirmed" not in request.form and _leaves_none(supervisor_id, to, by):
            return htmx.ask(
                "Scale down to 0 workers?",
                "No other supervisor has workers. Running jobs finish. Other jobs wait until you scale up again.",
                "Scale down to 0",
                hidden=[("workers", "0")],
                back=came_from(url_for("workers.index")),
                danger=True,
            )
        scaled = worker_actions.scale(supervisor_id, actor(), to=None if by else to, by=by)
    except worker_actions.ScaleError as error:
        if htmx.is_partial():
            return htmx.refused(str(error))
        return supervisor(supervisor_id, typed, str(error)), 422
    number, more = plural(scaled.after, "worker"), scaled.after > scaled.before
    then = "New workers start within seconds." if more else "The least busy workers finish their jobs, then stop."
    message = f"Scaling {scaled.supervisor} from {scaled.before} to {number}. {then}"
    if scaled.after == scaled.before:
        message = f"Supervisor {scaled.supervisor} already has {number}."
    return htmx.done(message, back=url_for("workers.index"), undo=_undo(scaled))


def _leaves_none(supervisor_id: str, to: Optional[int], by: int) -> bool:
    with reading() as session:
        views = _going_on(session)
        wanted = next((one.wanted for one in fleet.supervisors(session, views) if one.id == supervisor_id), None)
    if not wanted or (wanted + by if by else to) != 0:
        return False
    return all(view.worker.supervisor_id == supervisor_id for view in views)
