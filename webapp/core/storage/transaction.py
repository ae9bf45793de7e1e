"""The raw connection and its write transaction: plain SQL on the driver's own connection.

Used where a SQLAlchemy session's millisecond and memory matter: enqueue, and everything that workers and supervisors
do. Pages and other commands use `engines.writing()`. A statement is a text with `:name` parameters; its values are a
mapping.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from functools import lru_cache
from typing import Any

from webapp.core.storage import postgresql, sqlite
from webapp.core.storage.database import Database
from webapp.core.storage.locks import BUSY, BUSY_TIMEOUT, Busy
from webapp.core.storage.relocated import Relocated, words_of
from webapp.lib import clock

MIN_COPY_ROWS = 20  # from here PostgreSQL gets rows by COPY, in a fifth of the time of INSERT
LIST_LIMIT = 500  # values in one condition
NO_VALUES: Mapping[str, Any] = {}
_PARAMETER = re.compile(r"(?<![:\w]):(\w+)(?!:)")


class CommitUnanswered(OSError):
    """The connection broke during COMMIT: it may or may not have stored the data. `__cause__`: the driver's error."""


class Transaction:
    """The statements of one write transaction.

    Attributes:
        durable: whether the commit must survive a crash of the server. The block may set it.
        wakes_workers: whether the commit wakes idle workers. The block may set it.
        key_taken: the driver's error for a key that already exists.
    """

    def __init__(self, cursor: Any, database: Database, *, wakes_workers: bool) -> None:
        self.durable = database.durable
        self.wakes_workers = wakes_workers
        self._cursor = cursor
        self.is_sqlite = database.is_sqlite
        self.key_taken = database.key_taken

    def execute(self, statement: str, values: Mapping[str, Any] = NO_VALUES) -> Any:
        """Execute one statement; return the driver's cursor with its rows and `rowcount`."""
        return self._cursor.execute(statement if self.is_sqlite else for_psycopg(statement), values)

    def execute_many(self, statement: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Execute one statement for each row."""
        if len(rows) == 1:  # for one row, psycopg's executemany needs more round trips
            self.execute(statement, rows[0])
        else:
            self._cursor.executemany(statement if self.is_sqlite else for_psycopg(statement), rows)

    def insert(self, table: str, columns: tuple[str, ...], rows: Sequence[tuple[Any, ...]]) -> None:
        """Insert one or more rows. They are tuples, because drivers look up each value of a mapping by its name.

        A row may be a NamedTuple. SQLite's driver gets it as a plain tuple, which it reads in half the time.
        """
        if self.is_sqlite or len(rows) < MIN_COPY_ROWS:
            statement = _insertion(table, columns, "?" if self.is_sqlite else "%s")
            if len(rows) == 1:
                self._cursor.execute(statement, tuple(rows[0]))
            else:
                self._cursor.executemany(statement, map(tuple, rows))
            return
        with self._cursor.copy(f"COPY {table} ({', '.join(columns)}) FROM STDIN") as copy:
            for row in rows:
                copy.write_row(row)

    @contextmanager
    def savepoint(self) -> Iterator[None]:
        """Undo what the block did if it raises, so that the transaction can go on."""
        self._cursor.execute("SAVEPOINT part")
        try:
            yield
        except BaseException:
            self._cursor.execute("ROLLBACK TO SAVEPOINT part")
            raise
        self._cursor.execute("RELEASE SAVEPOINT part")

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
    """One connection and its transactions, one after another. For one thread; connects at first use.

    Attributes:
        database: where it leads.
    """

    def __init__(self, database: Database, *, borrowed: bool = False) -> None:
        """`borrowed`: give the driver's connection back to the database after each transaction."""
        self.is_sqlite = database.is_sqlite
        self.database = database
        self._borrowed = borrowed
        self._driver: Any = None
        self._is_broken = False
        self._clock_at = clock.counter()  # when the server's clock was last read: at the latest when it connects

    @property
    def errors(self) -> tuple[type[BaseException], ...]:
        """What a transaction raises when the database is unavailable, locked (Busy) or full."""
        return (self.database.driver_error, OSError)

    @property
    def driver(self) -> Any:
        """The driver's connection; another one after `reconnect()`."""
        if self._driver is None:
            self._driver = self.database.take()
        return self._driver

    @contextmanager
    def transaction(self, timeout: float = -1, *, wakes_workers: bool = False) -> Iterator[Transaction]:
        """Write: commit when the block ends, roll back when it raises.

        Raises `errors`, which include Relocated and CommitUnanswered, and Busy when another process holds the write
        lock for longer than `timeout` seconds (negative: no limit).
        """
        database = self.database
        database.lock.acquire(timeout)
        try:
            cursor = self.driver.cursor()
            try:
                cursor.execute("BEGIN IMMEDIATE" if database.is_sqlite else "BEGIN")
                if not database.is_sqlite and 0 <= timeout < BUSY_TIMEOUT:
                    cursor.execute(f"SET LOCAL lock_timeout = {max(1, round(timeout * 1000))}")
                transaction = Transaction(cursor, database, wakes_workers=wakes_workers)
                yield transaction
                self._commit(cursor, transaction)
            except BaseException as error:
                self._roll_back()
                if database.is_sqlite and sqlite.is_read_only(error):
                    self._is_broken = True
                    database.close()
                raise_relocated(error)
                if timeout >= 0 and database.is_locked_out(error):
                    raise Busy(BUSY) from error
                raise
            finally:
                cursor.close()
            if transaction.wakes_workers and not database.is_sqlite:
                self._notify()
        finally:
            database.lock.release()
            if self._borrowed:
                self._give_back()

    def query(self, statement: str, values: Mapping[str, Any] = NO_VALUES) -> list[tuple[Any, ...]]:
        """Execute a single statement and return its rows. A SELECT takes no lock and waits for no writer.

        On PostgreSQL the statement may also write: it is then a durable transaction.
        """
        with closing(self.driver.cursor()) as cursor:
            try:
                cursor.execute(statement if self.is_sqlite else for_psycopg(statement), values)
                rows: list[tuple[Any, ...]] = cursor.fetchall()
            except self.database.driver_error as error:
                raise_relocated(error)
                raise
        return rows

    def scalar(self, statement: str, values: Mapping[str, Any] = NO_VALUES) -> Any:
        """The first value of the first row; None without a row."""
        rows = self.query(statement, values)
        return rows[0][0] if rows else None

    def follow_clock(self) -> None:
        """On PostgreSQL read the server's clock, once in CLOCK_INTERVAL. Raises `errors`."""
        if not self.is_sqlite and clock.counter() - self._clock_at > postgresql.CLOCK_INTERVAL:
            postgresql.follow_clock(self.driver)
            self._clock_at = clock.counter()

    def reconnect(self) -> None:
        """Replace a connection that may be lost. Raises `errors`."""
        fresh = self.database.connect()  # first: if this fails, the old one can still report the problem
        self.close()
        self._driver, self._is_broken = fresh, False

    def close(self) -> None:
        if self._driver is not None:
            with suppress(*self.errors):
                self._driver.close()
        self._driver = None

    def _give_back(self) -> None:
        """Keep the connection for other uses of the database, or close it if it is broken."""
        if self._is_broken:
            self.close()
        elif self._driver is not None:
            self.database.give_back(self._driver)
            self._driver = None

    def _commit(self, cursor: Any, transaction: Transaction) -> None:
        if self.is_sqlite and transaction.wakes_workers:
            self.database.wakeup.notify(cursor.execute)  # before the commit: workers then wait for the write lock
        durable = transaction.durable or self.is_sqlite
        try:
            cursor.execute("COMMIT" if durable else "SET LOCAL synchronous_commit = off; COMMIT")
        except self.database.driver_error as error:
            self._roll_back()
            if self._is_broken:
                raise CommitUnanswered(str(error)) from error
            raise

    def _roll_back(self) -> None:
        """Also test the connection: some errors do not show that it is broken."""
        try:
            self.driver.rollback()
        except self.database.driver_error:
            self._is_broken = True
        else:
            self._is_broken = False

    def _notify(self) -> None:
        """Wake workers on PostgreSQL, in a separate transaction.

        Commits with NOTIFY wait for each other, each until it is on the disk; this one stores nothing. If it fails,
        workers find the jobs at their next poll.
        """
        try:
            self.database.wakeup.notify(self.driver.execute)
        except self.database.driver_error:
            self._is_broken = True


def connect(database: Database) -> Connection:
    """An open connection. Raises its `errors`."""
    connection = Connection(database)
    connection.reconnect()
    return connection


def transaction_on(
    database: Database, timeout: float = BUSY_TIMEOUT, *, wakes_workers: bool = True
) -> AbstractContextManager[Transaction]:
    """One transaction, see `Connection.transaction`, on an idle or new connection of this database."""
    return Connection(database, borrowed=True).transaction(timeout, wakes_workers=wakes_workers)


def raise_relocated(error: BaseException) -> None:
    """Raise Relocated if this error says that the queue was moved to another database."""
    words = words_of(error)
    if words is not None:
        raise Relocated(words) from error


@lru_cache(maxsize=16)
def _insertion(table: str, columns: tuple[str, ...], mark: str) -> str:
    return f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({', '.join([mark] * len(columns))})"  # noqa: S608


@lru_cache(maxsize=256)
def for_psycopg(statement: str) -> str:
    """Convert `:name` parameters for psycopg. SQLite takes them as they are."""
    return _PARAMETER.sub(r"%(\1)s", statement.replace("%", "%%"))
