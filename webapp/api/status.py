"""The queue at a glance, for programs: the same as `manage.py status --json`."""

from __future__ import annotations

from typing import Any

from marshmallow import fields as ma

from webapp.api import fields
from webapp.api.routes import Noun
from webapp.api.scopes import scope
from webapp.api.workers import Worker
from webapp.db.engines import reading
from webapp.web import serializers


class Quantiles(fields.Answer):
    p50 = fields.number("half took this at the most; within 5 %", null=True)
    p95 = fields.number("95 % did", null=True)
    p99 = fields.number("99 % did", null=True)


class LastHour(fields.Answer):
    completed = fields.whole("runs that ended well")
    failed = fields.whole("runs that failed, whether or not they are retried")
    died = fields.whole("jobs that became dead letters")
    lost = fields.whole("runs whose worker died")
    wait_seconds = ma.Nested(Quantiles, required=True, metadata={"description": "from due to begun"})
    run_seconds = ma.Nested(Quantiles, required=True, metadata={"description": "from begun to ended"})


class Status(fields.Answer):
    states = fields.mapping("jobs in each state", ma.Integer())
    workers = fields.many(Worker, "those that run")
    oldest_pending_seconds = fields.number("for how long the first one waits", null=True)
    finished_last_minute = fields.whole("completed or dead, up to 20,000")
    finished_last_hour = fields.whole("completed or dead, up to 20,000")
    runs_per_minute = fields.number("runs that end in a minute, in all queues, as in a queue")
    last_hour = ma.Nested(LastHour, required=True, metadata={"description": "by whole minutes"})
    paused_queues = fields.texts("their names")


routes = Noun("Status", "The queue at a glance.")


@routes.on("GET", "/status", {200: Status})
@scope("read")
def get_status() -> Any:
    """How many jobs are in each state, which workers run, and what waits."""
    with reading() as session:
        return serializers.status(session)
