"""A canary: one dead letter is requeued, and the rest of what matched at the click only if that one completes.

The act waits while the canary runs and waits out its retries; the keeper looks after it (`look`). The set is fixed at
the click: what dies later, or dies again, has a later time of death.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Optional

from sqlalchemy import select
from sqlalchemy.orm import Session

from webapp.core import audit_lines
from webapp.core.locks import BUSY_TIMEOUT
from webapp.db import audit
from webapp.db.engines import reading, writing
from webapp.db.models import BulkAction, Job
from webapp.jobs import actions, listing, queries
from webapp.jobs.filters import JobFilter
from webapp.jobs.lifecycle import record
from webapp.jobs.operations import NotFound
from webapp.lib import clock

RULE = "rule:canary"


def start(wanted: JobFilter, actor: str, job_id: Optional[str] = None) -> int:
    """Requeue one dead letter of those that match, the newest or the one that is named, and hold the rest back.

    Returns the act's id. Raises NotFound where nothing matches, or not that job.
    """
    fixed = replace(wanted, state="dead", ended_by=clock.now())
    chosen = _newest(fixed) if job_id is None else job_id
    with writing() as session:
        job = session.scalar(select(Job).where(fixed.where(), Job.id == chosen)) if chosen is not None else None
        if job is None:
            raise NotFound("no dead letter matches any more.")
        what = json.loads(fixed.to_json())
        act = actions.new(session, "requeue", what, actor, state="waiting", canary_seq=job.seq)
        actions.move_some(session, act, Job.seq == job.seq, audited=False)
        if audit_lines.is_audited(actor):
            audit.note(session, "canary", [f"act:{act.id}"], actor, details=[{"filter": what, "canary": job.id}])
        return act.id


def _newest(wanted: JobFilter) -> Optional[str]:
    """Looked for before the lock is taken, in reads that end."""
    after: Optional[str] = None
    while True:
        with reading() as session:
            page = listing.page_of_jobs(session, wanted, limit=1, after=after)
        if page.jobs:
            return page.jobs[0].id
        after = page.older
        if after is None:
            return None


def look(patience: float = BUSY_TIMEOUT) -> list[int]:
    """Release or end the acts whose canary has come to its end. Returns those that may go on now. Raises Busy."""
    released = []
    with writing(patience) as session:
        for act in session.scalars(select(BulkAction).where(BulkAction.state == "waiting").with_for_update()):
            job = canary(session, act)
            why = _why_end(job, act)
            if why is not None:
                act.state, act.finished_at = "stopped", clock.now()
                record(session, "canary_failed", [(f"act:{act.id}", None)], RULE, {"text": why}, act.id)
            elif job is not None and job.state == "completed":
                act.state, act.lease_until = "running", clock.now() + actions.LEASE
                text = f"{job.id} completed, the rest is requeued"
                record(session, "canary_passed", [(f"act:{act.id}", None)], RULE, {"text": text}, act.id)
                released.append(act.id)
    return released


def any_waiting(session: Session) -> bool:
    return session.scalar(select(BulkAction.id).where(BulkAction.state == "waiting").limit(1)) is not None


def canary(session: Session, act: BulkAction) -> Optional[Job]:
    return session.get(Job, act.canary_seq) if act.canary_seq is not None else None


def held_back(session: Session, act: BulkAction) -> queries.Count:
    """How many dead letters wait for the canary: of those that a search looks through, where there are very many."""
    return queries.count_found(session, JobFilter.from_json(act.filter))[0]


def _why_end(job: Optional[Job], act: BulkAction) -> Optional[str]:
    if job is None:
        return "the canary job was discarded"
    if job.state == "dead":
        return f"canary {job.id} failed for good again"
    if job.state == "cancelled":
        return f"canary {job.id} was cancelled"
    if job.act_id != act.id:
        return f"another user changed the canary {job.id}"
    return None
