"""Output is deleted before its job, by age and by the size of the database. A queue can have its own ages."""

from __future__ import annotations

import logging
import os
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import event, func, select, text, update
from sqlalchemy.orm import Session

from tests import factories
from tests.worker.maintenance.test_retention import DAY, ended, left, prune
from webapp.core.settings import Settings
from webapp.core.storage import sqlite
from webapp.core.storage.size import MIB
from webapp.db import engines
from webapp.db.engines import reading, writing
from webapp.db.models import Attempt, Job, RetentionMark
from webapp.insight import size_limit
from webapp.jobs import actions, deletion, settings
from webapp.lib import clock
from worker.maintenance import free_space
from worker.maintenance.ended_jobs import Walk
from worker.maintenance.retention import Retention

pytestmark = pytest.mark.usefixtures("app")


def outputs() -> dict[str, list[bytes]]:
    """The output of each job's attempts."""
    found: dict[str, list[bytes]] = {}
    with reading() as session:
        rows = select(Job.id, Attempt.output).join(Attempt, Attempt.job_seq == Job.seq).order_by(Attempt.number)
        for id_, output in session.execute(rows):
            found.setdefault(id_, []).append(output)
    return found


def used() -> int:
    with reading() as session:
        return size_limit.used(session)


def prune_as_set() -> None:
    """Run a whole round with the stored settings."""
    with reading() as session:
        values = settings.load(session)
    round_ = Retention(5.0)
    while round_.resume(values):
        pass


def marks() -> dict[str, int]:
    with reading() as session:
        return dict(session.execute(select(RetentionMark.name, RetentionMark.finished_at)).tuples().all())


# --- by age ----------------------------------------------------------------------------------------------------------


@pytest.mark.postgresql
def test_output_of_ended_jobs_is_deleted_at_its_own_age_and_the_jobs_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deletion, "BYTES", 100)
    old = ended("completed", 3, b"x" * 60, b"y" * 60, b"", b"z" * 500)
    cancelled, dead = ended("cancelled", 3, b"c"), ended("dead", 3, b"d")
    young, unfinished = ended("completed", 1, b"young"), factories.make_job("failed")
    factories.make_attempt(unfinished, output=b"first", finished_at=1)
    with writing() as session:
        session.execute(update(Attempt).where(Attempt.number == 4).values(output_cut=10, output_dropped=7))
    prune(keep_output=2)
    assert outputs() == {
        old.id: [b"", b"", b"", b""],
        cancelled.id: [b""],
        dead.id: [b"d"],
        young.id: [b"young"],
        unfinished.id: [b"first"],
    }
    with reading() as session:
        rows = select(Attempt.output_dropped, Attempt.output_cut, Attempt.output_runs).where(Attempt.job_seq == old.seq)
        found = session.execute(rows.order_by(Attempt.number)).tuples().all()
    assert found == [(60, 0, ""), (60, 0, ""), (0, None, "0"), (507, 0, "")]


def test_a_round_starts_where_the_last_one_ended_until_a_setting_changes() -> None:
    old = ended("completed", 3, b"x")
    ended("completed", 2.9, b"")
    settings.set_setting("keep_output", 2, "person:ana", confirmed=True)
    prune_as_set()
    assert list(marks()) == ["keep_output/completed/2"]
    with writing() as session:
        session.execute(update(Attempt).where(Attempt.job_seq == old.seq).values(output=b"x"))
    prune_as_set()
    assert outputs()[old.id] == [b"x"]  # it was not read again
    settings.set_setting("keep_output", 1, "person:ana", confirmed=True)
    assert marks() == {}
    prune_as_set()
    assert outputs()[old.id] == [b""]


def test_an_undo_that_puts_jobs_before_the_mark_removes_it() -> None:
    job = ended("cancelled", 9)
    with writing() as session:
        session.add(RetentionMark(name="keep_output/cancelled/2", finished_at=clock.now()))
    action = actions.apply("requeue", [job.id], "person:ana").undo
    assert action is not None
    assert marks()
    actions.undo(action, "person:ana")
    assert marks() == {}


def test_a_queue_has_its_own_ages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deletion, "JOBS", 2)
    jobs = {
        (queue, days): factories.make_job("completed", queue=queue, finished_at=clock.now() - days * DAY).id
        for days in (400, 40, 8, 3)
        for queue in ("default", "mail", "pay", "news")
    }
    for queue, days in (("mail", 7), ("pay", 0), ("news", 365)):
        settings.set_setting(f"keep_completed@{queue}", days, "person:ana", confirmed=True)
    kept = {("default", 8), ("default", 3), ("mail", 3), ("news", 40), ("news", 8), ("news", 3)}
    kept |= {("pay", days) for days in (400, 40, 8, 3)}
    for _ in range(2):  # the second one begins at the marks
        prune_as_set()
        assert left() == {jobs[one] for one in kept}
    settings.set_setting("keep_completed@pay", 100, "person:ana", confirmed=True)
    settings.unset_setting("keep_completed@news", "person:ana", confirmed=True)
    prune_as_set()
    assert left() == {jobs[one] for one in kept - {("pay", 400), ("news", 40)}}


@pytest.mark.postgresql
def test_a_walk_reads_its_index_and_sorts_nothing(app: Flask) -> None:
    found: list[str] = []
    with engines.read_engine().connect() as connection:

        def see(_c: object, _cursor: object, statement: str, parameters: Any, *_: object) -> None:
            if "FROM jobs" in statement and "EXPLAIN" not in statement:
                explain = "EXPLAIN QUERY PLAN " if engines.is_sqlite() else "EXPLAIN "
                rows = connection.exec_driver_sql(explain + statement, parameters).fetchall()
                found.append("\n".join(str(row[-1]) for row in rows))

        event.listen(connection, "before_cursor_execute", see)
        Walk("completed", clock.now(), 5.0, mark="size/completed")._next(Session(connection), 10)
    assert len(found) == 1
    assert "ix_jobs_ended" in found[0]
    assert "TEMP B-TREE" not in found[0]
    assert "Sort" not in found[0]


# --- by size ---------------------------------------------------------------------------------------------------------


def large(state: str, days: float, kib: int = 512) -> Job:
    return ended(state, days, os.urandom(kib * 1024))


def limited(mib: int) -> None:
    settings.set_setting("max_database_size", mib, "person:ana", confirmed=True)
    prune_as_set()


@pytest.mark.postgresql
def test_the_oldest_output_of_completed_jobs_is_deleted_first_and_then_that_of_cancelled_ones() -> None:
    completed = [large("completed", 20 - number) for number in range(6)]
    cancelled, dead, empty = large("cancelled", 29, 1024), large("dead", 29, 16), ended("completed", 29)
    unfinished = factories.make_job("failed")
    factories.make_attempt(unfinished, output=os.urandom(1024))
    before = used()
    assert before > 4 * MIB
    limited(before // MIB + 1)
    assert all(all(output) for id_, output in outputs().items() if id_ != empty.id)
    limited(3)
    kept = outputs()
    gone = [job.id for job in completed if kept[job.id] == [b""]]
    assert gone == [job.id for job in completed[: len(gone)]]
    assert 0 < len(gone) < 6
    assert all(kept[job.id] != [b""] for job in (cancelled, dead, unfinished))
    assert used() <= 3 * MIB
    limited(1)
    kept = outputs()
    assert all(kept[job.id] == [b""] for job in (*completed, cancelled))
    assert kept[dead.id] != [b""]
    assert left() == {job.id for job in (*completed, cancelled, dead, empty, unfinished)}


def test_if_output_is_not_enough_jobs_are_deleted_and_the_rest_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    dead = [large("dead", 9) for _ in range(4)]
    unfinished = factories.make_job("pending")
    for number in range(5):
        ended("completed" if number % 2 else "cancelled", 0.1 * number, b"x" * 1000)
    caplog.set_level(logging.INFO, "queuectl.retention")
    limited(1)
    assert left() == {unfinished.id, *(job.id for job in dead)}
    assert all(outputs()[job.id] != [b""] for job in dead)
    told = caplog.records[-1].getMessage()
    assert "more than max_database_size (1.0 MiB), and nothing more can be deleted" in told
    assert "4 dead letters, 1 unfinished job and the records of the queue" in told
    with reading() as session:
        found = size_limit.overrun(session, settings.load(session), only_stuck=True)
    assert found is not None
    assert found.is_stuck
    for job in dead:
        factories.change_job(job.id, state="completed")
    prune_as_set()
    with reading() as session:
        assert size_limit.overrun(session, settings.load(session)) is None
    assert size_limit.STUCK not in marks()


def test_a_limit_that_retention_will_meet_is_no_alarm() -> None:
    large("completed", 1, 2000)
    with writing() as session:
        values = Settings({"max_database_size": "1"})
        assert size_limit.overrun(session, values, only_stuck=True) is None
        found = size_limit.overrun(session, values)
    assert found is not None
    assert not found.is_stuck


# --- back to the disk ------------------------------------------------------------------------------------------------


def pages() -> tuple[int, int]:
    with reading() as session:
        return tuple(session.execute(text("SELECT * FROM pragma_page_count, pragma_freelist_count")).one())


@pytest.fixture
def on_sqlite(app: Flask) -> None:
    if not engines.is_sqlite():
        pytest.skip("PostgreSQL keeps its files")


@pytest.mark.usefixtures("on_sqlite")
def test_free_pages_return_to_the_disk_in_the_same_round(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(free_space, "PAGES", 50)
    for _ in range(5):
        large("completed", 40)
    before, _ = pages()
    prune()
    after, free = pages()
    assert left() == set()
    assert after < before - 500
    assert free <= after // free_space.RESERVE


@pytest.mark.postgresql
@pytest.mark.usefixtures("on_sqlite")
def test_a_large_log_is_emptied(monkeypatch: pytest.MonkeyPatch) -> None:
    path = engines.database().config.sqlite_path
    log = path.with_name(path.name + "-wal")
    large("completed", 1)
    monkeypatch.setattr(sqlite, "LOG_SIZE_LIMIT", log.stat().st_size)
    prune()
    assert log.stat().st_size > 0
    monkeypatch.setattr(sqlite, "LOG_SIZE_LIMIT", 1000)
    with reading() as session:  # a reader that needs it
        session.scalar(select(func.count()).select_from(Job))
        large("completed", 1)
        prune()
        assert log.stat().st_size > 0
    prune()
    assert log.stat().st_size == 0
