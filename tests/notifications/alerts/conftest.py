"""A clock that tests set, a dispatcher on the test's database, and what it told."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Optional

import pytest
from flask import Flask
from sqlalchemy import insert, select, update

from tests.factories import make_jobs
from tests.schedules.conftest import Clock
from tests.worker_connection import worker_database
from webapp.core import notices
from webapp.core.storage.transaction import Connection
from webapp.db.engines import reading, writing
from webapp.db.models import Alert, Channel, Delivery, Job, Notice, Rule
from webapp.lib import clock
from webapp.notifications import channels, rules
from webapp.notifications.dispatcher import Dispatcher

MINUTE = 60 * clock.SECOND
STAMPS = {"created_by": "person:ana", "changed_by": "person:ana"}


class Alerting:
    """Channels and rules, events for them, and the messages that a dispatcher makes of these."""

    def __init__(self, time: Clock) -> None:
        self.time = time
        self.connection = Connection(worker_database())
        self.dispatcher = Dispatcher(self.connection)

    def add_channel(self, name: str = "ops") -> int:
        spec = channels.parse({"name": name, "kind": "webhook", "url": "https://hooks.example.org/x"})
        stamps = {**STAMPS, "created_at": clock.now(), "changed_at": clock.now()}
        with writing() as session:
            values = {"kind": spec.kind, "target": channels.target_text(spec), "hourly_cap": spec.hourly_cap, **stamps}
            added = session.execute(insert(Channel).values(name=name, **values).returning(Channel.id))
            return int(added.scalar_one())

    def add_rule(self, on: str = "job-dead", name: str = "rule", *, muted_until: Optional[int] = None, **f: Any) -> int:
        """A rule, and its channel if that is missing."""
        spec = rules.parse({"name": name, "on": on, "channel": "ops", **f})
        with reading() as session:
            channel = session.scalar(select(Channel.id).where(Channel.name == spec.channel))
        stamps = {**STAMPS, "created_at": clock.now(), "changed_at": clock.now()}
        values = {"name": name, "channel_id": channel or self.add_channel(spec.channel), "muted_until": muted_until}
        values.update(events=rules.events_text(spec), spec=rules.stored_text(spec), **stamps)
        with writing() as session:
            return int(session.execute(insert(Rule).values(**values).returning(Rule.id)).scalar_one())

    def record(self, event: str, subject: str, **values: Any) -> None:
        with self.connection.transaction() as transaction:
            notices.record(transaction, event, subject, **values)

    def die(self, key: str = "k1", number: int = 1, command: str = "backup.sh", **values: Any) -> list[Job]:
        """Jobs die, as a worker leaves them."""
        now = clock.now()
        fields = {"state": "dead", "command": command, "error_key": key, "finished_at": now, **values}
        jobs = make_jobs([fields] * number)
        with self.connection.transaction() as transaction:
            for job in jobs:
                notices.record(transaction, "job-dead", f"group:{key}", at=now, seq=job.seq)
        return jobs

    def complete(self, command: str = "backup.sh", *, job: Optional[Job] = None) -> None:
        """A new job completes, or this one after its requeue."""
        now = clock.now()
        if job is None:
            make_jobs([{"state": "completed", "command": command, "finished_at": now}])
            return
        with writing() as session:
            values = {"state": "completed", "finished_at": now, "error_key": None, "attempts": Job.attempts + 1}
            session.execute(update(Job).where(Job.seq == job.seq).values(**values))

    def tick(self, *, checks: bool = False) -> None:
        """Do all that is due. `checks`: also what is done twice a minute."""
        if checks:
            self.dispatcher._checks._check_at = 0.0
        while self.dispatcher.tick():
            pass

    def later(self, minutes: float) -> None:
        self.time.pass_(minutes)
        self.tick()

    def rows(self) -> list[Delivery]:
        with reading() as session:
            return list(session.scalars(select(Delivery).order_by(Delivery.id)))

    def told(self) -> list[tuple[Any, ...]]:
        """Kind, key and count of each message."""
        details = [(row.kind, json.loads(row.detail)) for row in self.rows()]
        return [(kind, detail["key"].removeprefix("group:"), detail["count"]) for kind, detail in details]

    def kinds(self) -> list[str]:
        return [row.kind for row in self.rows()]

    def alerts(self, *, closed: bool = False) -> list[Alert]:
        with reading() as session:
            which = Alert.closed_at.is_not(None) if closed else Alert.closed_at.is_(None)
            return list(session.scalars(select(Alert).where(which).order_by(Alert.id)))

    def waiting_notices(self) -> int:
        with reading() as session:
            return session.query(Notice).filter(Notice.taken_at.is_(None)).count()

    def senders(self) -> list[Job]:
        with reading() as session:
            return list(session.scalars(select(Job).where(Job.queue == notices.SYSTEM_QUEUE).order_by(Job.seq)))


@pytest.fixture
def time(own_clock: None, monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(clock, "now", made)
    return made


@pytest.fixture
def alerting(app: Flask, time: Clock) -> Iterator[Alerting]:
    made = Alerting(time)
    yield made
    made.connection.close()
