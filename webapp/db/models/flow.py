"""How jobs depend on each other: limits, dependencies and batches; what a running job reports."""

from __future__ import annotations

from typing import Optional

from sqlalchemy import CheckConstraint, ForeignKey, Index, Integer
from sqlalchemy.orm import Mapped, mapped_column

from webapp.core.job_spec import WANTS
from webapp.db.engines import Model
from webapp.db.models.base import Sequence, one_of, partial_index

BATCH_EVENTS = ("done", "death")


class Limit(Model):
    """How many jobs with a key may run at a time, and how many may start in a window."""

    __tablename__ = "limits"

    key: Mapped[str] = mapped_column(primary_key=True)  # a name; or a pattern, whose limit holds for each key
    most: Mapped[Optional[int]] = mapped_column(Integer)  # running jobs; None: any number
    rate: Mapped[Optional[int]] = mapped_column(Integer)  # starts in a window
    per: Mapped[Optional[int]]  # the length of the window, microseconds
    note: Mapped[Optional[str]]
    changed_at: Mapped[int]
    changed_by: Mapped[str]

    __table_args__ = (
        CheckConstraint("most >= 0", name="most"),
        CheckConstraint("rate > 0 AND per > 0", name="rate"),
        CheckConstraint("(rate IS NULL) = (per IS NULL)", name="rate_has_window"),
    )


class LimitStart(Model):
    """A start of a job with a key that has a rate. The start `rate` numbers before says whether one more may start."""

    __tablename__ = "limit_starts"

    key: Mapped[str] = mapped_column(primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    started_at: Mapped[int]

    __table_args__ = (Index("ix_limit_starts_started", "started_at"),)


class Dependency(Model):
    """A job waits for the end of another one, its parent."""

    __tablename__ = "dependencies"

    job_seq: Mapped[int] = mapped_column(Sequence, ForeignKey("jobs.seq", ondelete="CASCADE"), primary_key=True)
    parent_id: Mapped[str] = mapped_column(primary_key=True)
    parent_seq: Mapped[int] = mapped_column(Sequence)  # no foreign key: retention may delete the parent
    wants: Mapped[str]
    met_at: Mapped[Optional[int]]  # when the parent ended as wanted, or can no longer, and the job was cancelled

    __table_args__ = (
        CheckConstraint(one_of("wants", WANTS), name="wants"),
        Index("ix_dependencies_parent", "parent_seq", "met_at", "wants", "job_seq"),
        partial_index("ix_dependencies_unmet", "job_seq", where="met_at IS NULL"),
    )


class Batch(Model):
    """Jobs that belong together. Jobs may join until it is closed."""

    __tablename__ = "batches"

    name: Mapped[str] = mapped_column(primary_key=True)
    created_at: Mapped[int]
    created_by: Mapped[str]
    closed_at: Mapped[Optional[int]]
    on_done: Mapped[Optional[str]]  # a job as JSON, enqueued when all jobs have ended
    on_death: Mapped[Optional[str]]  # a job as JSON, enqueued when the first job is dead
    generation: Mapped[int] = mapped_column(Integer)  # 1, and one more each time that a requeue reopens it
    ended_at: Mapped[Optional[int]]  # when it was closed and all jobs of this generation had ended

    __table_args__ = (
        partial_index("ix_batches_active", "name", where="ended_at IS NULL"),
        Index("ix_batches_created", "created_at"),
    )


class BatchCallback(Model):
    """A callback of a batch that was decided. The key makes it happen once."""

    __tablename__ = "batch_callbacks"

    batch: Mapped[str] = mapped_column(ForeignKey("batches.name", ondelete="CASCADE"), primary_key=True)
    event: Mapped[str] = mapped_column(primary_key=True)
    generation: Mapped[int] = mapped_column(Integer, primary_key=True)
    at: Mapped[int]
    job_id: Mapped[Optional[str]]

    __table_args__ = (CheckConstraint(one_of("event", BATCH_EVENTS), name="event"),)


class Report(Model):
    """What the latest attempt wrote to `$QUEUECTL_REPORT`: the last of each kind."""

    __tablename__ = "reports"

    job_seq: Mapped[int] = mapped_column(Sequence, ForeignKey("jobs.seq", ondelete="CASCADE"), primary_key=True)
    attempt: Mapped[int] = mapped_column(Integer)
    progress: Mapped[Optional[float]]  # 0 to 1
    note: Mapped[Optional[str]]
    result: Mapped[Optional[str]]  # a JSON object
    retry_after: Mapped[Optional[float]]  # seconds
    fault: Mapped[Optional[str]]  # why some of what it wrote was left out
    updated_at: Mapped[int]
