"""The database: engines, transactions and the write lock, for SQLite and PostgreSQL.

The only module that knows a SQLite library, and the only door to a transaction: `reading()` and `writing()` for
people and programs, `database()` for the plain SQL of workers and enqueue. Tables live in `db/models.py`.

Three engines serve one database:

- `write` commits durably (`synchronous=FULL`): whoever was told 'accepted' can pull the plug.
- `read` can never write, and so never waits for the write lock.
- `worker` commits with `synchronous=NORMAL`: after a power cut the attempts of the last moments may run again, unless
  QUEUECTL_DURABLE_SETTLES asks for the same as `write`. It gives up sooner when a stranger has the database, because
  nothing else can reach the thread that waits within the library.
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
from sqlalchemy import Engine, MetaData, create_engine, event, text
from sqlalchemy.engine import URL, ExceptionContext, make_url
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.orm import DeclarativeBase, Session
from sqlalchemy.pool import NullPool

from webapp.config import Config, ensure_home
from webapp.core.locks import BUSY, BUSY_TIMEOUT, Busy, WriteLock, share_use
from webapp.core.transaction import CommitUnanswered, Connection, Database, raise_relocated
from webapp.core.wakeup_signal import WakeupSignal
from webapp.core.wakeup_signal import path_of as doorbell_path
from webapp.db import postgresql
from webapp.lib import clock

LOG_KEPT = 16 * 1024**2  # bytes: a log that grew larger, while somebody read for long, is cut to this afterwards
CHECKPOINT_AFTER = 4000  # pages, 16 MiB: with SQLite's 1000 copying them took a third of what claim and settle do
WORKER_BUSY_TIMEOUT = 2.0


def _sqlite_library() -> ModuleType:
    """pysqlite3, whose wheel carries SQLite 3.53; the standard library's where there is no wheel (see `doctor`)."""
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


db = SQLAlchemy(model_class=Base)

if TYPE_CHECKING:
    Model = Base
else:
    Model = db.Model


def init_app(app: Flask, config: Config) -> None:
    """Give the application its three engines and its lock. Opens no connection."""
    ensure_home(config)
    clock.follow(None)
    if config.is_sqlite:
        # Never made by opening it: `migrations` does that, once. Under a home that was taken away nothing shall appear.
        url = URL.create(
            "sqlite", database="file:" + quote(str(config.sqlite_path)), query={"mode": "rw", "uri": "true"}
        )
        options: dict[str, Any] = {
            "module": sqlite,
            "paramstyle": "named",  # as the worker's own statements have it, and psycopg's
            "connect_args": {"timeout": BUSY_TIMEOUT},
        }
    else:
        url = make_url(config.database_url or "")
        options = postgresql.options(url)
    app.config["SQLALCHEMY_DATABASE_URI"] = url
    app.config["SQLALCHEMY_ENGINE_OPTIONS"] = options
    # A worker ends its transactions itself: the pool has nothing to roll back when a connection returns.
    app.config["SQLALCHEMY_BINDS"] = {
        "read": {"url": url, **options},
        "worker": {"url": url, **options, "pool_reset_on_return": None},
    }
    db.init_app(app)
    app.extensions["queuectl_write_lock"] = WriteLock(config.lock_path if config.is_sqlite else None)
    app.extensions["queuectl_doorbell"] = WakeupSignal(doorbell_path(config) if config.is_sqlite else None)
    if config.is_sqlite:
        app.extensions["queuectl_use"] = share_use(config)
    app.extensions["queuectl_durable_settles"] = config.durable_settles
    with app.app_context():
        for role, engine in db.engines.items():
            if config.is_sqlite:
                _prepare_sqlite(engine, role or "write", durable=role != "worker" or config.durable_settles)
            else:
                postgresql.prepare(engine, role or "write", BUSY_TIMEOUT)
            event.listen(engine, "handle_error", _told_elsewhere)
        if config.is_sqlite:
            app.extensions["queuectl_watch"] = _Watch(read_engine())


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
    """An engine for schema changes: foreign keys off, because a table rebuild with them on cascades rows away."""
    engine = create_engine(db.engine.url, poolclass=NullPool, **({"module": sqlite} if is_sqlite() else {}))
    if is_sqlite():

        @event.listens_for(engine, "connect")
        def set_up(connection: Any, _record: object) -> None:
            connection.isolation_level = None
            # auto_vacuum only takes before the first table, and before WAL writes the file's header.
            for pragma in ("auto_vacuum=INCREMENTAL", "journal_mode=WAL", "synchronous=FULL", "foreign_keys=OFF"):
                connection.execute(f"PRAGMA {pragma}")

        @event.listens_for(engine, "begin")
        def begin_explicitly(connection: Any) -> None:
            connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


@contextmanager
def reading() -> Iterator[Session]:
    """One consistent, read-only view of the database. Keep it short: on SQLite an open reader pins the WAL."""
    with Session(read_engine(), expire_on_commit=False) as session, session.begin():
        yield session


@contextmanager
def writing(patience: float = BUSY_TIMEOUT, *, rings: bool = True) -> Iterator[Session]:
    """One durable write transaction: committed when the block ends, rolled back when it raises.

    It wakes the workers that wait, unless it `rings` not: housekeeping, of which none of them can make anything.
    Raises Busy when another writer of ours holds the database for longer than `patience` seconds, or a stranger for
    longer than BUSY_TIMEOUT; Elsewhere when the queue has moved to another database.
    """
    lock = write_lock()
    lock.acquire(patience)
    try:
        with raising_busy(), Session(write_engine(), expire_on_commit=False) as session, session.begin():
            if patience < BUSY_TIMEOUT and not is_sqlite():
                session.execute(text(f"SET LOCAL lock_timeout = {max(1, round(patience * 1000))}"))
            yield session
            if rings:
                doorbell().ring(lambda statement: session.execute(text(statement)))
    finally:
        lock.release()


def doorbell() -> WakeupSignal:
    """What wakes the workers that wait, and has the keepers look."""
    bell: WakeupSignal = current_app.extensions["queuectl_doorbell"]
    return bell


Mark = tuple[Any, ...]


def mark() -> Optional[Mark]:
    """Something that differs after every commit, as soon as readers see it; None where it cannot be told just now.

    Take it before reading: what was read stands while the mark is the same. Marks are this process's own.
    """
    if is_sqlite():
        watch: _Watch = current_app.extensions["queuectl_watch"]
        return watch.mark()
    with reading() as session:
        return (session.scalar(text("SELECT CAST(pg_current_snapshot() AS text)")),)


class _Watch:
    """A connection that only looks at `data_version`, which counts what others commit, for this connection alone.

    The files' times would not do: they change before a commit can be seen, on a slow disk long before.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._lock = threading.Lock()
        self._connection: Any = None
        self._number = 0  # of the connection: each counts from a place of its own

    def mark(self) -> Optional[Mark]:
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


def give_way() -> None:
    """Between two of many write transactions: let others have the lock.

    Who frees a lock and takes it again at once is always quicker than those that were woken for it.
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


def _told_elsewhere(context: ExceptionContext) -> None:
    """What refuses every write to a queue that was moved must not be taken for a name or an id that is taken."""
    raise_relocated(context.original_exception)


def database(role: str = "write") -> Database:
    """The database for plain SQL, see `core/transaction.py`: as the engine `write` or `worker` has set it up."""
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
        wakeup=doorbell(),
    )


def worker_connection() -> Connection:
    """Raises what its `errors` has."""
    connection = Connection(database("worker"))
    connection.reconnect()
    return connection


@contextmanager
def raising_as_sqlalchemy() -> Iterator[None]:
    """Raise what plain SQL on `database()` raises as `writing()` raises it: DBAPIError and Busy."""
    dialect = write_engine().dialect
    base = dialect.loaded_dbapi.Error
    with raising_busy():
        try:
            yield
        except CommitUnanswered as error:  # without a statement, as `trouble.may_have_been_done()` expects it
            cause = error.__cause__ or error
            raise DBAPIError.instance(None, None, cause, base, connection_invalidated=True, dialect=dialect) from cause
        except base as error:
            raise DBAPIError.instance("", None, error, base, dialect=dialect) from error


def _prepare_sqlite(engine: Engine, role: str, durable: bool) -> None:
    """Set up every connection of one SQLite engine, and make its transactions begin as the role needs.

    The driver's own transaction handling is switched off (a `WITH … UPDATE` survived its rollback) and BEGIN said
    here: writers IMMEDIATE, because a deferred transaction that turns into a write fails at once, busy timeout or not.
    """
    pragmas = ["foreign_keys=ON", "temp_store=MEMORY"]
    pragmas.append("synchronous=FULL" if durable else "synchronous=NORMAL")
    if role == "worker":
        pragmas.append(f"busy_timeout={WORKER_BUSY_TIMEOUT * 1000:.0f}")
    if role == "read":
        pragmas.append("query_only=ON")
    else:
        pragmas.append(f"journal_size_limit={LOG_KEPT}")
        pragmas.append(f"wal_autocheckpoint={CHECKPOINT_AFTER}")
        pragmas.append("journal_mode=WAL")  # as the file says already, unless it is a copy that somebody put here

    @event.listens_for(engine, "connect")
    def set_up(connection: Any, _record: object) -> None:
        connection.isolation_level = None
        for pragma in pragmas:
            connection.execute(f"PRAGMA {pragma}")

    begin = "BEGIN" if role == "read" else "BEGIN IMMEDIATE"

    @event.listens_for(engine, "begin")
    def begin_explicitly(connection: Any) -> None:
        connection.exec_driver_sql(begin)
