"""Jobs with their attempts, output and events; queues and label sets."""

from __future__ import annotations

from typing import Optional

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    Text,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from webapp.core.states import STATES, TERMINAL
from webapp.db.engines import Model
from webapp.db.models.base import Sequence, one_of

ATTEMPT_STATES = ("completed", "failed", "cancelled", "released", "lost")


class Job(Model):
    """A shell command and where it stands. While an attempt runs, the attempt lives here: started, worker, token."""

    __tablename__ = "jobs"

    seq: Mapped[int] = mapped_column(Sequence, primary_key=True, autoincrement=True)
    id: Mapped[str] = mapped_column(Text, unique=True)
    command: Mapped[str] = mapped_column(Text)
    queue: Mapped[str] = mapped_column(ForeignKey("queues.name"))
    requires: Mapped[str] = mapped_column(Text, server_default="", default="")  # labels, see labels.py
    priority: Mapped[int] = mapped_column(Integer)
    state: Mapped[str] = mapped_column(Text)
    run_at: Mapped[int] = mapped_column(BigInteger)
    max_retries: Mapped[Optional[int]] = mapped_column(Integer)  # None: the setting decides, when it fails
    timeout: Mapped[Optional[float]] = mapped_column(Float)  # seconds; None: the setting decides
    cwd: Mapped[Optional[str]] = mapped_column(Text)
    env: Mapped[Optional[str]] = mapped_column(Text)  # a JSON object of strings
    created_at: Mapped[int] = mapped_column(BigInteger)
    created_by: Mapped[str] = mapped_column(Text)
    changed_at: Mapped[int] = mapped_column(BigInteger)

    attempts: Mapped[int] = mapped_column(Integer, default=0)  # the number of the last claim, never used again
    failures: Mapped[int] = mapped_column(Integer, default=0)  # since the enqueue or the last requeue
    losses: Mapped[int] = mapped_column(Integer, default=0)  # workers that died under it, likewise
    lone_losses: Mapped[int] = mapped_column(Integer, default=0)  # those that it suffered alone in its worker

    started_at: Mapped[Optional[int]] = mapped_column(BigInteger)  # of the latest attempt
    finished_at: Mapped[Optional[int]] = mapped_column(BigInteger)  # when it reached its terminal state
    exit_code: Mapped[Optional[int]] = mapped_column(Integer)  # of the latest ended attempt, likewise the next two
    last_error: Mapped[Optional[str]] = mapped_column(Text)
    error_key: Mapped[Optional[str]] = mapped_column(
        Text
    )  # what groups like failures, see worker/runner/failure_text.py

    worker_id: Mapped[Optional[str]] = mapped_column(Text)  # who holds the claim
    token: Mapped[Optional[str]] = mapped_column(Text)  # the claim: made anew by each, known to its holder alone
    cancel_requested_at: Mapped[Optional[int]] = mapped_column(BigInteger)
    cancel_requested_by: Mapped[Optional[str]] = mapped_column(Text)

    form_key: Mapped[Optional[str]] = mapped_column(Text)  # of the form that made it: a form sent twice makes one job
    batch: Mapped[Optional[str]] = mapped_column(Text)  # the jobs that one form made together, see batches.py
    act_id: Mapped[Optional[int]] = mapped_column(Sequence)  # the bulk act that moved it last, and what it was before
    prior_state: Mapped[Optional[str]] = mapped_column(Text)
    prior_run_at: Mapped[Optional[int]] = mapped_column(BigInteger)
    prior_failures: Mapped[Optional[int]] = mapped_column(Integer)
    prior_finished_at: Mapped[Optional[int]] = mapped_column(BigInteger)
    prior_attempts: Mapped[Optional[int]] = mapped_column(Integer)  # as many still: nobody has claimed it since

    __table_args__ = (
        CheckConstraint(one_of("state", STATES), name="state"),
        CheckConstraint("priority BETWEEN -100 AND 100", name="priority"),
        CheckConstraint("max_retries BETWEEN 0 AND 1000", name="max_retries"),
        CheckConstraint("(state = 'processing') = (token IS NOT NULL)", name="token_while_processing"),
        CheckConstraint("(state = 'processing') = (worker_id IS NOT NULL)", name="worker_while_processing"),
        CheckConstraint(f"({one_of('state', TERMINAL)}) = (finished_at IS NOT NULL)", name="finished_when_terminal"),
        CheckConstraint("cancel_requested_at IS NULL OR state = 'processing'", name="cancel_while_processing"),
        # What a claim walks, a range for each lane. With all in one a paused million cost 71 ms a claim, so 0.03.
        Index(
            "ix_jobs_claim",
            "queue",
            "requires",
            text("priority DESC"),
            "run_at",
            "seq",
            sqlite_where=text("state = 'pending'"),
            postgresql_where=text("state = 'pending'"),
        ),
        # Jobs whose worker died: they run alone. Empty on a good day, so asking costs nothing.
        Index(
            "ix_jobs_lone",
            "queue",
            "requires",
            text("priority DESC"),
            "run_at",
            "seq",
            sqlite_where=text("state = 'pending' AND losses > 0"),
            postgresql_where=text("state = 'pending' AND losses > 0"),
        ),
        # What the clock promotes, and the two lists that show it.
        Index(
            "ix_jobs_waiting",
            "state",
            "run_at",
            "seq",
            sqlite_where=text("state IN ('scheduled', 'failed')"),
            postgresql_where=text("state IN ('scheduled', 'failed')"),
        ),
        Index(
            "ix_jobs_processing",
            "started_at",
            "seq",
            sqlite_where=text("state = 'processing'"),
            postgresql_where=text("state = 'processing'"),
        ),
        Index(
            "ix_jobs_ended",
            "state",
            "finished_at",
            "seq",
            sqlite_where=text("finished_at IS NOT NULL"),
            postgresql_where=text("finished_at IS NOT NULL"),
        ),
        Index(
            "ix_jobs_form_key",
            "form_key",
            unique=True,
            sqlite_where=text("form_key IS NOT NULL"),
            postgresql_where=text("form_key IS NOT NULL"),
        ),
        # The page of a batch. Most jobs are in none, so their settles do not touch it.
        Index(
            "ix_jobs_batch",
            "batch",
            "seq",
            sqlite_where=text("batch IS NOT NULL"),
            postgresql_where=text("batch IS NOT NULL"),
        ),
        # What a bulk act moved, for its undo.
        Index(
            "ix_jobs_act",
            "act_id",
            "state",
            "seq",
            sqlite_where=text("act_id IS NOT NULL"),
            postgresql_where=text("act_id IS NOT NULL"),
        ),
        # Dead letters that failed alike.
        Index(
            "ix_jobs_group",
            "error_key",
            "finished_at",
            "seq",
            sqlite_where=text("state = 'dead'"),
            postgresql_where=text("state = 'dead'"),
        ),
        # AUTOINCREMENT: a discarded job's sequence is never given to another, which a running bulk act would catch.
        {"sqlite_autoincrement": True},
    )


class Attempt(Model):
    """One ended attempt, written once, in the transaction that settled it."""

    __tablename__ = "attempts"

    job_seq: Mapped[int] = mapped_column(Sequence, ForeignKey("jobs.seq", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(Integer, primary_key=True)
    state: Mapped[str] = mapped_column(Text)
    # exit, signal, timeout, memory, processes, cwd, spawn, cancelled, released, lost
    reason: Mapped[str] = mapped_column(Text)
    error: Mapped[Optional[str]] = mapped_column(Text)  # the same for a person
    error_key: Mapped[Optional[str]] = mapped_column(Text)
    worker_id: Mapped[str] = mapped_column(Text)
    started_at: Mapped[int] = mapped_column(BigInteger)
    finished_at: Mapped[int] = mapped_column(BigInteger)
    exit_code: Mapped[Optional[int]] = mapped_column(Integer)
    signal: Mapped[Optional[int]] = mapped_column(Integer)
    cpu_time: Mapped[Optional[int]] = mapped_column(BigInteger)  # microseconds, user and system
    peak_memory: Mapped[Optional[int]] = mapped_column(BigInteger)  # bytes, of the largest process
    output: Mapped[bytes] = mapped_column(LargeBinary)  # stdout and stderr as they came, see worker/runner/output.py
    output_runs: Mapped[str] = mapped_column(Text)  # lengths of alternating runs, stdout first: '12,5,3'
    output_cut: Mapped[Optional[int]] = mapped_column(BigInteger)  # offset in `output` where bytes were left out
    output_dropped: Mapped[int] = mapped_column(BigInteger)  # how many
    due_at: Mapped[Optional[int]] = mapped_column(BigInteger)  # since when it could have been claimed

    __table_args__ = (
        CheckConstraint(one_of("state", ATTEMPT_STATES), name="state"),
        Index("ix_attempts_finished", "finished_at"),  # what the roll-ups fold
    )


class OutputTail(Model):
    """The last words of a job's latest death as text, short, so that dead letters can be searched by them."""

    __tablename__ = "output_tails"

    job_seq: Mapped[int] = mapped_column(Sequence, ForeignKey("jobs.seq", ondelete="CASCADE"), primary_key=True)
    text: Mapped[str] = mapped_column(Text)


class OutputChunk(Model):
    """Output of an attempt that still runs, so that people can watch it. Gone when the attempt has ended."""

    __tablename__ = "output_chunks"

    job_seq: Mapped[int] = mapped_column(Sequence, ForeignKey("jobs.seq", ondelete="CASCADE"), primary_key=True)
    attempt: Mapped[int] = mapped_column(Integer, primary_key=True)
    position: Mapped[int] = mapped_column(BigInteger, primary_key=True)  # its first byte's, in all that was written
    data: Mapped[bytes] = mapped_column(LargeBinary)
    runs: Mapped[str] = mapped_column(Text)


class Event(Model):
    """What happened, when and by whom, where the job's row and its attempts do not tell it already."""

    __tablename__ = "events"

    id: Mapped[int] = mapped_column(Sequence, primary_key=True, autoincrement=True)
    at: Mapped[int] = mapped_column(BigInteger)
    verb: Mapped[str] = mapped_column(Text)
    actor: Mapped[str] = mapped_column(Text)  # person:ana, worker:…, rule:retention
    subject: Mapped[str] = mapped_column(Text)  # job:job1, queue:mail, worker:…, setting:backoff_base, user:ana
    job_seq: Mapped[Optional[int]] = mapped_column(Sequence, ForeignKey("jobs.seq", ondelete="CASCADE"))
    act_id: Mapped[Optional[int]] = mapped_column(Sequence)
    detail: Mapped[Optional[str]] = mapped_column(Text)  # a JSON object

    __table_args__ = (
        Index(
            "ix_events_job_seq",
            "job_seq",
            sqlite_where=text("job_seq IS NOT NULL"),
            postgresql_where=text("job_seq IS NOT NULL"),
        ),
        Index("ix_events_subject", "subject", "id"),
        {"sqlite_autoincrement": True},
    )


class Queue(Model):
    """A queue that a job has named. A claim asks the queues here, so every job's queue is one of them."""

    __tablename__ = "queues"

    name: Mapped[str] = mapped_column(Text, primary_key=True)
    paused_at: Mapped[Optional[int]] = mapped_column(BigInteger)
    paused_by: Mapped[Optional[str]] = mapped_column(Text)


class LabelSetRow(Model):
    """Labels that jobs of a queue have required together. A claim asks the lanes here, beside those that require none.

    Kept, as queues are: there are as many as ways to ask, not as jobs.
    """

    __tablename__ = "lanes"

    queue: Mapped[str] = mapped_column(ForeignKey("queues.name"), primary_key=True)
    requires: Mapped[str] = mapped_column(Text, primary_key=True)

    __table_args__ = (CheckConstraint("requires <> ''", name="requires_something"),)
