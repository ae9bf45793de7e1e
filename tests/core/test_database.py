"""The connections of a database: which are kept, who uses them (threads, forks), and how broken ones are replaced."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import closing

import psycopg
import pytest
from flask import Flask

from tests.deadline import DEADLINE
from webapp.config import Config, ConfigError
from webapp.core.storage import database as databases
from webapp.core.storage import postgresql, schema
from webapp.core.storage.database import Database
from webapp.core.storage.locks import Busy
from webapp.core.storage.transaction import Connection, transaction_on
from webapp.db import engines

pytestmark = pytest.mark.postgresql

ADD = "INSERT INTO queues (name) VALUES (:name)"


@pytest.fixture
def database(config: Config) -> Iterator[Database]:
    one = Database(config)
    yield one
    one.close()


def store(database: Database, name: str) -> None:
    with transaction_on(database) as transaction:
        transaction.execute(ADD, {"name": name})


def names(database: Database) -> set[str]:
    with closing(Connection(database)) as connection:
        return {name for (name,) in connection.query("SELECT name FROM queues WHERE name <> 'default'")}


def test_consecutive_transactions_use_one_connection(database: Database) -> None:
    store(database, "one")
    first = database.take()
    database.give_back(first)
    store(database, "two")
    assert database.take() is first
    first.close()


def test_only_a_few_idle_connections_are_kept(database: Database) -> None:
    """A console has many threads, and a server has a hundred connections for all programs."""
    taken = [database.take() for _ in range(databases.MOST_IDLE + 2)]
    for connection in taken:
        database.give_back(connection)
    assert len(database._idle) == databases.MOST_IDLE
    with pytest.raises(database.driver_error):
        taken[-1].execute("SELECT 1")


def test_threads_never_share_a_connection_at_the_same_time(database: Database) -> None:
    used: set[int] = set()
    errors: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for turn in range(20):
                with transaction_on(database) as transaction:
                    driver = id(transaction._cursor.connection)
                    assert driver not in used
                    used.add(driver)
                    transaction.execute(ADD, {"name": f"{number}-{turn}"})
                    used.remove(driver)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
    assert errors == []
    assert len(names(database)) == 160


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_fork_opens_its_own_connections_and_leaves_those_of_its_parent_open(database: Database) -> None:
    store(database, "parent")
    [(parents, _)] = database._idle
    child = os.fork()
    if child == 0:
        try:
            store(database, "child")
            database.close()
            os._exit(0 if database._idle != parents and not database._idle else 1)
        except BaseException:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    store(database, "parent again")
    again = database.take()
    assert again is parents
    database.give_back(again)
    assert names(database) == {"parent", "child", "parent again"}


@pytest.mark.only("postgresql")
def test_a_connection_that_the_server_ended_is_replaced(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    store(database, "one")
    [(idle, _)] = database._idle
    with closing(database.connect()) as other:
        other.execute("SELECT pg_terminate_backend(%s, 10000)", [idle.info.backend_pid])
    monkeypatch.setattr(databases, "FRESH", 0)
    store(database, "two")
    assert names(database) == {"one", "two"}


@pytest.mark.only("postgresql")
def test_a_connection_that_broke_in_a_transaction_is_not_kept(database: Database) -> None:
    """A recently used connection is not tested, so one transaction can fail; the next gets a new connection."""
    store(database, "one")
    [(idle, _)] = database._idle
    with closing(database.connect()) as other:
        other.execute("SELECT pg_terminate_backend(%s, 10000)", [idle.info.backend_pid])
    with pytest.raises(database.driver_error):
        store(database, "two")
    store(database, "three")
    assert names(database) == {"one", "three"}


@pytest.mark.only("postgresql")
def test_a_query_leaves_no_transaction_open(database: Database) -> None:
    """An open one would lock its tables against a schema change, and the server ends it after some seconds."""
    with closing(Connection(database)) as connection:
        assert connection.scalar(schema.REVISION) == schema.HEAD
        assert connection.driver.info.transaction_status.name == "IDLE"


@pytest.mark.only("postgresql")
@pytest.mark.parametrize("role", ["write", "worker"])
def test_a_row_locked_by_another_transaction_is_reported_as_busy_after_the_timeout(config: Config, role: str) -> None:
    database = Database(config, role)
    with closing(database.connect()) as other:
        other.execute("BEGIN")
        other.execute("UPDATE control SET pulse = pulse + 1")
        began = time.monotonic()
        with pytest.raises(Busy), transaction_on(database, 0.2) as transaction:
            transaction.execute("UPDATE control SET pulse = pulse + 1")
        assert time.monotonic() - began >= 0.2
        other.execute("ROLLBACK")
    with transaction_on(database, 0.2) as transaction:  # the connection works, without the limit
        transaction.execute("UPDATE control SET pulse = pulse + 1")
        assert transaction.execute("SHOW lock_timeout").fetchone() == ("200ms",)
    with closing(Connection(database)) as connection:
        assert connection.scalar("SHOW lock_timeout") == ("30s" if role == "write" else "0")
    database.close()


@pytest.mark.only("postgresql")
def test_an_unresponsive_server_is_asked_once(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """An absent machine is detected after ten seconds."""
    asked = []

    def connect(*_: object) -> None:
        asked.append(1)
        raise psycopg.OperationalError("connection timeout expired\nis it there?")

    monkeypatch.setattr(postgresql, "connect", connect)
    with pytest.raises(ConfigError, match=r"^cannot open the database: connection timeout expired$"):
        Database(config).is_current()
    assert asked == [1]


def test_a_missing_database_or_one_of_another_version_is_not_current(config: Config, app: Flask) -> None:
    database = engines.database()
    assert database.is_current()
    with transaction_on(database) as transaction:
        transaction.execute("UPDATE alembic_version SET version_num = '0000'")
    assert not database.is_current()
    with transaction_on(database) as transaction:
        transaction.execute("ALTER TABLE alembic_version RENAME TO other_version")
    assert not database.is_current()
    with transaction_on(database) as transaction:
        transaction.execute("ALTER TABLE other_version RENAME TO alembic_version")
        transaction.execute(f"UPDATE alembic_version SET version_num = '{schema.HEAD}'")
    assert database.is_current()
