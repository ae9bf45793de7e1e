"""A worker's connection for tests that play a worker."""

from __future__ import annotations

from webapp.core.storage.database import Database
from webapp.core.storage.transaction import Connection, connect
from webapp.db import engines


def worker_database() -> Database:
    """The current application's database, as a worker uses it. It shares the write lock, as a thread would."""
    ours = engines.database()
    return Database(ours.config, "worker", lock=ours.lock)


def worker_connection() -> Connection:
    """An open connection; the caller closes it."""
    return connect(worker_database())
