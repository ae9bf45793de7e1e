"""Jobs for programs: submit one or many, list, look at one, delete it. Moving them is in `acts.py`."""

from __future__ import annotations

from typing import Any, ClassVar

from flask import Response
from marshmallow import Schema
from marshmallow import fields as ma
from sqlalchemy.orm import Session

from webapp.api import fields, idempotency, pagination, request_body
from webapp.api.fields import LABEL_PATTERN, NAME_PATTERN
from webapp.api.problems import Problem, one_field
from webapp.api.routes import PREFIX, Noun
from webapp.api.scopes import actor, caller, scope
from webapp.core import job_spec, labels
from webapp.core.job_spec import FieldError, JobSpec, SpecError
from webapp.core.states import STATES
from webapp.db import models
from webapp.db.engines import reading
from webapp.jobs import actions, job_detail, lifecycle, search, settings

MOST_LISTED = 500  # jobs of one page
MOST_SUBMITTED = 1000  # jobs of one batch
LABELS_PATTERN = rf"^[\s,]*{LABEL_PATTERN}([\s,]+{LABEL_PATTERN}){{0,{labels.MOST - 1}}}[\s,]*$"


# --- shapes ----------------------------------------------------------------------------------------------------------


class JobRequest(Schema):
    """What a job may look like; `jobspec` judges it, by the same rules as on the command line."""

    example: ClassVar[Any] = {"command": "echo hello", "max_retries": 2}

    id = fields.optional(ma.String, f"{job_spec.NAME_RULE}; made if missing", pattern=NAME_PATTERN)
    command = ma.String(
        required=True,
        metadata={
            "description": "what /bin/sh -c runs, up to 64 KiB",
            "minLength": 1,
            "maxLength": job_spec.COMMAND_LIMIT,
            "examples": ["echo hello"],
        },
    )
    queue = fields.optional(ma.String, "default: `default`", pattern=NAME_PATTERN)
    requires = ma.Raw(
        metadata={
            "description": "labels that its worker must all have, such as gpu or host:web-1; default: none",
            "anyOf": [
                {"type": "array", "items": {"type": "string", "pattern": NAME_PATTERN}, "maxItems": labels.MOST},
                {"type": "string", "pattern": LABELS_PATTERN, "description": "with commas or spaces between"},
                {"type": "null"},
            ],
            "examples": [["gpu"]],
        },
    )
    priority = fields.optional(ma.Integer, "higher first; default 0", minimum=-100, maximum=100)
    delay = fields.optional(ma.Float, "seconds until it is due", minimum=0, maximum=job_spec.MAX_DELAY)
    run_at = fields.optional(ma.String, "when it is due, with a zone; not beside delay", format="date-time")
    max_retries = fields.optional(
        ma.Integer, "automatic retries after the first attempt; default: the setting", minimum=0, maximum=1000
    )
    timeout = fields.optional(
        ma.Float,
        "seconds that an attempt may run; default: the setting",
        exclusiveMinimum=0,
        maximum=job_spec.MAX_TIMEOUT,
    )
    cwd = fields.optional(ma.String, "its folder, absolute; default: the workers' own", maxLength=job_spec.PATH_LIMIT)
    env = ma.Dict(ma.String(), ma.String(), allow_none=True, metadata={"description": "more environment variables"})


class JobsRequest(Schema):
    jobs = ma.List(
        ma.Nested(JobRequest),
        required=True,
        metadata={"description": "all are stored, or none", "minItems": 1, "maxItems": MOST_SUBMITTED},
    )


class ListQuery(Schema):
    queue = fields.name("only jobs of this queue")
    q = fields.typed('only jobs that match this search, such as `exit:127 since:2h "a phrase"`', search.MAX_TYPED)
    limit = fields.integer("jobs of a page", 1, MOST_LISTED, load_default=50)
    cursor = ma.String(metadata={"description": "where the page begins: `next` or `previous` of another"})


class JobQuery(ListQuery):
    state = fields.choice("only jobs in this state", STATES)


class Job(fields.Answer):
    id = fields.text("its id")
    command = fields.text("what the shell runs")
    queue = fields.text("its queue")
    requires = fields.texts("labels that its worker must all have")
    priority = fields.whole("higher first")
    state = fields.text("where it stands", enum=list(STATES))
    attempts = fields.whole("attempts made")
    max_retries = fields.whole("automatic retries after the first attempt")
    run_at = fields.time("when it is or was due")
    timeout = fields.number("seconds; null: the setting decides", null=True)
    cwd = fields.text("its folder; null: the workers' own", null=True)
    env = fields.mapping("its variables; the scope read sees null for each value", ma.String(allow_none=True))
    created_at = fields.time("when it was submitted")
    started_at = fields.time("when the latest attempt began", null=True)
    finished_at = fields.time("when it ended for good", null=True)
    exit_code = fields.whole("of the latest ended attempt", null=True)
    last_error = fields.text("of the latest ended attempt", null=True)
    batch = fields.text("the same for all jobs that one form made together; null: not made so", null=True)


class Attempt(fields.Answer):
    number = fields.whole("from 1")
    state = fields.text("how it ended", enum=list(models.ATTEMPT_STATES))
    started_at = fields.time("when it began")
    finished_at = fields.time("when it ended")
    exit_code = fields.whole("null: it did not exit by itself", null=True)
    signal = fields.whole("that ended it", null=True)
    reason = fields.text("exit, signal, timeout …")
    error = fields.text("the same for a person", null=True)
    worker = fields.text("which worker ran it")
    cpu_seconds = fields.number("user and system", null=True)
    peak_memory = fields.whole("bytes, of its largest process", null=True)
    truncated = fields.truth("whether output was left out")


class Event(fields.Answer):
    at = fields.time("when")
    verb = fields.text("what")
    actor = fields.text("by whom: person:…, token:…, worker:…, rule:…")
    subject = fields.text("to what")
    detail = ma.Dict(required=True, allow_none=True, metadata={"description": "more, by verb"})


class TimelineEntry(fields.Answer):
    at = fields.time("when")
    verb = fields.text("what")
    actor = fields.text("by whom")
    attempt = fields.whole("where one began or ended", null=True)
    text = fields.text("its error")


class WholeJob(Job):
    attempt_history = fields.many(Attempt, "its ended attempts, oldest first")
    events = fields.many(Event, "what was done to it beside its attempts")
    timeline = fields.many(TimelineEntry, "all that happened to it, oldest first")


class JobPage(fields.Answer):
    jobs = fields.many(Job, "in the order that fits the state")
    next = fields.text("the cursor of the next page", null=True)
    previous = fields.text("the cursor of the page before", null=True)
    search_capped = fields.truth("whether the search stopped before the page was full; `next` goes on from there")


class Ids(fields.Answer):
    ids = fields.texts("in the order of the request")


# --- views -----------------------------------------------------------------------------------------------------------

routes = Noun("Jobs", "A job is a shell command. Submit, list, look, delete.")
LINKS = {"Link": {"description": "the next and the previous page", "schema": {"type": "string"}}}
LOCATION = {"Location": {"description": "the job", "schema": {"type": "string", "format": "uri-reference"}}}
BATCH = {
    "oneOf": [{"type": "array", "items": JobRequest, "minItems": 1, "maxItems": MOST_SUBMITTED}, JobsRequest],
    "examples": [[{"command": "echo 1"}, {"command": "echo 2"}]],
}


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
    (job_id,) = actions.enqueue([job_spec.parse(request_body.raw())], actor(), form_key=idempotency.form_key())
    return request_body.answer(job_json(job_id), 201, {"Location": f"{PREFIX}/jobs/{job_id}"})


@routes.on("POST", "/jobs/batch", {201: Ids}, body=BATCH)
@scope("submit")
@idempotency.repeatable
def submit_jobs() -> Response:
    """Submit up to 1,000 jobs: all are stored, or none.

    `place` in an error says which job it is about, from 0.
    """
    ids = actions.enqueue(_specs(_listed(request_body.raw())), actor(), form_key=idempotency.form_key())
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
    refuse("discard", job_id, actions.apply("discard", [job_id], actor()))
    return Response(status=204)


# --- one job of an address -------------------------------------------------------------------------------------------


def job_json(job_id: str) -> dict[str, Any]:
    with reading() as session:
        return job_detail.job_json(found(session, job_id), settings.load(session), with_env=caller().may("submit"))


def found(session: Session, job_id: str) -> models.Job:
    """Raises NotFound. What can be no id is not looked for: a database may choke on it."""
    job = job_detail.find(session, job_id) if job_spec.NAME.match(job_id) else None
    if job is None:
        raise lifecycle.NotFound(f"there is no job {job_id[:128]!r}. It may have been discarded.")
    return job


def refuse(verb: str, job_id: str, result: actions.Result) -> None:
    """Raises NotFound, or Problem where the job was in another state."""
    if job_id not in result.outcome.refused:
        return
    state = result.outcome.refused[job_id]
    text = actions.refusal(verb, job_id, state)
    raise lifecycle.NotFound(text) if state is None else Problem("conflict", text, state=state)
