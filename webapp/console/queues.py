"""The queues: what waits and runs in each, how fast it goes, which workers serve it, and pausing one."""

from __future__ import annotations

from flask import Blueprint, url_for
from flask.typing import ResponseReturnValue

from webapp import operations, queries, settings, waiting
from webapp.console import htmx
from webapp.console.needs import start_command
from webapp.console.roles import needs
from webapp.console.sessions import actor
from webapp.db import reading

pages = Blueprint("queues", __name__)


@pages.get("/queues")
def index() -> ResponseReturnValue:
    with reading() as session:
        alive = [view for view in queries.workers(session, settings.load(session).lease) if view.alive]
        rows = [(view, waiting.serving(view.queue.name, view.queue, alive)) for view in queries.queues(session)]
        return htmx.page("queues", session, rows=rows, any_alive=bool(alive), start_command=start_command)


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
