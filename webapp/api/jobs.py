"""Jobs: submit, list in pages, get, delete. `actions.py` has the other actions on jobs."""

from __future__ import annotations

import threading
import time
from typing import Any, ClassVar, Optional

from flask import Response, request
from marshmallow import Schema
from marshmallow import fields as ma

from webapp.api import fields, idempotency, pagination, request_body
from webapp.api.fields import LABEL_PATTERN, NAME_PATTERN
from webapp.api.flow.flow_fields import RETRY, UNIQUE, UNIQUE_OF_EDIT, AfterJob, Block, Report
from webapp.api.gate import actor, may
from webapp.api.problems import Problem, holder_json
from webapp.api.routes import PREFIX, Noun
from webapp.core import job_spec, labels, trace_context
from webapp.core.flow import limits
from webapp.core.flow.unique_keys import Holder
from webapp.core.job_spec import MAX_AFTER, MAX_NOTIFIED, WANTS, JobSpec
from webapp.core.states import STATES, TERMINAL
from webapp.db import models
from webapp.db.engines import reading
from webapp.jobs import actions, job_detail, lifecycle, listing, search, settings
from webapp.jobs.filters import JobFilter
from webapp.web.job_json import whole_job
from webapp.web.request_info import below_root

MAX_PAGE = 500  # jobs
MAX_WAIT = 30  # seconds
MOST_WAITING = 4  # requests of a server process, which has 8 threads
WAIT_STEP_SECONDS = 0.2
LABELS_PATTERN = rf"^[\s,]*{LABEL_PATTERN}([\s,]+{LABEL_PATTERN}){{0,{labels.MOST - 1}}}[\s,]*$"

_waiting = threading.BoundedSemaphore(MOST_WAITING)


class JobRequest(Schema):
    """Describes a job for the document; `job_spec` validates it, by the same rules as on the command line."""

    example: ClassVar[Any] = {"command": "echo hello", "max_retries": 2}

    id = fields.optional(ma.String, f"{job_spec.NAME_RULE}; default: generated", pattern=NAME_PATTERN)
    command = ma.String(
        required=True,
        metadata={
            "description": "runs in /bin/sh -c, or in the interpreter of a line such as #!/bin/bash; up to 64 KiB; "
            "CRLF and CR become LF",
            "minLength": 1,
            "maxLength": job_spec.COMMAND_LIMIT,
            "examples": ["echo hello"],
        },
    )
    queue = fields.optional(ma.String, "default: `default`", pattern=NAME_PATTERN)
    requires = ma.Raw(
        metadata={
            "description": "labels that the worker must have, such as gpu or host:web-1; default: none",
            "anyOf": [
                {"type": "array", "items": {"type": "string", "pattern": NAME_PATTERN}, "maxItems": labels.MOST},
                {"type": "string", "pattern": LABELS_PATTERN, "description": "separated by commas or spaces"},
                {"type": "null"},
            ],
            "examples": [["gpu"]],
        },
    )
    priority = fields.optional(ma.Integer, "higher runs first; default: 0", minimum=-100, maximum=100)
    delay = fields.duration("seconds until it is due, or a text such as 10m", job_spec.MAX_DELAY)
    run_at = fields.optional(ma.String, "when it is due, with a time zone; not with `delay`", format="date-time")
    max_retries = fields.optional(
        ma.Integer, "automatic retries after the first attempt; default: the setting", minimum=0, maximum=1000
    )
    timeout = fields.duration(
        "seconds that an attempt may run, or a text such as 10m; default: the setting",
        job_spec.MAX_TIMEOUT,
        above_zero=True,
    )
    cwd = fields.optional(
        ma.String, "absolute path of the working directory; default: the worker's", maxLength=job_spec.PATH_LIMIT
    )
    env = ma.Dict(
        ma.String(),
        ma.String(),
        allow_none=True,
        metadata={
            "description": f"additional environment variables; names: {job_spec.ENV_NAME_RULE}",
            "propertyNames": {"pattern": "^[A-Za-z_][A-Za-z0-9_]*$"},
        },
    )
    notify = ma.Raw(
        metadata={
            "description": "channels that get a message when it ends; default: none",
            "anyOf": [
                {"type": "array", "items": {"type": "string", "pattern": NAME_PATTERN}, "maxItems": MAX_NOTIFIED},
                {"type": "string", "description": "separated by commas or spaces"},
                {"type": "null"},
            ],
            "examples": [["ops"]],
        },
    )
    limits = fields.texts(
        f"keys of its limits, up to {limits.MOST_KEYS}; with the suffix `:exclusive`, no other job with that "
        "key runs at the same time; default: none. A key without a limit is refused",
        {"type": "string", "pattern": NAME_PATTERN},
    )
    unique = ma.Raw(metadata=UNIQUE)
    retry = ma.Raw(metadata=RETRY)
    after = ma.Raw(
        metadata={
            "description": "jobs that it waits for, of the queue or of the same request: ids, or objects that say how "
            "they must end (default: success); if one of them fails, the job stays blocked",
            "anyOf": [
                {
                    "type": "array",
                    "maxItems": MAX_AFTER,
                    "items": {
                        "anyOf": [
                            {"type": "string", "pattern": NAME_PATTERN},
                            {
                                "type": "object",
                                "required": ["job"],
                                "additionalProperties": False,
                                "properties": {
                                    "job": {"type": "string", "pattern": NAME_PATTERN},
                                    "on": {"enum": list(WANTS)},
                                },
                            },
                        ]
                    },
                },
                {"type": "string", "description": "ids, separated by commas or spaces; ID:finish and ID:failure"},
                {"type": "null"},
            ],
            "examples": [["job1", {"job": "job2", "on": "finish"}]],
        },
    )


class JobEdit(JobRequest):
    """What an edit changes. Omitted fields are unchanged, null restores the default."""

    example: ClassVar[Any] = {"command": "echo hello", "timeout": 600}

    command = fields.optional(ma.String, "shell command; default: unchanged", maxLength=job_spec.COMMAND_LIMIT)
    unique = ma.Raw(metadata=UNIQUE_OF_EDIT)

    class Meta:
        exclude = ("id", "delay", "run_at", "notify", "after")


class ListQuery(Schema):
    queue = fields.name("only jobs in this queue")
    q = fields.free_text('only jobs that match this search, such as `exit:127 since:2h "a phrase"`', search.MAX_TYPED)
    limit = fields.bounded("jobs per page", 1, MAX_PAGE, load_default=50)
    cursor = pagination.cursor_field()


class WaitQuery(Schema):
    wait = fields.bounded("seconds to wait for the end of the job", 0, MAX_WAIT)


class JobQuery(ListQuery):
    state = fields.choice("only jobs in this state", STATES)


class Job(fields.Answer):
    id = fields.text("the id")
    command = fields.text("the shell command")
    queue = fields.text("its queue")
    requires = fields.strings("labels that the worker must have")
    limits = fields.strings("keys of its limits")
    priority = fields.integer("higher runs first")
    state = fields.text("the state", enum=list(STATES))
    attempts = fields.integer("number of attempts so far")
    max_retries = fields.integer("automatic retries after the first attempt")
    run_at = fields.time("when it is or was due")
    timeout = fields.number("seconds that an attempt may run; null: the setting", null=True)
    cwd = fields.text("working directory; null: the worker's", null=True)
    env = fields.mapping(
        "additional environment variables; the values are null for the scope read", ma.String(allow_none=True)
    )
    created_at = fields.time("when it was submitted")
    started_at = fields.time("when the latest attempt started", null=True)
    finished_at = fields.time("when it ended for good", null=True)
    exit_code = fields.integer("of the latest ended attempt", null=True)
    last_error = fields.text("of the latest ended attempt", null=True)
    batch = fields.text("the name of its batch", null=True)
    unique = ma.Dict(
        required=True,
        allow_none=True,
        metadata={"description": "its unique key: `key`, `while`, `until` of a period, and whether it is `held` now"},
    )
    retry = ma.Dict(required=True, allow_none=True, metadata={"description": "its own retry rules"})


class SubmittedJob(Job):
    warnings = fields.strings("likely mistakes, such as `run_at` in the past; usually empty")


class Attempt(fields.Answer):
    number = fields.integer("from 1")
    state = fields.text("the result", enum=list(models.ATTEMPT_STATES))
    started_at = fields.time("when it started")
    finished_at = fields.time("when it ended")
    exit_code = fields.integer("null: the command did not exit by itself", null=True)
    signal = fields.integer("the signal that ended it", null=True)
    reason = fields.text("exit, signal, timeout …")
    error = fields.text("the reason, as a text", null=True)
    worker = fields.text("id of the worker")
    cpu_seconds = fields.number("user and system", null=True)
    peak_memory = fields.integer("bytes, of the largest process", null=True)
    truncated = fields.boolean("whether output was omitted")


class Event(fields.Answer):
    at = fields.time("when")
    verb = fields.text("the action")
    actor = fields.text("who did it: person:…, token:…, worker:…, rule:…")
    subject = fields.text("its target")
    detail = ma.Dict(required=True, allow_none=True, metadata={"description": "more details, by verb"})


class TimelineEntry(fields.Answer):
    at = fields.time("when")
    verb = fields.text("the action")
    actor = fields.text("who did it")
    attempt = fields.integer("the attempt that started or ended", null=True)
    text = fields.text("its error")


class JobDetail(Job):
    after = fields.list_of(AfterJob, "jobs that it depends on, the first 1,000")
    blocked_because = fields.text("why a blocked job waits, as a text", null=True)
    notify = fields.strings("channels that get a message when it ends")
    blocked_by = ma.Nested(
        Block, required=True, allow_none=True, metadata={"description": "the limit that keeps it from starting, if any"}
    )
    report = ma.Nested(
        Report,
        required=True,
        allow_none=True,
        metadata={"description": "what its latest attempt wrote to `$QUEUECTL_REPORT`; null: nothing"},
    )
    attempt_history = fields.list_of(Attempt, "ended attempts, oldest first")
    events = fields.list_of(Event, "actions on the job, without its attempts")
    timeline = fields.list_of(TimelineEntry, "everything that happened to the job, oldest first")


class JobPage(pagination.Page):
    jobs = fields.list_of(Job, "in the order of the state")
    search_capped = fields.boolean("whether the search stopped before the page was full; `next` continues there")


routes = Noun("Jobs", "A job is a shell command. Submit, list, get, delete.")
LOCATION = {"Location": {"description": "URL of the job", "schema": {"type": "string", "format": "uri-reference"}}}


@routes.on("GET", "/jobs", {200: JobPage}, scope="read", query=JobQuery, headers=pagination.LINKS)
def list_jobs() -> Response:
    """List jobs in pages.

    Order: scheduled and failed jobs by due time, pending jobs in the order in which they start, processing jobs longest
    first, all other lists newest first. `next` and the header Link lead to the next page.

    `q` is a search as in the console: words in ids, commands, errors and the last output of dead letters, "phrases",
    and exit:127, error:TEXT, failed-attempt:TEXT, worker:ID, since:2h, until:2026-11-24, on:yesterday (days are UTC),
    by:ana, id:ID, requires:gpu, limit:db, notified:ops, unique:KEY,
    batch:NAME, after:ID. A `-` in front excludes matching jobs. A search
    without an index reads jobs for up to 0.3 s. Then the page ends, possibly empty, with `search_capped`, and `next`
    continues the search.
    """
    asked = request_body.query(JobQuery)
    wanted = search.parse(asked.get("q", ""), state=asked.get("state"), queue=asked.get("queue"))
    return page(wanted, asked["limit"], asked.get("cursor"))


def page(wanted: JobFilter, limit: int, cursor: Optional[str]) -> Response:
    """A page of the list in the order of its state, with the cursors of the next and the previous page."""
    with reading() as session:
        try:
            at = pagination.decode(cursor, wanted.state or "")
            found = listing.page_of_jobs(session, wanted, limit=limit, **at)  # type: ignore[arg-type]
        except ValueError:
            raise pagination.invalid_cursor() from None
        values, with_env = settings.load(session), may("submit")
        jobs = [job_detail.job_json(job, values, with_env=with_env) for job in found.jobs]
    name = wanted.state or ""
    return pagination.answer({"jobs": jobs}, name, found.older, found.newer, search_capped=found.search_capped)


@routes.on(
    "POST",
    "/jobs",
    {201: SubmittedJob, 200: SubmittedJob},
    scope="submit",
    repeatable=True,
    body=JobRequest,
    headers=LOCATION,
    errors=(409,),
)
def submit_job() -> Response:
    """Submit a job.

    If another job holds its unique key, the response is 409 with the `holder`. With `on_conflict` return it is 200 with
    the holder itself.

    A valid header `traceparent` (W3C Trace Context) becomes the variable TRACEPARENT of the command, unless `env` has
    one.
    """
    specs = traced([job_spec.parse(request_body.raw())])
    held: dict[int, Holder] = {}
    (job_id,) = actions.enqueue(specs, actor(), form_key=idempotency.form_key(), held=held)
    submitted = {**job_json(job_id), "warnings": job_spec.warnings(specs)}
    return request_body.answer(submitted, 200 if held else 201, {"Location": below_root(f"{PREFIX}/jobs/{job_id}")})


def traced(specs: list[JobSpec]) -> list[JobSpec]:
    """The jobs with the trace of this request."""
    return trace_context.carried_by(specs, request.headers.get(trace_context.HEADER))


@routes.on("GET", "/jobs/<job_id>", {200: JobDetail}, scope="read", query=WaitQuery)
def get_job(job_id: str) -> Any:
    """Get a job with its attempts and its history.

    With `wait`, the response comes when the job has ended, or after this many seconds. Only a few requests
    can wait at a time; others return at once, so repeat the request until the job has ended.
    """
    _wait_for_end(job_id, request_body.query(WaitQuery).get("wait", 0))
    with reading() as session:
        return whole_job(session, job_detail.existing(session, job_id), with_env=may("submit"))


def _wait_for_end(job_id: str, seconds: int) -> None:
    """Wait until a job has ended, at most so long. Each waiting request occupies a thread of the server."""
    if not seconds or not _waiting.acquire(blocking=False):
        return
    try:
        until = time.monotonic() + seconds
        while True:
            with reading() as session:
                has_ended = job_detail.existing(session, job_id).state in TERMINAL
            left = until - time.monotonic()
            if has_ended or left <= 0:
                return
            time.sleep(min(WAIT_STEP_SECONDS, left))
    finally:
        _waiting.release()


@routes.on("DELETE", "/jobs/<job_id>", {204: None}, scope="operate", errors=(409,))
def discard_job(job_id: str) -> Response:
    """Delete a job with its attempts and output. It must not be running."""
    check_moved("discard", job_id, actions.apply("discard", [job_id], actor()))
    return Response(status=204)


def job_json(job_id: str) -> dict[str, Any]:
    with reading() as session:
        return job_detail.job_json(job_detail.existing(session, job_id), settings.load(session), with_env=may("submit"))


def check_moved(verb: str, job_id: str, result: actions.Result) -> None:
    """Raises NotFound, or Problem if the job was in another state."""
    if job_id in result.outcome.refused:
        state = result.outcome.refused[job_id]
        text = lifecycle.refusal(verb, job_id, state, result.outcome)
        if state is None:
            raise lifecycle.NotFound(text)
        held = result.outcome.held.get(job_id)
        more: dict[str, Any] = {"holder": holder_json(held)} if held is not None else {}
        raise Problem("conflict", text, state=state, **more)
