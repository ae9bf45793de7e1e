"""What connections to a PostgreSQL server are given: time limits, and the server's clock.

Whatever stays with a session would reach strangers behind a pooler that hands out its connections by the transaction
(PgBouncer): it would make their transactions read-only, or less durable. So what must not is said with each
transaction.
"""

from __future__ import annotations

import secrets
from contextlib import closing
from typing import Any

from sqlalchemy import Engine, event
from sqlalchemy.engine import URL

from webapp.core.schema import SERVER_TIME
from webapp.lib import clock

# Seconds in which a transaction of ours must say something, else the server ends it: a machine that was cut off in the
# middle of one holds its rows no longer than that, and its jobs can go back.
IDLE_LIMIT = 10
CLOCK_LOOK = 60 * clock.SECOND  # between two questions for the time

# A machine that is cut off must notice it before its lease is over: within 25 s with nothing under way, and 20 s with.
_LIMITS = {
    "connect_timeout": 10,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
    "fallback_application_name": "queuectl",
}


# What pages and workers ask is answered by walking an index up to a limit. Left alone, the planner reads all of a
# state where it takes its rows to be everywhere in the table, or has no statistics yet. Without JIT, for up to
# PostgreSQL 17 a scan that nothing can replace, as of the one row of `control`, then looks dear enough to be compiled.
# The worker's few statements are prepared, too: to plan a claim anew takes as long as all of its turn.
_WALKS = ("enable_seqscan = off", "enable_bitmapscan = off", "jit = off")
_PLANS = {"read": _WALKS, "worker": (*_WALKS, "plan_cache_mode = force_generic_plan")}


def options(url: URL) -> dict[str, Any]:
    """For `create_engine`. What the address says itself stands."""
    return {
        "pool_pre_ping": True,
        "connect_args": {name: value for name, value in _LIMITS.items() if name not in url.query},
    }


def prepare(engine: Engine, role: str, patience: float) -> None:
    """Set up every connection of an engine. The worker's says BEGIN itself, to say more in the same breath.

    A writer's statements wait for a row that a stranger holds for `patience` seconds, where no pooler stands between.
    """
    from psycopg import IsolationLevel

    settings = {**_PLANS, "write": (f"lock_timeout = '{patience:g}s'",)}.get(role, ())

    @event.listens_for(engine, "connect")
    def set_up(connection: Any, record: Any) -> None:
        connection.autocommit = True
        connection.execute(f"SET idle_in_transaction_session_timeout = '{IDLE_LIMIT}s'")
        if connection.execute("SELECT pg_backend_pid()").fetchone()[0] != connection.info.backend_pid:
            connection.prepare_threshold = None  # a pooler's: the next statement may reach another session
        else:
            for setting in settings:
                connection.execute(f"SET {setting}")
        ask(connection)
        record.info["clock"] = clock.counter()
        connection.autocommit = role == "worker"
        if role == "read":
            # One view for all that a page asks, as on SQLite.
            connection.read_only, connection.isolation_level = True, IsolationLevel.REPEATABLE_READ

    @event.listens_for(engine, "checkout")
    def look_at_clock(connection: Any, record: Any, _proxy: object) -> None:
        if clock.counter() - record.info.get("clock", 0) > CLOCK_LOOK:
            record.info["clock"] = clock.counter()
            ask(connection)
            connection.rollback()


def brings_notifications(engine: Engine, within: float) -> bool:
    """Whether what one connection notifies is heard on another, in so many seconds. `engine` is the worker's."""
    channel = f"queuectl_{secrets.token_hex(8)}"
    with closing(engine.raw_connection()) as ear, closing(engine.raw_connection()) as mouth:
        driver: Any = ear.driver_connection
        driver.execute(f"LISTEN {channel}")
        mouth.cursor().execute(f"NOTIFY {channel}")
        heard = any(True for _ in driver.notifies(timeout=within, stop_after=1))
        driver.execute("UNLISTEN *")
    return heard


def is_locked_out(error: object) -> bool:
    """Whether this is what a statement ends with that has waited for a lock in vain: for too long, or in a circle."""
    return getattr(error, "sqlstate", None) in {"55P03", "40P01"}


def ask(connection: Any) -> None:
    """Ask the server for the time, on a DBAPI connection."""
    asked = clock.counter()
    clock.follow(connection.execute(SERVER_TIME).fetchone()[0], asked)
