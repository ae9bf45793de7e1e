"""Moving jobs: one by its address, several by their ids, all that match; and how far an act on all has come."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

from flask import Response
from marshmallow import Schema, ValidationError, validate, validates_schema
from marshmallow import fields as ma

from webapp.api import fields, idempotency, request_body
from webapp.api.jobs import MOST_LISTED, Job, job_json, refuse
from webapp.api.problems import Problem
from webapp.api.routes import PREFIX, Noun
from webapp.api.scopes import actor, scope
from webapp.core.states import STATES
from webapp.db.engines import reading
from webapp.jobs import actions, activity, search
from webapp.jobs.filters import JobFilter
from webapp.web import serializers

PATIENCE = 20.0  # seconds that a program waits for an act on all; a supervisor carries on what is left
MOST_NAMED = 500  # ids of one act


# --- shapes ----------------------------------------------------------------------------------------------------------


class Which(Schema):
    """Jobs by their ids, or all that match."""

    example: ClassVar[Any] = {"ids": ["job1", "job2"]}

    ids = ma.List(
        fields.name("a job's id"), validate=validate.Length(1, MOST_NAMED), metadata={"description": "these jobs"}
    )
    all = fields.flag("true: all that match now, in small transactions")
    queue = fields.name("with all: only of this queue")
    q = fields.typed("with all: only those that match this search, however many jobs there are", search.MAX_TYPED)

    @validates_schema(skip_on_field_errors=True)
    def _one_way(self, data: dict[str, Any], **_: Any) -> None:
        if bool(data.get("all")) == ("ids" in data):
            raise ValidationError('expected either "ids" or "all": true.')
        narrowed = [name for name in ("state", "queue", "group", "q") if name in data]
        if "ids" in data and narrowed:
            raise ValidationError('stands beside "all" only.', narrowed[0])


class WhichJobs(Which):
    state = fields.choice("with all: only in this state", STATES)


class Refused(fields.Answer):
    id = fields.text("which")
    state = fields.text("that it is in; null: there is none", null=True)


class Outcome(fields.Answer):
    moved = fields.texts("ids of jobs that were moved")
    asked = fields.texts("ids of running jobs that were told to stop")
    refused = fields.many(Refused, "jobs in a state that does not allow it")
    action = fields.whole("the act that moved them, for an undo; null: none was moved", null=True)


class Act(fields.Answer):
    id = fields.whole("its number")
    verb = fields.text("what is done")
    what = fields.text("to which jobs, in words")
    state = fields.text(
        "running: a supervisor carries it on; waiting: for its canary", enum=["waiting", "running", "done", "stopped"]
    )
    undoes = fields.whole("the act that it takes back, if it is an undo", null=True)
    moved = fields.whole("jobs so far")
    skipped = fields.whole("jobs that somebody else moved first")
    actor = fields.text("who asked")
    created_at = fields.time("when it was asked")
    finished_at = fields.time("when it was done", null=True)


class ActAnswer(fields.Answer):
    act = ma.Nested(Act, required=True)
    action = fields.whole("its id")


class Acts(fields.Answer):
    acts = fields.many(Act, "newest first")


class ActQuery(Schema):
    limit = fields.integer("acts of a page", 1, MOST_LISTED, load_default=50)
    before = fields.integer("only acts with a lower id, for the next page", 1, 2**53 - 1)


class MovedJob(Job):
    action = fields.whole("the act that moved it, for an undo", null=True)


EITHER = {"oneOf": [Outcome, ActAnswer]}

# --- one -------------------------------------------------------------------------------------------------------------

routes = Noun("Acts", "Cancel, requeue, run now, discard: one job, several, or all that match.")


@routes.on("POST", "/jobs/<job_id>/cancel", {200: MovedJob, 202: MovedJob})
@scope("operate")
@idempotency.repeatable
def cancel_job(job_id: str) -> Response:
    """Cancel a job. One that runs is told to stop (202); its worker follows within about a second."""
    return _on_one("cancel", job_id)


@routes.on("POST", "/jobs/<job_id>/run-now", {200: MovedJob})
@scope("operate")
@idempotency.repeatable
def run_job_now(job_id: str) -> Response:
    """Make a scheduled job, or a failed one that waits for its retry, due at once."""
    return _on_one("run_now", job_id)


@routes.on("POST", "/jobs/<job_id>/requeue", {200: MovedJob})
@scope("operate")
@idempotency.repeatable
def requeue_job(job_id: str) -> Response:
    """Make a dead, cancelled or completed job pending again, with all its retries."""
    return _on_one("requeue", job_id)


def _on_one(verb: str, job_id: str) -> Response:
    request_body.no_body()
    result = actions.apply(verb, [job_id], actor())
    refuse(verb, job_id, result)
    moved = {**job_json(job_id), "action": result.action_id}
    return request_body.answer(moved, 202 if result.outcome.asked else 200)


# --- many ------------------------------------------------------------------------------------------------------------


@routes.on("POST", "/jobs/cancel", {200: EITHER, 202: ActAnswer}, body=WhichJobs)
@scope("operate")
@idempotency.repeatable
def cancel_jobs() -> Response:
    """Cancel jobs by their ids, or all that match.

    By ids the answer says what became of each. All that match are moved in small transactions: 202 means that the rest
    is carried on by a supervisor.
    """
    return on_many("cancel", request_body.body(WhichJobs))


@routes.on("POST", "/jobs/run-now", {200: EITHER, 202: ActAnswer}, body=WhichJobs)
@scope("operate")
@idempotency.repeatable
def run_jobs_now() -> Response:
    """Make jobs due at once, by their ids, or all that match."""
    return on_many("run_now", request_body.body(WhichJobs))


@routes.on("POST", "/jobs/requeue", {200: EITHER, 202: ActAnswer}, body=WhichJobs)
@scope("operate")
@idempotency.repeatable
def requeue_jobs() -> Response:
    """Make jobs pending again, by their ids, or all that match."""
    return on_many("requeue", request_body.body(WhichJobs))


@routes.on("POST", "/jobs/discard", {200: EITHER, 202: ActAnswer}, body=WhichJobs)
@scope("operate")
@idempotency.repeatable
def discard_jobs() -> Response:
    """Delete jobs with their attempts and output, by their ids, or all that match. This cannot be undone."""
    return on_many("discard", request_body.body(WhichJobs))


def on_many(verb: str, which: dict[str, Any], *, only: str = "") -> Response:
    """Move what a body names. `only`: of this state alone."""
    if which.get("all"):
        return told(actions.apply(verb, matching(which, only), actor(), within=PATIENCE))
    result = actions.apply(verb, which["ids"], actor(), only=only or None)
    return request_body.answer(serializers.outcome(result))


def matching(which: dict[str, Any], state: str = "") -> JobFilter:
    """The filter that a body names; the words of a search for dead letters may also stand in their output."""
    wanted = search.parse(which.get("q", ""), state=state or which.get("state"), queue=which.get("queue"))
    return replace(wanted.in_output(), group=which.get("group")) if state == "dead" else wanted


# --- looking, undo and stop ------------------------------------------------------------------------------------------


@routes.on("GET", "/acts", {200: Acts}, query=ActQuery)
@scope("read")
def list_acts() -> Any:
    """List what was done to jobs, newest first."""
    asked = request_body.query(ActQuery)
    with reading() as session:
        found = activity.newest(session, asked["limit"], asked.get("before"))
    return {"acts": [serializers.act(one) for one in found]}


@routes.on("GET", "/acts/<int(max=9007199254740991):act_id>", {200: Act})
@scope("read")
def get_act(act_id: int) -> Any:
    """How far an act has come."""
    with reading() as session:
        return serializers.act(actions.find(session, act_id))


@routes.on("POST", "/acts/<int(max=9007199254740991):act_id>/undo", {200: ActAnswer, 202: ActAnswer})
@scope("operate")
@idempotency.repeatable
def undo_act(act_id: int) -> Response:
    """Put back what no worker has claimed and nobody has moved since. The answer is the undo, an act itself."""
    request_body.no_body()
    try:
        return told(actions.undo(act_id, actor(), PATIENCE))
    except actions.CannotUndo as error:
        raise Problem("conflict", str(error)) from None


@routes.on("POST", "/acts/<int(max=9007199254740991):act_id>/stop", {200: ActAnswer})
@scope("operate")
@idempotency.repeatable
def stop_act(act_id: int) -> Response:
    """End an act where it stands; what it has moved stays moved."""
    request_body.no_body()
    if not actions.stop(act_id, actor()):
        raise Problem("conflict", "It has ended already. Nothing was changed.")
    return answer_of(act_id, 200)


def told(result: actions.Result) -> Response:
    """How far an action on all, or an undo, has come."""
    return answer_of(result.action_id, 200 if result.done else 202)


def answer_of(act_id: int, status: int) -> Response:
    with reading() as session:
        found = serializers.action(session, act_id)
    return request_body.answer(found, status, {"Location": f"{PREFIX}/acts/{act_id}"})
