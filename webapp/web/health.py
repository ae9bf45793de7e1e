"""For supervisors and load balancers, without log-in: is the process alive, and could it take a job and have it run?

`/readyz` is red where no job could be stored. That no worker is alive it only says, for a console without workers is
still to be reached; whoever wants it red for that, too, asks `/readyz?workers`.
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
from webapp.jobs import queries, settings

LEAST_SPACE = 10 * 1024**2  # bytes: with less, one job's output may be too much
PROOF_HOLDS = 1.0  # seconds: asking costs no log-in, so it must not cost a write each time
PATIENCE = 5.0  # seconds that the write lock may be held by others

_KEY = "queuectl_proved_writable"

pages = Blueprint("health", __name__)


@pages.get("/healthz")
def alive() -> Response:
    return _said(200, "ok")


@pages.get("/readyz")
def ready() -> Response:
    """Prove that something can be written, about once a second however often one asks."""
    try:
        _prove_writable()
        with reading() as session:
            current = session.scalar(text(schema.REVISION)) == schema.HEAD
            views = queries.workers(session, settings.load(session).lease)
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
