"""The queues for programs: what waits and runs in each, and pausing one."""

from __future__ import annotations

from typing import Any

from webapp.api import fields, request_body
from webapp.api.problems import Problem
from webapp.api.routes import Noun
from webapp.api.scopes import actor, scope
from webapp.core import job_spec
from webapp.db.engines import reading
from webapp.insight.queues import all_queues
from webapp.jobs import lifecycle, queue_actions
from webapp.lib import clock
from webapp.web import serializers


class LabelSet(fields.Answer):
    requires = fields.texts("empty: any worker of the queue may take them")
    pending = fields.whole("jobs that wait, up to 10,000")
    pending_is_more = fields.truth("whether there are more than that")
    oldest_pending_seconds = fields.number("for how long the first one waits", null=True)


class Queue(fields.Answer):
    name = fields.text("its name")
    paused = fields.truth("whether nothing new starts")
    paused_at = fields.time("since when", null=True)
    paused_by = fields.text("by whom", null=True)
    pending = fields.whole("jobs that wait, up to 10,000")
    pending_is_more = fields.truth("whether there are more than that")
    processing = fields.whole("jobs that run")
    oldest_pending_seconds = fields.number("for how long the first one waits", null=True)
    runs_per_minute = fields.number("runs that end in a minute, over the last five or since the first of them")
    drain_seconds = fields.number(
        "about, until what waits has run at that rate; null: nothing waits or ends", null=True
    )
    waiting = fields.many(LabelSet, "what waits, by what it requires")


class Queues(fields.Answer):
    queues = fields.many(Queue, "by name")


routes = Noun("Queues", "A queue exists once a job has named it.")


@routes.on("GET", "/queues", {200: Queues})
@scope("read")
def list_queues() -> Any:
    """List the queues, with what waits and runs in each."""
    return {"queues": _queues()}


@routes.on("POST", "/queues/<name>/pause", {200: Queue}, also=(409,))
@scope("operate")
def pause_queue(name: str) -> Any:
    """Let no more jobs of a queue start. Those that run go on."""
    return _pause(name, paused=True)


@routes.on("POST", "/queues/<name>/resume", {200: Queue}, also=(409,))
@scope("operate")
def resume_queue(name: str) -> Any:
    """Let the jobs of a queue start again."""
    return _pause(name, paused=False)


def _pause(name: str, *, paused: bool) -> dict[str, Any]:
    request_body.no_body()
    if not job_spec.NAME.match(name):
        raise lifecycle.NotFound(f"no such queue: {name[:128]!r}.")
    change = queue_actions.pause_queue if paused else queue_actions.resume_queue
    if not change(name, actor()):
        state = "paused" if paused else "running"
        raise Problem("conflict", f"Queue {name} is {state} already. Nothing was changed.", state=state)
    return next(one for one in _queues() if one["name"] == name)


def _queues() -> list[dict[str, Any]]:
    with reading() as session:
        views = all_queues(session)
    now = clock.now()
    return [serializers.queue(view, now) for view in views]
