"""Jobs with their attempts, output and events; queues and label sets."""

from __future__ import annotations

from typing import ClassVar, Optional

from sqlalchemy import CheckConstraint, ForeignKey, Index, Integer, text
from sqlalchemy.orm import Mapped, mapped_column

from webapp.core.states import HOLDS_KEY, STATES, TERMINAL
from webapp.db.engines import Model
from webapp.db.models.base import Sequence, one_of, partial_index

_CLAIM_ORDER = (text("priority DESC"), "run_at", "seq")
ATTEMPT_STATES = ("completed", "failed", "cancelled", "released", "lost")


class Job(Model):
    """A shell command and its state. The running attempt is in this row too: start, worker and token."""

    __tablename__ = "jobs"

    seq: Mapped[int] = mapped_column(Sequence, primary_key=True, autoincrement=True)
    id: Mapped[str] = mapped_column(unique=True)
    command: Mapped[str]
    queue: Mapped[str] = mapped_column(ForeignKey("queues.name"))
    requires: Mapped[str] = mapped_column(server_default="", default="")  # labels, see labels.py
    priority: Mapped[int] = mapped_column(Integer)
    state: Mapped[str]
    run_at: Mapped[int]
    max_retries: Mapped[Optional[int]] = mapped_column(Integer)  # None: the setting decides, when it fails
    timeout: Mapped[Optional[float]]  # seconds; None: the setting decides
    cwd: Mapped[Optional[str]]
    env: Mapped[Optional[str]]  # a JSON object of strings
    created_at: Mapped[int]
    created_by: Mapped[str]
    changed_at: Mapped[int]

    attempts: Mapped[int] = mapped_column(Integer, default=0)  # number of the last claim, never reused
    failures: Mapped[int] = mapped_column(Integer, default=0)  # since the enqueue or the last requeue
    losses: Mapped[int] = mapped_column(Integer, default=0)  # workers that died while they ran it, since then
    lone_losses: Mapped[int] = mapped_column(Integer, default=0)  # those of them when it ran alone in its worker

    started_at: Mapped[Optional[int]]  # of the latest attempt
    finished_at: Mapped[Optional[int]]  # when it reached its terminal state
    exit_code: Mapped[Optional[int]] = mapped_column(Integer)  # of the latest ended attempt, as are the next two
    last_error: Mapped[Optional[str]]
    error_key: Mapped[Optional[str]]  # the same for similar failures, see lib/error_key.py

    worker_id: Mapped[Optional[str]]  # the worker that holds the claim
    token: Mapped[Optional[str]]  # secret of the claim; each claim has a new one
    cancel_requested_at: Mapped[Optional[int]]
    cancel_requested_by: Mapped[Optional[str]]

    limits: Mapped[str] = mapped_column(server_default="", default="")  # keys of limits, see core/flow/limits.py
    unique_key: Mapped[Optional[str]]
    unique_while: Mapped[Optional[str]]  # see HOLDS_KEY in core/states.py
    unique_until: Mapped[Optional[int]]
    followed: Mapped[Optional[int]] = mapped_column(Integer)  # 1: jobs wait for its end; 0: they were told
    retry: Mapped[Optional[str]]  # a JSON object, see core/flow/retry_rules.py; None: settings decide
    progress: ClassVar[Optional[float]] = None  # no column: lists set it, see jobs/job_detail.py

    form_key: Mapped[Optional[str]]  # a form that is sent twice creates its jobs once
    batch: Mapped[Optional[str]]  # shared by the jobs that one form created
    schedule: Mapped[Optional[str]]  # the name of the schedule that enqueued it
    act_id: Mapped[Optional[int]] = mapped_column(Sequence)  # the last bulk action that moved it
    prior_state: Mapped[Optional[str]]  # before that action, as the next four
    prior_run_at: Mapped[Optional[int]]
    prior_failures: Mapped[Optional[int]] = mapped_column(Integer)
    prior_finished_at: Mapped[Optional[int]]
    prior_attempts: Mapped[Optional[int]] = mapped_column(Integer)  # unchanged: no claim since
    prior_fields: Mapped[Optional[str]]  # a JSON object of the columns that the last edit changed

    __table_args__ = (
        CheckConstraint(one_of("state", STATES), name="state"),
        CheckConstraint("priority BETWEEN -100 AND 100", name="priority"),
        CheckConstraint("max_retries BETWEEN 0 AND 1000", name="max_retries"),
        CheckConstraint("(state = 'processing') = (token IS NOT NULL)", name="token_while_processing"),
        CheckConstraint("(state = 'processing') = (worker_id IS NOT NULL)", name="worker_while_processing"),
        CheckConstraint(f"({one_of('state', TERMINAL)}) = (finished_at IS NOT NULL)", name="finished_when_terminal"),
        CheckConstraint("cancel_requested_at IS NULL OR state = 'processing'", name="cancel_while_processing"),
        # For claims: one range for each label set. With one range for all, a million paused jobs cost 71 ms a claim
        # instead of 0.03. Limited jobs stand behind the others of their label set.
        partial_index("ix_jobs_claim", "queue", "requires", "limits", *_CLAIM_ORDER, where="state = 'pending'"),
        # The same for workers that serve all queues, so that many queues cost no more than one.
        partial_index("ix_jobs_first", *_CLAIM_ORDER, where="state = 'pending' AND losses = 0 AND limits = ''"),
        # The same for limited jobs. An ordinary job is in none of these two.
        partial_index(
            "ix_jobs_limited", "limits", "queue", "requires", *_CLAIM_ORDER, where="state = 'pending' AND limits <> ''"
        ),
        partial_index("ix_jobs_limited_first", *_CLAIM_ORDER, where="state = 'pending' AND limits <> ''"),
        # Jobs whose worker died run alone. Usually there are none, so this query costs nothing.
        partial_index(
            "ix_jobs_lone", "queue", "requires", "limits", *_CLAIM_ORDER, where="state = 'pending' AND losses > 0"
        ),
        # Due jobs, and the lists of scheduled and failed jobs.
        partial_index("ix_jobs_waiting", "state", "run_at", "seq", where="state IN ('scheduled', 'failed')"),
        partial_index("ix_jobs_processing", "started_at", "seq", where="state = 'processing'"),
        partial_index("ix_jobs_ended", "state", "finished_at", "seq", where="finished_at IS NOT NULL"),
        partial_index("ix_jobs_form_key", "form_key", where="form_key IS NOT NULL", unique=True),
        partial_index("ix_jobs_unique", "unique_key", where=HOLDS_KEY, unique=True),
        partial_index("ix_jobs_unique_key", "unique_key", "seq", where="unique_key IS NOT NULL"),
        # Ended jobs whose followers do not know it yet.
        partial_index(
            "ix_jobs_followed", "followed", "finished_at", "seq", where="followed = 1 AND finished_at IS NOT NULL"
        ),
        partial_index("ix_jobs_blocked", "state", "run_at", "seq", where="state = 'blocked'"),
        # The page of a batch. Most jobs have no batch, so settling them does not touch this index.
        partial_index("ix_jobs_batch", "batch", "seq", where="batch IS NOT NULL"),
        partial_index("ix_jobs_batch_state", "batch", "state", "finished_at", "seq", where="batch IS NOT NULL"),
        # The jobs of a schedule, and those of them that have not ended.
        partial_index("ix_jobs_schedule", "schedule", "seq", where="schedule IS NOT NULL"),
        partial_index("ix_jobs_scheduled", "schedule", where="schedule IS NOT NULL AND finished_at IS NULL"),
        # The jobs that a bulk action moved, for its undo.
        partial_index("ix_jobs_act", "act_id", "state", "seq", where="act_id IS NOT NULL"),
        # The jobs that send messages, which counts leave out. Its condition: see the migration.
        partial_index("ix_jobs_system", "state", where="substr(queue, 1, 1) = '_'"),
        # Failure groups.
        partial_index("ix_jobs_group", "error_key", "finished_at", "seq", where="state = 'dead'"),
        # AUTOINCREMENT: no new job gets the number of a discarded one, which a running bulk action would then move.
        {"sqlite_autoincrement": True},
    )


class Attempt(Model):
    """An attempt that has ended. Written once, in the transaction that settles it."""

    __tablename__ = "attempts"

    job_seq: Mapped[int] = mapped_column(Sequence, ForeignKey("jobs.seq", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(Integer, primary_key=True)
    state: Mapped[str]
    # exit, signal, timeout, memory, processes, cwd, spawn, cancelled, released, lost
    reason: Mapped[str]
    error: Mapped[Optional[str]]  # the same as a sentence
    error_key: Mapped[Optional[str]]
    worker_id: Mapped[str]
    started_at: Mapped[int]
    finished_at: Mapped[int]
    exit_code: Mapped[Optional[int]] = mapped_column(Integer)
    signal: Mapped[Optional[int]] = mapped_column(Integer)
    cpu_time: Mapped[Optional[int]]  # microseconds, user and system
    peak_memory: Mapped[Optional[int]]  # bytes, of the largest process
    output: Mapped[bytes]  # stdout and stderr in order of arrival
    output_runs: Mapped[str]  # see lib/stream_runs.py: '12,5,3'
    output_cut: Mapped[Optional[int]]  # offset in `output` where bytes were left out
    output_dropped: Mapped[int]  # number of bytes left out
    output_times: Mapped[Optional[str]]  # see lib/stream_runs.py: '120@0,500@3'; None: not known, or all at once
    due_at: Mapped[Optional[int]]  # when it became ready to be claimed

    __table_args__ = (
        CheckConstraint(one_of("state", ATTEMPT_STATES), name="state"),
        Index("ix_attempts_finished", "finished_at"),  # for roll-ups
    )


class OutputTail(Model):
    """The end of a dead letter's last output as text, for search."""

    __tablename__ = "output_tails"

    job_seq: Mapped[int] = mapped_column(Sequence, ForeignKey("jobs.seq", ondelete="CASCADE"), primary_key=True)
    text: Mapped[str]


class OutputChunk(Model):
    """Live output of a running attempt. Deleted when the attempt ends."""

    __tablename__ = "output_chunks"

    job_seq: Mapped[int] = mapped_column(Sequence, ForeignKey("jobs.seq", ondelete="CASCADE"), primary_key=True)
    attempt: Mapped[int] = mapped_column(Integer, primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True)  # offset of its first byte in all output
    data: Mapped[bytes]
    runs: Mapped[str]
    times: Mapped[Optional[str]]  # as Attempt.output_times


class Event(Model):
    """What happened, when and by whom, unless the job or its attempts already show it."""

    __tablename__ = "events"

    id: Mapped[int] = mapped_column(Sequence, primary_key=True, autoincrement=True)
    at: Mapped[int]
    verb: Mapped[str]
    actor: Mapped[str]  # person:ana, worker:…, rule:retention
    subject: Mapped[str]  # job:job1, queue:mail, worker:…, setting:backoff_base, user:ana
    job_seq: Mapped[Optional[int]] = mapped_column(Sequence, ForeignKey("jobs.seq", ondelete="CASCADE"))
    act_id: Mapped[Optional[int]] = mapped_column(Sequence)
    detail: Mapped[Optional[str]]  # a JSON object

    __table_args__ = (
        partial_index("ix_events_job_seq", "job_seq", where="job_seq IS NOT NULL"),
        Index("ix_events_subject", "subject", "id"),
        partial_index("ix_events_changes", "at", where="job_seq IS NULL"),  # what people changed in a window
        {"sqlite_autoincrement": True},
    )


class Queue(Model):
    """A queue that some job has used. Claims read the queues from here, so each job's queue has a row."""

    __tablename__ = "queues"

    name: Mapped[str] = mapped_column(primary_key=True)
    paused_at: Mapped[Optional[int]]
    paused_by: Mapped[Optional[str]]
    removed_at: Mapped[Optional[int]]  # the row stays because finished jobs refer to it; the next job clears this
    retry: Mapped[Optional[str]]  # a JSON object, see core/flow/retry_rules.py: for jobs without rules of their own


class LabelSetRow(Model):
    """A set of labels that jobs of a queue have required. Claims read the label sets from here.

    Only the removal of the queue deletes rows. Their number depends on the different sets, not on the number of jobs.
    """

    __tablename__ = "lanes"

    queue: Mapped[str] = mapped_column(ForeignKey("queues.name"), primary_key=True)
    requires: Mapped[str] = mapped_column(primary_key=True)

    __table_args__ = (CheckConstraint("requires <> ''", name="requires_something"),)
