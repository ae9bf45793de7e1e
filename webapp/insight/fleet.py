"""The fleet by host and supervisor, and how many workers a supervisor is to have.

A supervisor holds no connection: its keeper passes on what stands in its row (`worker/maintenance/scaling.py`), within a few seconds.
What one asks of a single worker is in `operations.wish_of_workers`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Optional

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from webapp.core import labels
from webapp.db.engines import writing
from webapp.db.models import Supervisor, Worker
from webapp.jobs import operations, queries
from webapp.jobs.lifecycle import record
from webapp.jobs.queries import WorkerView
from webapp.lib import clock

MOST_WORKERS = 256  # of one supervisor
SILENT = 60.0  # seconds after which a supervisor that has not been heard of counts as gone; it beats every 20 or 30


class ScaleError(ValueError):
    """A number of workers that cannot be; the message says what is allowed."""


class Unheard(Exception):
    """Nobody is there who could have more or fewer workers; the message says why."""


@dataclass
class SupervisorView:
    """A supervisor with the workers of it that run. `row` is None where it has none: it drains, or is an older one."""

    id: str
    host: str
    row: Optional[Supervisor]
    workers: list[WorkerView] = field(default_factory=list)

    @property
    def queues(self) -> Optional[list[str]]:
        text = self.row.queues if self.row is not None else self.workers[0].worker.queues
        return json.loads(text) if text else None

    @property
    def given_labels(self) -> list[str]:
        """Those that its workers were started with."""
        text = self.row.labels if self.row is not None else self.workers[0].worker.labels
        return json.loads(text) if text else []

    @property
    def labels(self) -> frozenset[str]:
        """All that its workers have, their host's among them."""
        return labels.of_worker(self.given_labels, self.host)

    @property
    def slots(self) -> int:
        return self.row.slots if self.row is not None else self.workers[0].worker.slots

    @property
    def version(self) -> str:
        return self.row.version if self.row is not None else self.workers[0].worker.version

    @property
    def started_at(self) -> int:
        return self.row.started_at if self.row is not None else self.workers[0].worker.started_at

    @property
    def wanted(self) -> Optional[int]:
        """How many workers it is to have; None where that is not known, or it ends."""
        return self.row.wanted if self.row is not None and self.row.stopped_at is None else None

    @property
    def staying(self) -> int:
        """Its workers but for those that were asked to stop."""
        return sum(view.worker.requested_state != "stop" for view in self.workers)

    @property
    def busy(self) -> int:
        return sum(len(view.jobs) for view in self.workers)

    @property
    def state(self) -> str:
        """running, ending, silent; unknown where it has no row."""
        if self.row is None:
            return "unknown"
        if self.row.stopped_at is not None:
            return "ending"
        return "silent" if _is_silent(self.row) and not any(view.alive for view in self.workers) else "running"


def supervisors(session: Session, workers: Sequence[WorkerView]) -> list[SupervisorView]:
    """Those that have workers or may have some again, by host, the oldest first. `workers` are those that run."""
    heard = Supervisor.stopped_at.is_(None) & (Supervisor.seen_at >= clock.now() - clock.seconds(SILENT))
    named = {view.worker.supervisor_id for view in workers}
    rows = session.scalars(select(Supervisor).where(or_(heard, Supervisor.id.in_(named))))
    found = {row.id: SupervisorView(row.id, row.host, row) for row in rows}
    for view in workers:
        one = view.worker
        found.setdefault(one.supervisor_id, SupervisorView(one.supervisor_id, one.host, None)).workers.append(view)
    return sorted(found.values(), key=lambda one: (one.host, one.started_at, one.id))


@dataclass(frozen=True)
class Scaled:
    """From how many workers to how many. `supervisor` is its id."""

    supervisor: str
    before: int
    after: int


def scale(supervisor_id: str, actor: str, *, to: Optional[int] = None, by: int = 0) -> Scaled:
    """Have a supervisor keep `to` workers, or so many more or fewer than it is to have; 0 is allowed.

    More are started at once; of fewer, those that run least are asked to stop when they are done. Raises ScaleError,
    Unheard, NotFound.
    """
    with writing() as session:
        # PostgreSQL has no text with a NUL in it.
        row = None if "\0" in supervisor_id else session.get(Supervisor, supervisor_id, with_for_update=True)
        if row is None:
            raise operations.NotFound(_unknown(session, supervisor_id))
        _check_heard(session, row)
        before = row.wanted
        after = check(before + by if to is None else to)
        if after != before:
            row.wanted = after
            change = {"before": {"workers": before}, "after": {"workers": after}}
            detail = {"from": before, "to": after}
            record(session, "scale", [("supervisor:" + row.id, None)], actor, detail, changes=[change])
    return Scaled(supervisor_id, before, after)


def check(number: int) -> int:
    """A number of workers that can be. Raises ScaleError."""
    if not 0 <= number <= MOST_WORKERS:
        raise ScaleError(f"{number} is not allowed; expected a whole number from 0 to {MOST_WORKERS}.")
    return number


def _check_heard(session: Session, row: Supervisor) -> None:
    if row.stopped_at is not None:
        raise Unheard(f"Supervisor {row.id} on {row.host} has stopped or is stopping.")
    if _is_silent(row):
        views = queries.workers(session, SILENT)
        if not any(view.alive and view.worker.supervisor_id == row.id for view in views):
            raise Unheard(
                f"Supervisor {row.id} on {row.host} has not responded for a minute, so it cannot start workers."
            )


def _is_silent(row: Supervisor) -> bool:
    return row.seen_at < clock.now() - clock.seconds(SILENT)


def _unknown(session: Session, name: str) -> str:
    worker = session.get(Worker, name.replace("\0", ""))
    if worker is not None:
        return f"{name!r} is a worker; its supervisor is {worker.supervisor_id}."
    return f"supervisor {name[:128]!r} does not exist."
