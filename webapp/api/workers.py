"""The fleet for programs: who runs, asking a worker to be quiet, to go on or to stop, and scaling a supervisor."""

from __future__ import annotations

from typing import Any, ClassVar, Optional

from marshmallow import Schema
from marshmallow import fields as ma

from webapp.api import fields, request_body
from webapp.api.problems import Problem
from webapp.api.routes import Noun
from webapp.api.scopes import actor, scope
from webapp.db.engines import reading
from webapp.insight import fleet
from webapp.jobs import lifecycle, settings, worker_actions
from webapp.lib import clock
from webapp.web import serializers

WORKER_STATES = ("running", "quiet", "stopping", "silent", "stopped", "expired")


class WorkerQuery(Schema):
    ended = ma.Boolean(
        load_default=False,
        truthy={"true"},
        falsy={"false"},
        metadata={"description": "those that ended in the last day, too"},
    )


class WishRequest(Schema):
    example: ClassVar[Any] = {"wish": "quiet"}

    wish = fields.choice(
        "`quiet`: take no more jobs; `run`: take jobs again; `stop`: finish, then end",
        ("run", "quiet", "stop"),
        required=True,
    )


class ScaleRequest(Schema):
    example: ClassVar[Any] = {"workers": 3}

    workers = fields.integer(
        "how many workers it is to have; 0: none until it is scaled up",
        0,
        worker_actions.MAX_WORKERS,
        required=True,
        strict=True,
    )


class Worker(fields.Answer):
    id = fields.text("its id")
    state = fields.text("what it does", enum=list(WORKER_STATES))
    alive = fields.truth("whether its heartbeat is younger than the lease")
    host = fields.text("its machine")
    pid = fields.whole("its process")
    slots = fields.whole("jobs at a time")
    queues = fields.texts("null: all", null=True)
    labels = fields.texts("what jobs may require of it, its host's among them")
    jobs = fields.texts("ids of what it runs")
    jobs_completed = fields.whole("since its start")
    jobs_failed = fields.whole("since its start")
    started_at = fields.time("when it began")
    seen_at = fields.time("its last heartbeat")
    stopped_at = fields.time("when it ended", null=True)
    version = fields.text("of queuectl")
    supervisor = fields.text("its supervisor's id")
    cpu_seconds = fields.number("its own and that of its ended commands, since its start", null=True)
    memory = fields.whole("bytes, its own", null=True)


class Workers(fields.Answer):
    workers = fields.many(Worker, "oldest first")


class Supervisor(fields.Answer):
    id = fields.text("its id")
    state = fields.text("unknown: it drains, or has just begun", enum=["running", "ending", "silent", "unknown"])
    host = fields.text("its machine")
    pid = fields.whole("its process", null=True)
    wanted = fields.whole("workers that it is to have; null: it cannot be scaled", null=True)
    workers = fields.texts("ids of those that it has")
    slots = fields.whole("of each of its workers")
    queues = fields.texts("null: all", null=True)
    labels = fields.texts("what jobs may require of its workers, their host's among them")
    started_at = fields.time("when it began")
    version = fields.text("of queuectl")


class Supervisors(fields.Answer):
    supervisors = fields.many(Supervisor, "by machine, oldest first")


routes = Noun("Workers", "The processes that run jobs.")


@routes.on("GET", "/workers", {200: Workers}, query=WorkerQuery)
@scope("read")
def list_workers() -> Any:
    """List the workers that run, oldest first."""
    ended = request_body.query(WorkerQuery)["ended"]
    return {"workers": _workers(clock.now() - clock.DAY if ended else None)}


def _workers(ended_since: Optional[int]) -> list[dict[str, Any]]:
    with reading() as session:
        views = fleet.workers(session, settings.load(session).lease, ended_since=ended_since)
    return [serializers.worker(view) for view in views]


@routes.on("PUT", "/workers/<worker_id>/wish", {200: Worker}, body=WishRequest, also=(409,))
@scope("admin")
def wish_of_worker(worker_id: str) -> Any:
    """Ask a worker to take no more jobs, to take jobs again, or to finish and end. A stop is final."""
    wish = request_body.body(WishRequest)["wish"]
    known = "\0" not in worker_id
    outcome = worker_actions.request_state(wish, [worker_id], actor()) if known else None
    if outcome is None or outcome.refused.get(worker_id, "") is None:
        raise lifecycle.NotFound(f"there is no worker {worker_id[:128]!r}.")
    if worker_id in outcome.refused:
        state = outcome.refused[worker_id]
        raise Problem("conflict", f"Worker {worker_id} is {state}. Nothing was changed.", state=state)
    return next(one for one in _workers(clock.now() - clock.DAY) if one["id"] == worker_id)


@routes.on("GET", "/supervisors", {200: Supervisors})
@scope("read")
def list_supervisors() -> Any:
    """List the processes that start workers, with how many they are to have."""
    return {"supervisors": _supervisors()}


@routes.on("PUT", "/supervisors/<supervisor_id>/wanted", {200: Supervisor}, body=ScaleRequest, also=(409,))
@scope("admin")
def scale_supervisor(supervisor_id: str) -> Any:
    """Have a supervisor keep so many workers. More start at once; of fewer, those that run least stop when done."""
    wanted = request_body.body(ScaleRequest)["workers"]
    try:
        worker_actions.scale(supervisor_id, actor(), to=wanted)
    except worker_actions.Unheard as error:
        raise Problem("conflict", f"{error} Nothing was changed.") from None
    return next(one for one in _supervisors() if one["id"] == supervisor_id)


def _supervisors() -> list[dict[str, Any]]:
    with reading() as session:
        views = fleet.supervisors(session, fleet.workers(session, settings.load(session).lease))
    return [serializers.supervisor(view) for view in views]
