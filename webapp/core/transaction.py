"""The raw connection and its write transaction: plain SQL on the driver's own connection.

Used where a SQLAlchemy session's millisecond matters: enqueue, and everything that workers write. Other code uses
`engines.writing()`. A statement is a text with `:name` parameters; its values are a mapping.

`Database` connects this module to SQLAlchemy, whose pool provides the connections.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Callable, Optional, Protocol

from webapp.core.locks import BUSY_TIMEOUT, WriteLock
from webapp.core.relocated import Relocated, words_of
from webapp.core.wakeup_signal import WakeupSignal

MIN_COPY_ROWS = 20  # from here PostgreSQL gets rows by COPY, in a fifth of the time of INSERT
LIST_LIMIT = 500  # values in one condition
_NO_VALUES: Mapping[str, Any] = {}
_PARAMETER = re.compile(r"(?<![:\w]):(\w+)(?!:)")


class PooledConnection(Protocol):
    """A driver's connection from SQLAlchemy's pool."""

    @property
    def driver_connection(self) -> Any: ...

    def cursor(self) -> Any: ...

    def rollback(self) -> None: ...

    def invalidate(self) -> None: ...

    def close(self) -> None: ...


class CommitUnanswered(OSError):
    """The connection broke during COMMIT: it may or may not have stored the data. `__cause__`: the driver's error."""


@dataclass(frozen=True)
class Database:
    """How to reach a database, and how to write to it.

    Attributes:
        connect: returns a connection that is ready for use.
        driver_error: base class of the driver's errors.
        key_taken: the driver's error for a key that already exists.
        durable: whether each commit must survive a crash. On SQLite the connection decides that.
    """

    connect: Callable[[], PooledConnection]
    driver_error: type[Exception]
    key_taken: type[Exception]
    is_sqlite: bool
    durable: bool
    lock: WriteLock
    wakeup: WakeupSignal


class Transaction:
    """The statements of one write transaction.

    Attributes:
        durable: whether the commit must survive a crash of the server. The block may set it.
        wakes_workers: whether the commit wakes idle workers. The block may set it.
    """

    def __init__(self, cursor: Any, database: Database, *, wakes_workers: bool) -> None:
        self.durable = database.durable
        self.wakes_workers = wakes_workers
        self._cursor = cursor
        self.is_sqlite = database.is_sqlite

    def execute(self, statement: str, values: Mapping[str, Any] = _NO_VALUES) -> Any:
        """Execute one statement; return the driver's cursor with its rows and `rowcount`."""
        return self._cursor.execute(statement if self.is_sqlite else for_psycopg(statement), values)

    def execute_many(self, statement: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Execute one statement for each row."""
        if len(rows) == 1:  # for one row, psycopg's executemany needs more round trips
            self.execute(statement, rows[0])
        else:
            self._cursor.executemany(statement if self.is_sqlite else for_psycopg(statement), rows)

    def insert(self, table: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Insert one or more rows. The keys are the columns, the same in each row."""
        columns = list(rows[0])
        names = ", ".join(columns)
        if self.is_sqlite or len(rows) < MIN_COPY_ROWS:
            values = ", ".join(f":{column}" for column in columns)
            self.execute_many(f"INSERT INTO {table} ({names}) VALUES ({values})", rows)  # noqa: S608
            return
        with self._cursor.copy(f"COPY {table} ({names}) FROM STDIN") as copy:
            for row in rows:
                copy.write_row([row[column] for column in columns])

    def select_where_in(self, select: str, column: str, values: Sequence[str]) -> list[tuple[Any, ...]]:
        """The rows of `select` (without WHERE) in which the column has one of these values."""
        condition = "IN (SELECT value FROM json_each(:listed))" if self.is_sqlite else "= ANY(:listed)"
        found: list[tuple[Any, ...]] = []
        for start in range(0, len(values), LIST_LIMIT):
            part = list(values[start : start + LIST_LIMIT])
            listed = {"listed": json.dumps(part) if self.is_sqlite else part}
            found += self.execute(f"{select} WHERE {column} {condition}", listed).fetchall()
        return found


class Connection:
    """One connection and its transactions, one after another. For one thread; connects at first use."""

    def __init__(self, database: Database) -> None:
        self.is_sqlite = database.is_sqlite
        self._database = database
        self._pooled: Optional[PooledConnection] = None
        self._is_broken = False

    @property
    def errors(self) -> tuple[type[BaseException], ...]:
        """What a transaction raises when the database is unavailable, locked or full."""
        return (self._database.driver_error, OSError)

    @property
    def driver(self) -> Any:
        """The driver's connection; another one after `reconnect()`."""
        return self._connected().driver_connection

    def another(self) -> Connection:
        """A second connection to the same database."""
        return Connection(self._database)

    @contextmanager
    def transaction(self, timeout: float = -1, *, wakes_workers: bool = False) -> Iterator[Transaction]:
        """Write: commit when the block ends, roll back when it raises.

        Raises `errors`, which include Relocated and CommitUnanswered, and Busy when another process holds the write
        lock for longer than `timeout` seconds (negative: no limit).
        """
        database = self._database
        database.lock.acquire(timeout)
        try:
            pooled = self._connected()
            cursor = pooled.cursor()
            try:
                # A psycopg connection without autocommit begins a transaction itself.
                if database.is_sqlite:
                    cursor.execute("BEGIN IMMEDIATE")
                elif pooled.driver_connection.autocommit:
                    cursor.execute("BEGIN")
                transaction = Transaction(cursor, database, wakes_workers=wakes_workers)
                yield transaction
                self._commit(cursor, transaction)
            except BaseException as error:
                self._roll_back()
                raise_relocated(error)
                raise
            finally:
                cursor.close()
            if transaction.wakes_workers and not database.is_sqlite:
                self._notify()
        finally:
            database.lock.release()

    def query(self, statement: str, values: Mapping[str, Any] = _NO_VALUES) -> list[tuple[Any, ...]]:
        """Execute a single statement and return its rows. A SELECT takes no lock and waits for no writer.

        On PostgreSQL the statement may also write: it is then a durable transaction.
        """
        with closing(self._connected().cursor()) as cursor:
            try:
                cursor.execute(statement if self.is_sqlite else for_psycopg(statement), values)
                rows: list[tuple[Any, ...]] = cursor.fetchall()
            except self._database.driver_error as error:
                raise_relocated(error)
                raise
        return rows

    def reconnect(self) -> None:
        """Replace a connection that may be lost. Raises `errors`."""
        fresh = self._database.connect()  # first: if this fails, the old one can still report the problem
        self.close()
        self._pooled, self._is_broken = fresh, False

    def close(self) -> None:
        if self._pooled is not None:
            self._pooled.invalidate()
        self._pooled = None

    def return_to_pool(self) -> None:
        """Return the connection to the pool, or close it if it is broken."""
        if self._is_broken:
            self.close()
        elif self._pooled is not None:
            self._pooled.close()
            self._pooled = None

    def _connected(self) -> PooledConnection:
        if self._pooled is None:
            self._pooled = self._database.connect()
        return self._pooled

    def _commit(self, cursor: Any, transaction: Transaction) -> None:
        if self.is_sqlite and transaction.wakes_workers:
            self._database.wakeup.notify(cursor.execute)  # before the commit: workers then wait for the write lock
        durable = transaction.durable or self.is_sqlite
        try:
            cursor.execute("COMMIT" if durable else "SET LOCAL synchronous_commit = off; COMMIT")
        except self._database.driver_error as error:
            self._roll_back()
            if self._is_broken:
                raise CommitUnanswered(str(error)) from error
            raise

    def _roll_back(self) -> None:
        """Also test the connection: some errors do not show that it is broken."""
        try:
            self._connected().rollback()
        except self._database.driver_error:
            self._is_broken = True
        else:
            self._is_broken = False

    def _notify(self) -> None:
        """Wake workers on PostgreSQL, in a separate transaction.

        Commits with NOTIFY wait for each other, each until it is on the disk; this one stores nothing. If it fails,
        workers find the jobs at their next poll.
        """
        driver = self.driver
        had_autocommit = driver.autocommit
        try:
            driver.autocommit = True
            self._database.wakeup.notify(driver.execute)
            driver.autocommit = had_autocommit
        except self._database.driver_error:
            self._is_broken = True


@contextmanager
def durable_transaction(database: Database) -> Iterator[Transaction]:
    """One transaction on a connection of the pool. Its commit survives a crash and wakes idle workers."""
    connection = Connection(database)
    try:
        with connection.transaction(BUSY_TIMEOUT, wakes_workers=True) as transaction:
            yield transaction
    finally:
        connection.return_to_pool()


def raise_relocated(error: BaseException) -> None:
    """Raise Relocated if this error says that the queue was moved to another database."""
    words = words_of(error)
    if words is not None:
        raise Relocated(words) from error


@lru_cache(maxsize=256)
def for_psycopg(statement: str) -> str:
    """Convert `:name` parameters for psycopg. SQLite takes them as they are."""
    return _PARAMETER.sub(r"%(\1)s", statement.replace("%", "%%"))
