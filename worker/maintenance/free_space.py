"""Returns the space of deleted rows in SQLite's files to the disk. PostgreSQL keeps it for new rows."""

from __future__ import annotations

from contextlib import closing

from webapp.core.storage import sqlite
from webapp.core.storage.transaction import transaction_on
from webapp.db import engines
from webapp.db.engines import raising_as_sqlalchemy, reading

PAGES = 1000  # 4 MiB, that one transaction returns; 10 ms
RESERVE = 20  # one page in this many stays free: new jobs use it before the next round
CHECKPOINT_TIMEOUT = 0.2  # seconds that cutting the log waits for readers, with the write lock


def release_pages(lock_timeout: float) -> bool:
    """Cut some free pages off the file. Returns whether there may be more."""
    database = engines.database()
    if not database.is_sqlite:
        return False
    with reading() as session:
        pages, free = (
            session.connection()
            .exec_driver_sql("SELECT page_count, freelist_count FROM pragma_page_count, pragma_freelist_count")
            .one()
        )
    if free <= pages // RESERVE:
        return False
    number = min(PAGES, free - pages // RESERVE)
    with raising_as_sqlalchemy(), transaction_on(database, lock_timeout, wakes_workers=False) as transaction:
        # Each row that is read releases one page.
        return len(transaction.execute(f"PRAGMA incremental_vacuum({number})").fetchall()) > 0


def cut_log(lock_timeout: float) -> bool:
    """Empty a log that grew during a long read. A busy queue does this anyway; an idle one would keep the log."""
    database = engines.database()
    if not database.is_sqlite:
        return False
    path = database.config.sqlite_path
    try:
        if path.with_name(path.name + "-wal").stat().st_size <= sqlite.LOG_SIZE_LIMIT:
            return False
    except OSError:
        return False
    with raising_as_sqlalchemy(), closing(sqlite.connect(database.config, "write")) as connection:
        connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()  # most of it, while others write
        connection.execute(f"PRAGMA busy_timeout = {round(CHECKPOINT_TIMEOUT * 1000)}")
        database.lock.acquire(lock_timeout)
        try:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        finally:
            database.lock.release()
    return False
