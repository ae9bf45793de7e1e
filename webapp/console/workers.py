"""The fleet: who runs, what it runs, and asking a worker to be quiet, to go on or to stop."""

from __future__ import annotations

from flask import Blueprint, abort, url_for
from flask.typing import ResponseReturnValue

from webapp import clock, operations, queries, settings
from webapp.console import htmx
from webapp.console.overview import START_COMMAND
from webapp.console.roles import needs
from webapp.console.sessions import actor
from webapp.db import reading

pages = Blueprint("workers", __name__)

SHOW_ENDED = clock.seconds(3600)  # how long a worker that has ended stays on the page
WISHES = {
    "quiet": ("quiet", "takes no more jobs. What it runs goes on."),
    "resume": ("run", "takes jobs again."),
    "stop": ("stop", "finishes what it runs, then ends."),
}


@pages.get("/workers")
def index() -> ResponseReturnValue:
    with reading() as session:
        values = settings.load(session)
        fleet = queries.workers(session, values.lease, ended_since=clock.now() - SHOW_ENDED)
        running = [view for view in fleet if view.worker.state == "running"]
        return htmx.page(
            "workers",
            session,
            running=running,
            ended=[view for view in fleet if view.worker.state != "running"],
            start_command=START_COMMAND,
        )


@pages.post("/worker/<worker_id>/<wish>")
@needs("admin")
def wish_of(worker_id: str, wish: str) -> ResponseReturnValue:
    """Ask one worker. 409 where it ends or has ended by now."""
    if wish not in WISHES:
        abort(404)
    word, effect = WISHES[wish]
    outcome = operations.wish_of_workers(word, [worker_id], actor())
    if worker_id in outcome.refused:
        state = outcome.refused[worker_id]
        if state is None:
            raise operations.NotFound(f"there is no worker {worker_id!r}.")
        return htmx.refused(f"Worker {worker_id} is {state} by now. Nothing was changed.")
    return htmx.done(f"Worker {worker_id} {effect}", back=url_for("workers.index"))
