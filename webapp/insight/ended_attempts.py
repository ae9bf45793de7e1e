"""Reads ended attempts for the roll-ups, and finds out with which of them a job died."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Optional

from sqlalchemy import Row, and_, func, select
from sqlalchemy.orm import Session, aliased

from webapp.db.models import Attempt, Event, Job
from webapp.lib.command_patterns import COMMAND_PREFIX


def read(session: Session, since: int, until: int, limit: Optional[int]) -> Sequence[Row[Any]]:
    """Attempts that finished from `since` until before `until`, oldest first, with what roll-ups need of the job."""
    before = aliased(Attempt)
    statement = (
        select(
            Attempt.job_seq,
            Attempt.number,
            Attempt.state,
            Attempt.started_at,
            Attempt.finished_at,
            Attempt.due_at,
            Attempt.error_key,
            Attempt.error,
            before.finished_at.label("ended_before"),
            Job.queue,
            Job.state.label("job_state"),
            Job.attempts.label("latest"),
            func.substr(Job.command, 1, COMMAND_PREFIX).label("command"),
        )
        .join(Job, Job.seq == Attempt.job_seq)
        .outerjoin(before, and_(before.job_seq == Attempt.job_seq, before.number == Attempt.number - 1))
        .where(Attempt.finished_at >= since, Attempt.finished_at < until)
        .order_by(Attempt.finished_at)
        .limit(limit)
    )
    return session.execute(statement).all()


def deaths(session: Session, rows: Iterable[Row[Any]]) -> set[tuple[int, int]]:
    """The attempts with which their jobs died: of jobs that are dead, or were requeued or edited since."""
    died, unclear = set(), dict[int, list[Any]]()
    for row in rows:
        if row.state not in ("failed", "lost"):
            continue
        if row.latest == row.number and row.job_state == "dead":
            died.add((row.job_seq, row.number))
        elif row.latest != row.number or row.job_state not in ("failed", "processing"):
            unclear.setdefault(row.job_seq, []).append(row)
    if not unclear:
        return died
    events = (
        select(Event.job_seq, Event.verb, Event.at, Event.detail)
        .where(Event.job_seq.in_(list(unclear)), Event.verb.in_(("requeue", "edit", "cancel")))
        .order_by(Event.id)
    )
    moves: dict[int, list[Any]] = {}
    for event in session.execute(events):
        moves.setdefault(event.job_seq, []).append(event)
    starts = _next_starts(session, {seq: unclear[seq] for seq in moves})
    for seq, ended in moves.items():
        for row in unclear[seq]:
            after = starts.get((row.job_seq, row.number), 2**62)
            first = next((event for event in ended if row.finished_at <= event.at <= after), None)
            if first is not None and _leaves_dead(first):
                died.add((row.job_seq, row.number))
    return died


def _leaves_dead(event: Row[Any]) -> bool:
    if event.verb == "edit":  # also a failed or a cancelled job can be edited
        return bool(json.loads(event.detail or "{}").get("from") == "dead")
    return bool(event.verb == "requeue")


def _next_starts(session: Session, ended: Mapping[int, Sequence[Row[Any]]]) -> dict[tuple[int, int], int]:
    """The start of the attempt after each of these, if there is one."""
    starts = select(Attempt.job_seq, Attempt.number, Attempt.started_at).where(Attempt.job_seq.in_(list(ended)))
    found = {(row.job_seq, row.number - 1): row.started_at for row in session.execute(starts)}
    running = [seq for seq, rows in ended.items() if rows[0].job_state == "processing"]
    for job in session.execute(select(Job.seq, Job.attempts, Job.started_at).where(Job.seq.in_(running))):
        found.setdefault((job.seq, job.attempts - 1), job.started_at or 2**62)
    return found
