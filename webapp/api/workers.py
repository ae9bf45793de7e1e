"""Workers and supervisors: list, drain, resume, stop, scale."""

from __future__ import annotations

from typing import Any, ClassVar, Optional

from marshmallow import Schema
from marshmallow import fields as ma

from webapp.api import fields, request_body
from webapp.api.gate import actor
from webapp.api.problems import Problem
from webapp.api.routes import Noun
from webapp.db.engines import reading
from webapp.insight import fleet
from webapp.jobs import lifecycle, settings, worker_actions
from webapp.lib import clock
from webapp.web import serializers

WORKER_STATES = ("running", "quiet", "stopping", "silent", "stopped", "expired")


class WorkerQuery(Schema):
    ended = fields.switch("true: also workers that ended within the last day")


class WishRequest(Schema):
    example: ClassVar[Any] = {"wish": "quiet"}

    wish = fields.choice(
        "`quiet`: drain (take no more jobs); `run`: take jobs again; `stop`: finish the running jobs, then exit",
        ("run", "quiet", "stop"),
        required=True,
    )


class ScaleRequest(Schema):
    example: ClassVar[Any] = {"workers": 3}

    workers = fields.bounded(
        "the number of workers; 0: none until scaled up again",
        0,
        worker_actions.MAX_WORKERS,
        required=True,
        strict=True,
    )


class Worker(fields.Answer):
    id = fields.text("the id")
    state = fields.text("the state", enum=list(WORKER_STATES))
    alive = fields.boolean("whether its heartbeat is younger than the lease")
    host = fields.text("its host")
    pid = fields.integer("its process id")
    slots = fields.integer("how many jobs it runs at a time")
    queues = fields.strings("its queues; null: all", null=True)
    queue_order = ma.Raw(
        required=True,
        allow_none=True,
        metadata={"description": "`strict`, or the weights of its queues; null: by priority and age of the jobs"},
    )
    labels = fields.strings("its labels, which jobs can require, including that of its host")
    jobs = fields.strings("ids of its running jobs")
    jobs_completed = fields.integer("since its start")
    jobs_failed = fields.integer("since its start")
    started_at = fields.time("when it started")
    seen_at = fields.time("its last heartbeat")
    stopped_at = fields.time("when it ended", null=True)
    version = fields.text("version of queuectl")
    supervisor = fields.text("id of its supervisor")
    cpu_seconds = fields.number("CPU time since its start, including ended commands", null=True)
    memory = fields.integer("bytes, without its commands", null=True)


class Supervisor(fields.Answer):
    id = fields.text("the id")
    state = fields.text(
        "the state; unknown: it is draining or has just started", enum=["running", "ending", "silent", "unknown"]
    )
    host = fields.text("its host")
    pid = fields.integer("its process id", null=True)
    wanted = fields.integer("the desired number of workers; null: it cannot be scaled", null=True)
    workers = fields.strings("ids of its workers")
    slots = fields.integer("how many jobs each of its workers runs at a time")
    queues = fields.strings("queues of its workers; null: all", null=True)
    labels = fields.strings("labels of its workers, including that of the host")
    started_at = fields.time("when it started")
    version = fields.text("version of queuectl")


routes = Noun("Workers", "The processes that run jobs.")


@routes.on("GET", "/workers", {200: fields.listing("Workers", Worker, "oldest first")}, scope="read", query=WorkerQuery)
def list_workers() -> Any:
    """List the running workers, oldest first."""
    ended = request_body.query(WorkerQuery)["ended"]
    return {"workers": _workers(clock.now() - clock.DAY if ended else None)}


def _workers(ended_since: Optional[int]) -> list[dict[str, Any]]:
    with reading() as session:
        views = fleet.workers(session, settings.load(session).lease, ended_since=ended_since)
    return [serializers.worker(view) for view in views]


@routes.on("PUT", "/workers/<worker_id>/wish", {200: Worker}, scope="admin", body=WishRequest, errors=(409,))
def wish_of_worker(worker_id: str) -> Any:
    """Drain a worker, resume it, or stop it after its running jobs. A stop cannot be undone."""
    wish = request_body.body(WishRequest)["wish"]
    outcome = worker_actions.request_state(wish, [worker_id], actor()) if "\0" not in worker_id else None
    if outcome is None or outcome.refused.get(worker_id, "") is None:
        raise lifecycle.NotFound(f"there is no worker {worker_id[:128]!r}.")
    if worker_id in outcome.refused:
        state = outcome.refused[worker_id]
        raise Problem("conflict", f"Worker {worker_id} is {state}. Nothing was changed.", state=state)
    return next(one for one in _workers(clock.now() - clock.DAY) if one["id"] == worker_id)


@routes.on(
    "GET", "/supervisors", {200: fields.listing("Supervisors", Supervisor, "by host, oldest first")}, scope="read"
)
def list_supervisors() -> Any:
    """List the supervisors, which start workers, with the desired number of workers of each."""
    return {"supervisors": _supervisors()}


@routes.on(
    "PUT", "/supervisors/<supervisor_id>/wanted", {200: Supervisor}, scope="admin", body=ScaleRequest, errors=(409,)
)
def scale_supervisor(supervisor_id: str) -> Any:
    """Set the number of workers of a supervisor.

    New workers start at once. To scale down, the workers with the fewest running jobs stop after these jobs.
    """
    wanted = request_body.body(ScaleRequest)["workers"]
    worker_actions.scale(supervisor_id, actor(), to=wanted)
    return next(one for one in _supervisors() if one["id"] == supervisor_id)


def _supervisors() -> list[dict[str, Any]]:
    with reading() as session:
        views = fleet.supervisors(session, fleet.workers(session, settings.load(session).lease))
    return [serializers.supervisor(view) for view in views]
