"""A supervisor's row in the database: that it lives, and how many workers people want.

The supervisor has no database connection. Its maintenance process reads the desired number and reports it. The
supervisor starts more workers, or does not replace those that leave. Surplus workers are asked to stop through their
rows, as a person would ask them: those with the fewest jobs first, then the newest. So their jobs finish, and nothing
is lost if the maintenance process dies.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time

from sqlalchemy import Row, func, literal_column, select, text, update
from sqlalchemy.orm import Session

from webapp.db.engines import reading, writing
from webapp.db.models import Job, Supervisor, Worker
from webapp.jobs import worker_actions
from webapp.jobs.lifecycle import in_state
from webapp.lib import clock
from worker import processes
from worker.loop.heartbeat import ANNOUNCE, supervisor_row
from worker.messages import RELOCATED, STOP_REQUESTED, TAKEN_OVER, Assignment, DesiredWorkers

log = logging.getLogger("queuectl.maintenance")

LOCK_TIMEOUT = 1.0  # seconds to wait for the write lock; the next tick tries again
BEAT = 20.0  # seconds between two updates of `seen_at`


class Scaling:
    """Keeps the row and reports. `reports`: the pipe to the supervisor."""

    def __init__(self, assignment: Assignment, reports: int) -> None:
        self._assignment = assignment
        self._id = assignment.supervisor_id
        self._reports = reports
        self._beat_at = -BEAT
        self._over = False
        self._ended = False

    def tick(self) -> None:
        """Update the row, report the desired number of workers, and ask surplus workers to stop."""
        if self._assignment.drain:
            return
        with reading() as session:
            ended = session.scalar(select(Supervisor.stopped_at).where(Supervisor.id == self._id))
        if ended is None:  # else only report: the queue may not accept writes any more
            self._beat()
        with reading() as session:
            row = session.get(Supervisor, self._id)
            if row is None:
                return  # it could not be written yet
            desired = row.wanted if row.stopped_at is None else 0
            workers = self._workers(session)
            busy = _busy(session) if len(workers) > desired else {}
        staying = [worker for worker in workers if worker.requested_state != "stop"]
        if len(staying) > desired:
            # Do not count a dead worker that was already replaced.
            staying = [worker for worker in staying if processes.is_alive(worker.pid, worker.pid_started)]
            staying.sort(key=lambda worker: (busy.get(worker.id, 0), -worker.started_at))
            self._request_stop([worker.id for worker in staying[: max(0, len(staying) - desired)]])
        leaving = tuple(worker.pid for worker in workers if worker.requested_state == "stop")
        reason = STOP_REQUESTED if row.stopped_at is not None else ""
        self._report(DesiredWorkers(desired, leaving, reason, len(workers)))

    def taken_over(self) -> None:
        """A newer version uses the database: write nothing more to it."""
        self._over = True
        self._report(DesiredWorkers(0, (), TAKEN_OVER))

    def moved(self, message: str) -> None:
        """The queue is in another database: nothing more can be written to this one."""
        if not self._over:
            log.error("%s", message)
        self._over = True
        self._report(DesiredWorkers(0, (), RELOCATED))

    def end(self) -> None:
        """The supervisor stops or is gone: it starts no more workers."""
        if self._over or self._ended:
            return
        with writing(LOCK_TIMEOUT) as session:
            running = Supervisor.id == self._id, Supervisor.stopped_at.is_(None)
            session.execute(update(Supervisor).where(*running).values(stopped_at=clock.now()))
        self._ended = True

    def _beat(self) -> None:
        if time.monotonic() - self._beat_at < BEAT:
            return
        with writing(LOCK_TIMEOUT, wakes_workers=False) as session:
            session.execute(text(ANNOUNCE), supervisor_row(self._assignment))
            session.execute(update(Supervisor).where(Supervisor.id == self._id).values(seen_at=clock.now()))
        self._beat_at = time.monotonic()

    def _workers(self, session: Session) -> list[Row[tuple[str, int, float, str, int]]]:
        columns = (Worker.id, Worker.pid, Worker.pid_started, Worker.requested_state, Worker.started_at)
        running = Worker.state == literal_column("'running'")
        return list(session.execute(select(*columns).where(Worker.supervisor_id == self._id, running)))

    def _request_stop(self, worker_ids: list[str]) -> None:
        with writing(LOCK_TIMEOUT) as session:
            stopping = worker_actions.request_stop(session, worker_ids, "rule:scale")
        log.info("stop requested for surplus workers: %s", ", ".join(stopping))

    def _report(self, desired: DesiredWorkers) -> None:
        with contextlib.suppress(OSError):  # it is gone, or suspended: then it reads the next line
            os.write(self._reports, desired.line())


def _busy(session: Session) -> dict[str, int]:
    """How many jobs each worker runs."""
    statement = select(Job.worker_id, func.count()).where(in_state("processing")).group_by(Job.worker_id)
    return {worker_id: number for worker_id, number in session.execute(statement).tuples() if worker_id}
