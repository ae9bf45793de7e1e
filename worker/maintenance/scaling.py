"""A supervisor's row in the database: that it is alive, and its desired number of workers.

The supervisor has no database connection. Its maintenance process reads the desired number and reports it. The
supervisor starts more workers, or does not replace those that leave. Surplus workers are stopped through their
rows, as a user would stop them: those with the fewest jobs first, then the newest. So their jobs finish, and nothing
is lost if the maintenance process dies.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from typing import Any, NamedTuple, Optional

from webapp.core.events import record
from webapp.core.statements import REQUEST_STOP
from webapp.core.storage.schema import BUMP_REVISION
from webapp.core.storage.transaction import Connection
from webapp.lib import clock
from worker import processes
from worker.loop.heartbeat import ANNOUNCE, supervisor_row
from worker.messages import RELOCATED, STOP_REQUESTED, TAKEN_OVER, Assignment, DesiredWorkers

log = logging.getLogger("queuectl.maintenance")

LOCK_TIMEOUT = 1.0  # seconds to wait for the write lock; the next tick tries again
BEAT = 20.0  # seconds between two updates of `seen_at`


_WORKERS = """
SELECT id, pid, pid_started, wish, started_at,
       (SELECT count(*) FROM jobs WHERE state = 'processing' AND worker_id = workers.id)
FROM workers WHERE supervisor_id = :supervisor AND state = 'running'
"""
_BEAT = "UPDATE supervisors SET seen_at = :now WHERE id = :id"
_END = "UPDATE supervisors SET stopped_at = :now WHERE id = :id AND stopped_at IS NULL"


class _Worker(NamedTuple):
    id: str
    pid: int
    pid_started: float
    requested_state: str
    started_at: int
    jobs: int  # that it runs


class Scaling:
    """Keeps the row and reports. `reports`: the pipe to the supervisor."""

    def __init__(self, assignment: Assignment, reports: int) -> None:
        self._assignment = assignment
        self._id = assignment.supervisor_id
        self._reports = reports
        self._beat_at = -BEAT
        self._over = False
        self._ended = False

    def tick(self, connection: Connection) -> None:
        """Update the row, report the desired number of workers, and ask surplus workers to stop."""
        if self._assignment.drain:
            return
        row = self._row(connection)
        if row is None or row[1] is None:  # else only report: the queue may not accept writes any more
            self._beat(connection)
            row = self._row(connection)
            if row is None:
                return  # it could not be written yet
        wanted, stopped_at = row
        desired = wanted if stopped_at is None else 0
        workers = [_Worker(*one) for one in connection.query(_WORKERS, {"supervisor": self._id})]
        staying = [worker for worker in workers if worker.requested_state != "stop"]
        if len(staying) > desired:
            # Do not count a dead worker that was already replaced.
            staying = [worker for worker in staying if processes.is_alive(worker.pid, worker.pid_started)]
            staying.sort(key=lambda worker: (worker.jobs, -worker.started_at))
            self._request_stop(connection, [worker.id for worker in staying[: max(0, len(staying) - desired)]])
        leaving = tuple(worker.pid for worker in workers if worker.requested_state == "stop")
        reason = STOP_REQUESTED if stopped_at is not None else ""
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

    def end(self, connection: Connection) -> None:
        """The supervisor stops or is gone: it starts no more workers."""
        if self._over or self._ended:
            return
        with connection.transaction(LOCK_TIMEOUT, wakes_workers=True) as transaction:
            transaction.execute(_END, {"id": self._id, "now": clock.now()})
        self._ended = True

    def _row(self, connection: Connection) -> Optional[tuple[Any, ...]]:
        rows = connection.query("SELECT wanted, stopped_at FROM supervisors WHERE id = :id", {"id": self._id})
        return rows[0] if rows else None

    def _beat(self, connection: Connection) -> None:
        if time.monotonic() - self._beat_at < BEAT:
            return
        with connection.transaction(LOCK_TIMEOUT) as transaction:
            transaction.execute(ANNOUNCE, supervisor_row(self._assignment))
            transaction.execute(_BEAT, {"id": self._id, "now": clock.now()})
        self._beat_at = time.monotonic()

    def _request_stop(self, connection: Connection, worker_ids: list[str]) -> None:
        with connection.transaction(LOCK_TIMEOUT, wakes_workers=True) as transaction:
            stopping = [id_ for id_ in worker_ids if transaction.execute(REQUEST_STOP, {"worker": id_}).rowcount == 1]
            for id_ in stopping:
                record(transaction, "stop", f"worker:{id_}", "rule:scale")
            if stopping:
                transaction.execute(BUMP_REVISION)
        log.info("stop requested for surplus workers: %s", ", ".join(stopping))

    def _report(self, desired: DesiredWorkers) -> None:
        with contextlib.suppress(OSError):  # it is gone, or suspended: then it reads the next line
            os.write(self._reports, desired.line())
