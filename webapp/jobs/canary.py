"""A canary: requeue one dead letter first, and the other matching jobs only if it completes.

The action waits while the canary runs, its retries included; the maintenance process calls `check_all`. The jobs are
fixed at the click: a job that dies later has a later time of death.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Optional

from sqlalchemy import select, text
from sqlalchemy.orm import Session

from webapp.core import audit_lines, notices
from webapp.core.locks import BUSY_TIMEOUT
from webapp.db import audit
from webapp.db.engines import writing
from webapp.db.models import BulkAction, Job
from webapp.jobs import actions, listing, queries
from webapp.jobs.filters import JobFilter
from webapp.jobs.lifecycle import NotFound, record
from webapp.lib import clock

RULE = "rule:canary"


def start(wanted: JobFilter, actor: str, job_id: Optional[str] = None) -> int:
    """Requeue one matching dead letter, the newest or the named one, and hold the others back.

    Returns the action's id. Raises NotFound if no dead letter matches, or not the named one.
    """
    fixed = replace(wanted, state="dead", ended_by=clock.now())
    if job_id is None:  # found in bounded reads before the write lock is taken
        job_id = next((page.jobs[0].id for page in listing.pages(fixed, 1) if page.jobs), None)
    with writing() as session:
        job = session.scalar(select(Job).where(fixed.where(), Job.id == job_id)) if job_id is not None else None
        if job is None:
            raise NotFound("no dead letter matches any more.")
        what = json.loads(fixed.to_json())
        action = actions.create(session, "requeue", what, actor, state="waiting", canary_seq=job.seq)
        actions.move_some(session, action, Job.seq == job.seq, audited=False)
        if audit_lines.is_audited(actor):
            audit.note(session, "canary", [f"act:{action.id}"], actor, details=[{"filter": what, "canary": job.id}])
        return action.id


def check_all(patience: float = BUSY_TIMEOUT) -> list[int]:
    """Release or stop the actions whose canary has ended. Returns the released ones. Raises Busy."""
    released = []
    with writing(patience) as session:
        for action in session.scalars(select(BulkAction).where(BulkAction.state == "waiting").with_for_update()):
            job = canary(session, action)
            failure = _failure(job, action)
            if failure is not None:
                action.state, action.finished_at = "stopped", clock.now()
                _ended(session, action, "canary_failed", failure)
            elif job is not None and job.state == "completed":
                action.state, action.lease_until = "running", clock.now() + actions.LEASE
                _ended(session, action, "canary_passed", f"{job.id} completed, the rest is requeued")
                released.append(action.id)
    return released


def _ended(session: Session, action: BulkAction, verb: str, words: str) -> None:
    record(session, verb, [(f"act:{action.id}", None)], RULE, {"text": words}, action.id)
    detail = {"action": action.id, "passed": verb == "canary_passed", "text": words}
    notice = notices.values("canary-ended", f"action:{action.id}", detail=detail)
    session.execute(text(notices.RECORD), notice)


def any_waiting(session: Session) -> bool:
    return session.scalar(select(BulkAction.id).where(BulkAction.state == "waiting").limit(1)) is not None


def canary(session: Session, action: BulkAction) -> Optional[Job]:
    """The job that the action waits for; None if there is none."""
    return session.get(Job, action.canary_seq) if action.canary_seq is not None else None


def held_back(session: Session, action: BulkAction) -> queries.Count:
    """How many dead letters wait for the canary, as far as a search counts."""
    return queries.count_found(session, JobFilter.from_json(action.filter))[0]


def _failure(job: Optional[Job], action: BulkAction) -> Optional[str]:
    if job is None:
        return "the canary job was discarded"
    if job.state == "dead":
        return f"canary {job.id} failed for good again"
    if job.state == "cancelled":
        return f"canary {job.id} was cancelled"
    if job.act_id != action.id:
        return f"another user changed the canary {job.id}"
    return None
