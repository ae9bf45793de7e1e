"""What the machine may do to the database, as sentences: a full disk, one that cannot be written, damage, no server.

The one place that knows how SQLite and PostgreSQL word them. Whoever shows an error (console, commands) asks
`explain()`; the console, which must not repeat to strangers where the server is, asks `is_out_of_reach()` as well;
whatever runs for good asks `check_before_start()`.
"""

from __future__ import annotations

import shutil
import time
from contextlib import closing
from pathlib import Path
from typing import Optional
from urllib.parse import quote

from sqlalchemy import update
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from webapp.config import Config, ConfigError
from webapp.core.locks import BUSY_TIMEOUT
from webapp.db.engines import sqlite, writing
from webapp.db.models import Control

LONGEST_CHECK = 5.0  # seconds: a start looks through a database that is larger than that only as far as it comes
LARGE_LOG = 128 * 1024**2  # bytes; a busy queue's log stays near 4 MiB
LITTLE_SPACE, NO_SPACE = 1024**3, 100 * 1024**2  # bytes
RESTORE = "It is left as it is. Put a backup in its place: manage.py db restore FILE"

_NO_CONNECTION = "the database server has no connection left. Work goes on by itself when others give theirs back"

_SENTENCES = (
    ("disk is full", "the disk is full, so nothing can be stored. Make room; work goes on by itself then"),
    ("readonly database", "the database cannot be written: its file, its folder or its disk is read-only"),
    ("unable to open database", "the database cannot be opened: its file or its folder is gone or may not be used"),
    ("disk I/O error", "the database's disk is full, read-only or broken"),
    ("Read-only file system", "the database cannot be written: its file, its folder or its disk is read-only"),
    ("No space left on device", "the disk is full, so nothing can be stored. Make room; work goes on by itself then"),
    ("malformed", "the database is damaged. " + RESTORE),
    ("file is not a database", "the database is damaged. " + RESTORE),
    ("too many clients", _NO_CONNECTION),
    ("remaining connection slots", _NO_CONNECTION),
    ("too many connections for", _NO_CONNECTION),
    ("system is starting up", "the database server is starting. Work goes on by itself once it has"),
    ("system is shutting down", "the database server is stopping. Work goes on by itself once it is back"),
    ("in recovery mode", "the database server recovers from a crash. Work goes on by itself once it has"),
    ("read-only transaction", "the database takes no writes: its server is a standby, or was made read-only"),
)
OUT_OF_REACH = "the database is out of reach. Work goes on by itself when it is back"


def explain(error: BaseException) -> Optional[str]:
    """A sentence without its full stop for an error of the database that the machine caused; None for any other."""
    text = str(error.orig if isinstance(error, DBAPIError) else error)
    return next((sentence for words, sentence in _SENTENCES if words in text), None)


def is_out_of_reach(error: BaseException) -> bool:
    """Whether no server answered, or it broke off, or it refused for a reason of its own that no sentence here has.

    psycopg has other classes for what is wrong with a statement; SQLite has not, hence it is left out.
    """
    if isinstance(error, PoolTimeout):
        return True
    ours = isinstance(error, (OperationalError, InterfaceError))
    return ours and type(getattr(error, "orig", None)).__module__.partition(".")[0] == "psycopg"


def may_have_been_done(error: BaseException) -> bool:
    """Whether a commit got no answer: then nobody knows whether the server carried it out."""
    # An error of a statement names it, and one of connecting cost no connection.
    return (
        is_out_of_reach(error)
        and isinstance(error, DBAPIError)
        and error.statement is None
        and bool(error.connection_invalidated)
    )


def large_log(config: Config) -> Optional[int]:
    """The size of SQLite's log (bytes) where it has outgrown all reason, else None.

    It is copied back into the database, and begins anew, only when no transaction that is open needs what it holds.
    """
    if not config.is_sqlite:
        return None
    try:
        size = config.sqlite_path.with_name(config.sqlite_path.name + "-wal").stat().st_size
    except OSError:
        return None
    return size if size > LARGE_LOG else None


def disk_nearly_full(config: Config) -> Optional[int]:
    """Fewer free bytes than there should be where the database or, beside PostgreSQL, the home lies; else None."""
    try:
        free = shutil.disk_usage(config.sqlite_path.parent if config.is_sqlite else config.home).free
    except OSError:
        return None
    return free if free < LITTLE_SPACE else None


def prove_writable(patience: float = BUSY_TIMEOUT) -> None:
    """Write something, durably. Raises Busy, DBAPIError or OSError.

    It must change a byte: what SQLite finds to be there already it does not write, on a disk that is full or read-only
    just as on any other.
    """
    with writing(patience, rings=False) as session:
        session.execute(update(Control).values(pulse=Control.pulse + 1))


def check_before_start(config: Config) -> None:
    """Raises ConfigError where workers or a console should not start: the database is damaged or cannot be written."""
    if config.is_sqlite:
        _check_sound(config.sqlite_path)
    try:
        prove_writable()
    except (DBAPIError, OSError) as error:
        raise ConfigError(f"{config.sqlite_path if config.is_sqlite else 'PostgreSQL'}: {_line(error)}.") from None


def _check_sound(path: Path) -> None:
    until = time.monotonic() + LONGEST_CHECK
    try:
        with closing(sqlite.connect(f"file:{quote(str(path))}?mode=ro", uri=True)) as connection:
            connection.set_progress_handler(lambda: time.monotonic() > until, 10_000)
            damages = [row[0] for row in connection.execute("PRAGMA quick_check(1)") if row[0] != "ok"]
    except sqlite.OperationalError as error:
        if "interrupted" in str(error):
            return
        damages = [str(error)]
    except sqlite.DatabaseError as error:
        damages = [str(error)]
    if damages:
        detail = " ".join(damages[0].split())
        raise ConfigError(f"the database {path} is damaged: {detail}. {RESTORE}")


def _line(error: BaseException) -> str:
    return explain(error) or str(getattr(error, "orig", error)).strip().partition("\n")[0]
