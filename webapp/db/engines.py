"""SQLAlchemy's engines and transactions: `reading()` and `writing()`, for pages and for commands that are not hot.

The connections come from `core/`, which has the roles: `write` commits durably, `read` cannot write. Enqueue and
workers use `core/transaction.py` without this module. Tables are in `db/models/`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Optional

import sqlalchemy
from flask import Flask, current_app
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import BigInteger, Engine, MetaData, Text, create_engine, event, text
from sqlalchemy.engine import URL, ExceptionContext, make_url
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.orm import DeclarativeBase, Session
from sqlalchemy.pool import NullPool

from webapp.config import Config
from webapp.core.storage import postgresql, relocated, sqlite
from webapp.core.storage.database import Database, open_database
from webapp.core.storage.locks import BUSY, BUSY_TIMEOUT, Busy
from webapp.core.storage.transaction import CommitUnanswered, Transaction, raise_relocated, transaction_on
from webapp.lib import clock


class Base(DeclarativeBase):
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


Base.registry.update_type_annotation_map({int: BigInteger, str: Text})
db = SQLAlchemy(model_class=Base)

if TYPE_CHECKING:
    Model = Base
else:
    Model = db.Model


def init_app(app: Flask, config: Config) -> None:
    """Give the application its engines and its database. Opens no connection. Raises ConfigError."""
    database, read = open_database(config), Database(config, "read")
    app.extensions["queuectl_database"] = database
    app.config["SQLALCHEMY_DATABASE_URI"] = _url(config)
    app.config["SQLALCHEMY_ENGINE_OPTIONS"] = _options(database)
    app.config["SQLALCHEMY_BINDS"] = {"read": {"url": _url(config), **_options(read)}}
    db.init_app(app)
    with app.app_context():
        for role, engine in db.engines.items():
            if config.is_sqlite:
                _begin_with(engine, "BEGIN" if role == "read" else "BEGIN IMMEDIATE")
            else:
                event.listen(engine, "checkout", _follow_server_clock)
            event.listen(engine, "handle_error", _handle)
    if config.is_sqlite:
        app.extensions["queuectl_changes"] = _ChangeCounter(read)


def _url(config: Config) -> URL:
    if config.is_sqlite:
        return URL.create("sqlite", database=sqlite.address(config), query={"uri": "true"})
    return make_url(config.database_url or "")


def _options(database: Database) -> dict[str, Any]:
    """For `create_engine`. The parameters are named, as in the statements of `core/` and as in psycopg."""
    if database.is_sqlite:
        return {"creator": database.connect, "module": sqlite.library, "paramstyle": "named"}
    return {"creator": partial(_connect_with_transactions, database), "pool_pre_ping": True}


def _connect_with_transactions(database: Database) -> Any:
    """A connection to PostgreSQL that begins a transaction at its first statement, as SQLAlchemy expects."""
    connection = database.connect()
    connection.autocommit = False
    return connection


def write_engine() -> Engine:
    return db.engine


def read_engine() -> Engine:
    return db.engines["read"]


def database() -> Database:
    """The database for plain SQL, see `core/transaction.py`."""
    found: Database = current_app.extensions["queuectl_database"]
    return found


def is_sqlite() -> bool:
    return database().is_sqlite


def disconnect() -> None:
    """Close all connections of the current application that are not in use."""
    database().close()
    for engine in db.engines.values():
        engine.dispose()


def migration_engine() -> Engine:
    """An engine for schema changes: without foreign keys, because a table rebuild would delete rows by cascade."""
    config = database().config
    if not config.is_sqlite:
        return create_engine(_url(config), poolclass=NullPool)

    def connect() -> Any:
        connection = sqlite.library.connect(sqlite.address(config), uri=True, isolation_level=None)
        # auto_vacuum must come before the first table, and before WAL writes the file's header.
        for pragma in ("auto_vacuum=INCREMENTAL", "journal_mode=WAL", "synchronous=FULL", "foreign_keys=OFF"):
            connection.execute(f"PRAGMA {pragma}")
        return connection

    engine = create_engine(_url(config), poolclass=NullPool, creator=connect, module=sqlite.library)
    _begin_with(engine, "BEGIN IMMEDIATE")
    return engine


@contextmanager
def reading() -> Iterator[Session]:
    """One consistent, read-only view of the database. Keep it short: on SQLite an open reader keeps the log growing."""
    with Session(read_engine(), expire_on_commit=False) as session, session.begin():
        yield session


@contextmanager
def writing(timeout: float = BUSY_TIMEOUT, *, wakes_workers: bool = True) -> Iterator[Session]:
    """One durable write transaction: committed when the block ends, rolled back when it raises.

    Its commit wakes idle workers, unless there is nothing for them to do. Raises Busy when another process of queuectl
    holds the write lock for longer than `timeout` seconds, or another program for longer than BUSY_TIMEOUT; Relocated
    when the queue was moved to another database.
    """
    ours = database()
    ours.lock.acquire(timeout)
    try:
        with raising_busy(), Session(write_engine(), expire_on_commit=False) as session, session.begin():
            if timeout < BUSY_TIMEOUT and not ours.is_sqlite:
                session.execute(text(f"SET LOCAL lock_timeout = {max(1, round(timeout * 1000))}"))
            yield session
            if wakes_workers:
                ours.wakeup.notify(lambda statement: session.execute(text(statement)))
    finally:
        ours.lock.release()


def moved_note(connection: sqlalchemy.Connection) -> Optional[str]:
    """The message for readers of a queue that was moved; None if it was not."""
    return relocated.note(_scalar(connection), is_sqlite=connection.dialect.name == "sqlite")


def unfinished_note(connection: sqlalchemy.Connection) -> str:
    """Why this unfinished copy of a queue cannot be used."""
    return relocated.unfinished(_scalar(connection), is_sqlite=connection.dialect.name == "sqlite")


def _scalar(connection: sqlalchemy.Connection) -> relocated.Scalar:
    return lambda statement: connection.exec_driver_sql(statement).scalar()


ChangeMark = tuple[Any, ...]


def change_mark() -> Optional[ChangeMark]:
    """A value that changes with every commit, as soon as readers see the commit; None if it is unknown.

    Take it before reading: the data is current while the mark stays the same. Marks are valid in this process only.
    """
    if is_sqlite():
        counter: _ChangeCounter = current_app.extensions["queuectl_changes"]
        return counter.mark()
    with reading() as session:
        return (session.scalar(text("SELECT CAST(pg_current_snapshot() AS text)")),)


class _ChangeCounter:
    """A connection that only reads `PRAGMA data_version`, which changes when another connection commits.

    File times would be wrong: on a slow disk they change long before readers see the commit.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._connection: Any = None
        self._number = 0  # of the connection: each has its own counter

    def mark(self) -> Optional[ChangeMark]:
        with self._lock:
            try:
                if self._connection is None:
                    self._connection, self._number = self._database.connect(), self._number + 1
                (version,) = self._connection.execute("PRAGMA data_version").fetchone()
            except self._database.driver_error:
                if self._connection is not None:
                    self._connection.close()
                self._connection = None
                return None
            return self._number, version


def let_others_write() -> None:
    """Pause between two of many write transactions, so that others get the lock.

    Otherwise this process takes the lock again before the processes that wait for it have woken.
    """
    time.sleep(0.005)


@contextmanager
def raising_busy() -> Iterator[None]:
    try:
        yield
    except OperationalError as error:
        if error.orig is not None and database().is_locked_out(error.orig):
            raise Busy(BUSY) from error
        raise


def _handle(context: ExceptionContext) -> None:
    """A refused write to a moved queue must not look like a duplicate name or id. No connection stays read-only."""
    raise_relocated(context.original_exception)
    if sqlite.is_read_only(context.original_exception):
        context.is_disconnect = True


@contextmanager
def raising_as_sqlalchemy() -> Iterator[None]:
    """Turn errors of plain SQL on `database()` into those of `writing()`: DBAPIError and Busy."""
    try:
        yield
    except (CommitUnanswered, database().driver_error) as error:
        dialect, base = write_engine().dialect, database().driver_error
        with raising_busy():
            if not isinstance(error, CommitUnanswered):
                raise DBAPIError.instance("", None, error, base, dialect=dialect) from error
            cause = error.__cause__ or error  # without a statement, for `db_errors.may_have_been_done()`
            raise DBAPIError.instance(None, None, cause, base, connection_invalidated=True, dialect=dialect) from cause


@contextmanager
def changing() -> Iterator[Transaction]:
    """One durable transaction in plain SQL on `database()`, with the errors of `writing()`."""
    with raising_as_sqlalchemy(), transaction_on(database()) as transaction:
        yield transaction


def _begin_with(engine: Engine, statement: str) -> None:
    """Begin transactions with this statement, because the driver's own are off.

    Writers begin IMMEDIATE: a deferred transaction that becomes a write fails at once in spite of the busy timeout.
    """

    @event.listens_for(engine, "begin")
    def begin(connection: Any) -> None:
        connection.exec_driver_sql(statement)


def _follow_server_clock(connection: Any, record: Any, _proxy: object) -> None:
    """Read the server's clock once in CLOCK_INTERVAL; opening a connection reads it too."""
    read_at = record.info.setdefault("clock", clock.counter())
    if clock.counter() - read_at > postgresql.CLOCK_INTERVAL:
        record.info["clock"] = clock.counter()
        postgresql.follow_clock(connection)
        connection.rollback()
