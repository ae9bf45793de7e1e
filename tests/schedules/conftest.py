"""A clock that tests set, a decider on the test's database, and the rows that it wrote."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import select, update

from tests.worker_connection import worker_database
from webapp.core.storage.transaction import Connection
from webapp.db.engines import reading, writing
from webapp.db.models import Fire, Job, Schedule
from webapp.lib import clock
from webapp.schedules import actions, spec
from webapp.schedules.decider import Decider

START = clock.parse_iso("2026-06-01T00:00:30Z")
MINUTE = 60 * clock.SECOND


class Clock:
    """The time of the queue's clock, in microseconds."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> int:
        return self.now

    def pass_(self, minutes: float = 1) -> None:
        self.now += round(minutes * MINUTE)


class Schedules:
    """Adds schedules, decides what is due, and reads the result."""

    def __init__(self, time: Clock) -> None:
        self.time = time
        self.connection = Connection(worker_database())
        self.decider = Decider(self.connection)

    def add(self, name: str = "s", **fields: Any) -> None:
        described = {"name": name, "cron": "* * * * *", "job": {"command": "true"}, **fields}
        if "every" in fields:
            del described["cron"]
        actions.add(spec.parse(described), "person:ana")

    def decide(self) -> None:
        while self.decider.decide():
            pass

    def later(self, minutes: float = 1) -> None:
        """Let time pass, without a decider until its end."""
        self.time.pass_(minutes)
        self.decide()

    def ledger(self, name: str = "s") -> list[tuple[float, str]]:
        """Each fire as minutes since START's minute, and its outcome with the first word of its reason."""
        with reading() as session:
            rows = session.execute(
                select(Fire.due_at, Fire.outcome, Fire.reason)
                .join(Schedule, Schedule.id == Fire.schedule_id)
                .where(Schedule.name == name)
                .order_by(Fire.due_at)
            ).all()
        base = START - 30 * clock.SECOND
        return [
            ((row.due_at - base) / MINUTE, f"{row.outcome} {(row.reason or '').split(':')[0]}".strip()) for row in rows
        ]

    def outcomes(self, name: str = "s") -> list[str]:
        return [outcome for _, outcome in self.ledger(name)]

    def jobs(self, name: str = "s") -> list[Job]:
        with reading() as session:
            return list(session.scalars(select(Job).where(Job.schedule == name).order_by(Job.seq)))

    def end(self, state: str = "completed", name: str = "s") -> None:
        """End all jobs of a schedule that have not ended."""
        with writing() as session:
            values = {"state": state, "finished_at": clock.now(), "started_at": clock.now(), "token": None}
            values.update(worker_id=None, cancel_requested_at=None, cancel_requested_by=None)
            session.execute(update(Job).where(Job.schedule == name, Job.finished_at.is_(None)).values(**values))

    def start(self, name: str = "s") -> None:
        """A worker has claimed the jobs of a schedule."""
        with writing() as session:
            values = {"state": "processing", "token": "t", "worker_id": "w", "started_at": clock.now(), "attempts": 1}
            session.execute(update(Job).where(Job.schedule == name, Job.state == "pending").values(**values))

    def row(self, name: str = "s") -> Schedule:
        with reading() as session:
            found = session.scalar(select(Schedule).where(Schedule.name == name))
        assert found is not None
        return found


@pytest.fixture
def time(own_clock: None, monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(clock, "now", made)
    return made


@pytest.fixture
def schedules(app: Flask, time: Clock) -> Iterator[Schedules]:
    made = Schedules(time)
    yield made
    made.connection.close()
