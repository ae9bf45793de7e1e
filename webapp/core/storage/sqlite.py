"""SQLite: its library, and a connection for each role. Only this module imports a SQLite library.

- `write` commits durably (`synchronous=FULL`): accepted jobs survive a power cut.
- `read` cannot write, and so never waits for the write lock.
- `worker` commits with `synchronous=NORMAL`: after a power cut the last attempts may run again, unless
  QUEUECTL_DURABLE_SETTLES is set. It has a shorter busy timeout, because nothing can interrupt a thread that waits in
  the SQLite library.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any
from urllib.parse import quote

from webapp.config import Config
from webapp.core.storage.locks import BUSY_TIMEOUT

LOG_SIZE_LIMIT = 16 * 1024**2  # bytes; a log that grew during a long read is cut to this size
CHECKPOINT_PAGES = 4000  # 16 MiB; with SQLite's default of 1000, checkpoints took a third of the time of claims
WORKER_BUSY_TIMEOUT = 2.0  # seconds


def _library() -> ModuleType:
    """pysqlite3, whose wheel contains SQLite 3.53; the standard library's if there is no wheel (see `doctor`)."""
    try:
        return importlib.import_module("pysqlite3.dbapi2")
    except ImportError:
        return importlib.import_module("sqlite3")


library = _library()
# Without these, the driver looks for an adapter at each such value, which takes ten times as long as the value itself.
library.register_adapter(type(None), {None: None}.get)
library.register_adapter(bool, int)
library.register_adapter(bytes, bytes)


def address(config: Config) -> str:
    """mode=rw never creates the file: migrations do that once, and a removed home folder must not come back empty."""
    return f"file:{quote(str(config.sqlite_path))}?mode=rw"


def connect(config: Config, role: str) -> Any:
    """A connection without transactions of its own: the driver's let a `WITH … UPDATE` survive its rollback.

    Several threads may use it, one after another.
    """
    timeout = WORKER_BUSY_TIMEOUT if role == "worker" else BUSY_TIMEOUT
    connection = library.connect(
        address(config), uri=True, timeout=timeout, isolation_level=None, check_same_thread=False
    )
    try:
        for pragma in _pragmas(role, durable=role != "worker" or config.durable_settles):
            connection.execute(f"PRAGMA {pragma}")
    except BaseException:
        connection.close()
        raise
    return connection


def is_locked_out(error: BaseException) -> bool:
    """Whether a statement waited for a lock for too long."""
    words = str(error)
    return isinstance(error, library.OperationalError) and (
        "database is locked" in words or "database is busy" in words
    )


def is_read_only(error: BaseException) -> bool:
    """Whether the file cannot be written. A connection that was opened while the disk was read-only stays so."""
    return isinstance(error, library.OperationalError) and "readonly database" in str(error)


def _pragmas(role: str, *, durable: bool) -> list[str]:
    pragmas = ["foreign_keys=ON", "temp_store=MEMORY", f"synchronous={'FULL' if durable else 'NORMAL'}"]
    if role == "read":
        return [*pragmas, "query_only=ON"]
    # The file has its journal mode already, unless a person copied it here.
    return [
        *pragmas,
        f"journal_size_limit={LOG_SIZE_LIMIT}",
        f"wal_autocheckpoint={CHECKPOINT_PAGES}",
        "journal_mode=WAL",
    ]
