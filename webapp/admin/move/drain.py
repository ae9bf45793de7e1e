"""Drains the source before a move: workers take no more jobs, running jobs finish, then the workers stop.

No job is interrupted and no attempt is lost. Until the workers are asked to stop, the drain can be taken back.
"""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Callable, Optional

from sqlalchemy import select, true
from sqlalchemy.exc import DBAPIError

from webapp.admin.move.databases import MoveError
from webapp.core.storage.locks import Busy
from webapp.db.engines import reading
from webapp.db.models import Job, Worker
from webapp.jobs.lifecycle import in_state
from webapp.jobs.worker_actions import RUNNING, request_state
from webapp.lib import clock

POLL_SECONDS = 0.3  # between two checks of the running jobs
MAINTENANCE_SECONDS = 3.0  # between two checks for lost workers
STOP_TIMEOUT_SECONDS = 20.0  # for idle workers; a worker that takes longer is refused by the triggers


def running_jobs() -> dict[str, str]:
    """Running jobs of the current application by id, as 'backup (12 s, on web1)', the longest running first."""
    statement = (
        select(Job.id, Job.started_at, Worker.host)
        .outerjoin(Worker, Worker.id == Job.worker_id)
        .where(in_state("processing"))
        .order_by(Job.started_at)
    )
    with reading() as session:
        return {
            id_: f"{id_} ({max(0, clock.now() - (at or 0)) // clock.SECOND} s, on {host or 'an unknown host'})"
            for id_, at, host in session.execute(statement)
        }


def running_workers(requested: Optional[str] = None) -> list[str]:
    """Ids of running workers; with `requested`, only those with this request."""
    which = Worker.requested_state == requested if requested else true()
    with reading() as session:
        return list(session.scalars(select(Worker.id).where(RUNNING, which)))


class Drain:
    """Drains the workers of the current application.

    `look_after` recovers jobs of lost workers, because no maintenance process may be running.
    """

    def __init__(self, actor: str, look_after: Callable[[], None], say: Callable[[str], None]) -> None:
        self._actor = actor
        self._look_after = look_after
        self._say = say
        self._drained: set[str] = set()
        self._maintained_at = -MAINTENANCE_SECONDS

    def wait_until_idle(self, patience: Optional[float]) -> None:
        """Ask all workers to take no more jobs, and wait until no job runs, for `patience` seconds or without limit.

        Raises MoveError after that time.
        """
        until = time.monotonic() + patience if patience is not None else None
        reported: set[str] = set()
        while True:
            new = running_workers("run")  # each time, because new workers may have started
            if new:
                self._drained |= set(request_state("quiet", new, self._actor).moved)
            jobs = running_jobs()
            if not jobs:
                return
            names = ", ".join(jobs.values())
            if until is not None and time.monotonic() > until:
                raise MoveError(f"still running: {names}. Allow more time with --wait SECONDS.")
            if not jobs.keys() <= reported:
                reported |= jobs.keys()
                self._say(
                    f"Waiting for running jobs: {names}. Press Ctrl-C here to cancel the move and resume the workers. "
                    "Press Ctrl-C in `up` or `worker start` to requeue the jobs; they run again at the new address."
                )
            self._pause()

    def stop_workers(self) -> None:
        """Ask all workers and supervisors to stop, and wait for a limited time. This cannot be taken back."""
        self._drained = set()
        if request_state("stop", None, self._actor).moved:
            self._say("The workers stop. Start them again after the move.")
        until = time.monotonic() + STOP_TIMEOUT_SECONDS
        while running_workers() and time.monotonic() < until:
            self._pause()

    def resume_workers(self) -> None:
        """Let the workers that were drained here take jobs again."""
        if self._drained:
            request_state("run", sorted(self._drained), self._actor)
            self._say("Nothing was moved. The workers take jobs again.")

    def _pause(self) -> None:
        if time.monotonic() - self._maintained_at >= MAINTENANCE_SECONDS:
            with suppress(Busy, DBAPIError, OSError):  # the next call tries again
                self._look_after()
            self._maintained_at = time.monotonic()
        time.sleep(POLL_SECONDS)
