"""Plain SQL: commit, rollback, errors, and the wake-up of workers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from tests.worker_connection import worker_connection
from webapp.config import ConfigError, load
from webapp.core.storage import sqlite
from webapp.core.storage.locks import Busy
from webapp.core.storage.transaction import Transaction, for_psycopg, transaction_on
from webapp.core.storage.wakeup_signal import WakeupSignal
from webapp.db import engines
from webapp.db.application import create_core

ADD = "INSERT INTO queues (name) VALUES (:name)"


@contextmanager
def durable() -> Iterator[Transaction]:
    with engines.raising_as_sqlalchemy(), transaction_on(engines.database()) as transaction:
        yield transaction


def _store_and_fail(name: str) -> None:
    with durable() as transaction:
        transaction.execute(ADD, {"name": name})
        raise RuntimeError("not after all")


def test_a_block_commits_at_its_end_and_rolls_back_after_an_error(app: Flask) -> None:
    with durable() as transaction:
        transaction.execute_many(ADD, [{"name": "one"}, {"name": "two"}])
    with pytest.raises(RuntimeError, match="after all"):
        _store_and_fail("three")
    with durable() as transaction:
        found = transaction.select_where_in("SELECT name FROM queues", "name", ["one", "two", "three"])
        assert sorted(found) == [("one",), ("two",)]


def test_values_reach_sqlite_with_their_types(sqlite_app: Flask) -> None:
    """The adapters store the same values as the driver without them."""
    values = {"none": None, "true": True, "bytes": b"\0x", "number": 1.5}
    with durable() as transaction:
        row = transaction.execute("SELECT :none, :true, typeof(:true), :bytes, typeof(:bytes), :number", values)
        assert row.fetchone() == (None, 1, "integer", b"\0x", "blob", 1.5)


def test_a_taken_key_raises_the_same_error_as_in_a_session(app: Flask) -> None:
    with pytest.raises(IntegrityError), durable() as transaction:
        transaction.execute_many(ADD, [{"name": "one"}, {"name": "one"}])


def test_a_database_held_by_another_program_is_reported_as_busy(
    sqlite_app: Flask, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stranger = sqlite.library.connect(home / "queue.db", isolation_level=None)
    stranger.execute("BEGIN IMMEDIATE")
    monkeypatch.setattr(sqlite, "BUSY_TIMEOUT", 0.01)
    with pytest.raises(Busy), durable():
        raise AssertionError("it must not get here")
    stranger.close()


@pytest.mark.parametrize(("wanted", "found"), [("0", 1), ("1", 2)])
def test_workers_commit_with_the_chosen_durability(home: Path, wanted: str, found: int) -> None:
    app = create_core(load({"QUEUECTL_HOME": str(home), "HOME": str(home), "QUEUECTL_DURABLE_SETTLES": wanted}))
    with app.app_context():
        connection = worker_connection()
        assert connection.query("PRAGMA synchronous") == [(found,)]
        connection.close()


def test_an_invalid_durability_value_is_refused(home: Path) -> None:
    with pytest.raises(ConfigError, match="QUEUECTL_DURABLE_SETTLES is 'yes'"):
        load({"QUEUECTL_HOME": str(home), "HOME": str(home), "QUEUECTL_DURABLE_SETTLES": "yes"})


def test_a_worker_connection_recovers_from_an_error(app: Flask) -> None:
    connection = worker_connection()

    def fail() -> None:
        with connection.transaction() as transaction:
            transaction.execute("SELECT no_such_column FROM control")

    with pytest.raises(connection.errors):
        fail()
    connection.reconnect()
    with connection.transaction() as transaction:
        assert transaction.execute("SELECT revision FROM control").fetchone()[0] >= 1
    connection.close()


@pytest.mark.postgresql
@pytest.mark.only("postgresql")
def test_a_commit_counts_even_if_its_notification_fails(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(WakeupSignal, "notify", lambda _self, execute: execute("no statement at all"))
    with durable() as transaction:
        transaction.execute(ADD, {"name": "one"})
    with engines.reading() as session:
        assert session.scalar(text("SELECT count(*) FROM queues WHERE name = 'one'")) == 1


@pytest.mark.parametrize("ends", ["commit", "rollback"])
def test_only_a_commit_wakes_workers(app: Flask, monkeypatch: pytest.MonkeyPatch, ends: str) -> None:
    rung: list[Any] = []
    monkeypatch.setattr(WakeupSignal, "notify", lambda _self, execute: rung.append(execute))
    connection = worker_connection()
    try:
        with connection.transaction() as transaction:
            transaction.execute(ADD, {"name": "quiet"})
        assert rung == []
        with connection.transaction() as transaction:
            transaction.wakes_workers = True
            transaction.execute(ADD, {"name": "loud"})
            if ends == "rollback":
                raise RuntimeError("not after all")
    except RuntimeError:
        pass
    connection.close()
    assert len(rung) == (1 if ends == "commit" else 0)


def test_a_statement_for_psycopg_keeps_its_casts_and_its_percent_signs() -> None:
    statement = "SELECT 1 WHERE a LIKE '%x' AND b = :b AND c = CAST(:c_1 AS text) AND d::text = :b"
    assert for_psycopg(statement) == (
        "SELECT 1 WHERE a LIKE '%%x' AND b = %(b)s AND c = CAST(%(c_1)s AS text) AND d::text = %(b)s"
    )


@pytest.mark.only("sqlite")
def test_a_connection_that_cannot_write_is_not_used_again(app: object) -> None:
    """A connection opened on a read-only disk would stay read-only."""
    ours = engines.database()
    connection = ours.take()
    connection.execute("PRAGMA query_only = ON")
    ours.give_back(connection)
    with pytest.raises(ours.driver_error, match="readonly"), transaction_on(ours) as transaction:
        transaction.execute("UPDATE control SET pulse = pulse + 1")
    with transaction_on(ours) as transaction:
        transaction.execute("UPDATE control SET pulse = pulse + 1")
