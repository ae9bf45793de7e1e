"""A batch: jobs that one form made from many lines. The job column `batch` holds its key, which ends with its size."""

from __future__ import annotations

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from webapp.core.states import STATES
from webapp.db.models import Job


def size_of(batch: str) -> int:
    """How many jobs the form made, discarded ones included."""
    return int(batch.rpartition("x")[2])


def page(session: Session, batch: str, first: int, limit: int) -> list[tuple[int, Job]]:
    """Jobs of a batch with their line numbers (from 1), in line order, from position `first` (from 0) on."""
    jobs = session.scalars(select(Job).where(Job.batch == batch).order_by(Job.seq).offset(first).limit(limit))
    return [(int((job.form_key or "").partition(".")[2] or 0) + 1, job) for job in jobs]


def count_states(session: Session, batch: str) -> dict[str, int]:
    """How many jobs are in each state, without discarded ones."""
    found = select(Job.state, func.count()).where(Job.batch == batch).group_by(Job.state)
    return dict.fromkeys(STATES, 0) | dict(session.execute(found).tuples().all())
