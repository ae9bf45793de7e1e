"""For supervisors and load balancers, without log-in: is the process alive, can it reach and write its database?"""

from __future__ import annotations

from flask import Blueprint, Response
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from webapp.db import writing
from webapp.locks import Busy

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
        return Response("the database cannot be written\n", 503, content_type="text/plain; charset=utf-8")
    return Response("ok\n", content_type="text/plain; charset=utf-8")
