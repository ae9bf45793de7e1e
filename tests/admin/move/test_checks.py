"""Checks before a move: faults are reported first, and refused databases are left alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from flask import Flask
from sqlalchemy import inspect, text, update

from tests import full_database
from tests.admin.move.moves import back, contents_of, examine, go
from tests.conftest import opened
from tests.factories import make_job
from webapp.admin import move
from webapp.admin.move import MoveError, Side, checks
from webapp.config import Config
from webapp.core.storage import relocated
from webapp.db import engines, models
from webapp.db.application import create_core


def test_a_dry_run_counts_and_changes_nothing(app: Flask, target: Config) -> None:
    full_database.fill()
    before = full_database.contents()
    report = examine(target)
    assert report.counts == {table: len(rows) for table, rows in before.items()}
    assert report.size > 3 * full_database.MEBIBYTE
    assert (report.faults, report.misfits, report.running, report.target_state) == ([], [], [], "nothing")
    assert full_database.contents() == before
    with Side.at(target) as side:
        assert not (target.is_sqlite and target.sqlite_path.exists())
        if not target.is_sqlite:
            with side.reading() as connection:
                assert inspect(connection).get_table_names() == []
    with engines.read_engine().connect() as connection:
        assert not inspect(connection).has_table(relocated.TABLE)


def test_values_that_postgresql_cannot_store_are_reported_before_the_move(
    sqlite_app: Flask, postgresql_target: Config
) -> None:
    job, other = make_job(id="nul"), make_job("completed", id="large")
    with engines.writing() as session:
        session.execute(update(models.Job).where(models.Job.seq == job.seq).values(command="a\0b"))
        session.execute(update(models.Job).where(models.Job.seq == other.seq).values(exit_code=3221225477))
        session.execute(text("UPDATE jobs SET cwd = CAST(x'ff41' AS TEXT) WHERE id = 'nul'"))
    found = {str(misfit) for misfit in examine(postgresql_target).misfits}
    assert found == {
        f"jobs {job.seq}: command contains a NUL character, which PostgreSQL cannot store",
        f"jobs {job.seq}: cwd is not UTF-8 text",
        f"jobs {other.seq}: exit_code is 3221225477, too large for the column in PostgreSQL",
    }
    with pytest.raises(MoveError, match=r"and 2 more. --dry-run lists all of them"):
        go(postgresql_target)
    make_job()  # the queue goes on


def test_a_value_that_does_not_fit_and_comes_after_the_check_is_reported_by_the_copy(
    sqlite_app: Flask, postgresql_target: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "misfits", lambda *_: [])
    job = make_job()
    with engines.writing() as session:
        session.execute(update(models.Job).where(models.Job.seq == job.seq).values(command="a\0b"))
    with pytest.raises(MoveError, match=r"^postgresql://.* refuses rows of jobs: .*NUL.*\.$"):
        go(postgresql_target)
    back(postgresql_target)
    make_job()


def test_a_database_that_is_not_empty_is_refused_and_left_alone(app: Flask, target: Config) -> None:
    for _ in opened(create_core(target)):
        make_job(id="theirs")
        before = full_database.contents()
    with pytest.raises(MoveError, match=r"is not empty \(jobs: 1\)\. Use an empty database"):
        go(target)
    assert contents_of(target) == before
    make_job()


def test_a_database_that_was_only_started_counts_as_empty(app: Flask, target: Config) -> None:
    create_core(target)
    full_database.fill(large=10)
    go(target)
    assert contents_of(target) == full_database.contents()


def test_the_tables_of_another_program_are_left_alone(app: Flask, postgresql_target: Config) -> None:
    with Side.at(postgresql_target) as side, side.writing() as connection:
        connection.execute(text("CREATE TABLE jobs (theirs integer)"))
    with pytest.raises(MoveError, match="has a table jobs that is not queuectl's"):
        go(postgresql_target)


def test_a_queue_cannot_move_to_its_own_address(app: Flask, config: Config) -> None:
    same = Config(config.home, config.database_url or f"sqlite:///{config.sqlite_path}", None)
    with pytest.raises(MoveError, match=r"is at .* already"):
        go(same)


def test_an_unreachable_database_is_reported_in_one_line(app: Flask, home: Path) -> None:
    nowhere = Config(home, "postgresql+psycopg://ana:s3cret@127.0.0.1:1/queue", None)
    with pytest.raises(MoveError, match=r"postgresql://ana@127.0.0.1:1/queue cannot be read: .*refused") as caught:
        examine(nowhere)
    assert "s3cret" not in str(caught.value)
    with pytest.raises(MoveError, match=r"the folder /no/such/place does not exist. Create it first"):
        examine(Config(home, "sqlite:////no/such/place/queue.db", None))


def test_a_second_move_at_the_same_time_is_refused(app: Flask, config: Config) -> None:
    with (
        move.move_lock(config),
        pytest.raises(MoveError, match="another `db move` is running"),
        move.move_lock(config),
    ):
        pass
