"""Runs Alembic in one transaction with the write lock held. Foreign keys are off, and checked at the end."""

from __future__ import annotations

from alembic import context
from sqlalchemy import text

from webapp.db import engines

_LOCK_NUMBER = 0x71756575  # 'queu'; the same number in all processes


def run() -> None:
    with engines.database().lock, engines.migration_engine().begin() as connection:
        sqlite = connection.dialect.name == "sqlite"
        if not sqlite:
            connection.execute(text("SELECT pg_advisory_xact_lock(:number)"), {"number": _LOCK_NUMBER})
            # A statement that waits for a table lock blocks all later ones, so give up soon and try again.
            connection.execute(text("SET LOCAL lock_timeout = '10s'"))
        context.configure(connection=connection, target_metadata=engines.Base.metadata, render_as_batch=sqlite)
        context.run_migrations()
        connection.execute(text("UPDATE control SET revision = revision + 1"))  # workers then notice the new schema
        if sqlite:
            broken = connection.execute(text("PRAGMA foreign_key_check")).fetchall()
            if broken:
                raise RuntimeError(f"the migration would leave {len(broken)} broken references; nothing was changed")


run()
