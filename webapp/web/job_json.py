"""A whole job as JSON, the same in `show --json` and in the API. Apart from `serializers.py`, because it loads more."""

from __future__ import annotations

from typing import Any

from sqlalchemy.orm import Session

from webapp.db.models import Job
from webapp.jobs import job_detail, settings
from webapp.jobs.flow import chains, limit_use
from webapp.lib.clock import columns
from webapp.notifications import views as notifications


def whole_job(session: Session, row: Job, *, with_env: bool = True, with_output: bool = False) -> dict[str, Any]:
    """A job with all that belongs to it, oldest first. `with_output`: also the output of its ended attempts.

    Without `with_env`, for users who may not submit, each environment variable has the value null.
    """
    attempts, events = job_detail.attempts(session, row, with_output=with_output), job_detail.events(session, row)
    block, report = limit_use.block(session, row), job_detail.report(session, row)
    history = [
        {**job_detail.attempt_json(one), **(job_detail.output_json(one) if with_output else {})} for one in attempts
    ]
    timeline = job_detail.timeline(row, attempts, events)
    return {
        **job_detail.job_json(row, settings.load(session), with_env=with_env),
        "notify": notifications.watches(session, row.seq),
        "blocked_by": None if block is None else block.json(),
        "report": None if report is None else job_detail.report_json(report),
        "attempt_history": history,
        "events": [job_detail.event_json(one) for one in events],
        "timeline": [columns(one, "at", "verb", "actor", "attempt", "text") for one in timeline],
        **chains.as_json(session, row),
    }
