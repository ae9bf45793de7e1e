"""One clock for all processes of a queue: on PostgreSQL that of the server, whatever the machine clock shows."""

from __future__ import annotations

import time
from typing import Any

import pytest
import time_machine
from flask import Flask
from sqlalchemy import select, text

from tests.worker_connection import worker_connection
from webapp.core import job_spec
from webapp.core.storage import postgresql, schema
from webapp.db import engines
from webapp.db.engines import reading
from webapp.db.models import Job
from webapp.jobs import actions
from webapp.lib import clock
from worker.loop.claims import Claims

pytestmark = pytest.mark.postgresql

HOUR = clock.seconds(3600)
on_postgresql = pytest.mark.only("postgresql")


def servers() -> int:
    with reading() as session:
        return int(session.execute(text(schema.SERVER_TIME)).scalar_one())


def submit(**fields: Any) -> str:
    return actions.enqueue([job_spec.parse({"command": "true", **fields})], "person:test")[0]


def stored(job_id: str) -> Job:
    with reading() as session:
        return session.scalars(select(Job).where(Job.id == job_id)).one()


def off_by() -> int:
    """Microseconds between the process's clock and the server's."""
    return abs(clock.now() - servers())


@pytest.mark.only("sqlite")
def test_on_sqlite_the_clock_is_that_of_the_machine(app: Flask) -> None:
    assert abs(clock.now() - time.time_ns() // 1000) < clock.SECOND


@on_postgresql
def test_a_machine_with_a_wrong_clock_follows_the_server(app: Flask) -> None:
    with time_machine.travel(1_000_000_000):
        engines.write_engine().dispose()
        with engines.writing():
            pass
        assert off_by() < clock.SECOND


@on_postgresql
def test_setting_the_machine_clock_in_a_running_process_changes_nothing(app: Flask) -> None:
    before = servers()
    with time_machine.travel(time.time() + 7200):
        assert abs(clock.now() - before) < 5 * clock.SECOND


@on_postgresql
def test_a_clock_that_drifted_is_corrected_by_a_new_connection(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    servers()
    clock.follow(clock.now() + HOUR)
    monkeypatch.setattr(postgresql, "CLOCK_INTERVAL", 0)
    servers()
    assert off_by() < clock.SECOND


@pytest.mark.only("sqlite")
def test_a_slow_answer_does_not_set_the_clock_back(app: Flask) -> None:
    clock.follow(1_000_000 * clock.SECOND)
    before = clock.now()
    clock.follow(
        before - clock.seconds(3), clock.counter() - clock.seconds(4)
    )  # it fits: the answer took three seconds
    assert clock.now() >= before
    clock.follow(before - clock.seconds(3), clock.counter() - clock.seconds(1))
    assert before - clock.seconds(2.5) < clock.now() < before
    clock.follow(None)


@on_postgresql
def test_the_server_decides_what_is_due_even_if_a_worker_clock_is_ahead(
    app: Flask,
) -> None:
    submit(id="later", delay=60)
    connection = worker_connection()
    clock.follow(clock.now() + HOUR)
    with Claims(connection, "w1") as turn:
        turn.read_state()
        assert turn.promote() == 0
    connection.close()
    assert stored("later").state == "scheduled"
    assert off_by() < clock.SECOND, "a turn has asked the server"


@on_postgresql
def test_a_delay_counts_on_the_clock_of_the_server(app: Flask) -> None:
    with time_machine.travel(time.time() + 7200):
        job = stored(submit(delay=60))
    assert abs(job.run_at - servers() - clock.seconds(60)) < 5 * clock.SECOND
