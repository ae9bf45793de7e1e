"""Health checks for supervisors and load balancers, without sign-in.

`/healthz`: the process is alive. `/readyz`: jobs can be stored. A queue without workers is still ready, because the
console works; `/readyz?workers` also fails without workers, and `/readyz?schedules` while a schedule
is late, long, failing or broken.

Both answer under any Host. Details are only for a Host that the console serves, so that a page of another site learns
nothing by DNS rebinding.
"""

from __future__ import annotations

import shutil
import time

from flask import Blueprint, Response, current_app, request
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from webapp.core.storage import db_errors, schema
from webapp.core.storage.locks import Busy
from webapp.core.storage.relocated import Relocated
from webapp.db import engines
from webapp.db.engines import reading
from webapp.insight import fleet
from webapp.jobs import settings
from webapp.schedules import views as schedules
from webapp.web.request_info import is_known_host

MIN_FREE_BYTES = 10 * 1024**2
WRITE_CHECK_INTERVAL_SECONDS = 1.0  # anonymous requests must not cause a write each time
LOCK_TIMEOUT_SECONDS = 5.0

_KEY = "queuectl_checked_writable"

pages = Blueprint("health", __name__)


@pages.get("/healthz")
def alive() -> Response:
    return _answer(200, "ok")


@pages.get("/readyz")
def ready() -> Response:
    """Test that the database can be written, at most once a second."""
    try:
        _check_writable()
        with reading() as session:
            current = session.scalar(text(schema.REVISION)) == schema.HEAD
            views = fleet.workers(session, settings.load(session).lease)
            late = schedules.count(session, show="attention") if current else 0
    except Relocated:
        return _answer(503, "database: the queue has moved to another one, or is moving")
    except (SQLAlchemyError, Busy, OSError):
        return _answer(503, "database: cannot be written")
    if not current:
        return _answer(503, "database: a newer version of queuectl has upgraded it")
    config = current_app.extensions["queuectl_config"]
    if config.is_sqlite and shutil.disk_usage(config.sqlite_path.parent).free < MIN_FREE_BYTES:
        return _answer(503, "database: ok", "disk: full")
    alive = sum(view.alive for view in views)
    missing = (alive == 0 and "workers" in request.args) or (late > 0 and "schedules" in request.args)
    lines = ["database: ok", "disk: ok", f"workers: {alive}", *([f"schedules: {late} need attention"] if late else [])]
    return _answer(503 if missing else 200, *lines)


def _check_writable() -> None:
    now = time.monotonic()
    if now < current_app.extensions.get(_KEY, 0.0) + WRITE_CHECK_INTERVAL_SECONDS:
        return
    with engines.raising_as_sqlalchemy():
        db_errors.prove_writable(engines.database(), LOCK_TIMEOUT_SECONDS)
    current_app.extensions[_KEY] = now


def _answer(status: int, *lines: str) -> Response:
    if not is_known_host():
        lines = ("ok" if status == 200 else "unavailable",)
    return Response("".join(f"{line}\n" for line in lines), status, content_type="text/plain; charset=utf-8")
