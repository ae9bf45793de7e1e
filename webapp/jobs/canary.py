"""A canary: requeue some dead letters first, and the other matching jobs only if these complete.

The action waits while the canary jobs run, their retries included; the maintenance process calls `check_all`. The jobs
are fixed at the click: a job that dies later has a later time of death. Until the others follow, the canary jobs are
all that carry the action's id.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Optional

from sqlalchemy import and_, case, func, select, text
from sqlalchemy.orm import Session

from webapp.core import audit_lines, notices
from webapp.core.storage.locks import BUSY_TIMEOUT
from webapp.db import audit
from webapp.db.engines import reading, writing
from webapp.db.models import BulkAction, Job
from webapp.jobs import actions, listing, queries
from webapp.jobs.filters import JobFilter
from webapp.jobs.lifecycle import KeyHeld, NotFound, in_state, record
from webapp.lib import clock
from webapp.lib.text import plural

RULE = "rule:canary"
PASS_RULES = {"1": "1 job", "3": "3 jobs", "10%": "10 % of the jobs"}  # that must succeed before the others follow
LATEST = 500  # actions
MOST_CANARIES = actions.BATCH  # jobs of one canary: they are requeued in one transaction


class RuleError(ValueError):
    """There is no such pass rule."""


def size(rule: str, number: int) -> int:
    """How many of `number` jobs must succeed first. Raises RuleError."""
    if rule not in PASS_RULES:
        raise RuleError(f"not a pass rule: {rule[:64]!r}. Expected one of {', '.join(PASS_RULES)}.")
    wanted = -(-number // 10) if rule == "10%" else int(rule)
    return max(1, min(wanted, number, MOST_CANARIES))


def start(wanted: JobFilter, actor: str, job_id: Optional[str] = None, rule: str = "1") -> int:
    """Requeue as many matching dead letters as the pass rule says, the named and the newest, and hold the others back.

    Returns the action's id. Raises NotFound if no dead letter matches, or not the named one; RuleError; KeyHeld if
    another job holds the unique key of a chosen one.
    """
    fixed = replace(wanted, state="dead", ended_by=clock.now())
    seqs = _choose(fixed, job_id, rule)  # in bounded reads before the write lock is taken
    with writing() as session:
        there = set(session.scalars(select(Job.seq).where(fixed.where(), Job.seq.in_(seqs))))
        chosen = [seq for seq in seqs if seq in there]
        if not chosen or chosen[0] != seqs[0]:
            raise NotFound("no dead letters match any more.")
        what = json.loads(fixed.to_json())
        more = {"canary_seq": chosen[0], "canary_count": len(chosen), "canary_rule": rule}
        action = actions.create(session, "requeue", what, actor, state="waiting", **more)
        for stays, holder in actions.move_some(session, action, Job.seq.in_(chosen), audited=False).held.items():
            raise KeyHeld(stays, holder)
        if audit_lines.is_audited(actor):
            first = session.get_one(Job, chosen[0]).id
            detail = {"filter": what, "canary": first, "after": rule, "jobs": len(chosen)}
            audit.note(session, "canary", [f"act:{action.id}"], actor, details=[detail])
        return action.id


def _choose(fixed: JobFilter, job_id: Optional[str], rule: str) -> list[int]:
    """The sequence numbers of the canary jobs, the named or the newest first."""
    size(rule, 1)  # an invalid rule is an error, also without jobs
    with reading() as session:
        number = queries.count_found(session, fixed)[0].number if rule == "10%" else int(rule)
        first = select(Job.seq).where(fixed.where(), Job.id == job_id)
        seqs = [] if job_id is None else list(session.scalars(first))
    if job_id is not None and not seqs:
        return []
    wanted = size(rule, max(number, 1))
    for page in listing.pages(fixed, min(wanted, 100)):
        if len(seqs) >= wanted:
            break
        seqs += [job.seq for job in page.jobs if job.seq not in seqs]
    return seqs[:wanted]


def check_all(patience: float = BUSY_TIMEOUT) -> list[int]:
    """Release or stop the actions whose canary has ended. Returns the released ones. Raises Busy."""
    released = []
    with writing(patience) as session:
        for action in session.scalars(select(BulkAction).where(BulkAction.state == "waiting").with_for_update()):
            failure, number = _failure(session, action), action.canary_count or 1
            if failure is not None:
                action.state, action.finished_at = "stopped", clock.now()
                _ended(session, action, "canary_failed", failure)
            elif completed(session, action) == number:
                action.state, action.lease_until = "running", clock.now() + actions.LEASE
                job = canary(session, action)
                some = f"canary {job.id}" if number == 1 and job is not None else plural(number, "canary job")
                _ended(session, action, "canary_passed", f"{some} completed; the rest is requeued")
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


def jobs(session: Session, action: BulkAction, limit: int) -> list[Job]:
    """The canary jobs of an action that waits: what failed or runs first. Of one that has ended, the first job only."""
    if action.state != "waiting":
        return [job for job in [canary(session, action)] if job is not None]
    rank = case({"dead": 0, "cancelled": 0, "processing": 1, "failed": 2, "completed": 4}, value=Job.state, else_=3)
    return list(session.scalars(select(Job).where(Job.act_id == action.id).order_by(rank, Job.seq).limit(limit)))


def completed(session: Session, action: BulkAction) -> int:
    """How many of its jobs have completed."""
    return session.scalar(select(func.count()).where(Job.act_id == action.id, in_state("completed"))) or 0


def held_back(session: Session, action: BulkAction) -> queries.Count:
    """How many dead letters wait for the canary, as far as a search counts."""
    return queries.count_found(session, JobFilter.from_json(action.filter))[0]


def of_groups(session: Session, since: Optional[int] = None) -> dict[str, BulkAction]:
    """The newest action that waits for its canary, by the failure group that it names.

    With `since`, also of those that ended after that time without a release, among the newest LATEST actions.
    """
    which = BulkAction.state == "waiting"
    if since is not None:
        newest = select(func.max(BulkAction.id) - LATEST).scalar_subquery()
        stopped = BulkAction.id > newest, BulkAction.state == "stopped", BulkAction.finished_at >= since
        which |= and_(BulkAction.canary_rule.is_not(None), *stopped)
    actions_ = session.scalars(select(BulkAction).where(which).order_by(BulkAction.id))
    named = ((JobFilter.from_json(action.filter).group, action) for action in actions_)
    return {group: action for group, action in named if group is not None}


def _failure(session: Session, action: BulkAction) -> Optional[str]:
    job, number = canary(session, action), action.canary_count or 1
    left = dict(
        session.execute(select(Job.state, func.count()).where(Job.act_id == action.id).group_by(Job.state))
        .tuples()
        .all()
    )
    bad = select(Job.id).where(Job.act_id == action.id, in_state("dead", "cancelled")).order_by(Job.seq).limit(1)
    ended = session.scalar(bad) if {"dead", "cancelled"} & {*left} else None
    if ended is not None:
        return f"canary {ended} " + ("failed for good again" if "dead" in left else "was cancelled")
    if sum(left.values()) >= number:
        return None
    if number == 1:
        return "the canary job was discarded" if job is None else f"another user changed the canary {job.id}"
    return f"{plural(number - sum(left.values()), 'canary job')} were discarded or changed by another user"
