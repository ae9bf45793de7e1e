"""Jobs for programs: submit one or many, list, look at one, delete it. Moving them is in `acts.py`."""

from __future__ import annotations

from typing import Any

from flask import Response

from webapp.api import idempotency, pagination, request_body
from webapp.api.actions import refuse
from webapp.api.found import found, job_json
from webapp.api.problems import one_field
from webapp.api.routes import PREFIX, Noun
from webapp.api.schemas import MOST_SUBMITTED, Ids, Job, JobPage, JobQuery, JobRequest, JobsRequest, WholeJob
from webapp.api.scopes import actor, caller, scope
from webapp.core import job_spec
from webapp.core.job_spec import FieldError, JobSpec, SpecError
from webapp.db.engines import reading
from webapp.jobs import job_detail, operations, search, settings

routes = Noun("Jobs", "A job is a shell command. Submit, list, look, delete.")
LINKS = {"Link": {"description": "the next and the previous page", "schema": {"type": "string"}}}
LOCATION = {"Location": {"description": "the job", "schema": {"type": "string", "format": "uri-reference"}}}
BATCH = {"oneOf": [{"type": "array", "items": JobRequest, "minItems": 1, "maxItems": MOST_SUBMITTED}, JobsRequest]}


@routes.on("GET", "/jobs", {200: JobPage}, query=JobQuery, headers=LINKS)
@scope("read")
def list_jobs() -> Response:
    """List jobs, a page at a time.

    scheduled and failed ones soonest first, pending ones as they will be taken, processing ones longest first, ended
    ones and all together newest first. `next` and the header Link lead to the next page.

    `q` is a search as in the console: words in ids and commands, "phrases", and exit:127, worker:ID, since:2h, by:ana,
    id:ID, requires:gpu. What no index finds is looked for in 20,000 jobs of a page; then the page ends, perhaps with
    none (`search_capped`), and `next` goes on from there.
    """
    asked = request_body.query(JobQuery)
    wanted = search.parse(asked.get("q", ""), state=asked.get("state"), queue=asked.get("queue"))
    return pagination.page(wanted, asked["limit"], asked.get("cursor"))


@routes.on("POST", "/jobs", {201: Job}, body=JobRequest, headers=LOCATION)
@scope("submit")
@idempotency.repeatable
def submit_job() -> Response:
    """Submit a job."""
    (job_id,) = operations.enqueue([job_spec.parse(request_body.raw())], actor(), form_key=idempotency.form_key())
    return request_body.answer(job_json(job_id), 201, {"Location": f"{PREFIX}/jobs/{job_id}"})


@routes.on("POST", "/jobs/batch", {201: Ids}, body=BATCH)
@scope("submit")
@idempotency.repeatable
def submit_jobs() -> Response:
    """Submit up to 1,000 jobs: all are stored, or none.

    `place` in an error says which job it is about, from 0.
    """
    ids = operations.enqueue(_specs(_listed(request_body.raw())), actor(), form_key=idempotency.form_key())
    return request_body.answer({"ids": ids}, 201)


def _listed(data: Any) -> list[Any]:
    if isinstance(data, dict):
        unknown = sorted(set(data) - {"jobs"})
        if unknown or "jobs" not in data:
            raise one_field(unknown[0][:60] if unknown else "jobs", 'expected {"jobs": […]} or a list of jobs.')
        data = data["jobs"]
    if not isinstance(data, list) or not 1 <= len(data) <= MOST_SUBMITTED:
        raise one_field("jobs", f"expected a list of 1 to {MOST_SUBMITTED:,} jobs.")
    return data


def _specs(listed: list[Any]) -> list[JobSpec]:
    """All jobs. Raises SpecError with every fault of every job."""
    specs, faults = [], []
    for place, one in enumerate(listed):
        try:
            specs.append(job_spec.parse(one))
        except SpecError as error:  # noqa: PERF203 -- every fault of every job is told
            faults += [FieldError(fault.field, fault.message, place) for fault in error.errors]
    if faults:
        raise SpecError(faults)
    return specs


@routes.on("GET", "/jobs/<job_id>", {200: WholeJob})
@scope("read")
def get_job(job_id: str) -> Any:
    """Look at a job: its fields, its attempts, and what happened to it."""
    with reading() as session:
        job = found(session, job_id)
        values, ended, recorded = (
            settings.load(session),
            job_detail.attempts(session, job),
            job_detail.events(session, job),
        )
    return job_detail.whole_json(job, ended, recorded, values, with_env=caller().may("submit"))


@routes.on("DELETE", "/jobs/<job_id>", {204: None}, also=(409,))
@scope("operate")
def discard_job(job_id: str) -> Response:
    """Delete a job with its attempts and output. It must not be running."""
    refuse("discard", job_id, operations.discard([job_id], actor()))
    return Response(status=204)
