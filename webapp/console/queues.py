"""The queues: pending and running jobs, rate, workers; pausing and resuming."""

from __future__ import annotations

from functools import partial
from typing import Any

from flask import Blueprint, url_for
from flask.typing import ResponseReturnValue

from webapp.console.display.wait_reason import start_command
from webapp.console.frame import htmx
from webapp.console.frame.person import actor, needs
from webapp.db.engines import reading
from webapp.insight import blockers, trends
from webapp.insight.fleet import WorkerView, workers
from webapp.insight.queues import QueueView, all_queues
from webapp.jobs import queries, queue_actions, settings

pages = Blueprint("queues", __name__)

MOST_LABEL_SETS = 3  # label sets without workers that are named per queue


@pages.get("/queues")
def index() -> ResponseReturnValue:
    with reading() as session:
        alive = [view for view in workers(session, settings.load(session).lease) if view.alive]
        rows = [_row(view, alive) for view in all_queues(session)]
        return htmx.page(
            "queues",
            session,
            rows=rows,
            any_alive=bool(alive),
            start_command=start_command,
            most_label_sets=MOST_LABEL_SETS,
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
