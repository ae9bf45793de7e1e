"""Roll-ups for charts, and what people wrote about groups of dead letters."""

from __future__ import annotations

from typing import Optional

from sqlalchemy import (
    BigInteger,
    Text,
)
from sqlalchemy.orm import Mapped, mapped_column

from webapp.db.engines import Model


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
