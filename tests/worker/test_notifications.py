"""Failing jobs, real workers and their maintenance process: how many messages a channel gets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Callable, Optional

import pytest
from flask import Flask
from sqlalchemy import select

from tests.factories import make_queue
from tests.worker.conftest import Fleet, Queue
from tests.worker_connection import worker_database
from webapp.core import job_spec
from webapp.core.notices import SYSTEM_QUEUE
from webapp.core.storage.database import Database
from webapp.core.storage.transaction import transaction_on
from webapp.db import engines
from webapp.db.engines import reading, writing
from webapp.db.models import Alert, Channel, Delivery, Job, Rule
from webapp.jobs import actions
from webapp.jobs.filters import JobFilter
from webapp.lib import clock
from webapp.notifications import alerts, channels, dispatcher, rules
from worker.maintenance import process as maintenance
from worker.maintenance.chore_starter import ChoreStarter

Start = Callable[..., Fleet]


def add_channel(on: Optional[str] = None) -> None:
    """A channel, and a rule for it."""
    spec = channels.parse({"name": "ops", "kind": "webhook", "url": "http://127.0.0.1:9/"})
    stamps = {"created_at": clock.now(), "created_by": "person:ana", "changed_at": 1, "changed_by": "person:ana"}
    with writing() as session:
        target = channels.target_text(spec)
        session.add(Channel(id=1, name="ops", kind="webhook", target=target, hourly_cap=20, **stamps))
        session.flush()
        if on is not None:
            asked = rules.parse({"name": "r", "on": on, "channel": "ops"})
            values = {"events": rules.events_text(asked), "spec": rules.stored_text(asked)}
            session.add(Rule(name="r", channel_id=1, **values, **stamps))


def kinds() -> list[str]:
    with reading() as session:
        return list(session.scalars(select(Delivery.kind).order_by(Delivery.id)))


def stored_alerts() -> Sequence[Alert]:
    with reading() as session:
        return session.scalars(select(Alert).order_by(Alert.id)).all()


def sender_commands() -> list[str]:
    with reading() as session:
        return list(session.scalars(select(Job.command).where(Job.queue == SYSTEM_QUEUE)))


@pytest.mark.postgresql
@pytest.mark.parametrize("number", [30, pytest.param(999, marks=pytest.mark.full)])
def test_failures_of_three_kinds_are_three_messages_and_three_recoveries(
    queue: Queue, fleet: Start, tmp_path: Path, eventually: Callable[..., Any], number: int
) -> None:
    add_channel("job-dead")
    make_queue(SYSTEM_QUEUE, paused_by="person:ana")  # the messages wait
    fleet(count=2, slots=2, calm=clock.SECOND)
    commands = [f"test -e {tmp_path}/fixed || exit {1 + place % 3}" for place in range(number)]
    specs = [job_spec.parse({"command": command, "max_retries": 0}) for command in commands]
    ids = actions.enqueue(specs, "person:test")
    eventually(lambda: sum(alert.count for alert in stored_alerts()) == number)
    assert kinds() == ["alert"] * 3
    # Notices are counted in one transaction, and the sender is started in another.
    assert eventually(sender_commands) == [channels.sender_command(1)]
    (tmp_path / "fixed").touch()
    actions.advance(actions.start("requeue", JobFilter(state="dead"), "person:ana"))
    eventually(lambda: all(alert.closed_at is not None for alert in stored_alerts()))
    assert (len(stored_alerts()), len(ids)) == (3, number)
    assert kinds() == ["alert"] * 3 + ["recovery"] * 3


# --- what the maintenance process does in a tick ---


@pytest.fixture
def process(app: Flask, monkeypatch: pytest.MonkeyPatch) -> maintenance._Maintenance:
    monkeypatch.setattr(ChoreStarter, "start_if_due", lambda *_: None)
    database = worker_database()
    return maintenance._Maintenance(database, chores=ChoreStarter(database))


def test_without_a_channel_nothing_is_imported_or_done(process: maintenance._Maintenance) -> None:
    process.tick()
    before = process._dispatcher
    add_channel()
    process.tick()
    assert (before, process._dispatcher is None, process.rest) == (None, False, maintenance.REST)


def test_it_ticks_again_soon_while_notices_are_left(
    process: maintenance._Maintenance, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_channel()
    monkeypatch.setattr(dispatcher.Dispatcher, "tick", lambda _: True)
    process.tick()
    assert process.rest == maintenance.SHORT_REST


def test_a_fault_of_notifications_stops_nothing_else_and_they_try_again_later(
    process: maintenance._Maintenance, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_channel()
    tries: list[int] = []

    def fail(_: object) -> bool:
        tries.append(1)
        raise ValueError("a fault")

    monkeypatch.setattr(dispatcher.Dispatcher, "tick", fail)
    for _ in range(3):
        process.tick()
    assert len(tries) == 1
    process._notify_at = 0.0
    process.tick()
    assert len(tries) == 2


@pytest.mark.only("sqlite")
def test_a_process_that_holds_the_write_lock_delays_messages_only(
    process: maintenance._Maintenance, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_channel("job-dead")
    monkeypatch.setattr(alerts, "LOCK_TIMEOUT", 0.05)
    with transaction_on(engines.database()) as transaction:
        values = {"at": clock.now()}
        transaction.execute("INSERT INTO notices (at, event, subject) VALUES (:at, 'job-dead', 'group:k1')", values)
    elsewhere = maintenance._Maintenance(Database(engines.database().config, "worker"), chores=process._chores)
    with transaction_on(engines.database()):
        elsewhere.tick()
        assert kinds() == []
    elsewhere.tick()
    assert kinds() == ["alert"]
    elsewhere._connection.close()
