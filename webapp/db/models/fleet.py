"""Workers and supervisors; settings, the control row, and actions on jobs."""

from __future__ import annotations

from typing import Optional

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Float,
    Integer,
    Text,
)
from sqlalchemy.orm import Mapped, mapped_column

from webapp.db.engines import Model
from webapp.db.models.base import Sequence, one_of


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
    requested_state: Mapped[str] = mapped_column("wish", Text)  # by a person: run, quiet, stop
    started_at: Mapped[int] = mapped_column(BigInteger)
    stopped_at: Mapped[Optional[int]] = mapped_column(BigInteger)
    heartbeat: Mapped[int] = mapped_column(BigInteger)  # a counter: whoever watches it judges by his own clock
    seen_at: Mapped[int] = mapped_column(BigInteger)  # the wall clock at the last beat, for people only
    jobs_completed: Mapped[int] = mapped_column(BigInteger)
    jobs_failed: Mapped[int] = mapped_column(BigInteger)
    cpu_time: Mapped[Optional[int]] = mapped_column(BigInteger)  # microseconds, its own and its ended commands'
    memory: Mapped[Optional[int]] = mapped_column(BigInteger)  # bytes, its own

    __table_args__ = (
        CheckConstraint(one_of("state", ("running", "stopped", "expired")), name="state"),
        CheckConstraint(one_of("wish", ("run", "quiet", "stop")), name="wish"),
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


class BulkAction(Model):
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
        CheckConstraint(one_of("state", ("waiting", "running", "done", "stopped")), name="state"),
        {"sqlite_autoincrement": True},
    )
