"""A worker's own row: registered, alive, left. Plain statements, because the ORM costs each worker 10 MiB."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import threading
import time
from typing import Any, Callable, Optional

from webapp.core.events import record
from webapp.core.storage.relocated import Relocated
from webapp.core.storage.transaction import Connection
from webapp.lib import clock
from webapp.lib.version import __version__
from worker import processes
from worker.loop.dispatcher import Dispatcher
from worker.loop.wakeup import Wakeup
from worker.messages import Assignment

BEATS_PER_LEASE = 4
LONGEST_PAUSE = 10.0  # seconds between two beats
DEREGISTER_RETRY = 0.2  # seconds between two tries

log = logging.getLogger("queuectl.worker")

# A supervisor has its row before its first worker. One that drains has none, because it cannot be scaled.
ANNOUNCE = """
INSERT INTO supervisors (id, host, pid, version, slots, queues, queue_order, labels, wanted, started_at, seen_at)
VALUES (:id, :host, :pid, :version, :slots, :queues, :queue_order, :labels, :wanted, :now, :now)
ON CONFLICT (id) DO NOTHING
"""

_REGISTER = """
INSERT INTO workers (id, supervisor_id, host, pid, pid_started, boot_id, version, slots, queues, queue_order, labels,
                     state, wish, started_at, heartbeat, seen_at, jobs_completed, jobs_failed)
VALUES (:id, :supervisor, :host, :pid, :pid_started, :boot_id, :version, :slots, :queues, :queue_order, :labels,
        'running', 'run', :now, 0, :now, 0, 0)
"""

_DEREGISTER = """
UPDATE workers SET state = 'stopped', stopped_at = :now, jobs_completed = :completed, jobs_failed = :failed
WHERE id = :id AND state = 'running'
"""

_BEAT = """
UPDATE workers SET heartbeat = heartbeat + 1, seen_at = :now, jobs_completed = :completed, jobs_failed = :failed,
                   cpu_time = :cpu_time, memory = :memory, slots = :slots
WHERE id = :id AND state = 'running'
"""


def supervisor_row(assignment: Assignment) -> dict[str, Any]:
    """The values for ANNOUNCE."""
    return {
        "id": assignment.supervisor_id,
        "host": processes.host_name(),
        "pid": assignment.supervisor_pid,
        "version": __version__,
        "slots": assignment.slots,
        "queues": json.dumps(list(assignment.queues)) if assignment.queues is not None else None,
        "queue_order": None if assignment.order is None else json.dumps(assignment.order),
        "labels": json.dumps(list(assignment.labels)) if assignment.labels else None,
        "wanted": assignment.count,
        "now": clock.now(),
    }


def register(connection: Connection, worker_id: str, assignment: Assignment) -> None:
    """Insert this worker's row, and its supervisor's if it is missing."""
    supervisor = supervisor_row(assignment)
    with connection.transaction() as transaction:
        if not assignment.drain:
            transaction.execute(ANNOUNCE, supervisor)
        own = {"id": worker_id, "supervisor": assignment.supervisor_id, "pid": os.getpid()}
        own.update(pid_started=processes.started(os.getpid()), boot_id=processes.boot_id())
        transaction.execute(_REGISTER, {**supervisor, **own})
        record(transaction, "start", f"worker:{worker_id}", f"worker:{worker_id}")


def deregister(connection: Connection, worker_id: str, dispatcher: Dispatcher, within: float) -> None:
    """Record that this worker stopped, unless it was marked lost before. Retry for `within` seconds."""
    values = {
        "id": worker_id,
        "now": clock.now(),
        "completed": dispatcher.completed,
        "failed": dispatcher.failed,
    }
    until = time.monotonic() + within
    while True:
        try:
            with connection.transaction() as transaction:
                if transaction.execute(_DEREGISTER, values).rowcount == 1:
                    record(transaction, "stop", f"worker:{worker_id}", f"worker:{worker_id}")
            return
        except connection.errors as error:
            if time.monotonic() > until:
                log.warning("worker %s cannot record that it stopped: %s", worker_id, str(error).strip())
                return
        time.sleep(DEREGISTER_RETRY)
        with contextlib.suppress(*connection.errors):
            connection.reconnect()


class Heartbeat(threading.Thread):
    """Counts up a number on the worker's row, on its own connection, to show that the worker is alive.

    Between two beats the worker's wakeup listens on that connection.
    """

    def __init__(
        self,
        connection: Connection,
        worker_id: str,
        dispatcher: Dispatcher,
        wakeup: Wakeup,
        wake_main: Callable[[], object],
    ) -> None:
        """Create the thread; it then owns `connection`. The caller opens it, so that a failure ends the worker."""
        super().__init__(name="heartbeat", daemon=True)
        self._connection = connection
        self._worker_id = worker_id
        self._dispatcher = dispatcher
        self._wakeup = wakeup
        self._wake_main = wake_main
        self._ended = threading.Event()

    def stop(self) -> None:
        self._ended.set()

    def run(self) -> None:
        connection = self._connection
        due = time.monotonic() + self._pause()
        while not self._ended.is_set():
            if time.monotonic() >= due:
                alive = True
                try:
                    alive = self._beat()
                except Relocated as moved:
                    self._dispatcher.leave(moved)
                    alive = False
                except connection.errors:
                    with contextlib.suppress(*connection.errors):
                        connection.reconnect()
                if not alive:
                    self._dispatcher.expired = True
                    self._wake_main()
                    return
                due = time.monotonic() + self._pause()
            if not self._wakeup.listen(connection, self._ended, max(0.0, due - time.monotonic())):
                due = 0.0  # the next beat reconnects

    def _pause(self) -> float:
        return min(LONGEST_PAUSE, self._dispatcher.settings.lease / BEATS_PER_LEASE)

    def _beat(self) -> bool:
        """False if the row is gone or marked as lost."""
        cpu_time: Optional[int] = None
        memory: Optional[int] = None
        with contextlib.suppress(OSError):  # no more files can be opened: a worker lives without these figures, too
            cpu_time, memory = processes.usage()
        values = {
            "now": clock.now(),
            "completed": self._dispatcher.completed,
            "failed": self._dispatcher.failed,
            "cpu_time": cpu_time,
            "memory": memory,
            "slots": self._dispatcher.capacity.shown,
            "id": self._worker_id,
        }
        with self._connection.transaction() as transaction:
            return bool(transaction.execute(_BEAT, values).rowcount == 1)
