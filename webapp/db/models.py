"""The tables, their checks and their indexes. What may happen to a row lives in `jobs/lifecycle.py` and `jobs/operations.py`.

Times are BIGINT microseconds UTC (`lib/clock.py`). A settle touches few indexes on purpose: each costs every job.
"""

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
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from webapp.core.states import STATES, TERMINAL
from webapp.db.engines import Model

# SQLite gives a rowid only to INTEGER; PostgreSQL needs BIGINT to count past two thousand million.
Sequence = BigInteger().with_variant(Integer, "sqlite")

ROLES = ("viewer", "operator", "admin")
SCOPES = ("read", "submit", "operate", "admin")
ATTEMPT_STATES = ("completed", "failed", "cancelled", "released", "lost")


def _one_of(column: str, values: tuple[str, ...]) -> str:
    return f"{column} IN ({', '.join(repr(value) for value in values)})"


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
        CheckConstraint(_one_of("state", STATES), name="state"),
        CheckConstraint("priority BETWEEN -100 AND 100", name="priority"),
        CheckConstraint("max_retries BETWEEN 0 AND 1000", name="max_retries"),
        CheckConstraint("(state = 'processing') = (token IS NOT NULL)", name="token_while_processing"),
        CheckConstraint("(state = 'processing') = (worker_id IS NOT NULL)", name="worker_while_processing"),
        CheckConstraint(f"({_one_of('state', TERMINAL)}) = (finished_at IS NOT NULL)", name="finished_when_terminal"),
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
        CheckConstraint(_one_of("state", ATTEMPT_STATES), name="state"),
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


class LaneRow(Model):
    """Labels that jobs of a queue have required together. A claim asks the lanes here, beside those that require none.

    Kept, as queues are: there are as many as ways to ask, not as jobs.
    """

    __tablename__ = "lanes"

    queue: Mapped[str] = mapped_column(ForeignKey("queues.name"), primary_key=True)
    requires: Mapped[str] = mapped_column(Text, primary_key=True)

    __table_args__ = (CheckConstraint("requires <> ''", name="requires_something"),)


class Worker(Model):
    """One worker process, from its start until some time after its end. Its id is random, made at each start."""

    __tablename__ = "workers"

    id: Mapped[str] = mapped_column(Text, primary_key=True)
    supervisor_id: Mapped[str] = mapped_column(Text)
    host: Mapped[str] = mapped_column(Text)
    pid: Mapped[int] = mapped_column(Integer)
    pid_started: Mapped[Optional[float]] = mapped_column(Float)  # with pid and boot, names the process for good
    boot_id: Mapped[str] = mapped_column(Text)
    version: Mapped[str] = mapped_column(Text)
    slots: Mapped[int] = mapped_column(Integer)
    queues: Mapped[Optional[str]] = mapped_column(Text)  # a JSON array of names; None: all
    labels: Mapped[Optional[str]] = mapped_column(Text)  # a JSON array, without its host's; None: no others
    state: Mapped[str] = mapped_column(Text)  # running, stopped (in good order), expired
    wish: Mapped[str] = mapped_column(Text)  # what a person asked of it: run, quiet, stop
    started_at: Mapped[int] = mapped_column(BigInteger)
    stopped_at: Mapped[Optional[int]] = mapped_column(BigInteger)
    heartbeat: Mapped[int] = mapped_column(BigInteger)  # a counter: whoever watches it judges by his own clock
    seen_at: Mapped[int] = mapped_column(BigInteger)  # the wall clock at the last beat, for people only
    jobs_completed: Mapped[int] = mapped_column(BigInteger)
    jobs_failed: Mapped[int] = mapped_column(BigInteger)
    cpu_time: Mapped[Optional[int]] = mapped_column(BigInteger)  # microseconds, its own and its ended commands'
    memory: Mapped[Optional[int]] = mapped_column(BigInteger)  # bytes, its own

    __table_args__ = (
        CheckConstraint(_one_of("state", ("running", "stopped", "expired")), name="state"),
        CheckConstraint(_one_of("wish", ("run", "quiet", "stop")), name="wish"),
    )


class Supervisor(Model):
    """One `worker start`: a process that starts workers, replaces them, and lets people change how many there are."""

    __tablename__ = "supervisors"

    id: Mapped[str] = mapped_column(Text, primary_key=True)
    host: Mapped[str] = mapped_column(Text)
    pid: Mapped[int] = mapped_column(Integer)
    version: Mapped[str] = mapped_column(Text)
    slots: Mapped[int] = mapped_column(Integer)  # of each of its workers, likewise the next two
    queues: Mapped[Optional[str]] = mapped_column(Text)
    labels: Mapped[Optional[str]] = mapped_column(Text)
    wanted: Mapped[int] = mapped_column(Integer)  # how many workers it is to have
    started_at: Mapped[int] = mapped_column(BigInteger)
    stopped_at: Mapped[Optional[int]] = mapped_column(BigInteger)
    seen_at: Mapped[int] = mapped_column(BigInteger)

    __table_args__ = (CheckConstraint("wanted BETWEEN 0 AND 256", name="wanted"),)


class Setting(Model):
    """A setting that somebody changed. Those that stand at their default have no row."""

    __tablename__ = "settings"

    key: Mapped[str] = mapped_column(Text, primary_key=True)
    value: Mapped[str] = mapped_column(Text)  # JSON
    changed_at: Mapped[int] = mapped_column(BigInteger)
    changed_by: Mapped[str] = mapped_column(Text)


class Control(Model):
    """One row. Its revision grows with all that workers must notice: settings, queues, wishes, the schema."""

    __tablename__ = "control"

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    revision: Mapped[int] = mapped_column(BigInteger)
    pulse: Mapped[int] = mapped_column(BigInteger, server_default="0")  # counts the proofs that there can be a write
    folded_until: Mapped[int] = mapped_column(BigInteger, server_default="0")  # attempts before it are rolled up

    __table_args__ = (CheckConstraint("id = 1", name="one_row"),)


class Act(Model):
    """A bulk act: one verb on all jobs that matched a filter when it was asked, carried out in small transactions."""

    __tablename__ = "acts"

    id: Mapped[int] = mapped_column(Sequence, primary_key=True, autoincrement=True)
    verb: Mapped[str] = mapped_column(Text)
    filter: Mapped[str] = mapped_column(Text)  # a JSON object
    highest_seq: Mapped[int] = mapped_column(BigInteger)  # jobs that came later are left alone
    cursor_seq: Mapped[int] = mapped_column(BigInteger)  # those up to here are done
    actor: Mapped[str] = mapped_column(Text)
    state: Mapped[str] = mapped_column(Text)
    created_at: Mapped[int] = mapped_column(BigInteger)
    finished_at: Mapped[Optional[int]] = mapped_column(BigInteger)
    lease_until: Mapped[int] = mapped_column(BigInteger)  # whoever carries it out renews this; past it, another may
    moved: Mapped[int] = mapped_column(BigInteger, default=0)
    skipped: Mapped[int] = mapped_column(BigInteger, default=0)
    undoes: Mapped[Optional[int]] = mapped_column(Sequence)  # the act that this one takes back
    canary_seq: Mapped[Optional[int]] = mapped_column(BigInteger)  # the job that must complete before the rest goes

    __table_args__ = (
        CheckConstraint(_one_of("state", ("waiting", "running", "done", "stopped")), name="state"),
        {"sqlite_autoincrement": True},
    )


class Minute(Model):
    """What a queue did in one minute, folded from its attempts: what charts show, at any size of the table.

    Under names that no queue can have stand sums over all queues, see rollups.py.
    """

    __tablename__ = "minutes"

    at: Mapped[int] = mapped_column(BigInteger, primary_key=True)  # its beginning
    queue: Mapped[str] = mapped_column(Text, primary_key=True)
    completed: Mapped[int] = mapped_column(BigInteger)
    failed: Mapped[int] = mapped_column(BigInteger)  # attempts, whether or not they were retried
    dead: Mapped[int] = mapped_column(BigInteger)  # those that their jobs died with
    lost: Mapped[int] = mapped_column(BigInteger)
    waits: Mapped[str] = mapped_column(Text)  # see histograms.py
    runs: Mapped[str] = mapped_column(Text)


class CommandHour(Model):
    """What commands of one shape (numbers, paths and ids masked) did in one hour, folded likewise."""

    __tablename__ = "command_hours"

    at: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    shape: Mapped[str] = mapped_column(Text, primary_key=True)
    runs: Mapped[int] = mapped_column(BigInteger)
    failures: Mapped[int] = mapped_column(BigInteger)
    run_time: Mapped[int] = mapped_column(BigInteger)  # microseconds in all


class Group(Model):
    """What people said of dead letters that failed alike. A group of which nobody has said anything has no row."""

    __tablename__ = "failure_groups"

    key: Mapped[str] = mapped_column(Text, primary_key=True)  # Job.error_key
    note: Mapped[str] = mapped_column(Text)
    owner: Mapped[Optional[str]] = mapped_column(Text)
    acknowledged_at: Mapped[Optional[int]] = mapped_column(BigInteger)  # a death after it opens the group again
    acknowledged_by: Mapped[Optional[str]] = mapped_column(Text)
    changed_at: Mapped[int] = mapped_column(BigInteger)
    changed_by: Mapped[str] = mapped_column(Text)


class User(Model):
    """Somebody who may open the console."""

    __tablename__ = "users"

    id: Mapped[int] = mapped_column(Sequence, primary_key=True, autoincrement=True)
    name: Mapped[str] = mapped_column(Text, unique=True)
    role: Mapped[str] = mapped_column(Text)
    password_hash: Mapped[str] = mapped_column(Text)
    created_at: Mapped[int] = mapped_column(BigInteger)
    disabled_at: Mapped[Optional[int]] = mapped_column(BigInteger)

    __table_args__ = (
        CheckConstraint(_one_of("role", ROLES), name="role"),
        {"sqlite_autoincrement": True},
    )


class UserSession(Model):
    """Somebody who is signed in, in one browser. The cookie has the id, this row only its hash; no row, no session."""

    __tablename__ = "sessions"

    id_hash: Mapped[str] = mapped_column(Text, primary_key=True)
    user_id: Mapped[int] = mapped_column(Sequence, ForeignKey("users.id", ondelete="CASCADE"), index=True)
    created_at: Mapped[int] = mapped_column(BigInteger)
    seen_at: Mapped[int] = mapped_column(BigInteger)  # the last page or act; a poll does not count
    confirmed_at: Mapped[int] = mapped_column(BigInteger)  # when the password was last typed
    address: Mapped[Optional[str]] = mapped_column(Text)
    browser: Mapped[Optional[str]] = mapped_column(Text)


class View(Model):
    """A search that somebody keeps under a name."""

    __tablename__ = "views"

    id: Mapped[int] = mapped_column(Sequence, primary_key=True, autoincrement=True)
    user_id: Mapped[int] = mapped_column(Sequence, ForeignKey("users.id", ondelete="CASCADE"))
    name: Mapped[str] = mapped_column(Text)
    query: Mapped[str] = mapped_column(Text)  # of the list's URL
    created_at: Mapped[int] = mapped_column(BigInteger)

    __table_args__ = (UniqueConstraint("user_id", "name"), {"sqlite_autoincrement": True})


class Throttle(Model):
    """How often log-in has failed for an account or from an address, and until when it must wait."""

    __tablename__ = "throttles"

    key: Mapped[str] = mapped_column(Text, primary_key=True)
    failures: Mapped[int] = mapped_column(Integer)
    last_at: Mapped[int] = mapped_column(BigInteger)
    until: Mapped[int] = mapped_column(BigInteger)


class Token(Model):
    """What a program shows to the API. Only its hash is kept."""

    __tablename__ = "tokens"

    id: Mapped[int] = mapped_column(Sequence, primary_key=True, autoincrement=True)
    name: Mapped[str] = mapped_column(Text, unique=True)
    token_hash: Mapped[str] = mapped_column(Text, unique=True)
    scope: Mapped[str] = mapped_column(Text)
    created_at: Mapped[int] = mapped_column(BigInteger)
    created_by: Mapped[str] = mapped_column(Text)
    expires_at: Mapped[Optional[int]] = mapped_column(BigInteger)
    used_at: Mapped[Optional[int]] = mapped_column(BigInteger)  # to the minute
    used_from: Mapped[Optional[str]] = mapped_column(Text)
    revoked_at: Mapped[Optional[int]] = mapped_column(BigInteger)
    revoked_by: Mapped[Optional[str]] = mapped_column(Text)

    __table_args__ = (
        CheckConstraint(_one_of("scope", SCOPES), name="scope"),
        {"sqlite_autoincrement": True},
    )


class IdempotencyKey(Model):
    """A request of a program under an Idempotency-Key, and how it was answered; `status` None: not yet."""

    __tablename__ = "repeats"

    token_id: Mapped[int] = mapped_column(Sequence, ForeignKey("tokens.id", ondelete="CASCADE"), primary_key=True)
    key: Mapped[str] = mapped_column(Text, primary_key=True)
    request_hash: Mapped[str] = mapped_column(Text)
    at: Mapped[int] = mapped_column(BigInteger)
    status: Mapped[Optional[int]] = mapped_column(Integer)
    answer: Mapped[Optional[bytes]] = mapped_column(LargeBinary)


class Audit(Model):
    """One line of the audit trail. A trigger refuses to change any, and to delete any but old ones in retention."""

    __tablename__ = "audit"

    id: Mapped[int] = mapped_column(Sequence, primary_key=True, autoincrement=True)
    at: Mapped[int] = mapped_column(BigInteger)
    actor: Mapped[str] = mapped_column(Text)  # person:ana, token:deploy, anonymous
    verb: Mapped[str] = mapped_column(Text)
    subject: Mapped[str] = mapped_column(Text)  # as in events
    outcome: Mapped[str] = mapped_column(Text)
    face: Mapped[str] = mapped_column(Text)  # command, console, api; worker: retention
    address: Mapped[Optional[str]] = mapped_column(Text)
    detail: Mapped[Optional[str]] = mapped_column(Text)  # a JSON object; what changed is in `before` and `after`

    __table_args__ = (
        CheckConstraint(_one_of("outcome", ("done", "refused")), name="outcome"),
        Index("ix_audit_actor", "actor", "id"),
        Index("ix_audit_subject", "subject", "id"),
        {"sqlite_autoincrement": True},
    )


class SetupLink(Model):
    """The one-time links that make the first administrator; only their hashes are kept."""

    __tablename__ = "setup_links"

    token_hash: Mapped[str] = mapped_column(Text, primary_key=True)
    expires_at: Mapped[int] = mapped_column(BigInteger)
