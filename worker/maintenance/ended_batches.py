"""Deletes ended batches with all their jobs: steps of `retention.py`. It waits until all jobs are old enough."""

from __future__ import annotations

from typing import Optional

from sqlalchemy import ColumnElement, and_, delete, func, literal, literal_column, select, tuple_
from sqlalchemy.orm import Session

from webapp.core.settings import Settings
from webapp.core.states import TERMINAL
from webapp.db.engines import reading, writing
from webapp.db.models import Batch, Job
from webapp.jobs import deletion
from webapp.jobs.flow import batches
from webapp.lib import clock
from worker.maintenance.ended_jobs import delete_attempts, waited_for

STEP = 50  # batches that one step looks at


class EndedBatches:
    """One round over all ended batches, from the oldest on."""

    def __init__(self, values: Settings, lock_timeout: float) -> None:
        """`lock_timeout`: seconds that each transaction waits for the write lock."""
        self._values = values
        self._lock_timeout = lock_timeout
        self._now = clock.now()
        self._position: tuple[int, str] = (-1, "")
        self._deleting: Optional[str] = None

    def step(self) -> bool:
        """Look at some batches, or delete some jobs of one. Returns whether to go on."""
        days = min(self._days(), default=0)
        if not days:
            return False
        if self._deleting is not None:
            self._delete_some(self._deleting)
            return True
        ended = literal_column("batches.ended_at") < self._now - days * clock.DAY
        order = Batch.created_at, Batch.name
        following = (
            select(Batch)
            .where(ended, tuple_(*order) > tuple_(*(literal(value) for value in self._position)))
            .order_by(*order)
            .limit(STEP)
        )
        with reading() as session:
            found = list(session.scalars(following))
            for batch in found:
                self._position = (batch.created_at, batch.name)
                if self._may_go(session, batch.name):
                    self._deleting = batch.name
                    return True
        return len(found) == STEP

    def _days(self) -> list[int]:
        keys = [f"keep_{state}" for state in TERMINAL]
        values = self._values
        return [days for key in keys for days in (getattr(values, key), *values.own[key].values()) if days]

    def _may_go(self, session: Session, name: str) -> bool:
        columns = Job.state, Job.queue, func.max(Job.finished_at).label("last")
        for row in session.execute(select(*columns).where(batches.where(name)).group_by(Job.state, Job.queue)):
            days = self._values.keep(f"keep_{row.state}", row.queue) if row.state in TERMINAL else 0
            if not days or row.last >= self._now - days * clock.DAY:
                return False
        followed = select(Job.seq).where(batches.where(name), Job.followed.is_not(None))
        return not waited_for(session, list(session.scalars(followed)))

    def _delete_some(self, name: str) -> None:
        """Delete as many jobs as one transaction may, and at the end the batch."""
        ended: ColumnElement[bool] = and_(batches.where(name), literal_column("jobs.finished_at IS NOT NULL"))
        with reading() as session:
            first = list(session.scalars(select(Job.seq).where(ended).order_by(Job.seq).limit(deletion.JOBS)))
            seqs = deletion.first_that_fit(session, first)
        if first and not seqs:
            delete_attempts(first[0], ended, self._lock_timeout)
            return
        with writing(self._lock_timeout, wakes_workers=False) as session:
            if seqs:
                # The condition again, because a user may have requeued one of them.
                session.execute(delete(Job).where(Job.seq.in_(seqs), ended))
            if len(first) < deletion.JOBS and len(seqs) == len(first):
                self._deleting = None
                if session.scalar(select(Job.seq).where(batches.where(name)).limit(1)) is None:
                    session.execute(delete(Batch).where(Batch.name == name))
