"""Schedules: add, list, get, replace, remove; pause, resume, run now; the ledger, run one of it; the next fires."""

from __future__ import annotations

from typing import Any, ClassVar

from flask import Response
from marshmallow import Schema
from marshmallow import fields as ma

from webapp.api import fields, pagination, request_body
from webapp.api.fields import NAME_PATTERN
from webapp.api.gate import actor, may
from webapp.api.jobs import JobRequest
from webapp.api.problems import Problem
from webapp.api.routes import Noun
from webapp.core import job_spec
from webapp.core.states import FIRE_OUTCOMES
from webapp.db.engines import reading
from webapp.lib import clock
from webapp.schedules import actions, spec, timing, views
from webapp.schedules.spec import CATCH_UPS, OVERLAPS

LIST, LEDGER = "schedules", "fires"  # in cursors
MAX_PAGE = 500  # schedules, and fires


class ScheduledJob(JobRequest):
    """The job of a schedule: the fields of a job, without id, delay, run_at and after."""

    class Meta:
        exclude = ("id", "delay", "run_at", "after")


def _seconds(about: str) -> Any:
    kinds = [{"type": "integer", "minimum": 0}, {"type": "string"}, {"type": "null"}]
    return ma.Raw(allow_none=True, metadata={"description": f"{about}; seconds, or a text such as 15m", "anyOf": kinds})


class ScheduleRequest(Schema):
    """Describes a schedule for the document; `schedules/spec.py` validates it."""

    example: ClassVar[Any] = {"name": "nightly", "cron": "0 2 * * *", "job": {"command": "./backup.sh"}}

    name = ma.String(required=True, metadata={"description": job_spec.NAME_RULE, "pattern": NAME_PATTERN})
    cron = fields.optional(ma.String, "five fields: minute hour day month weekday; also @daily and H")
    every = _seconds("a fixed interval, instead of `cron`")
    anchor = fields.optional(ma.String, "intervals count from this time; default: now", format="date-time")
    tz = fields.optional(ma.String, "IANA time zone; default: UTC")
    spread = _seconds("delays all fires by a fixed time up to this, derived from the name")
    starts_at = fields.optional(ma.String, "no fires before this time", format="date-time")
    ends_at = fields.optional(ma.String, "no fires after this time", format="date-time")
    overlap = fields.optional(
        ma.String, "what a fire does while a job of this schedule waits or runs; default: skip", enum=list(OVERLAPS)
    )
    catch_up = fields.optional(ma.String, "which missed fires run; default: last", enum=list(CATCH_UPS))
    catch_up_window = _seconds("fires that are later than this do not run")
    catch_up_max = fields.optional(
        ma.Integer,
        "with catch_up=all: run at most this many, the newest ones; default: 10",
        minimum=1,
        maximum=spec.MAX_CATCH_UP,
    )
    not_later_than = fields.optional(ma.String, "late fires do not run after this time of day, such as 06:00")
    late_after = _seconds("report a job that has not started after this time; default: 300")
    failing_after = fields.optional(
        ma.Integer, "report after this many failed runs in a row; default: 1; 0: never", minimum=0, maximum=1000
    )
    enabled = fields.optional(ma.Boolean, "false: paused; default: true")
    note = fields.optional(ma.String, "a note", maxLength=spec.MAX_NOTE)
    owner = fields.optional(ma.String, "who is responsible", maxLength=spec.MAX_NOTE)
    job = ma.Nested(ScheduledJob, required=True, metadata={"description": "the job that each fire submits"})


class Schedule(fields.Stamped):
    name = fields.text("the name")
    cron = ma.String(allow_none=True, metadata={"description": "the expression"})
    every = ma.Integer(allow_none=True, metadata={"description": "the interval in seconds"})
    anchor = ma.String(allow_none=True, metadata={"description": "intervals count from this time"})
    tz = ma.String(metadata={"description": "the time zone"})
    spread = ma.Integer(metadata={"description": "seconds"})
    starts_at = ma.String(allow_none=True, metadata={"description": "no fires before this time"})
    ends_at = ma.String(allow_none=True, metadata={"description": "no fires after this time"})
    overlap = ma.String(metadata={"description": "what a fire does while a job of this schedule waits or runs"})
    catch_up = ma.String(metadata={"description": "which missed fires run"})
    catch_up_window = ma.Integer(allow_none=True, metadata={"description": "seconds"})
    catch_up_max = ma.Integer(metadata={"description": "with catch_up=all"})
    not_later_than = ma.String(allow_none=True, metadata={"description": "a time of day"})
    late_after = ma.Integer(metadata={"description": "seconds"})
    failing_after = ma.Integer(metadata={"description": "failed runs in a row"})
    note = ma.String(metadata={"description": "a note"})
    owner = ma.String(metadata={"description": "who is responsible"})
    job = ma.Dict(metadata={"description": "the job that each fire submits; values in env are null for the scope read"})
    enabled = fields.boolean("false: paused")
    paused_until = fields.time("when a pause ends by itself", null=True)
    next_fire_at = fields.time("the next fire", null=True)
    last_fire_at = fields.time("the last fire that submitted a job", null=True)
    waiting_since = fields.time("the fire that waits until the running job has ended", null=True)
    late_since = fields.time("since when its job has not started in time", null=True)
    long_since = fields.time("since when its job runs longer than usual", null=True)
    failing_since = fields.time("since when its last runs failed", null=True)
    broken = fields.text("why it is broken; null: it works", null=True)


class Fire(fields.Answer):
    due_at = fields.time("when it was due; the key")
    decided_at = fields.time("when it was decided")
    outcome = fields.text("what happened", enum=list(FIRE_OUTCOMES))
    reason = fields.text("why", null=True)
    job_id = fields.text("the job that it submitted", null=True)


class ScheduleQuery(Schema):
    like = fields.free_text("only schedules whose name contains this text", 128)
    show = fields.choice("paused, or attention: broken, late, long or failing", views.SHOWN)
    limit = fields.bounded("schedules per page", 1, MAX_PAGE, load_default=50)
    cursor = pagination.cursor_field()


class FireQuery(Schema):
    outcome = fields.choice("only fires with this outcome", FIRE_OUTCOMES)
    limit = fields.bounded("fires per page", 1, MAX_PAGE, load_default=50)
    cursor = pagination.cursor_field()


class NextQuery(Schema):
    n = fields.bounded("number of fires", 1, MAX_PAGE, load_default=10)


class SchedulePage(pagination.Page):
    schedules = fields.list_of(Schedule, "by name")


class FirePage(pagination.Page):
    fires = fields.list_of(Fire, "newest first")


class NextFires(fields.Answer):
    fires = fields.strings("times in UTC")
    reading = fields.text("the expression in words")


class PauseRequest(Schema):
    example: ClassVar[Any] = {"until": "2030-01-31T08:00:00Z"}

    until = fields.timestamp("when the pause ends by itself; without it, until it is resumed")


class FireToRun(Schema):
    example: ClassVar[Any] = {"due_at": "2026-12-01T02:00:00Z"}

    due_at = fields.timestamp("when it was due, as in the ledger", required=True)


class Ran(fields.Answer):
    job_id = fields.text("the new job")


routes = Noun("Schedules", "A schedule submits a job at set times. Each fire has an entry in its ledger.")


@routes.on("GET", "/schedules", {200: SchedulePage}, scope="read", query=ScheduleQuery, headers=pagination.LINKS)
def list_schedules() -> Response:
    """List schedules by name, in pages."""
    asked = request_body.query(ScheduleQuery)
    with reading() as session:
        at = pagination.decode(asked.get("cursor"), LIST)
        page = views.page(session, like=asked.get("like", ""), show=asked.get("show", ""), limit=asked["limit"], **at)
    found = [_shown(view.row) for view in page.views]
    return pagination.answer({"schedules": found}, LIST, page.older, page.newer)


@routes.on("POST", "/schedules", {201: Schedule}, scope="admin", repeatable=True, body=ScheduleRequest)
def add_schedule() -> Response:
    """Add a schedule. It fires from now on."""
    described = spec.parse(request_body.raw())
    actions.add(described, actor())
    return request_body.answer(_one(described.name), 201)


@routes.on("GET", "/schedules/<name>", {200: Schedule}, scope="read")
def get_schedule(name: str) -> Any:
    """Get one schedule."""
    return _one(name)


@routes.on("PUT", "/schedules/<name>", {200: Schedule}, scope="admin", body=ScheduleRequest, errors=(409,))
def replace_schedule(name: str) -> Any:
    """Replace the description of a schedule. Fires that were due before do not run."""
    data = request_body.raw()
    described = spec.parse({"name": name, **data} if isinstance(data, dict) else data)
    actions.edit(name, described, actor())
    return _one(name)


@routes.on("DELETE", "/schedules/<name>", {204: None}, scope="admin")
def remove_schedule(name: str) -> Response:
    """Remove a schedule with its ledger. Its jobs stay."""
    actions.remove(name, actor())
    return Response(status=204)


@routes.on("POST", "/schedules/<name>/pause", {200: Schedule}, scope="operate", body=PauseRequest, errors=(409,))
def pause_schedule(name: str) -> Any:
    """Pause a schedule. The ledger records its fires as skipped."""
    until = request_body.body(PauseRequest).get("until")
    end = None if until is None else clock.parse_iso(until)
    actions.pause(name, actor(), end)
    return _one(name)


@routes.on("POST", "/schedules/<name>/resume", {200: Schedule}, scope="operate", errors=(409,))
def resume_schedule(name: str) -> Any:
    """Resume a schedule. It fires from now on."""
    actions.resume(name, actor())
    return _one(name)


@routes.on("POST", "/schedules/<name>/run", {201: Ran}, scope="operate", repeatable=True, errors=(409,))
def run_schedule(name: str) -> Response:
    """Enqueue the schedule's job now. 409 while a job of it has not ended, unless its overlap is allow."""
    return request_body.answer({"job_id": actions.run_now(name, actor())}, 201)


@routes.on("GET", "/schedules/<name>/fires", {200: FirePage}, scope="read", query=FireQuery, headers=pagination.LINKS)
def list_fires(name: str) -> Response:
    """List the ledger of a schedule, newest first: each fire, what happened, and why."""
    asked = request_body.query(FireQuery)
    before = pagination.number_before(asked.get("cursor"), LEDGER)
    with reading() as session:
        row = views.find(session, name)
        found = views.fires(session, row, asked["limit"] + 1, before=before, outcome=asked.get("outcome", ""))
    shown = found[: asked["limit"]]
    older = str(shown[-1].due_at) if len(found) > len(shown) else None
    return pagination.answer({"fires": [views.fire_json(fire) for fire in shown]}, LEDGER, older, None)


@routes.on(
    "POST", "/schedules/<name>/fires/run", {201: Ran}, scope="operate", repeatable=True, body=FireToRun, errors=(409,)
)
def run_fire(name: str) -> Response:
    """Run a fire of the ledger that was skipped or missed. 409 if it has run, or as for the request to run now."""
    due = clock.parse_iso(request_body.body(FireToRun)["due_at"])
    (job_id,) = actions.run_fires(name, actor(), [due])
    return request_body.answer({"job_id": job_id}, 201)


@routes.on("GET", "/schedules/<name>/next", {200: NextFires}, scope="read", query=NextQuery, errors=(409,))
def next_fires(name: str) -> Any:
    """List the next fires of a schedule."""
    number = request_body.query(NextQuery)["n"]
    with reading() as session:
        row = views.find(session, name)
    described = views.described(row)
    if described is None:
        raise Problem("conflict", f"Schedule {name} is broken: {views.why_broken(row)}")
    found = [clock.to_iso(fire) for fire, _ in zip(described.timing.after(clock.now()), range(number))]
    return {"fires": found, "reading": timing.in_words(described.timing)}


def _one(name: str) -> dict[str, Any]:
    with reading() as session:
        return _shown(views.find(session, name))


def _shown(row: Any) -> dict[str, Any]:
    """A schedule; tokens that only read do not see the values of its environment."""
    shown = views.schedule_json(row)
    env = shown.get("job", {}).get("env")
    if env and not may("operate"):
        shown["job"] = {**shown["job"], "env": dict.fromkeys(env)}
    return shown
