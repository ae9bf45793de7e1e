"""How Alembic runs here: one transaction behind the write lock, foreign keys off during and checked at its end."""

from __future__ import annotations

from alembic import context
from sqlalchemy import text

from webapp.db import engines

_LOCK_NUMBER = 0x71756575  # 'queu': any number that all processes agree on


def run() -> None:
    with engines.write_lock(), engines.migration_engine().begin() as connection:
        sqlite = connection.dialect.name == "sqlite"
        if not sqlite:
            connection.execute(text("SELECT pg_advisory_xact_lock(:number)"), {"number": _LOCK_NUMBER})
            # Whoever waits for a table makes all others wait behind it: rather none of them, and another try.
            connection.execute(text("SET LOCAL lock_timeout = '10s'"))
        context.configure(connection=connection, target_metadata=engines.Base.metadata, render_as_batch=sqlite)
        context.run_migrations()
        connection.execute(text("UPDATE control SET revision = revision + 1"))  # workers look when it has grown
        if sqlite:
            broken = connection.execute(text("PRAGMA foreign_key_check")).fetchall()
            if broken:
                raise RuntimeError(f"the migration would leave {len(broken)} broken references; nothing was changed")


run()
