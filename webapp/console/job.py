"""The page of one job: state and actions, explanation, command, details, timeline, attempts, output."""

from __future__ import annotations

import json
from typing import Any

from flask import Blueprint, request
from flask.typing import ResponseReturnValue
from sqlalchemy.orm import Session

from webapp.console.display import timeline
from webapp.console.display.wait_reason import why
from webapp.console.display.wording import Verb, verbs_for
from webapp.console.frame import htmx
from webapp.console.frame.params import whole_number
from webapp.console.output import compared, opened
from webapp.core.states import TERMINAL
from webapp.db.engines import reading
from webapp.db.models import Job
from webapp.jobs import job_detail, job_phases, lifecycle, queries, settings

pages = Blueprint("job", __name__)

SHOWN_ATTEMPTS = 50  # in the table, so that a job with 1,000 retries loads fast
MOST_OTHERS = 100  # attempts in the Compare list


@pages.get("/job/<job_id>")
def show(job_id: str) -> ResponseReturnValue:
    with reading() as session:
        job = found(session, job_id)
        ended = job_detail.attempts(session, job)
        events = job_detail.events(session, job)
        values = settings.load(session)
        phases = job_phases.phases(job, ended, events)
        return htmx.page(
            "job",
            session,
            job=job,
            watched="watch" in request.args and job.state not in TERMINAL,
            why=why(session, job),
            verbs=_verbs(job),
            retries=values.max_retries if job.max_retries is None else job.max_retries,
            timeout=job.timeout if job.timeout is not None else values.job_timeout or None,  # None: no limit
            batch={"key": job.batch, "others": queries.size_of_batch(job.batch) - 1} if job.batch else None,
            env=json.loads(job.env) if job.env else {},
            timeline=timeline.merged(job_detail.timeline(job, ended, events), phases),
            timeline_shown=timeline.SHOWN,
            bar=timeline.bar_of(phases),
            attempts=list(reversed(ended if "all" in request.args else ended[-SHOWN_ATTEMPTS:])),
            earlier=0 if "all" in request.args else max(len(ended) - SHOWN_ATTEMPTS, 0),
            numbers=numbers(job, [one.number for one in ended]),
            **_output(session, job, [one.number for one in ended]),
        )


def _verbs(job: Job) -> list[Verb]:
    """The actions that its state allows, without "run now": that button is beside the explanation."""
    return [] if job.cancel_requested_at is not None else [one for one in verbs_for(job.state) if one.name != "run_now"]


def found(session: Session, job_id: str) -> Job:
    """The job, or NotFound."""
    job = job_detail.find(session, job_id)
    if job is None:
        raise lifecycle.NotFound(f"job {job_id!r} does not exist. It may have been discarded.")
    return job


def numbers(job: Job, ended: list[int]) -> list[int]:
    """The attempts with output, newest first: ended ones and the running one."""
    running = [job.attempts] if job.state == "processing" else []
    return sorted({*ended, *running}, reverse=True)


def _output(session: Session, job: Job, ended: list[int]) -> dict[str, Any]:
    """The output shown first: of the attempt in the URL, or of the newest one."""
    if htmx.is_partial():
        return {}  # the output is outside the live region
    there = numbers(job, ended)
    asked = whole_number(request.args.get("attempt", ""))
    if asked is not None and asked in there:
        return {"newest": False, **_card(session, job, there, asked)}
    return {"newest": True, **_card(session, job, there, there[0] if there else 0)}


def _card(session: Session, job: Job, there: list[int], number: int) -> dict[str, Any]:
    kept = job_detail.output(session, job, number) if number else None
    if kept is None:
        return {"shown": number, "opened": None, "compared": None, "others": []}
    others = [one for one in there if one != number]
    return {
        "shown": number,
        "opened": opened(kept, number, request.args),
        "compared": compared(session, job, number, kept, others, request.args),
        "others": others[:MOST_OTHERS],
    }


@pages.get("/job/<job_id>/newest")
def newest(job_id: str) -> ResponseReturnValue:
    """The output of the newest attempt, for a page that was opened before it started."""
    with reading() as session:
        job = found(session, job_id)
        there = numbers(job, [one.number for one in job_detail.attempts(session, job)])
        card = _card(session, job, there, there[0] if there else 0)
        return htmx.fragment("job/_output.html", job=job, numbers=there, newest=True, **card)
