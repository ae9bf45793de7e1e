"""The queues, in pages by name: pending and running jobs, rate, workers; pausing, resuming and removing."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, Optional

from flask import Blueprint, abort, request, url_for
from flask.typing import ResponseReturnValue

from webapp.console.display.wait_reason import start_command
from webapp.console.frame import htmx
from webapp.console.frame.params import with_query
from webapp.console.frame.person import actor, needs
from webapp.db.engines import reading
from webapp.insight import blockers, trends
from webapp.insight.fleet import WorkerView, workers
from webapp.insight.queues import SHOWN, QueueFilter, QueueView, count_queues, page_of_queues, some_names
from webapp.jobs import queries, queue_actions, settings
from webapp.lib.text import capitalize
from webapp.web.request_info import came_from

pages = Blueprint("queues", __name__)

MOST_LABEL_SETS = 3  # label sets without workers that are named per queue
PAGE = 50  # rows
SUGGESTIONS = 30  # names for a form


@pages.get("/queues")
def index() -> ResponseReturnValue:
    """`q` is a part of the name, `show` is busy or paused, `after` and `before` are the names between two pages."""
    asked = {"q": request.args.get("q", "").strip()[:128], "show": request.args.get("show", "")}
    if asked["show"] not in ("", *SHOWN):
        abort(404, f"Unknown selection. Expected {' or '.join(SHOWN)}.")
    wanted = QueueFilter(asked["q"], asked["show"])
    after, before = request.args.get("after") or None, request.args.get("before") or None
    with reading() as session:
        alive = [view for view in workers(session, settings.load(session).lease) if view.alive]
        page = page_of_queues(session, wanted, limit=PAGE, after=after, before=before)
        return htmx.page(
            "queues",
            session,
            rows=[_row(view, alive) for view in page.views],
            asked=asked,
            number=count_queues(session, wanted),
            newer=("Previous", _url(asked, before=page.newer)) if page.newer else None,
            older=("Next", _url(asked, after=page.older)) if page.older else None,
            top=_url(asked) if after or before else None,
            default=queue_actions.DEFAULT,
            any_alive=bool(alive),
            start_command=start_command,
            most_label_sets=MOST_LABEL_SETS,
        )


def _url(asked: Mapping[str, str], **at: Optional[str]) -> str:
    return with_query(url_for("queues.index"), {**asked, **at})


@pages.get("/queues/names")
def names() -> ResponseReturnValue:
    """Suggestions for a field: names that contain the typed text."""
    with reading() as session:
        return htmx.fragment(
            "queues/_names.html", queues=some_names(session, SUGGESTIONS, request.args.get("queue", "")[:128])
        )


def _row(view: QueueView, alive: list[WorkerView]) -> dict[str, Any]:
    """A queue, its workers, its label sets that no worker takes (`stuck`), the other pending jobs (`moving`), and the
    seconds until these are done at the current rate."""
    fleet = partial(blockers.serving, view.queue.name, view.queue, alive)
    label_sets = [(one, fleet(one.label_set.requires).obstacle) for one in view.waiting if one.label_set.requires]
    stuck = [(one, why) for one, why in label_sets if why is not None and why.kind in {"unlabelled", "quiet"}]
    without_worker = [one for one, _ in stuck]
    moving = queries.total(one.number for one in view.waiting if one not in without_worker)
    return {
        "view": view,
        "fleet": fleet(""),
        "stuck": sorted(stuck, key=lambda pair: -pair[0].number.number),
        "moving": moving,
        "drain_seconds": trends.drain_time(moving.number, view.per_minute),
    }


@pages.post("/queue/<name>/pause")
@needs("operator")
def pause(name: str) -> ResponseReturnValue:
    """Pause a queue: no more of its jobs start. 409 if it is paused already."""
    if not queue_actions.pause_queue(name, actor()):
        return htmx.refused(f"Queue {name} is already paused. Nothing changed.")
    return htmx.done(f"Queue {name} paused. Running jobs continue; no new jobs start.", back=url_for("queues.index"))


@pages.post("/queue/<name>/resume")
@needs("operator")
def resume(name: str) -> ResponseReturnValue:
    if not queue_actions.resume_queue(name, actor()):
        return htmx.refused(f"Queue {name} is not paused. Nothing changed.")
    return htmx.done(f"Queue {name} resumed.", back=url_for("queues.index"))


@pages.post("/queue/<name>/remove")
@needs("operator")
def remove(name: str) -> ResponseReturnValue:
    """Remove a queue, after confirmation. 409 if it has unfinished jobs."""
    if "confirmed" not in request.form:
        text = "Its finished jobs stay. If you submit another job to this queue, the queue is created again."
        back = came_from(url_for("queues.index"))
        return htmx.ask(f"Remove queue {name}?", text, "Remove queue", back=back, danger=True)
    try:
        queue_actions.remove_queue(name, actor())
    except queue_actions.QueueInUse as error:
        return htmx.refused(f"{capitalize(str(error))} Nothing changed.")
    return htmx.done(f"Queue {name} removed.", back=url_for("queues.index"))
