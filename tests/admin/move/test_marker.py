"""A queue that is being moved or was moved refuses every write; an unfinished copy cannot be used."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from flask import Flask
from sqlalchemy import inspect, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ProgrammingError

from tests import full_database
from tests.admin.move.moves import Interrupted, back, contents_of, go, stop_at
from tests.conftest import configuration, opened
from tests.factories import make_job
from tests.worker_connection import worker_connection
from webapp.admin.move import MoveError, Side
from webapp.config import Config, ConfigError
from webapp.core.storage import relocated
from webapp.core.storage.relocated import Relocated
from webapp.db import engines
from webapp.db.application import create_core


def test_every_table_refuses_every_write_with_the_new_address(app: Flask, target: Config) -> None:
    full_database.fill(large=10)
    go(target)
    address = Side(create_core(target)).address
    with engines.read_engine().connect() as connection:
        tables = set(inspect(connection).get_table_names()) - {relocated.TABLE}
        columns = {table: inspect(connection).get_columns(table)[0]["name"] for table in tables}
    assert len(tables) > 20
    for table, column in columns.items():
        for statement in (
            f"INSERT INTO {table} SELECT * FROM {table}",
            f"UPDATE {table} SET {column} = {column}",
            f"DELETE FROM {table}",
        ):
            # What nobody may change at all says so first, on PostgreSQL.
            words = rf"this queue was moved to {re.escape(address)} on |audit trail is append-only"
            with pytest.raises((Relocated, ProgrammingError), match=words):
                write(statement)
    if not engines.is_sqlite():
        with pytest.raises(Relocated):
            write("TRUNCATE jobs CASCADE")


def write(statement: str) -> None:
    with engines.writing() as session:
        session.execute(text(statement))


def test_a_remaining_worker_is_refused_through_its_own_connection(app: Flask, target: Config) -> None:
    make_job()
    worker = worker_connection()
    try:
        go(target)
        with pytest.raises(Relocated, match="this queue was moved to"), worker.transaction() as transaction:
            transaction.execute("UPDATE jobs SET priority = 1")
        assert issubclass(Relocated, worker.errors)
    finally:
        worker.close()


def test_no_password_is_shown_anywhere(app: Flask, postgresql_target: Config, home: Path) -> None:
    url = make_url(str(postgresql_target.database_url)).set(password="s3cret")
    go(configuration(home, url))
    with engines.reading() as session:
        told = [
            *session.execute(text(f"SELECT * FROM {relocated.TABLE}")),
            *session.execute(text("SELECT * FROM audit")),
        ]
    with pytest.raises(Relocated) as caught:
        make_job()
    assert "postgresql://" in str(caught.value)
    assert "s3cret" not in repr(told) + str(caught.value)


def test_an_unfinished_copy_cannot_be_used_and_the_source_refuses_writes(
    app: Flask, target: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    full_database.fill(large=10)
    stop_at(monkeypatch, "audit")
    with pytest.raises(Interrupted):
        go(target)
    with pytest.raises(
        ConfigError, match=r"is the unfinished copy of the queue at .*Run `manage.py db move` there again"
    ):
        create_core(target)
    with pytest.raises(
        Relocated, match=r"is being moved to .* and is read-only until the move is complete. Try again then"
    ):
        make_job()
    monkeypatch.undo()
    go(target)
    assert contents_of(target) == full_database.contents()


def test_an_unfinished_copy_is_refused_to_other_queues(
    app: Flask, target: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_at(monkeypatch, "audit")
    full_database.fill(large=10)
    with pytest.raises(Interrupted):
        go(target)
    for _ in opened(create_core(Config(tmp_path / "another", None, None))):
        with pytest.raises(MoveError, match="is the unfinished copy of another queue"):
            go(target)


def test_a_queue_that_is_being_moved_cannot_move_elsewhere(
    app: Flask, target: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_at(monkeypatch, "audit")
    full_database.fill(large=10)
    with pytest.raises(Interrupted):
        go(target)
    monkeypatch.undo()
    other = Config(target.home, f"sqlite:///{tmp_path}/third.db", None)
    with pytest.raises(MoveError, match=r"is not the copy that was started at .* Use that address"):
        go(other)
    with pytest.raises(MoveError, match=r"was moved to .* Use --to "):
        back(other)
