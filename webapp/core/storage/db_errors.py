"""Explains database errors that the environment causes: a full or read-only disk, damage, no server.

Only this module knows how SQLite and PostgreSQL word these errors. `explain()` gives a sentence for all of them except
an unavailable server, see `db/out_of_reach.py`: the console must not show its address. Long-running processes call
`check_before_start()`.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from contextlib import closing
from typing import Optional
from urllib.parse import quote

from webapp.config import Config, Unavailable, denial
from webapp.core.storage.database import Database
from webapp.core.storage.locks import BUSY_TIMEOUT
from webapp.core.storage.sqlite import library as sqlite
from webapp.core.storage.transaction import transaction_on

CHECK_TIMEOUT = 5.0  # seconds; a larger database is only checked partly at a start
LARGE_LOG = 128 * 1024**2  # bytes; the log of a busy queue stays near 4 MiB
LITTLE_SPACE, NO_SPACE = 1024**3, 100 * 1024**2  # bytes

_INSUFFICIENT_PRIVILEGE = "42501"  # the code of this error in PostgreSQL
_RESUMES = "Work resumes automatically when it is ready"
_RESTORE = "It was not changed. Restore a backup: manage.py db restore FILE"
_DISK_FULL = "the disk is full, so nothing can be stored. Free some space; work then resumes automatically"
_READ_ONLY = "the database cannot be written: its file, its folder or its disk is read-only"
_NOT_ACCESSIBLE = "the database cannot be opened: its file or folder is missing or not accessible"
_DAMAGED = f"the database is damaged. {_RESTORE}"
_NO_CONNECTION = "the database server has no connection left. Work resumes automatically when one is free"
_SENTENCES = {
    "disk is full": _DISK_FULL,
    "No space left on device": _DISK_FULL,
    "readonly database": _READ_ONLY,
    "Read-only file system": _READ_ONLY,
    "unable to open database": _NOT_ACCESSIBLE,
    "disk I/O error": "the database's disk is full, read-only or faulty",
    "malformed": _DAMAGED,
    "file is not a database": _DAMAGED,
    "too many clients": _NO_CONNECTION,
    "remaining connection slots": _NO_CONNECTION,
    "too many connections for": _NO_CONNECTION,
    "system is starting up": f"the database server is starting. {_RESUMES}",
    "system is shutting down": f"the database server is stopping. {_RESUMES}",
    "in recovery mode": f"the database server is recovering from a crash. {_RESUMES}",
    "read-only transaction": "the database takes no writes: its server is a standby, or was set to read-only",
}
# What a superuser or the owner of the database has to create or to grant, by the server's words.
_MISSING = (
    (
        r"permission denied for schema (?P<name>\S+)",
        "the database user {user} may not use the schema {name}. "
        'In the database {database}, run `GRANT ALL ON SCHEMA {name} TO "{user}"`',
    ),
    (
        r"permission denied for (table|sequence|view|relation) |must be owner of ",
        "the tables belong to another database user than {user}. Connect as their owner, or run "
        """`GRANT "OWNER" TO "{user}"; ALTER ROLE "{user}" SET role = 'OWNER'`""",
    ),
    (
        "permission denied for database ",
        'the database user {user} may not connect. Run `GRANT CONNECT ON DATABASE "{database}" TO "{user}"`',
    ),
    (
        'database ".*" does not exist',
        "the database {database} does not exist. "
        "Create it with `createdb --encoding=UTF8 --template=template0 --owner={user} {database}`",
    ),
    (
        'role ".*" does not exist',
        "the database user {user} does not exist. Create it with `createuser --pwprompt {user}`",
    ),
)


def explain(error: BaseException, config: Optional[Config] = None) -> Optional[str]:
    """A sentence, without its full stop, for a database error that the environment caused; None for any other.

    With `config`, it names files that belong to another user, and says what to grant on the PostgreSQL server. The
    console must not show those names.
    """
    text = str(getattr(error, "orig", error))  # SQLAlchemy's errors have the driver's
    sentence = next((sentence for words, sentence in _SENTENCES.items() if words in text), None)
    if config is None and getattr(getattr(error, "orig", error), "sqlstate", "") == _INSUFFICIENT_PRIVILEGE:
        return f"the database user lacks a permission: {text.strip().partition(chr(10))[0]}. See: manage.py doctor"
    if config is None:
        return sentence
    if not config.is_sqlite:
        return sentence or _explain_missing(text, config)
    return denial(config) or sentence if sentence in (_READ_ONLY, _NOT_ACCESSIBLE) else sentence


def _explain_missing(text: str, config: Config) -> Optional[str]:
    """What must be created or granted on the PostgreSQL server; None if the error has another reason."""
    import getpass

    from psycopg.conninfo import conninfo_to_dict

    for words, sentence in _MISSING:
        found = re.search(words, text)
        if found:
            names = conninfo_to_dict((config.database_url or "").replace("postgresql+psycopg:", "postgresql:", 1))
            user = names.get("user") or os.environ.get("PGUSER") or getpass.getuser()
            return sentence.format(user=user, database=names.get("dbname") or user, **found.groupdict())
    return None


def large_log(config: Config) -> Optional[int]:
    """The size of SQLite's log in bytes if it is far too large, else None.

    SQLite can only reset it when no open transaction needs it.
    """
    if not config.is_sqlite:
        return None
    try:
        size = config.sqlite_path.with_name(config.sqlite_path.name + "-wal").stat().st_size
    except OSError:
        return None
    return size if size > LARGE_LOG else None


def disk_nearly_full(config: Config) -> Optional[int]:
    """The free bytes on the disk of the database (PostgreSQL: of the home folder) if they are few, else None."""
    try:
        free = shutil.disk_usage(config.sqlite_path.parent if config.is_sqlite else config.home).free
    except OSError:
        return None
    return free if free < LITTLE_SPACE else None


def prove_writable(database: Database, timeout: float = BUSY_TIMEOUT) -> None:
    """Write to the database. Raises OSError or the driver's errors.

    It must change a value: SQLite does not write a page that stays the same, so a full disk would not be noticed.
    """
    with transaction_on(database, timeout, wakes_workers=False) as transaction:
        transaction.execute("UPDATE control SET pulse = pulse + 1")


def check_before_start(database: Database) -> None:
    """Raises ConfigError if the database is damaged or cannot be written, so workers or a console must not start."""
    config = database.config
    if config.is_sqlite:
        _check_sound(config)
    try:
        prove_writable(database)
    except (database.driver_error, OSError) as error:
        reason = explain(error, config) or str(error).strip().partition("\n")[0]
        raise Unavailable(f"{config.sqlite_path if config.is_sqlite else 'PostgreSQL'}: {reason}.") from None


def _check_sound(config: Config) -> None:
    path, until = config.sqlite_path, time.monotonic() + CHECK_TIMEOUT
    try:
        with closing(sqlite.connect(f"file:{quote(str(path))}?mode=ro", uri=True)) as connection:
            connection.set_progress_handler(lambda: time.monotonic() > until, 10_000)
            damages = [row[0] for row in connection.execute("PRAGMA quick_check(1)") if row[0] != "ok"]
    except sqlite.OperationalError as error:
        if "interrupted" in str(error):
            return
        if "unable to open" in str(error):
            raise Unavailable(f"{path}: {explain(error, config)}.") from None
        damages = [str(error)]
    except sqlite.DatabaseError as error:
        damages = [str(error)]
    if damages:
        detail = " ".join(damages[0].split())
        raise Unavailable(f"the database {path} is damaged: {detail}. {_RESTORE}")
