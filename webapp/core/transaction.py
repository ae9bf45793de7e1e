"""A durable write transaction in plain statements: on the driver's own connection, with texts compiled once.

For what is done so often that a session's millisecond counts: storing a job. Everything else uses `db.writing()`, which
promises the same.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Optional

from sqlalchemy import Engine
from sqlalchemy.engine import Dialect
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import PoolProxiedConnection

from webapp.core import relocated
from webapp.db import engines

COPIED = 20  # rows from which on PostgreSQL is given them by COPY, which then takes a fifth of INSERT's time


class Plain:
    """One transaction. Statements are texts with `:name` parameters, values mappings."""

    def __init__(self, cursor: Any, dialect: Dialect) -> None:
        self._cursor = cursor
        self._dialect = dialect
        self._sqlite = dialect.name == "sqlite"

    def run(self, statement: str, values: Mapping[str, Any]) -> None:
        self._cursor.execute(engines.compiled(self._dialect, statement), values)

    def run_many(self, statement: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Once for each of these."""
        if len(rows) == 1:  # psycopg makes more of many
            self.run(statement, rows[0])
            return
        self._cursor.executemany(engines.compiled(self._dialect, statement), rows)

    def store(self, table: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Insert these rows, one at the least; their keys are columns, the same in each."""
        columns = list(rows[0])
        names = ", ".join(columns)
        if self._sqlite or len(rows) < COPIED:
            values = ", ".join(f":{column}" for column in columns)
            self.run_many(f"INSERT INTO {table} ({names}) VALUES ({values})", rows)  # noqa: S608
            return
        with self._cursor.copy(f"COPY {table} ({names}) FROM STDIN") as copy:
            for row in rows:
                copy.write_row([row[column] for column in columns])

    def rows(self, statement: str, values: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        self.run(statement, values)
        return [tuple(row) for row in self._cursor.fetchall()]

    def among(self, column: str, parameter: str) -> str:
        """The condition that a column is one of the values that `listed()` made for this parameter."""
        if self._sqlite:
            return f"{column} IN (SELECT value FROM json_each(:{parameter}))"  # noqa: S608
        return f"{column} = ANY(:{parameter})"

    def listed(self, values: Sequence[str]) -> Any:
        """Values of one parameter; one at the least."""
        return json.dumps(values) if self._sqlite else list(values)


@contextmanager
def storing() -> Iterator[Plain]:
    """As `db.writing()`: durable once the block has ended, rolled back when it raises. Rings and raises as that."""
    lock = engines.write_lock()
    lock.acquire(engines.BUSY_TIMEOUT)
    try:
        with engines.raising_busy(), _transaction(engines.write_engine()) as plain:
            yield plain
    finally:
        lock.release()


@contextmanager
def _transaction(engine: Engine) -> Iterator[Plain]:
    sqlite = engine.dialect.name == "sqlite"
    with _told_as_sqlalchemy_does(engine):
        connection = engine.raw_connection()
    broken = False
    try:
        with _told_as_sqlalchemy_does(engine, connection, of_a_statement=True):
            cursor = connection.cursor()
            if sqlite:
                cursor.execute("BEGIN IMMEDIATE")  # psycopg begins by itself
            yield Plain(cursor, engine.dialect)
            if sqlite:
                engines.doorbell().ring(cursor.execute)
        with _told_as_sqlalchemy_does(engine, connection):
            connection.commit()
        if not sqlite:
            _ring_afterwards(connection.driver_connection)
    except DBAPIError as error:
        broken = error.connection_invalidated or not _rolls_back(connection, engine)
        raise
    finally:
        # The pool would roll back on a connection that is none any more, and complain at length that it cannot.
        (connection.invalidate if broken else connection.close)()


def _rolls_back(connection: PoolProxiedConnection, engine: Engine) -> bool:
    """Whether it still works; some errors of a connection that breaks look like any other."""
    try:
        connection.rollback()
    except engine.dialect.loaded_dbapi.Error:
        return False
    return True


def _ring_afterwards(driver: Any) -> None:
    """Notify in a transaction of its own: such commits wait for one another, each until it is on the disk, but for one
    that stores nothing. What is stored is stored: should this fail, the workers' slow look finds it."""
    with suppress(engines.write_engine().dialect.loaded_dbapi.Error):
        driver.autocommit = True
        try:
            engines.doorbell().ring(driver.execute)
        finally:
            driver.autocommit = False


@contextmanager
def _told_as_sqlalchemy_does(
    engine: Engine, connection: Optional[PoolProxiedConnection] = None, *, of_a_statement: bool = False
) -> Iterator[None]:
    """So that whoever catches errors need not know by which way a statement went: one `of_a_statement` names it."""
    base = engine.dialect.loaded_dbapi.Error
    try:
        yield
    except base as error:
        words = relocated.words_of(error)
        if words is not None:
            raise relocated.Relocated(words) from error
        broken = connection is not None and engine.dialect.is_disconnect(error, connection, None)
        statement = "" if of_a_statement else None
        raise DBAPIError.instance(
            statement, None, error, base, connection_invalidated=broken, dialect=engine.dialect
        ) from error
