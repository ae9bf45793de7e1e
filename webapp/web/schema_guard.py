"""A console whose database a newer version has taken over serves nobody: it says so, and ends."""

from __future__ import annotations

import os
import signal
import time

from flask import current_app
from sqlalchemy import text

from webapp.core import schema
from webapp.db.engines import reading

LOOK_EVERY = 1.0  # seconds
SERVER = "queuectl_server"  # in an application's extensions: the process whose end is the end of all that serve

_KEY = "queuectl_schema_seen"


class Outdated(Exception):
    """The database is of a newer version than this process."""


def refuse_when_outdated() -> None:
    """Raises Outdated, after it has told the server to end."""
    now = time.monotonic()
    if now < current_app.extensions.get(_KEY, 0.0) + LOOK_EVERY:
        return
    with reading() as session:
        found = session.scalar(text(schema.REVISION))
    if found == schema.HEAD:
        current_app.extensions[_KEY] = now
        return
    server = current_app.extensions.get(SERVER)
    if server is not None:
        os.kill(server, signal.SIGTERM)
    raise Outdated(
        "A newer version of queuectl has brought the database up to date. Start this console again with that version"
    )
