"""Health checks for supervisors and load balancers, without sign-in.

`/healthz`: the process is alive. `/readyz`: jobs can be stored. A queue without workers is still ready, because the
console works; `/readyz?workers` also fails without workers.
"""

from __future__ import annotations

import shutil
import time

from flask import Blueprint, Response, current_app, request
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from webapp.core import schema
from webapp.core.locks import Busy
from webapp.core.relocated import Relocated
from webapp.db import db_errors
from webapp.db.engines import reading
from webapp.insight import fleet
from webapp.jobs import settings

LEAST_SPACE = 10 * 1024**2  # bytes
PROOF_HOLDS = 1.0  # seconds; anonymous requests must not cause a write each time
PATIENCE = 5.0  # seconds to wait for the write lock

_KEY = "queuectl_proved_writable"

pages = Blueprint("health", __name__)


@pages.get("/healthz")
def alive() -> Response:
    return _said(200, "ok")


@pages.get("/readyz")
def ready() -> Response:
    """Test that the database can be written, at most once a second."""
    try:
        _prove_writable()
        with reading() as session:
            current = session.scalar(text(schema.REVISION)) == schema.HEAD
            views = fleet.workers(session, settings.load(session).lease)
    except Relocated:
        return _said(503, "database: the queue has moved to another one, or is on its way")
    except (SQLAlchemyError, Busy, OSError):
        return _said(503, "database: cannot be written")
    if not current:
        return _said(503, "database: of a newer version than this console")
    config = current_app.extensions["queuectl_config"]
    if config.is_sqlite and shutil.disk_usage(config.sqlite_path.parent).free < LEAST_SPACE:
        return _said(503, "database: ok", "disk: full")
    alive = sum(view.alive for view in views)
    missing = alive == 0 and "workers" in request.args
    return _said(503 if missing else 200, "database: ok", "disk: ok", f"workers: {alive}")


def _prove_writable() -> None:
    now = time.monotonic()
    if now < current_app.extensions.get(_KEY, 0.0) + PROOF_HOLDS:
        return
    db_errors.prove_writable(PATIENCE)
    current_app.extensions[_KEY] = now


def _said(status: int, *lines: str) -> Response:
    return Response("".join(f"{line}\n" for line in lines), status, content_type="text/plain; charset=utf-8")
