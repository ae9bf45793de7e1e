"""The queues: list, pause, resume, remove. And the status of the whole queue, the same as `manage.py status --json`."""

from __future__ import annotations

from typing import Any, ClassVar

from flask import Response
from marshmallow import Schema
from marshmallow import fields as ma

from webapp.api import fields, pagination, request_body
from webapp.api.flow.flow_fields import RETRY
from webapp.api.gate import actor
from webapp.api.problems import Problem
from webapp.api.routes import Noun
from webapp.api.workers import Worker
from webapp.core.flow import retry_rules
from webapp.db.engines import reading
from webapp.insight import commands, retry_preview
from webapp.insight.queues import SHOWN, QueueFilter, page_of_queues, view_of
from webapp.insight.windows import RANGES
from webapp.jobs import queue_actions
from webapp.lib import clock
from webapp.web import serializers

LIST = "queues"  # in cursors
MAX_PAGE = 500  # queues


class LabelSet(fields.Answer):
    requires = fields.strings("the required labels; empty: any worker of the queue can run the jobs")
    pending = fields.integer("pending jobs, up to 10,000")
    pending_is_more = fields.boolean("whether there are more than `pending`")
    oldest_pending_seconds = fields.number("how long the oldest pending job has waited", null=True)


class Queue(fields.Answer):
    name = fields.text("the name")
    paused = fields.boolean("whether it is paused: no jobs start")
    paused_at = fields.time("when it was paused", null=True)
    paused_by = fields.text("who paused it", null=True)
    pending = fields.integer("pending jobs, up to 10,000")
    pending_is_more = fields.boolean("whether there are more than `pending`")
    processing = fields.integer("running jobs")
    oldest_pending_seconds = fields.number("how long the oldest pending job has waited", null=True)
    runs_per_minute = fields.number("ended attempts per minute, over the last five minutes or since the first one")
    drain_seconds = fields.number(
        "estimated time until all pending jobs have run; null: no pending jobs or no throughput", null=True
    )
    waiting = fields.list_of(LabelSet, "pending jobs by required labels")


class QueueQuery(Schema):
    like = fields.free_text("only queues whose name contains this text", 128)
    show = fields.choice("busy: only queues with pending or running jobs; paused: only paused queues", SHOWN)
    limit = fields.bounded("queues per page", 1, MAX_PAGE, load_default=MAX_PAGE)
    cursor = pagination.cursor_field()


class QueuePage(pagination.Page):
    queues = fields.list_of(Queue, "by name")


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


class Command(fields.Answer):
    command = fields.text("the pattern of the commands: N, ID and PATH stand for parts that differ; …: all rarer ones")
    runs = fields.integer("ended attempts")
    failures = fields.integer("how many of them failed")
    mean_seconds = fields.number("average duration")
    run_seconds = ma.Nested(Quantiles, required=True, metadata={"description": "durations; null before schema 0015"})


class CommandQuery(Schema):
    over = fields.choice("the last hour, day or week, in full hours", tuple(RANGES), load_default="24h")


class CommandList(fields.Answer):
    commands = fields.list_of(Command, "those with the most runs first")


class RetryRulesRequest(Schema):
    example: ClassVar[Any] = {"retry": ["exit 75: wait", "exit 64-78: bury"]}

    retry = ma.Raw(required=True, allow_none=True, metadata=RETRY)


class RetryRules(fields.Answer):
    retry = ma.Dict(required=True, metadata={"description": "`rules` and `backoff`; empty: the settings decide"})
    lines = fields.strings("the same as lines")


class PreviewLine(fields.Answer):
    ended = fields.text("how attempts ended, such as exit code 75")
    then = fields.text("what happened next", enum=["retried", "dead"])
    now = fields.text("what the rules would have done", enum=["retried", "dead", "completed"])
    rule = fields.text("the rule that decides; null: none does", null=True)
    number = fields.integer("attempts")
    example = fields.text("id of the newest job")


class RetryPreview(fields.Answer):
    failed = fields.integer("failed attempts that were looked at, up to 1,000")
    changed = fields.integer("how many of them would have had a different result")
    lines = fields.list_of(PreviewLine, "attempts, grouped by failure and result")


routes = Noun("Queues", "A queue is created by its first job.")
status = Noun("Status", "A summary of the queue.")


@routes.on("GET", "/queues", {200: QueuePage}, scope="read", query=QueueQuery, headers=pagination.LINKS)
def list_queues() -> Response:
    """List the queues in pages, by name, with pending and running jobs.

    `next` and the header Link lead to the next page.
    """
    asked = request_body.query(QueueQuery)
    wanted = QueueFilter(asked.get("like", ""), asked.get("show", ""))
    with reading() as session:
        at = pagination.decode(asked.get("cursor"), LIST)
        page = page_of_queues(session, wanted, limit=asked["limit"], after=at.get("after"), before=at.get("before"))
    now = clock.now()
    views = [serializers.queue(view, now) for view in page.views]
    return pagination.answer({"queues": views}, LIST, page.older, page.newer)


@routes.on("POST", "/queues/<name>/pause", {200: Queue}, scope="operate", errors=(409,))
def pause_queue(name: str) -> Any:
    """Pause a queue: no more jobs start. Running jobs continue."""
    return _pause(name, paused=True)


@routes.on("POST", "/queues/<name>/resume", {200: Queue}, scope="operate", errors=(409,))
def resume_queue(name: str) -> Any:
    """Resume a queue: jobs start again."""
    return _pause(name, paused=False)


@routes.on("DELETE", "/queues/<name>", {204: None}, scope="operate", errors=(409,))
def remove_queue(name: str) -> Response:
    """Remove a queue without unfinished jobs. Its finished jobs stay; its next job creates it again."""
    queue_actions.remove_queue(name, actor())
    return Response(status=204)


@routes.on("GET", "/queues/<name>/retry", {200: RetryRules}, scope="read")
def get_retry_rules(name: str) -> Any:
    """Get the retry rules of a queue. They apply to jobs without their own rules."""
    return _retry_rules(name)


@routes.on("PUT", "/queues/<name>/retry", {200: RetryRules}, scope="admin", body=RetryRulesRequest)
def set_retry_rules(name: str) -> Any:
    """Set the retry rules of a queue. They apply from the next failure; null removes them."""
    queue_actions.set_retry_rules(name, _sent_rules(), actor())
    return _retry_rules(name)


@routes.on("POST", "/queues/<name>/retry/preview", {200: RetryPreview}, scope="read", body=RetryRulesRequest)
def preview_retry_rules(name: str) -> Any:
    """Preview what retry rules would have done with the last 1,000 failed attempts of a queue. This changes nothing."""
    rules = _sent_rules()
    with reading() as session:
        queue_actions.retry_rules_of(session, name)
        return retry_preview.of(session, rules, name).as_json


def _sent_rules() -> retry_rules.RetryRules:
    return queue_actions.read_rules(request_body.body(RetryRulesRequest)["retry"] or {})


def _retry_rules(name: str) -> dict[str, Any]:
    with reading() as session:
        rules = queue_actions.retry_rules_of(session, name)
    return {"retry": rules.as_json, "lines": rules.lines}


def _pause(name: str, *, paused: bool) -> dict[str, Any]:
    change = queue_actions.pause_queue if paused else queue_actions.resume_queue
    if not change(name, actor()):
        state = "paused" if paused else "running"
        raise Problem("conflict", f"Queue {name} is already {state}. Nothing was changed.", state=state)
    with reading() as session:
        view = view_of(session, name)
    return serializers.queue(view, clock.now())


@status.on("GET", "/commands", {200: CommandList}, scope="read", query=CommandQuery)
def list_commands() -> Any:
    """List the commands that ran, by pattern, with failures and durations."""
    over = RANGES[request_body.query(CommandQuery)["over"]]
    with reading() as session:
        found = commands.listing(session, over.window(clock.now()))
    return {"commands": [serializers.command(one) for one in found]}


@status.on("GET", "/status", {200: Status}, scope="read")
def get_status() -> Any:
    """Get the number of jobs by state, the running workers, and throughput."""
    with reading() as session:
        return serializers.status(session)
