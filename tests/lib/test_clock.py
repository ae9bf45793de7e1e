"""One clock for all that share a queue: on PostgreSQL the server's, whatever a machine's own says."""

from __future__ import annotations

import time
from typing import Any

import pytest
import time_machine
from flask import Flask
from sqlalchemy import select, text

from tests.worker_connection import worker_connection
from webapp.core import job_spec, postgresql, schema
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
def test_on_sqlite_it_is_the_machines(app: Flask) -> None:
    assert abs(clock.now() - time.time_ns() // 1000) < clock.SECOND


@on_postgresql
def test_a_machine_whose_clock_is_wrong_goes_by_the_servers(app: Flask) -> None:
    with time_machine.travel(1_000_000_000):
        engines.write_engine().dispose()
        with engines.writing():
            pass
        assert off_by() < clock.SECOND


@on_postgresql
def test_a_clock_that_is_set_while_the_process_runs_changes_nothing(app: Flask) -> None:
    before = servers()
    with time_machine.travel(time.time() + 7200):
        assert abs(clock.now() - before) < 5 * clock.SECOND


@on_postgresql
def test_a_clock_that_drifted_is_put_right_when_a_connection_is_taken(
    app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    servers()
    clock.follow(clock.now() + HOUR)
    monkeypatch.setattr(postgresql, "CLOCK_INTERVAL", 0)
    servers()
    assert off_by() < clock.SECOND


@pytest.mark.only("sqlite")
def test_an_answer_that_took_longer_than_another_does_not_set_the_clock_back(app: Flask) -> None:
    clock.follow(1_000_000 * clock.SECOND)
    before = clock.now()
    clock.follow(
        before - clock.seconds(3), clock.counter() - clock.seconds(4)
    )  # it fits: it was three seconds under way
    assert clock.now() >= before
    clock.follow(before - clock.seconds(3), clock.counter() - clock.seconds(1))
    assert before - clock.seconds(2.5) < clock.now() < before
    clock.follow(None)


@on_postgresql
def test_what_is_due_is_decided_by_the_server_and_not_by_a_worker_whose_clock_is_ahead(
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
def test_a_job_for_later_is_for_later_by_the_server_whoever_submits_it(app: Flask) -> None:
    with time_machine.travel(time.time() + 7200):
        job = stored(submit(delay=60))
    assert abs(job.run_at - servers() - clock.seconds(60)) < 5 * clock.SECOND
