"""PostgreSQL: a connection for each role, with time limits, planner settings and the server's clock.

Behind a pooler in transaction mode (PgBouncer), session settings would reach other programs: their transactions would
become read-only or less durable. Such settings are therefore sent with each transaction.
"""

from __future__ import annotations

import os
from contextlib import closing
from typing import Any

from webapp.config import Config
from webapp.core.storage.locks import BUSY_TIMEOUT
from webapp.core.storage.schema import SERVER_TIME
from webapp.lib import clock

# The server ends a transaction that is idle for so many seconds: a machine that lost its network then no longer locks
# rows, and its jobs can be recovered.
IDLE_TRANSACTION_SECONDS = 10
CLOCK_INTERVAL = 60 * clock.SECOND  # between two readings of the server's clock

# A machine without network must notice it before its lease ends: within 25 s when idle, else within 20 s.
_LIMITS: dict[str, Any] = {
    "connect_timeout": 10,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
    "fallback_application_name": "queuectl",
}

# Queries of pages and workers walk an index up to a limit. Without these settings the planner may read all rows of a
# state, for example when it has no statistics yet. JIT is off because up to PostgreSQL 17 a scan without alternative,
# such as of the single row of `control`, then looks expensive enough to be compiled. Planning a claim takes as long as
# executing it, so workers use generic plans. Without a pooler, a writer waits BUSY_TIMEOUT for a row that another
# program has locked.
_INDEX_SCANS = ("enable_seqscan = off", "enable_bitmapscan = off", "jit = off")
_SETTINGS = {
    "read": _INDEX_SCANS,
    "worker": (*_INDEX_SCANS, "plan_cache_mode = force_generic_plan"),
    "write": (f"lock_timeout = '{BUSY_TIMEOUT:g}s'",),
}


def connect(config: Config, role: str) -> Any:
    """A connection. `core/transaction.py` sends BEGIN itself; a single statement is a transaction of its own."""
    import psycopg
    from psycopg import IsolationLevel
    from psycopg.conninfo import conninfo_to_dict, make_conninfo

    url = (config.database_url or "").replace("postgresql+psycopg:", "postgresql:", 1)
    connection: Any = psycopg.connect(make_conninfo("", **{**_LIMITS, **conninfo_to_dict(url)}), autocommit=True)
    try:
        connection.execute(f"SET idle_in_transaction_session_timeout = '{IDLE_TRANSACTION_SECONDS}s'")
        if connection.execute("SELECT pg_backend_pid()").fetchone()[0] != connection.info.backend_pid:
            connection.prepare_threshold = None  # a pooler: the next statement may reach another session
        else:
            for setting in _SETTINGS[role]:
                connection.execute(f"SET {setting}")
        follow_clock(connection)
        if role == "read":
            # One snapshot for all queries of a page, as on SQLite. Used by SQLAlchemy, which turns autocommit off.
            connection.read_only, connection.isolation_level = True, IsolationLevel.REPEATABLE_READ
    except BaseException:
        connection.close()
        raise
    return connection


def brings_notifications(config: Config, within: float) -> bool:
    """Whether a notification reaches another connection within so many seconds."""
    channel = f"queuectl_{os.urandom(8).hex()}"
    with closing(connect(config, "worker")) as listener, closing(connect(config, "worker")) as sender:
        listener.execute(f"LISTEN {channel}")
        sender.execute(f"NOTIFY {channel}")
        heard = any(True for _ in listener.notifies(timeout=within, stop_after=1))
        listener.execute("UNLISTEN *")
    return heard


def is_locked_out(error: BaseException) -> bool:
    """Whether a statement waited for a lock for too long, or in a deadlock."""
    return getattr(error, "sqlstate", None) in {"55P03", "40P01"}


def follow_clock(connection: Any) -> None:
    """Set this process's clock to the server's. `connection` is the driver's."""
    asked = clock.counter()
    clock.follow(connection.execute(SERVER_TIME).fetchone()[0], asked)
