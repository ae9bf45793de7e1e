"""Maintenance while all workers live: bulk actions, roll-ups, and no worker marked lost by mistake."""

from __future__ import annotations

import os
from typing import Any, Callable

import pytest
from flask import Flask
from sqlalchemy import select, text, update

from tests import factories
from tests.worker_connection import worker_database
from webapp.core import job_spec
from webapp.core.storage import db_errors, postgresql
from webapp.core.storage.locks import Busy
from webapp.core.storage.transaction import Connection
from webapp.db import engines
from webapp.db.engines import reading, writing
from webapp.db.models import BulkAction, CommandHour, Minute, Worker
from webapp.insight import rollups
from webapp.jobs import actions, job_detail, settings
from webapp.jobs.filters import JobFilter
from webapp.lib import clock
from worker import processes
from worker.maintenance import chores
from worker.maintenance import process as maintenance
from worker.maintenance.chores import Chores
from worker.maintenance.scaling import Scaling
from worker.messages import CHECK, GONE

DAY = clock.DAY


@pytest.fixture
def chores_process(app: Flask) -> Chores:
    return Chores(engines.database().config, retains=True)


@pytest.mark.usefixtures("app")
def test_a_bulk_action_whose_process_died_is_continued(chores_process: Chores) -> None:
    actions.enqueue([job_spec.parse({"command": "true"})] * (actions.BATCH + 5), "person:test")
    act = actions.start("cancel", JobFilter(), "person:ana")
    actions.advance(act)
    with writing() as session:
        session.execute(update(BulkAction).values(lease_until=1))
    chores_process.do_some()
    with reading() as session:
        row = session.get(BulkAction, act)
        assert row is not None
        assert (row.state, row.moved) == ("done", actions.BATCH + 5)


@pytest.mark.usefixtures("app")
def test_a_long_bulk_action_is_continued_in_several_rounds(
    chores_process: Chores, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(actions, "BATCH", 2)
    monkeypatch.setattr(chores, "ACTIONS_BUDGET", 0.0)
    actions.enqueue([job_spec.parse({"command": "true"})] * 7, "person:test")
    act = actions.start("cancel", JobFilter(), "person:ana")
    with writing() as session:
        session.execute(update(BulkAction).values(lease_until=1))
    moved, is_left = [], []
    for _ in range(4):
        is_left.append(chores_process.do_some())
        with reading() as session:
            moved.append(actions.find(session, act).moved)
    assert moved == [2, 4, 6, 7]
    assert is_left[:3] == [True, True, True]


def test_a_worker_with_a_heartbeat_is_not_marked_lost_whatever_its_clock_shows(app: Flask) -> None:
    worker = factories.make_worker(host="elsewhere", seen_at=1, heartbeat=5)
    one = maintenance._Maintenance(worker_database())
    for beat in range(3):
        with writing() as session:
            session.execute(update(Worker).values(heartbeat=10 + beat))
        one._last_tick -= 100
        one.tick()
    with reading() as session:
        kept = session.get(Worker, worker.id)
        assert kept is not None
        assert kept.state == "running"


def test_maintenance_on_the_same_machine_marks_a_worker_lost_first_because_it_can_end_its_commands(
    app: Flask,
) -> None:
    me = {"pid": os.getpid(), "pid_started": processes.started(os.getpid())}
    for name, host in (("here", processes.host_name()), ("there", "elsewhere")):
        factories.make_worker(id=name, host=host, boot_id=processes.boot_id(), **me)
    one, looks = maintenance._Maintenance(worker_database()), 0
    one.tick()
    gone: dict[str, int] = {}
    while len(gone) < 2:
        looks += 1
        one._last_tick -= maintenance.TICK
        one.tick()
        with reading() as session:
            for name in session.scalars(select(Worker.id).where(Worker.state == "expired")):
                gone.setdefault(name, looks)
    assert gone["there"] == gone["here"] + 2


def test_a_worker_without_a_heartbeat_for_the_lease_is_marked_lost_and_its_job_is_requeued(app: Flask) -> None:
    settings.set_setting("lease", 5, "person:test")
    worker = factories.make_worker(host="elsewhere", heartbeat=5)
    job = factories.make_job("processing", worker_id=worker.id, attempts=1)
    one = maintenance._Maintenance(worker_database())
    one.tick()
    for _ in range(3):  # no fewer looks, however short the lease is
        one._last_tick -= maintenance.TICK
        one.tick()
    with reading() as session:
        again = job_detail.find(session, job.id)
        assert again is not None
        [attempt] = job_detail.attempts(session, again)
        assert (again.state, again.losses, attempt.state) == ("pending", 1, "lost")
        assert "may still be running there" in (attempt.error or "")


def test_no_worker_is_marked_lost_while_maintenance_cannot_write(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.set_setting("lease", 5, "person:test")
    factories.make_worker(host="elsewhere")
    one = maintenance._Maintenance(worker_database())
    one.tick()

    def after_ticks(number: int) -> tuple[str, int]:
        for _ in range(number):
            one._last_tick -= maintenance.TICK
            one.tick()
        with reading() as session:
            revision = session.scalar(text("SELECT revision FROM control"))
            return session.scalars(select(Worker.state)).one(), int(revision or 0)

    def refuse(*_: object) -> None:
        raise Busy("the database is busy")

    with monkeypatch.context() as locked:
        locked.setattr(db_errors, "prove_writable", refuse)
        state, revision = after_ticks(6)
    assert state == "running"
    assert after_ticks(12) == ("expired", revision + 1)  # the revision tells the worker, in case it still runs


@pytest.mark.usefixtures("app")
def test_chores_fold_ended_attempts_into_roll_ups_and_delete_old_ones(chores_process: Chores) -> None:
    job = factories.make_job("completed")
    factories.make_attempt(job, 1, "completed", finished_at=clock.now() - 2 * rollups.FOLD_DELAY)
    with writing() as session:
        session.add(CommandHour(at=clock.now() - 9 * DAY, shape="old", runs=1, failures=0, run_time=1))
    while chores_process.do_some():
        pass
    with reading() as session:
        assert session.scalars(select(Minute.completed).where(Minute.queue == job.queue)).all() == [1]
        assert session.scalars(select(CommandHour.shape)).all() == ["echo hello"]


class _NoScaling(Scaling):
    """A scaling without a supervisor."""

    def __init__(self) -> None:
        self.ended = 0

    def tick(self, connection: Connection) -> None:
        pass

    def end(self, connection: Connection) -> None:
        self.ended += 1


def test_maintenance_ends_with_its_supervisor_even_if_a_change_is_signalled_at_the_same_time(
    app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wake-up signal after the last message of the supervisor does not hide that message."""

    def say_both(_pipe: int, hear: Callable[[str], None]) -> None:
        hear(GONE)
        hear(CHECK)

    monkeypatch.setattr(maintenance, "listen", say_both)
    monkeypatch.setattr(maintenance, "_listen_for_changes", lambda *_: True)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    scaling = _NoScaling()
    assert maintenance.run(worker_database(), -1, scaling) == 0
    assert scaling.ended == 1


@pytest.mark.only("sqlite")
def test_maintenance_ticks_less_often_while_nothing_runs(app: Flask) -> None:
    one = maintenance._Maintenance(worker_database())
    one.tick()
    assert one.rest == maintenance.REST
    factories.make_worker(id="w1", pid=os.getpid())
    factories.make_job("processing", worker_id="w1")
    one.tick()
    assert one.rest == maintenance.TICK


@pytest.mark.only("postgresql")
def test_maintenance_reads_the_servers_clock_again_although_its_connection_stays_open(
    app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, read = maintenance._Maintenance(worker_database()), list[Any]()
    one.tick()
    monkeypatch.setattr(postgresql, "follow_clock", read.append)
    one.tick()
    assert read == []
    one._connection._clock_at -= postgresql.CLOCK_INTERVAL + 1
    one.tick()
    one.tick()
    assert read == [one._connection.driver]
    one.close()
