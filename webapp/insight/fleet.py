"""Workers and supervisors as pages and commands show them. Reads only; `jobs/worker_actions.py` has the requests."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Optional, Union

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from webapp.core import labels
from webapp.core.events import SHORT
from webapp.db.models import Event, Job, Supervisor, Worker
from webapp.jobs.lifecycle import in_state
from webapp.jobs.queries import COUNT_CAP
from webapp.jobs.worker_actions import RUNNING, SILENT_AFTER_SECONDS, is_silent
from webapp.lib import clock

_STATE_TEXTS = {"quiet": "draining", "silent": "not responding", "expired": "lost"}


def state_text(state: str) -> str:
    """The text for the shown state of a worker or a supervisor."""
    return _STATE_TEXTS.get(state, state)


def serves(queues: Optional[list[str]], order: Optional[str]) -> str:
    """'all', 'mail, default', 'mail 3 : default 1' (weights) or 'mail before default' (strict)."""
    if queues is None:
        return "all"
    how = json.loads(order) if order else None
    if how == "strict":
        return " before ".join(queues)
    return " : ".join(f"{queue} {weight}" for queue, weight in zip(queues, how)) if how else ", ".join(queues)


class _Started:
    """What a worker, or the workers of a supervisor, were started with."""

    @property
    def _options(self) -> Union[Supervisor, Worker]:
        """The row that has it."""
        raise NotImplementedError

    @property
    def queues(self) -> Optional[list[str]]:
        """The queues that they serve; None: all."""
        return json.loads(self._options.queues) if self._options.queues else None

    @property
    def serves(self) -> str:
        """The queues and their order, as a text."""
        return serves(self.queues, self._options.queue_order)

    @property
    def given_labels(self) -> list[str]:
        return json.loads(self._options.labels) if self._options.labels else []

    @property
    def labels(self) -> frozenset[str]:
        """All labels, that of the host included."""
        return labels.of_worker(self.given_labels, self._options.host)


@dataclass(frozen=True)
class WorkerView(_Started):
    """A worker with its running jobs. `alive`: its last heartbeat is younger than the lease; for display only."""

    worker: Worker
    jobs: list[Job]
    alive: bool

    @property
    def _options(self) -> Worker:
        return self.worker

    @property
    def busy(self) -> int:
        """How many of its slots are busy. A message may be sent beside them."""
        return min(len(self.jobs), self.worker.slots)

    @property
    def shown_state(self) -> str:
        """running, quiet, stopping, stopped, silent (its heartbeat is late) or expired."""
        if self.worker.state != "running":
            return self.worker.state
        if not self.alive:
            return "silent"
        return {"run": "running", "quiet": "quiet", "stop": "stopping"}[self.worker.requested_state]


def workers(
    session: Session, lease: float, *, ended_since: Optional[int] = None, with_jobs: bool = True
) -> list[WorkerView]:
    """Running workers and those that ended since a time, oldest first. `lease` is the setting, in seconds."""
    which = RUNNING if ended_since is None else or_(RUNNING, Worker.stopped_at >= ended_since)
    rows = session.scalars(select(Worker).where(which).order_by(Worker.started_at, Worker.id)).all()
    jobs: dict[str, list[Job]] = {}
    running = select(Job).where(in_state("processing")).order_by(Job.started_at).limit(COUNT_CAP)
    for job in session.scalars(running) if with_jobs else ():
        jobs.setdefault(job.worker_id or "", []).append(job)
    fresh = clock.now() - clock.seconds(lease)
    return [WorkerView(row, jobs.get(row.id, []), row.state == "running" and row.seen_at >= fresh) for row in rows]


@dataclass(frozen=True)
class Shortage:
    """A worker that runs fewer jobs at a time than configured, because its machine has no resources for more."""

    worker: Worker
    wanted: int  # slots
    text: str  # why: 'runs at most 12 of 40 jobs at a time: …'


def shortages(session: Session) -> list[Shortage]:
    """Of running workers, oldest worker first."""
    fewer = select(Worker, Supervisor.slots).join(Supervisor, Supervisor.id == Worker.supervisor_id)
    rows = session.execute(fewer.where(RUNNING, Worker.slots < Supervisor.slots).order_by(Worker.started_at, Worker.id))
    return [Shortage(worker, wanted, _why_short(session, worker)) for worker, wanted in rows]


def _why_short(session: Session, worker: Worker) -> str:
    mine = Event.subject == f"worker:{worker.id}", Event.verb == SHORT
    detail = session.scalar(select(Event.detail).where(*mine).order_by(Event.id.desc()).limit(1))
    return str(json.loads(detail)["text"]) if detail else "its machine has no resources for more"


@dataclass
class SupervisorView(_Started):
    """A supervisor with its running workers. `row` is None when it shuts down or runs an older version."""

    id: str
    host: str
    row: Optional[Supervisor]
    workers: list[WorkerView] = field(default_factory=list)

    @property
    def _options(self) -> Union[Supervisor, Worker]:
        """Its own, or that of a worker, which has the same options."""
        return self.row if self.row is not None else self.workers[0].worker

    @property
    def slots(self) -> int:
        return self._options.slots

    @property
    def version(self) -> str:
        return self._options.version

    @property
    def started_at(self) -> int:
        return self._options.started_at

    @property
    def wanted(self) -> Optional[int]:
        """How many workers it keeps; None when this is unknown or it shuts down."""
        return self.row.wanted if self.row is not None and self.row.stopped_at is None else None

    @property
    def staying(self) -> int:
        """How many of its workers were not asked to stop."""
        return sum(view.worker.requested_state != "stop" for view in self.workers)

    @property
    def busy(self) -> int:
        return sum(view.busy for view in self.workers)

    @property
    def state(self) -> str:
        """running, ending, silent; unknown if it has no row."""
        if self.row is None:
            return "unknown"
        if self.row.stopped_at is not None:
            return "ending"
        return "silent" if is_silent(self.row.seen_at) and not any(view.alive for view in self.workers) else "running"


def supervisors(session: Session, workers: Sequence[WorkerView]) -> list[SupervisorView]:
    """Supervisors that have workers or can start some, by host, oldest first. `workers` are the running ones."""
    heard_since = clock.now() - clock.seconds(SILENT_AFTER_SECONDS)
    heard = Supervisor.stopped_at.is_(None) & (Supervisor.seen_at >= heard_since)
    named = {view.worker.supervisor_id for view in workers}
    rows = session.scalars(select(Supervisor).where(or_(heard, Supervisor.id.in_(named))))
    found = {row.id: SupervisorView(row.id, row.host, row) for row in rows}
    for view in workers:
        one = view.worker
        found.setdefault(one.supervisor_id, SupervisorView(one.supervisor_id, one.host, None)).workers.append(view)
    return sorted(found.values(), key=lambda one: (one.host, one.started_at, one.id))
