"""Workers and supervisors: the list, draining and stopping a worker, scaling a supervisor."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby
from typing import Optional

from flask import Blueprint, abort, render_template, request, url_for
from flask.typing import ResponseReturnValue
from sqlalchemy.orm import Session

from webapp.console.display.wait_reason import START_COMMAND
from webapp.console.display.wording import worker_state
from webapp.console.frame import htmx
from webapp.console.frame.nav import nav_of
from webapp.console.frame.roles import needs
from webapp.console.sessions import actor
from webapp.db.engines import reading
from webapp.db.models import Worker
from webapp.insight import fleet
from webapp.insight.fleet import SupervisorView
from webapp.jobs import operations, queries, settings
from webapp.jobs.queries import WorkerView
from webapp.lib import clock
from webapp.lib.text import plural
from webapp.web.request_info import came_from

pages = Blueprint("workers", __name__)

SHOW_ENDED = clock.seconds(3600)  # how long a stopped worker stays on the page
MOST_ENDED = 20  # a worker that crashes at each start leaves many
WISHES = {
    "quiet": ("quiet", "is draining: it finishes its jobs and takes no new ones."),
    "resume": ("run", "takes jobs again."),
    "stop": ("stop", "is stopping: it finishes its jobs first. Its supervisor keeps one worker less."),
}
_STEPS = {"-1": -1, "+1": 1}


@dataclass(frozen=True)
class Host:
    """A host with its supervisors."""

    name: str
    supervisors: list[SupervisorView]

    @property
    def workers(self) -> list[WorkerView]:
        return [view for one in self.supervisors for view in one.workers]


@pages.get("/workers")
def index() -> ResponseReturnValue:
    with reading() as session:
        workers = queries.workers(session, settings.load(session).lease, ended_since=clock.now() - SHOW_ENDED)
        running = [view for view in workers if view.worker.state == "running"]
        ended = [view for view in workers if view.worker.state != "running"]
        ended.sort(key=lambda view: view.worker.stopped_at or 0, reverse=True)
        supervisors = fleet.supervisors(session, running)
        return htmx.page(
            "workers",
            session,
            hosts=[Host(name, list(some)) for name, some in groupby(supervisors, key=lambda one: one.host)],
            running=running,
            ended=ended[:MOST_ENDED],
            more_ended=max(0, len(ended) - MOST_ENDED),
            start_command=START_COMMAND,
            load=load,
            slots_of=slots_of,
        )


def load(worker: Worker) -> str:
    """CPU use of one core since the start: '3 %', '< 1 %', '215 %'; empty if unknown."""
    lived = worker.seen_at - worker.started_at
    if worker.cpu_time is None or lived <= 0:
        return ""
    percent = round(worker.cpu_time / lived * 100)
    return f"{percent} %" if percent else "< 1 %"


def slots_of(views: Iterable[WorkerView]) -> str:
    """'12 of 96 slots busy'"""
    some = list(views)
    slots = sum(view.worker.slots for view in some)
    return f"{sum(len(view.jobs) for view in some):,} of {plural(slots, 'slot')} busy"


# --- a worker --------------------------------------------------------------------------------------------------------


@pages.post("/worker/<worker_id>/<wish>")
@needs("admin")
def wish_of(worker_id: str, wish: str) -> ResponseReturnValue:
    """Drain, resume or stop a worker. 409 if it is ending. Stopping the last worker needs confirmation."""
    if wish not in WISHES:
        abort(404)
    if wish == "stop" and "confirmed" not in request.form:
        last = _last_one(worker_id)
        if last is not None:
            return _ask_to_stop(last)
    word, effect = WISHES[wish]
    outcome = operations.wish_of_workers(word, [worker_id], actor())
    if worker_id in outcome.refused:
        state = outcome.refused[worker_id]
        if state is None:
            raise operations.NotFound(f"worker {worker_id!r} does not exist.")
        return htmx.refused(f"Worker {worker_id} is already {worker_state(state)}. Nothing changed.")
    return htmx.done(f"Worker {worker_id} {effect}", back=url_for("workers.index"))


def _last_one(worker_id: str) -> Optional[WorkerView]:
    """The worker, if it is the only one that would go on."""
    with reading() as session:
        views = _going_on(session)
    return views[0] if [view.worker.id for view in views] == [worker_id] else None


def _going_on(session: Session) -> list[WorkerView]:
    """Live workers that are not stopping."""
    views = queries.workers(session, settings.load(session).lease)
    return [view for view in views if view.alive and view.worker.requested_state != "stop"]


def _ask_to_stop(view: WorkerView) -> ResponseReturnValue:
    runs = " It finishes these jobs first:" if view.jobs else ""
    return htmx.ask(
        title="Stop the last worker?",
        text=f"No other worker is running. Jobs will wait until you scale up or start a worker.{runs}",
        examples=view.jobs[:5],
        more=len(view.jobs) - 5,
        action=request.path,
        button="Stop worker",
        hidden=[],
        back=came_from(url_for("workers.index")),
        danger=True,
    )


# --- a supervisor ----------------------------------------------------------------------------------------------------


@pages.get("/supervisor/<supervisor_id>")
def supervisor(supervisor_id: str) -> ResponseReturnValue:
    with reading() as session:
        view = _view(session, supervisor_id)
        return _page(session, view, str(view.wanted or 0))


@pages.post("/supervisor/<supervisor_id>/scale")
@needs("admin")
def scale(supervisor_id: str) -> ResponseReturnValue:
    """Set the number of workers, or add or remove one. Removing the last worker needs confirmation."""
    typed = request.form.get("workers", "").strip()
    by = _STEPS.get(request.form.get("by", ""), 0)
    to = int(typed) if re.fullmatch(r"[0-9]{1,9}", typed) else None
    try:
        if not by and to is None:
            raise fleet.ScaleError(f"{typed!r} is not allowed; expected a whole number from 0 to {fleet.MOST_WORKERS}.")
        if "confirmed" not in request.form and _leaves_none(supervisor_id, to, by):
            return _ask_to_scale()
        scaled = fleet.scale(supervisor_id, actor(), to=None if by else to, by=by)
    except fleet.ScaleError as error:
        if htmx.is_partial():
            return htmx.refused(str(error))
        with reading() as session:
            return _page(session, _view(session, supervisor_id), typed, str(error)), 422
    except fleet.Unheard as error:
        return htmx.refused(f"{error} Nothing changed.")
    return htmx.done(_said(scaled), back=url_for("workers.index"))


def _said(scaled: fleet.Scaled) -> str:
    number = plural(scaled.after, "worker")
    if scaled.after == scaled.before:
        return f"Supervisor {scaled.supervisor} already has {number}."
    more = scaled.after > scaled.before
    then = "New workers start within seconds." if more else "The least busy workers finish their jobs, then stop."
    return f"Scaling {scaled.supervisor} from {scaled.before} to {number}. {then}"


def _leaves_none(supervisor_id: str, to: Optional[int], by: int) -> bool:
    with reading() as session:
        views = _going_on(session)
        wanted = next((one.wanted for one in fleet.supervisors(session, views) if one.id == supervisor_id), None)
    if not wanted or (wanted + by if by else to) != 0:
        return False
    return all(view.worker.supervisor_id == supervisor_id for view in views)


def _ask_to_scale() -> ResponseReturnValue:
    return htmx.ask(
        title="Scale down to 0 workers?",
        text="No other supervisor has workers. Running jobs finish. Other jobs wait until you scale up again.",
        examples=[],
        more=0,
        action=request.path,
        button="Scale down to 0",
        hidden=[("workers", "0")],
        back=came_from(url_for("workers.index")),
        danger=True,
    )


def _view(session: Session, supervisor_id: str) -> SupervisorView:
    """The supervisor, or NotFound."""
    views = fleet.supervisors(session, queries.workers(session, settings.load(session).lease))
    view = next((view for view in views if view.id == supervisor_id), None)
    if view is None:
        raise operations.NotFound(f"supervisor {supervisor_id!r} does not exist or has stopped.")
    return view


def _page(session: Session, view: SupervisorView, typed: str, problem: str = "") -> str:
    return render_template(
        "workers/supervisor.html",
        nav=nav_of(session),
        view=view,
        typed=typed,
        problem=problem,
        most=fleet.MOST_WORKERS,
        slots_of=slots_of,
    )
