"""For supervisors and load balancers, without log-in: is the process alive, can it reach and write its database?"""

from __future__ import annotations

import shutil

from flask import Blueprint, Response, current_app
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from webapp.db import writing
from webapp.locks import Busy

LEAST_SPACE = 10 * 1024**2  # bytes: with less, one job's output may be too much

pages = Blueprint("health", __name__)


@pages.get("/healthz")
def alive() -> Response:
    return Response("ok\n", content_type="text/plain; charset=utf-8")


@pages.get("/readyz")
def ready() -> Response:
    """Take the write lock and give it back: nothing is written."""
    try:
        with writing() as session:
            session.execute(text("SELECT 1"))
    except (SQLAlchemyError, Busy, OSError):
        return _red("the database cannot be written")
    config = current_app.extensions["queuectl_config"]
    if config.is_sqlite and shutil.disk_usage(config.sqlite_path.parent).free < LEAST_SPACE:
        return _red("the disk is full")
    return Response("ok\n", content_type="text/plain; charset=utf-8")


def _red(words: str) -> Response:
    return Response(words + "\n", 503, content_type="text/plain; charset=utf-8")
