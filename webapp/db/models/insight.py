"""Roll-ups for charts, and notes on failure groups."""

from __future__ import annotations

from typing import Optional

from sqlalchemy import BigInteger, Index
from sqlalchemy.orm import Mapped, mapped_column

from webapp.db.engines import Model


class Minute(Model):
    """Totals of one queue for one minute, computed from its attempts. Charts read these.

    Rows with names that no queue can have are totals of all queues, or of half an hour of one queue, see
    insight/rollups.py. One of them, at 0, has all attempts ever.
    """

    __tablename__ = "minutes"

    at: Mapped[int] = mapped_column(primary_key=True)  # start of the minute
    queue: Mapped[str] = mapped_column(primary_key=True)
    completed: Mapped[int]
    failed: Mapped[int]  # failed attempts, retried or not
    dead: Mapped[int]  # last attempts of dead letters
    lost: Mapped[int]
    waits: Mapped[str]  # see lib/histograms.py
    runs: Mapped[str]


class CommandHour(Model):
    """Totals of commands with one pattern (numbers, paths and ids masked) for one hour."""

    __tablename__ = "command_hours"

    at: Mapped[int] = mapped_column(primary_key=True)
    shape: Mapped[str] = mapped_column(primary_key=True)
    runs: Mapped[int]
    failures: Mapped[int]
    run_time: Mapped[int]  # microseconds in total
    durations: Mapped[str] = mapped_column(server_default="{}", default="{}")  # see lib/histograms.py


class Group(Model):
    """A failure group: its history, and what people said about it. Its dead letters have its key.

    A roll-up of the chores writes the deaths, up to `Control.folded_until`, so a death costs no statement here.
    """

    __tablename__ = "failure_groups"

    key: Mapped[str] = mapped_column(primary_key=True)  # Job.error_key
    note: Mapped[str]
    owner: Mapped[Optional[str]]
    acknowledged_at: Mapped[Optional[int]]  # a later death reopens the group
    acknowledged_by: Mapped[Optional[str]]
    changed_at: Mapped[int]
    changed_by: Mapped[str]  # '': no user has said anything
    first_at: Mapped[Optional[int]]  # of all its deaths, also of jobs that were requeued or deleted since
    last_at: Mapped[Optional[int]]
    deaths: Mapped[int] = mapped_column(BigInteger, server_default="0", default=0)
    error: Mapped[Optional[str]]  # of its last death
    merged_into: Mapped[Optional[str]]  # the key that this group has since another version groups failures otherwise

    __table_args__ = (Index("ix_failure_groups_last_at", "last_at"),)
