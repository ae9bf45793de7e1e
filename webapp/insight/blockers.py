"""Why pending jobs wait: what keeps workers from them, and the rate of the queue. Reads only.

The console's templates have the texts and the buttons that help (`templates/job/_why.html`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Optional

from sqlalchemy import select
from sqlalchemy.orm import Session

from webapp.core import labels
from webapp.core.notices import SYSTEM_QUEUE
from webapp.db.label_sets import busy_label_sets
from webapp.db.models import Queue
from webapp.insight import fleet, trends
from webapp.jobs import queries, settings
from webapp.jobs.queries import Count

MOST_REPORTED = 1000  # label sets without a worker


@dataclass(frozen=True)
class Obstacle:
    """What keeps every worker from the jobs of a label set.

    `kind` is paused; none (no worker runs); unserved (no worker serves the queue); unlabelled (no worker of the queue
    has the required labels); quiet (all workers that have them are draining or stopping).
    """

    kind: str
    queue: str
    requires: str = ""
    missing: tuple[
        str, ...
    ] = ()  # that no worker of the queue has; empty: each label has a worker, but no worker has all
    paused_by: Optional[str] = None
    paused_at: Optional[int] = None
    alive: list[fleet.WorkerView] = field(default_factory=list)  # running workers
    serving: list[fleet.WorkerView] = field(default_factory=list)  # those that serve the queue


@dataclass(frozen=True)
class Fleet:
    """The workers that serve one label set. `obstacle` None: at least one takes its jobs."""

    obstacle: Optional[Obstacle]
    serving: list[fleet.WorkerView]

    @property
    def takers(self) -> list[fleet.WorkerView]:
        """Workers that take jobs: neither draining nor stopping."""
        return [view for view in self.serving if view.worker.requested_state == "run"]

    @property
    def slots(self) -> int:
        return sum(view.worker.slots for view in self.takers)

    @property
    def free(self) -> int:
        """Slots without a job, of workers that take jobs."""
        return sum(max(view.worker.slots - len(view.jobs), 0) for view in self.takers)


def fleet_of(session: Session, name: str, requires: str = "") -> Fleet:
    """The workers for jobs of this queue that require these labels."""
    alive = [view for view in fleet.workers(session, settings.load(session).lease) if view.alive]
    return serving(name, session.get(Queue, name), alive, requires)


def obstacles(session: Session, label_sets: Iterable[labels.LabelSet], lease: float) -> dict[labels.LabelSet, Obstacle]:
    """What keeps workers from the pending jobs of these label sets; those that some worker takes are left out."""
    asked = set(label_sets)
    if not asked:
        return {}
    alive = [view for view in fleet.workers(session, lease, with_jobs=False) if view.alive]
    rows = session.scalars(select(Queue).where(Queue.name.in_({one.queue for one in asked})))
    queues = {queue.name: queue for queue in rows}
    found = {one: serving(one.queue, queues.get(one.queue), alive, one.requires).obstacle for one in asked}
    return {one: obstacle for one, obstacle in found.items() if obstacle is not None}


def serving(name: str, queue: Optional[Queue], alive: list[fleet.WorkerView], requires: str = "") -> Fleet:
    """The running workers that serve a label set; `queue` is its row, None if it has none yet."""
    serve = [view for view in alive if view.queues is None or name in (*view.queues, SYSTEM_QUEUE)]
    able = [view for view in serve if labels.suffice(view.labels, requires)]
    if queue is not None and queue.paused_at is not None:
        return Fleet(Obstacle("paused", name, requires, paused_by=queue.paused_by, paused_at=queue.paused_at), able)
    kind: Optional[str] = None
    missing: tuple[str, ...] = ()
    if not alive:
        kind = "none"
    elif not serve:
        kind = "unserved"
    elif not able:
        had = frozenset[str]().union(*(view.labels for view in serve))
        kind, missing = "unlabelled", tuple(label for label in labels.split(requires) if label not in had)
    elif all(view.worker.requested_state != "run" for view in able):
        kind = "quiet"
    found = Obstacle(kind, name, requires, missing, alive=alive, serving=able or serve) if kind else None
    return Fleet(found, able)


def stranded(session: Session, alive: list[fleet.WorkerView]) -> list[tuple[queries.Waiting, Obstacle]]:
    """Label sets whose jobs wait because no worker of their queue has the labels, those with the most jobs first.

    At most MOST_REPORTED of them.
    """
    paused = set(queries.paused_queues(session))
    found = {
        one: why
        for one in busy_label_sets(session, labelled=True)
        if one.queue not in paused and (why := serving(one.queue, None, alive, one.requires).obstacle) is not None
    }
    unlabelled = [one for one, why in found.items() if why.kind == "unlabelled"][:MOST_REPORTED]
    if not unlabelled:
        return []
    waiting = queries.waiting_jobs(session, sorted({one.queue for one in unlabelled}), labelled=True)
    reported = set(unlabelled)
    pairs = [(one, found[one.label_set]) for one in waiting if one.label_set in reported]
    return sorted(pairs, key=lambda pair: -pair[0].number.number)


def unserved(session: Session, alive: list[fleet.WorkerView]) -> dict[str, Count]:
    """Queues with pending jobs that no running worker serves. At most MOST_REPORTED of them."""
    served: set[str] = set()
    for view in alive:
        if view.queues is None:
            return {}
        served.update(view.queues)
    if not alive:
        return {}
    left_out = sorted({*served, *queries.paused_queues(session)})
    found: dict[str, list[Count]] = {}
    for one in queries.waiting_jobs(session, not_in=left_out, limit=MOST_REPORTED):
        found.setdefault(one.label_set.queue, []).append(one.number)
    return {queue: queries.total(counts) for queue, counts in found.items()}


def seconds_for(session: Session, name: str, jobs: int) -> Optional[float]:
    """Seconds that a queue needs for this many jobs at its current rate; None: no run ended recently."""
    return trends.drain_time(jobs, trends.queue_rates(session, [name]).get(name))
