"""Actions on jobs: one, several by id, or all that match. And the bulk actions: list, undo, stop."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

from flask import Response
from marshmallow import Schema, ValidationError, validate, validates_schema
from marshmallow import fields as ma

from webapp.api import fields, pagination, request_body
from webapp.api.gate import actor
from webapp.api.jobs import MAX_PAGE, Job, JobEdit, check_moved, job_json
from webapp.api.problems import Problem, field_problem
from webapp.api.routes import LARGEST_ID, PREFIX, Noun
from webapp.core.states import STATES
from webapp.db.engines import reading
from webapp.jobs import actions, activity, editing, job_detail, search
from webapp.jobs.filters import JobFilter
from webapp.jobs.flow import chains
from webapp.web import serializers
from webapp.web.request_info import below_root

REQUEST_SECONDS = 20.0  # a request works on a bulk action for so long; then a supervisor continues
MAX_IDS = 500  # of one action


class Selection(Schema):
    """Jobs by their ids, or all that match."""

    example: ClassVar[Any] = {"ids": ["job1", "job2"]}

    ids = ma.List(fields.name("job id"), validate=validate.Length(1, MAX_IDS), metadata={"description": "these jobs"})
    all = fields.flag("true: all jobs that match now, in small transactions")
    queue = fields.name("with `all`: only jobs in this queue")
    q = fields.free_text("with `all`: only jobs that match this search; the number is not limited", search.MAX_TYPED)

    @validates_schema(skip_on_field_errors=True)
    def _check_one_way(self, data: dict[str, Any], **_: Any) -> None:
        if bool(data.get("all")) == ("ids" in data):
            raise ValidationError('expected either "ids" or "all": true.')
        filters = [name for name in ("state", "queue", "group", "q") if name in data]
        if "ids" in data and filters:
            raise ValidationError('is allowed with "all" only.', filters[0])


class JobSelection(Selection):
    state = fields.choice("with `all`: only jobs in this state", STATES)


class Refused(fields.Answer):
    id = fields.text("job id")
    state = fields.text("its state; null: there is no such job", null=True)
    holder = fields.text("id of the job that holds its unique key; null: its state is the reason", null=True)


class Outcome(fields.Answer):
    moved = fields.strings("ids of the jobs that changed their state")
    asked = fields.strings("ids of running jobs whose worker will stop them")
    refused = fields.list_of(Refused, "jobs whose state or unique key does not allow the action")
    action = fields.integer("id of the action, for an undo; null: no job changed", null=True)


class Act(fields.Answer):
    id = fields.integer("the id")
    verb = fields.text("what is done")
    what = fields.text("the selected jobs, in words")
    state = fields.text(
        "running: a supervisor continues it; waiting: for its canary", enum=["waiting", "running", "done", "stopped"]
    )
    undoes = fields.integer("for an undo: id of the action that it undoes", null=True)
    moved = fields.integer("number of jobs changed so far")
    skipped = fields.integer("number of jobs that had changed before")
    actor = fields.text("who started it")
    created_at = fields.time("when it was started")
    finished_at = fields.time("when it ended", null=True)


Acts = fields.listing("Acts", Act, "newest first")


class ActAnswer(fields.Answer):
    act = ma.Nested(Act, required=True)
    action = fields.integer("its id")


class ActQuery(Schema):
    limit = fields.bounded("actions per page", 1, MAX_PAGE, load_default=50)
    before = fields.bounded("only actions with a lower id, for the next page", 1, LARGEST_ID)


class MovedJob(Job):
    action = fields.integer("id of the action, for an undo", null=True)


EITHER: dict[int, Any] = {200: {"oneOf": [Outcome, ActAnswer]}, 202: ActAnswer}
ACT = f"/acts/<int(max={LARGEST_ID}):act_id>"

routes = Noun("Acts", "Cancel, requeue, run now, discard: one job, several, or all that match.")


@routes.on("POST", "/jobs/<job_id>/cancel", {200: MovedJob, 202: MovedJob}, scope="operate", repeatable=True)
def cancel_job(job_id: str) -> Response:
    """Cancel a job. For a running job the response is 202; its worker stops it within about a second."""
    return _move_one("cancel", job_id)


@routes.on("POST", "/jobs/<job_id>/run-now", {200: MovedJob}, scope="operate", repeatable=True)
def run_job_now(job_id: str) -> Response:
    """Make a scheduled job, a failed job that waits for its retry, or a blocked job due now."""
    return _move_one("run_now", job_id)


@routes.on("POST", "/jobs/<job_id>/cancel-below", {200: Outcome}, scope="operate", repeatable=True)
def cancel_jobs_below(job_id: str) -> Response:
    """Cancel the blocked jobs that depend on a job, directly or indirectly, in one action."""
    with reading() as session:
        ids = chains.blocked_below(session, job_detail.existing(session, job_id))
    return request_body.answer(serializers.outcome(chains.cancel_below(ids, actor())))


@routes.on("POST", "/jobs/<job_id>/requeue", {200: MovedJob}, scope="operate", repeatable=True)
def requeue_job(job_id: str) -> Response:
    """Requeue a dead, cancelled or completed job, with retries reset."""
    return _move_one("requeue", job_id)


@routes.on("POST", "/jobs/<job_id>/edit", {200: MovedJob}, scope="operate", repeatable=True, body=JobEdit)
def edit_job(job_id: str) -> Response:
    """Change a dead, cancelled or failed job and requeue it, with retries reset.

    It keeps its id, attempts and history. Fields that the body leaves out stay; null restores the default; `env`
    replaces all variables. A unique key that another job holds is refused with its `holder`. The event `edit` in the
    job's history has the old and the new values, without those of variables. Undo the action to restore the job.
    """
    changes = request_body.raw()
    if not isinstance(changes, dict):
        raise field_problem("", 'expected an object such as {"command": "echo hello"}.')
    try:
        result = editing.edit(job_id, changes, actor())
    except editing.Conflict as error:
        raise Problem("conflict", str(error), state=error.state) from None
    return request_body.answer({**job_json(job_id), "action": result.action_id})


def _move_one(verb: str, job_id: str) -> Response:
    result = actions.apply(verb, [job_id], actor())
    check_moved(verb, job_id, result)
    moved = {**job_json(job_id), "action": result.action_id}
    return request_body.answer(moved, 202 if result.outcome.asked else 200)


@routes.on("POST", "/jobs/cancel", EITHER, scope="operate", repeatable=True, body=JobSelection)
def cancel_jobs() -> Response:
    """Cancel jobs by their ids, or all that match.

    With `ids`, the response lists the result for each job. With `all`, the jobs are changed in small transactions; 202
    means that a supervisor continues with the rest.
    """
    return move_many("cancel", request_body.body(JobSelection))


@routes.on("POST", "/jobs/run-now", EITHER, scope="operate", repeatable=True, body=JobSelection)
def run_jobs_now() -> Response:
    """Make jobs due now, by their ids, or all that match."""
    return move_many("run_now", request_body.body(JobSelection))


@routes.on("POST", "/jobs/requeue", EITHER, scope="operate", repeatable=True, body=JobSelection)
def requeue_jobs() -> Response:
    """Requeue jobs by their ids, or all that match, with retries reset."""
    return move_many("requeue", request_body.body(JobSelection))


@routes.on("POST", "/jobs/discard", EITHER, scope="operate", repeatable=True, body=JobSelection)
def discard_jobs() -> Response:
    """Delete jobs with their attempts and output, by their ids, or all that match. This cannot be undone."""
    return move_many("discard", request_body.body(JobSelection))


def move_many(verb: str, selection: dict[str, Any], *, only: str = "") -> Response:
    """Apply a verb to the jobs of a Selection; `only`: to those in this state."""
    if selection.get("all"):
        return _progress(actions.apply(verb, filter_of(selection, only), actor(), within=REQUEST_SECONDS))
    result = actions.apply(verb, selection["ids"], actor(), only=only or None)
    return request_body.answer(serializers.outcome(result))


def filter_of(selection: dict[str, Any], state: str = "") -> JobFilter:
    """The filter of a Selection with `all`."""
    wanted = search.parse(selection.get("q", ""), state=state or selection.get("state"), queue=selection.get("queue"))
    return replace(wanted, group=selection.get("group")) if state == "dead" else wanted


@routes.on("GET", "/acts", {200: Acts}, scope="read", query=ActQuery, headers=pagination.NEXT)
def list_acts() -> Response:
    """List the actions on jobs, newest first. The header Link leads to the next page."""
    asked = request_body.query(ActQuery)
    limit = asked["limit"]
    with reading() as session:
        found = activity.newest(session, limit + 1, asked.get("before"))
    acts = [serializers.act(one) for one in found[:limit]]
    return pagination.with_next({"acts": acts}, before=acts[-1]["id"] if len(found) > limit else None)


@routes.on("GET", ACT, {200: Act}, scope="read")
def get_act(act_id: int) -> Any:
    """Get the progress of an action."""
    with reading() as session:
        return serializers.act(actions.find(session, act_id))


@routes.on("POST", f"{ACT}/undo", {200: ActAnswer, 202: ActAnswer}, scope="operate", repeatable=True)
def undo_act(act_id: int) -> Response:
    """Undo an action for all jobs that have not started or changed since. The undo is an action, too."""
    return _progress(actions.undo(act_id, actor(), REQUEST_SECONDS))


@routes.on("POST", f"{ACT}/stop", {200: ActAnswer}, scope="operate", repeatable=True)
def stop_act(act_id: int) -> Response:
    """Stop a running action. Jobs that it has changed stay changed."""
    if not actions.stop(act_id, actor()):
        raise Problem("conflict", "The action has already ended. Nothing was changed.")
    return act_answer(act_id, 200)


def _progress(result: actions.Result) -> Response:
    return act_answer(result.action_id, 200 if result.done else 202)


def act_answer(act_id: int, status: int) -> Response:
    with reading() as session:
        found = serializers.action(session, act_id)
    return request_body.answer(found, status, {"Location": below_root(f"{PREFIX}/acts/{act_id}")})
