"""Workers, supervisors, settings, the control row and bulk actions."""

from __future__ import annotations

from typing import Optional

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, Integer
from sqlalchemy.orm import Mapped, mapped_column

from webapp.db.engines import Model
from webapp.db.models.base import Sequence, one_of


class Worker(Model):
    """A worker process. The row stays for some time after its end. Each start gets a new random id."""

    __tablename__ = "workers"

    id: Mapped[str] = mapped_column(primary_key=True)
    supervisor_id: Mapped[str]
    host: Mapped[str]
    pid: Mapped[int] = mapped_column(Integer)
    pid_started: Mapped[Optional[float]]  # identifies the process, with pid and boot id
    boot_id: Mapped[str]
    version: Mapped[str]
    slots: Mapped[int] = mapped_column(Integer)
    queues: Mapped[Optional[str]]  # a JSON array of names; None: all
    queue_order: Mapped[Optional[str]]  # JSON: "strict", or an array of weights; None: by priority and age of the jobs
    labels: Mapped[Optional[str]]  # a JSON array without the host's label; None: no others
    state: Mapped[str]  # running, stopped (in good order), expired
    requested_state: Mapped[str] = mapped_column("wish")  # run, quiet, stop
    started_at: Mapped[int]
    stopped_at: Mapped[Optional[int]]
    heartbeat: Mapped[int]  # a counter: each observer uses its own clock
    seen_at: Mapped[int]  # time of the last heartbeat, for people only
    jobs_completed: Mapped[int]
    jobs_failed: Mapped[int]
    cpu_time: Mapped[Optional[int]]  # microseconds, with its ended commands
    memory: Mapped[Optional[int]]  # bytes, without its commands

    __table_args__ = (
        CheckConstraint(one_of("state", ("running", "stopped", "expired")), name="state"),
        CheckConstraint(one_of("wish", ("run", "quiet", "stop")), name="wish"),
    )


class Supervisor(Model):
    """A supervisor process, which starts and replaces workers. People can change the number of its workers."""

    __tablename__ = "supervisors"

    id: Mapped[str] = mapped_column(primary_key=True)
    host: Mapped[str]
    pid: Mapped[int] = mapped_column(Integer)
    version: Mapped[str]
    slots: Mapped[int] = mapped_column(Integer)  # of each of its workers, as are the next three
    queues: Mapped[Optional[str]]
    queue_order: Mapped[Optional[str]]
    labels: Mapped[Optional[str]]
    wanted: Mapped[int] = mapped_column(Integer)  # desired number of workers
    started_at: Mapped[int]
    stopped_at: Mapped[Optional[int]]
    seen_at: Mapped[int]

    __table_args__ = (CheckConstraint("wanted BETWEEN 0 AND 256", name="wanted"),)


class Setting(Model):
    """A changed setting, or a queue's own value: `keep_completed@mail`. Settings at their default have no row."""

    __tablename__ = "settings"

    key: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[str]  # JSON
    changed_at: Mapped[int]
    changed_by: Mapped[str]


class RetentionMark(Model):
    """Up to where retention is done with ended jobs: it reads on from here. Without a row it begins with the oldest.

    All rows go when a setting of retention changes, and when an undo puts ended jobs back.
    """

    __tablename__ = "retention_marks"

    name: Mapped[str] = mapped_column(primary_key=True)  # see worker/maintenance/ended_jobs.py and size_limit.py
    finished_at: Mapped[int]


class Control(Model):
    """A single row. Its revision grows when settings, queues, requested states or the schema change."""

    __tablename__ = "control"

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    revision: Mapped[int]
    pulse: Mapped[int] = mapped_column(server_default="0")  # counts test writes
    folded_until: Mapped[int] = mapped_column(server_default="0")  # roll-ups contain the attempts before this time

    __table_args__ = (CheckConstraint("id = 1", name="one_row"),)


class BulkAction(Model):
    """One verb on all jobs that matched a filter when it was requested. Runs in small transactions."""

    __tablename__ = "acts"

    id: Mapped[int] = mapped_column(Sequence, primary_key=True, autoincrement=True)
    verb: Mapped[str]
    filter: Mapped[str]  # a JSON object
    highest_seq: Mapped[int]  # later jobs are left alone
    cursor_seq: Mapped[int]  # jobs up to this one are done
    actor: Mapped[str]
    state: Mapped[str]
    created_at: Mapped[int]
    finished_at: Mapped[Optional[int]]
    lease_until: Mapped[int]  # renewed by the process that runs it; another may take over later
    moved: Mapped[int] = mapped_column(default=0)
    skipped: Mapped[int] = mapped_column(default=0)
    undoes: Mapped[Optional[int]] = mapped_column(Sequence)  # the action that this one undoes
    canary_seq: Mapped[Optional[int]]  # the first job that must complete before the others
    canary_count: Mapped[Optional[int]] = mapped_column(Integer)  # how many jobs must; their `act_id` is this action
    canary_rule: Mapped[Optional[str]]  # as asked for: '1', '3' or '10%'

    __table_args__ = (
        CheckConstraint(one_of("state", ("waiting", "running", "done", "stopped")), name="state"),
        {"sqlite_autoincrement": True},
    )


class GroupAction(Model):
    """How many dead letters of a failure group a bulk action has moved. It goes with its action."""

    __tablename__ = "group_actions"

    key: Mapped[str] = mapped_column(primary_key=True)  # Job.error_key
    act_id: Mapped[int] = mapped_column(Sequence, ForeignKey("acts.id", ondelete="CASCADE"), primary_key=True)
    moved: Mapped[int] = mapped_column(BigInteger)

    __table_args__ = (Index("ix_group_actions_act_id", "act_id"),)
