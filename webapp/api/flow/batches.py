"""Many jobs in one request, also as a batch. Batches: list, create, get, close; cancel jobs, requeue the dead ones."""

from __future__ import annotations

from typing import Any, ClassVar

from flask import Response
from marshmallow import Schema
from marshmallow import fields as ma

from webapp.api import fields, idempotency, pagination, request_body
from webapp.api.actions import REQUEST_SECONDS, ActAnswer, act_answer
from webapp.api.fields import NAME_PATTERN
from webapp.api.gate import actor
from webapp.api.jobs import MAX_PAGE, JobRequest, traced
from webapp.api.problems import Problem, field_problem
from webapp.api.routes import Noun
from webapp.core import job_spec
from webapp.core.flow import batches as core_batches
from webapp.core.flow.unique_keys import Holder
from webapp.core.job_spec import FieldError, JobSpec, SpecError
from webapp.db.engines import reading
from webapp.jobs import actions
from webapp.jobs.filters import JobFilter
from webapp.jobs.flow import batches

LIST = "batches"  # in cursors
MAX_BATCH = 1000  # jobs of one request


class Callback(JobRequest):
    """The job that a batch enqueues: the fields of a job, without id and after."""

    class Meta:
        exclude = ("id", "after")


class BatchRequest(Schema):
    """Describes a batch for the document; `core/flow/batches.py` validates it."""

    example: ClassVar[Any] = {"name": "nightly-7", "open": True, "on_done": {"command": "./report.sh"}}

    name = ma.String(required=True, metadata={"description": job_spec.NAME_RULE, "pattern": NAME_PATTERN})
    open = fields.optional(ma.Boolean, "true: a new batch stays open for more jobs, until it is closed")
    on_done = ma.Nested(Callback, allow_none=True, metadata={"description": "enqueued when all its jobs have ended"})
    on_death = ma.Nested(
        Callback, allow_none=True, metadata={"description": "enqueued when the first of its jobs is dead"}
    )


class JobsRequest(Schema):
    jobs = ma.List(
        ma.Nested(JobRequest),
        required=True,
        metadata={"description": "either all are stored or none", "minItems": 1, "maxItems": MAX_BATCH},
    )
    batch = ma.Nested(
        BatchRequest, metadata={"description": "the batch that they join; a new one is closed unless `open` is true"}
    )


class Ids(fields.Answer):
    ids = fields.strings("in the order of the request")
    held = ma.List(
        ma.Integer(),
        required=True,
        metadata={
            "description": "positions, from 0, of jobs that were not stored: their id is that of the key's holder"
        },
    )
    warnings = fields.strings("likely mistakes, such as `run_at` in the past; usually empty")


class BatchCallback(fields.Answer):
    event = fields.text("the event: done or death", enum=["done", "death"])
    generation = fields.integer("of the batch")
    at = fields.time("when")
    job_id = fields.text("the job that was enqueued", null=True)


class Batch(fields.Answer):
    name = fields.text("the name")
    state = fields.text("open: more jobs can join; running; ended", enum=["open", "running", "ended"])
    created_at = fields.time("when it was created")
    created_by = fields.text("who created it")
    closed_at = fields.time("when it was closed", null=True)
    ended_at = fields.time("when all its jobs had ended", null=True)
    generation = fields.integer("starts at 1, and grows when a requeue of its jobs reopens it")
    jobs = fields.mapping("number of jobs by state", ma.Integer())
    total = fields.integer("number of jobs; discarded ones are not counted")
    ended = fields.integer("number of jobs that have ended")
    failed = fields.integer("number of dead jobs")
    left = fields.integer("number of jobs that have not ended")
    capped = fields.boolean(f"whether a state has more than {batches.CAP:,} jobs, where counts stop")
    per_minute = fields.number("jobs that ended per minute, over the last 5 minutes")
    seconds_left = fields.integer(
        "estimated seconds until all jobs have ended; null: none are left, or none ended recently", null=True
    )
    on_done = ma.Dict(
        required=True, allow_none=True, metadata={"description": "enqueued when all its jobs have ended; env masked"}
    )
    on_death = ma.Dict(
        required=True, allow_none=True, metadata={"description": "enqueued when its first job is dead; env masked"}
    )
    callbacks = fields.list_of(BatchCallback, "events with their callbacks, newest first; empty in lists")


class BatchQuery(Schema):
    active = fields.switch("true: only batches that have not ended")
    limit = fields.bounded("batches per page", 1, MAX_PAGE, load_default=50)
    cursor = pagination.cursor_field()


class BatchPage(pagination.Page):
    batches = fields.list_of(Batch, "newest first")


routes = Noun("Batches", "A batch groups jobs. It has a progress, and callbacks when its jobs end or die.")


BATCH = {
    "oneOf": [{"type": "array", "items": JobRequest, "minItems": 1, "maxItems": MAX_BATCH}, JobsRequest],
    "examples": [[{"command": "echo 1"}, {"command": "echo 2"}]],
}


@routes.on("POST", "/jobs/batch", {201: Ids}, scope="submit", repeatable=True, body=BATCH, errors=(409,))
def submit_jobs() -> Response:
    """Submit up to 1,000 jobs; either all are stored or none.

    They may depend on each other by their ids, in any order. In an error, `place` is the position of the job, from 0.
    """
    data = request_body.raw()
    batch = core_batches.read(data["batch"]) if isinstance(data, dict) and "batch" in data else None
    specs = traced(_parse_batch(data))
    held: dict[int, Holder] = {}
    ids = actions.enqueue(specs, actor(), form_key=idempotency.form_key(), batch=batch, held=held)
    return request_body.answer({"ids": ids, "held": sorted(held), "warnings": job_spec.warnings(specs)}, 201)


def _parse_batch(data: Any) -> list[JobSpec]:
    """Raises Problem, or SpecError with every error of every job."""
    if isinstance(data, dict):
        unknown = sorted(set(data) - {"jobs", "batch"})
        if unknown or "jobs" not in data:
            raise field_problem(unknown[0][:60] if unknown else "jobs", 'expected {"jobs": […]} or a list of jobs.')
        data = data["jobs"]
    if not isinstance(data, list) or not 1 <= len(data) <= MAX_BATCH:
        raise field_problem("jobs", f"expected a list of 1 to {MAX_BATCH:,} jobs.")
    specs, errors = [], []
    for place, one in enumerate(data):
        try:
            specs.append(job_spec.parse(one))
        except SpecError as error:  # noqa: PERF203 -- all errors of all jobs are reported
            errors += [FieldError(fault.field, fault.message, place) for fault in error.errors]
    if errors:
        raise SpecError(errors)
    return specs


@routes.on("GET", "/batches", {200: BatchPage}, scope="read", query=BatchQuery, headers=pagination.LINKS)
def list_batches() -> Response:
    """List batches, newest first."""
    asked = request_body.query(BatchQuery)
    after = pagination.decode(asked.get("cursor"), LIST).get("after")
    with reading() as session:
        try:
            found, older = batches.page(session, asked["limit"], after=after, active=asked["active"])
        except ValueError:
            raise pagination.invalid_cursor() from None
        listed = [batches.as_json(batch, batches.progress(session, batch.name)) for batch in found]
    return pagination.answer({"batches": listed}, LIST, older, None)


@routes.on("POST", "/batches", {201: Batch}, scope="submit", repeatable=True, body=BatchRequest)
def create_batch() -> Response:
    """Create a batch without jobs, or give an open one its callbacks.

    A batch that is not `open` has no jobs and ends at once.
    """
    wanted = core_batches.read(request_body.raw())
    batches.create(wanted, actor())
    return request_body.answer(_one(wanted.name), 201)


@routes.on("GET", "/batches/<name>", {200: Batch}, scope="read")
def get_batch(name: str) -> Any:
    """Get a batch with its progress and its callbacks."""
    return _one(name)


@routes.on("POST", "/batches/<name>/close", {200: Batch}, scope="submit", repeatable=True, errors=(409,))
def close_batch(name: str) -> Response:
    """Close a batch: no more jobs can join. Its callbacks run when all its jobs have ended."""
    if not batches.close(name, actor()):
        raise Problem("conflict", f"Batch {name} is already closed. Nothing was changed.")
    return request_body.answer(_one(name))


@routes.on("POST", "/batches/<name>/requeue", {200: ActAnswer, 202: ActAnswer}, scope="operate", repeatable=True)
def requeue_batch(name: str) -> Response:
    """Requeue its dead jobs, with retries reset. If it had ended, its callbacks run again."""
    return _apply("requeue", name, "dead")


@routes.on("POST", "/batches/<name>/cancel", {200: ActAnswer, 202: ActAnswer}, scope="operate", repeatable=True)
def cancel_batch(name: str) -> Response:
    """Cancel its jobs that have not ended."""
    return _apply("cancel", name, None)


def _apply(verb: str, name: str, state: Any) -> Response:
    _one(name)
    result = actions.apply(verb, JobFilter(state=state, batch=name), actor(), within=REQUEST_SECONDS)
    return act_answer(result.action_id, 200 if result.done else 202)


def _one(name: str) -> dict[str, Any]:
    with reading() as session:
        batch = batches.find(session, name)
        return batches.as_json(batch, batches.progress(session, name), batches.callbacks(session, name))
