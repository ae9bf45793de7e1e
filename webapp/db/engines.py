"""The database: engines, transactions and the write lock, for SQLite and PostgreSQL.

Only this module imports a SQLite library and begins transactions: `reading()` and `writing()` for people and programs,
`database()` for the plain SQL of workers and enqueue. Tables are in `db/models/`.

Three engines use one database:

- `write` commits durably (`synchronous=FULL`): accepted jobs survive a power cut.
- `read` cannot write, and so never waits for the write lock.
- `worker` commits with `synchronous=NORMAL`: after a power cut the last attempts may run again, unless
  QUEUECTL_DURABLE_SETTLES is set. It has a shorter busy timeout, because nothing can interrupt a thread that waits in
  the SQLite library.
"""

from __future__ import annotations

import importlib
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING, Any, Optional
from urllib.parse import quote

from flask import Flask, current_app
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import BigInteger, Engine, MetaData, Text, create_engine, event, text
from sqlalchemy.engine import URL, ExceptionContext, make_url
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.orm import DeclarativeBase, Session
from sqlalchemy.pool import NullPool

from webapp.config import Config, ensure_home
from webapp.core import wakeup_signal
from webapp.core.locks import BUSY, BUSY_TIMEOUT, Busy, WriteLock, share_use
from webapp.core.transaction import CommitUnanswered, Connection, Database, raise_relocated
from webapp.core.wakeup_signal import WakeupSignal
from webapp.db import postgresql
from webapp.lib import clock

LOG_SIZE_LIMIT = 16 * 1024**2  # bytes; a log that grew during a long read is cut to this size
CHECKPOINT_PAGES = 4000  # 16 MiB; with SQLite's default of 1000, checkpoints took a third of the time of claims
WORKER_BUSY_TIMEOUT = 2.0  # seconds


def _sqlite_library() -> ModuleType:
    """pysqlite3, whose wheel contains SQLite 3.53; the standard library's if there is no wheel (see `doctor`)."""
    try:
        return importlib.import_module("pysqlite3.dbapi2")
    except ImportError:
        return importlib.import_module("sqlite3")


sqlite = _sqlite_library()


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
    """Give the application its engines, write lock and wake-up signal. Opens no connection."""
    ensure_home(config)
    clock.follow(None)
    if config.is_sqlite:
        # mode=rw never creates the file: migrations do that once, and a removed home folder must not come back empty.
        url = URL.create(
            "sqlite", database="file:" + quote(str(config.sqlite_path)), query={"mode": "rw", "uri": "true"}
        )
        options: dict[str, Any] = {
            "module": sqlite,
            "paramstyle": "named",  # as in the worker's statements, and as psycopg
            "connect_args": {"timeout": BUSY_TIMEOUT},
        }
    else:
        url = make_url(config.database_url or "")
        options = postgresql.options(url)
    app.config["SQLALCHEMY_DATABASE_URI"] = url
    app.config["SQLALCHEMY_ENGINE_OPTIONS"] = options
    # A worker ends its transactions itself, so the pool has nothing to roll back.
    app.config["SQLALCHEMY_BINDS"] = {
        "read": {"url": url, **options},
        "worker": {"url": url, **options, "pool_reset_on_return": None},
    }
    db.init_app(app)
    app.extensions["queuectl_write_lock"] = WriteLock(config.lock_path if config.is_sqlite else None)
    app.extensions["queuectl_wakeup"] = WakeupSignal(wakeup_signal.path_of(config) if config.is_sqlite else None)
    if config.is_sqlite:
        app.extensions["queuectl_use"] = share_use(config)
    app.extensions["queuectl_durable_settles"] = config.durable_settles
    with app.app_context():
        for role, engine in db.engines.items():
            if config.is_sqlite:
                _prepare_sqlite(engine, role or "write", durable=role != "worker" or config.durable_settles)
            else:
                postgresql.prepare(engine, role or "write", BUSY_TIMEOUT)
            event.listen(engine, "handle_error", _refuse_relocated)
        if config.is_sqlite:
            app.extensions["queuectl_changes"] = _ChangeCounter(read_engine())


def write_engine() -> Engine:
    return db.engine


def read_engine() -> Engine:
    return db.engines["read"]


def write_lock() -> WriteLock:
    lock: WriteLock = current_app.extensions["queuectl_write_lock"]
    return lock


def is_sqlite() -> bool:
    return db.engine.dialect.name == "sqlite"


def migration_engine() -> Engine:
    """An engine for schema changes: without foreign keys, because a table rebuild would delete rows by cascade."""
    engine = create_engine(db.engine.url, poolclass=NullPool, **({"module": sqlite} if is_sqlite() else {}))
    if is_sqlite():
        # auto_vacuum must come before the first table, and before WAL writes the file's header.
        pragmas = ["auto_vacuum=INCREMENTAL", "journal_mode=WAL", "synchronous=FULL", "foreign_keys=OFF"]
        _listen_on_sqlite(engine, pragmas, "BEGIN IMMEDIATE")
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
    lock = write_lock()
    lock.acquire(timeout)
    try:
        with raising_busy(), Session(write_engine(), expire_on_commit=False) as session, session.begin():
            if timeout < BUSY_TIMEOUT and not is_sqlite():
                session.execute(text(f"SET LOCAL lock_timeout = {max(1, round(timeout * 1000))}"))
            yield session
            if wakes_workers:
                _wakeup().notify(lambda statement: session.execute(text(statement)))
    finally:
        lock.release()


def _wakeup() -> WakeupSignal:
    signal: WakeupSignal = current_app.extensions["queuectl_wakeup"]
    return signal


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

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._lock = threading.Lock()
        self._connection: Any = None
        self._number = 0  # of the connection: each has its own counter

    def mark(self) -> Optional[ChangeMark]:
        with self._lock:
            try:
                if self._connection is None:
                    self._connection, self._number = self._engine.raw_connection(), self._number + 1
                (version,) = self._connection.driver_connection.execute("PRAGMA data_version").fetchone()
            except (DBAPIError, self._engine.dialect.loaded_dbapi.Error):
                if self._connection is not None:
                    self._connection.invalidate()
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
        words = str(error.orig)
        if "database is locked" in words or "database is busy" in words or postgresql.is_locked_out(error.orig):
            raise Busy(BUSY) from error
        raise


def _refuse_relocated(context: ExceptionContext) -> None:
    """A refused write to a moved queue must not look like a duplicate name or id."""
    raise_relocated(context.original_exception)


def database(role: str = "write") -> Database:
    """The database for plain SQL, see `core/transaction.py`, with the settings of the engine `write` or `worker`."""
    engine = db.engine if role == "write" else db.engines[role]
    driver = engine.dialect.loaded_dbapi
    durable: bool = role == "write" or current_app.extensions["queuectl_durable_settles"]
    return Database(
        connect=engine.raw_connection,
        driver_error=driver.Error,
        key_taken=driver.IntegrityError,
        is_sqlite=is_sqlite(),
        durable=durable,
        lock=write_lock(),
        wakeup=_wakeup(),
    )


def worker_connection() -> Connection:
    """An open connection. Raises its `errors`."""
    connection = Connection(database("worker"))
    connection.reconnect()
    return connection


@contextmanager
def raising_as_sqlalchemy() -> Iterator[None]:
    """Turn errors of plain SQL on `database()` into those of `writing()`: DBAPIError and Busy."""
    dialect = write_engine().dialect
    base = dialect.loaded_dbapi.Error
    with raising_busy():
        try:
            yield
        except CommitUnanswered as error:  # without a statement, for `db_errors.may_have_been_done()`
            cause = error.__cause__ or error
            raise DBAPIError.instance(None, None, cause, base, connection_invalidated=True, dialect=dialect) from cause
        except base as error:
            raise DBAPIError.instance("", None, error, base, dialect=dialect) from error


def _prepare_sqlite(engine: Engine, role: str, durable: bool) -> None:
    pragmas = ["foreign_keys=ON", "temp_store=MEMORY"]
    pragmas.append("synchronous=FULL" if durable else "synchronous=NORMAL")
    if role == "worker":
        pragmas.append(f"busy_timeout={WORKER_BUSY_TIMEOUT * 1000:.0f}")
    if role == "read":
        pragmas.append("query_only=ON")
    else:
        pragmas.append(f"journal_size_limit={LOG_SIZE_LIMIT}")
        pragmas.append(f"wal_autocheckpoint={CHECKPOINT_PAGES}")
        pragmas.append("journal_mode=WAL")  # the file has it already, unless a person copied it here
    _listen_on_sqlite(engine, pragmas, "BEGIN" if role == "read" else "BEGIN IMMEDIATE")


def _listen_on_sqlite(engine: Engine, pragmas: list[str], begin: str) -> None:
    """Set up each connection, and begin its transactions with this statement.

    The driver's own transactions are off, because a `WITH … UPDATE` survived its rollback. Writers begin IMMEDIATE,
    because a deferred transaction that becomes a write fails at once in spite of the busy timeout.
    """

    @event.listens_for(engine, "connect")
    def set_up(connection: Any, _record: object) -> None:
        connection.isolation_level = None
        for pragma in pragmas:
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def begin_explicitly(connection: Any) -> None:
        connection.exec_driver_sql(begin)
