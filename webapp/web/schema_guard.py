"""Stops the console when a newer version has migrated the database."""

from __future__ import annotations

import os
import signal
import time

from flask import current_app
from sqlalchemy import text

from webapp.core import schema
from webapp.db.engines import reading

CHECK_INTERVAL_SECONDS = 1.0
SERVER = "queuectl_server"  # extension key: the pid of the server's main process

_KEY = "queuectl_schema_seen"


class Outdated(Exception):
    """The database belongs to a newer version than this process."""


def refuse_when_outdated() -> None:
    """Stop the server and raise Outdated if the database is newer."""
    now = time.monotonic()
    if now < current_app.extensions.get(_KEY, 0.0) + CHECK_INTERVAL_SECONDS:
        return
    with reading() as session:
        found = session.scalar(text(schema.REVISION))
    if found == schema.HEAD:
        current_app.extensions[_KEY] = now
        return
    server = current_app.extensions.get(SERVER)
    if server is not None:
        os.kill(server, signal.SIGTERM)
    raise Outdated("A newer version of queuectl has upgraded the database. Restart this console with that version")
