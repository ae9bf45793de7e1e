"""Roll-ups for charts, and notes on failure groups."""

from __future__ import annotations

from typing import Optional

from sqlalchemy import BigInteger, Text
from sqlalchemy.orm import Mapped, mapped_column

from webapp.db.engines import Model


class Minute(Model):
    """Totals of one queue for one minute, computed from its attempts. Charts read these.

    Rows with names that no queue can have are totals of all queues, see insight/rollups.py.
    """

    __tablename__ = "minutes"

    at: Mapped[int] = mapped_column(BigInteger, primary_key=True)  # start of the minute
    queue: Mapped[str] = mapped_column(Text, primary_key=True)
    completed: Mapped[int] = mapped_column(BigInteger)
    failed: Mapped[int] = mapped_column(BigInteger)  # failed attempts, retried or not
    dead: Mapped[int] = mapped_column(BigInteger)  # last attempts of dead letters
    lost: Mapped[int] = mapped_column(BigInteger)
    waits: Mapped[str] = mapped_column(Text)  # see lib/histograms.py
    runs: Mapped[str] = mapped_column(Text)


class CommandHour(Model):
    """Totals of commands with one pattern (numbers, paths and ids masked) for one hour."""

    __tablename__ = "command_hours"

    at: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    shape: Mapped[str] = mapped_column(Text, primary_key=True)
    runs: Mapped[int] = mapped_column(BigInteger)
    failures: Mapped[int] = mapped_column(BigInteger)
    run_time: Mapped[int] = mapped_column(BigInteger)  # microseconds in total


class Group(Model):
    """A note on a failure group. Groups without note, owner or acknowledgement have no row."""

    __tablename__ = "failure_groups"

    key: Mapped[str] = mapped_column(Text, primary_key=True)  # Job.error_key
    note: Mapped[str] = mapped_column(Text)
    owner: Mapped[Optional[str]] = mapped_column(Text)
    acknowledged_at: Mapped[Optional[int]] = mapped_column(BigInteger)  # a later death reopens the group
    acknowledged_by: Mapped[Optional[str]] = mapped_column(Text)
    changed_at: Mapped[int] = mapped_column(BigInteger)
    changed_by: Mapped[str] = mapped_column(Text)
