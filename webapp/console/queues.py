"""The queues: pending and running jobs, rate, workers; pausing and resuming."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Optional

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


@dataclass(frozen=True)
class Row:
    """A queue, its workers, and its label sets that no worker takes."""

    view: QueueView
    fleet: blockers.Fleet
    stuck: list[tuple[queries.Waiting, blockers.Obstacle]]

    @classmethod
    def of(cls, view: QueueView, alive: list[WorkerView]) -> Row:
        fleet = partial(blockers.serving, view.queue.name, view.queue, alive)
        label_sets = [(one, fleet(one.label_set.requires).obstacle) for one in view.waiting if one.label_set.requires]
        stuck = [(one, why) for one, why in label_sets if why is not None and why.kind in {"unlabelled", "quiet"}]
        return cls(view, fleet(""), sorted(stuck, key=lambda pair: -pair[0].number.number))

    @property
    def moving(self) -> queries.Count:
        """Pending jobs without the stuck ones."""
        stuck = [one for one, _ in self.stuck]
        return queries.total(one.number for one in self.view.waiting if one not in stuck)

    @property
    def drain_seconds(self) -> Optional[float]:
        """Seconds until they are done at the current rate."""
        return trends.drain_time(self.moving.number, self.view.per_minute)


@pages.get("/queues")
def index() -> ResponseReturnValue:
    with reading() as session:
        alive = [view for view in workers(session, settings.load(session).lease) if view.alive]
        rows = [Row.of(view, alive) for view in all_queues(session)]
        return htmx.page(
            "queues",
            session,
            rows=rows,
            any_alive=bool(alive),
            start_command=start_command,
            most_label_sets=MOST_LABEL_SETS,
        )


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
