"""The status of the queue, the same as `manage.py status --json`."""

from __future__ import annotations

from typing import Any

from marshmallow import fields as ma

from webapp.api import fields
from webapp.api.routes import Noun
from webapp.api.workers import Worker
from webapp.db.engines import reading
from webapp.web import serializers


class Quantiles(fields.Answer):
    p50 = fields.number("50th percentile, accurate to 5 %", null=True)
    p95 = fields.number("95th percentile", null=True)
    p99 = fields.number("99th percentile", null=True)


class LastHour(fields.Answer):
    completed = fields.integer("completed attempts")
    failed = fields.integer("failed attempts, including those that will be retried")
    died = fields.integer("jobs that moved to the dead letters")
    lost = fields.integer("attempts whose worker was lost")
    wait_seconds = ma.Nested(Quantiles, required=True, metadata={"description": "from due to start"})
    run_seconds = ma.Nested(Quantiles, required=True, metadata={"description": "from start to end"})


class Status(fields.Answer):
    states = fields.mapping("number of jobs by state", ma.Integer())
    workers = fields.list_of(Worker, "the running workers")
    oldest_pending_seconds = fields.number("how long the oldest pending job has waited", null=True)
    finished_last_minute = fields.integer("jobs that completed or died, up to 20,000")
    finished_last_hour = fields.integer("jobs that completed or died, up to 20,000")
    runs_per_minute = fields.number("ended attempts per minute, the sum of all queues")
    last_hour = ma.Nested(LastHour, required=True, metadata={"description": "the last 60 whole minutes"})
    paused_queues = fields.strings("names of the paused queues")


routes = Noun("Status", "A summary of the queue.")


@routes.on("GET", "/status", {200: Status}, scope="read")
def get_status() -> Any:
    """Get the number of jobs by state, the running workers, and throughput."""
    with reading() as session:
        return serializers.status(session)
