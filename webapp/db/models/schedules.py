"""Schedules, and the ledger of their fires."""

from __future__ import annotations

from typing import Optional

from sqlalchemy import CheckConstraint, ForeignKey, Index, Integer
from sqlalchemy.orm import Mapped, mapped_column

from webapp.core.states import FIRE_OUTCOMES
from webapp.db.engines import Model
from webapp.db.models.base import Sequence, one_of, partial_index


class Schedule(Model):
    """A schedule. All fires up to `cursor` are decided."""

    __tablename__ = "schedules"

    id: Mapped[int] = mapped_column(Sequence, primary_key=True, autoincrement=True)
    name: Mapped[str] = mapped_column(unique=True)
    spec: Mapped[str]  # a JSON object, see schedules/spec.py
    version: Mapped[int] = mapped_column(Integer)  # counts edits, pauses and resumes
    cursor: Mapped[int]
    next_fire_at: Mapped[Optional[int]]  # the first fire after the cursor; None: there is none, or it is broken
    waiting_since: Mapped[Optional[int]]  # the fire that waits until the active jobs have ended
    last_fire_at: Mapped[Optional[int]]  # the last fire that made a job
    paused_at: Mapped[Optional[int]]
    paused_until: Mapped[Optional[int]]  # None: until it is resumed
    paused_by: Mapped[Optional[str]]
    broken: Mapped[Optional[str]]  # why its next fire cannot be computed
    late_since: Mapped[Optional[int]]  # set once for each breach, as are the next two
    long_since: Mapped[Optional[int]]
    failing_since: Mapped[Optional[int]]
    created_at: Mapped[int]
    created_by: Mapped[str]
    changed_at: Mapped[int]
    changed_by: Mapped[str]

    __table_args__ = (
        partial_index("ix_schedules_due", "next_fire_at", where="waiting_since IS NULL"),
        partial_index("ix_schedules_waiting", "waiting_since", where="waiting_since IS NOT NULL"),
        {"sqlite_autoincrement": True},
    )


class Fire(Model):
    """One due fire of a schedule and what was decided."""

    __tablename__ = "fires"

    schedule_id: Mapped[int] = mapped_column(Sequence, ForeignKey("schedules.id", ondelete="CASCADE"), primary_key=True)
    due_at: Mapped[int] = mapped_column(primary_key=True)  # the key: a fire is decided once
    decided_at: Mapped[int]
    outcome: Mapped[str]
    reason: Mapped[Optional[str]]
    job_id: Mapped[Optional[str]]  # the job may be deleted since

    __table_args__ = (
        CheckConstraint(one_of("outcome", FIRE_OUTCOMES), name="outcome"),
        CheckConstraint("(job_id IS NOT NULL) = (outcome IN ('fired', 'caught_up'))", name="job_if_fired"),
        Index("ix_fires_decided", "decided_at"),  # for retention
    )
