"""The queues: what waits and runs in each, and pausing one."""

from __future__ import annotations

from flask import Blueprint, url_for
from flask.typing import ResponseReturnValue

from webapp import operations, queries
from webapp.console import htmx
from webapp.console.roles import needs
from webapp.console.sessions import actor
from webapp.db import reading

pages = Blueprint("queues", __name__)


@pages.get("/queues")
def index() -> ResponseReturnValue:
    with reading() as session:
        return htmx.page("queues", session, queues=queries.queues(session))


@pages.post("/queue/<name>/pause")
@needs("operator")
def pause(name: str) -> ResponseReturnValue:
    """Let no more jobs of this queue start. 409 where somebody has paused it already."""
    if not operations.pause_queue(name, actor()):
        return htmx.refused(f"Queue {name} was paused already. Nothing was changed.")
    return htmx.done(f"Queue {name} is paused. What runs goes on; nothing new starts.", back=url_for("queues.index"))


@pages.post("/queue/<name>/resume")
@needs("operator")
def resume(name: str) -> ResponseReturnValue:
    if not operations.resume_queue(name, actor()):
        return htmx.refused(f"Queue {name} was not paused any more. Nothing was changed.")
    return htmx.done(f"Queue {name} goes on.", back=url_for("queues.index"))
