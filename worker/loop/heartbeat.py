"""A worker's own row: that it is there, that it lives, that it left. In few plain statements on its own connections.

The ORM would do this as well, but to have it awake in every worker costs each of them 10 MiB of its own.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import threading
import time
from typing import Any, Callable, Optional

from webapp.core.relocated import Relocated
from webapp.core.statements import EVENT
from webapp.core.transaction import Connection, Transaction
from webapp.lib import clock
from webapp.lib.version import __version__
from worker import processes
from worker.assignment import Assignment
from worker.loop.dispatcher import Dispatcher
from worker.loop.wakeup_base import Wakeup

BEATS = 4  # in the time of a lease
LONGEST_PAUSE = 10.0  # seconds between two beats
RETRY = 0.2  # seconds between two tries to write the last word

log = logging.getLogger("queuectl.worker")

# That the supervisor has its row, before anybody sees a worker of it. One that drains has none: it is not to be scaled.
ANNOUNCE = """
INSERT INTO supervisors (id, host, pid, version, slots, queues, labels, wanted, started_at, seen_at)
VALUES (:id, :host, :pid, :version, :slots, :queues, :labels, :wanted, :now, :now) ON CONFLICT (id) DO NOTHING
"""

_REGISTER = """
INSERT INTO workers (id, supervisor_id, host, pid, pid_started, boot_id, version, slots, queues, labels,
                     state, wish, started_at, heartbeat, seen_at, jobs_completed, jobs_failed)
VALUES (:id, :supervisor, :host, :pid, :pid_started, :boot_id, :version, :slots, :queues, :labels,
        'running', 'run', :now, 0, :now, 0, 0)
"""

_DEREGISTER = """
UPDATE workers SET state = 'stopped', stopped_at = :now, jobs_completed = :completed, jobs_failed = :failed
WHERE id = :id AND state = 'running'
"""

_BEAT = """
UPDATE workers SET heartbeat = heartbeat + 1, seen_at = :now, jobs_completed = :completed, jobs_failed = :failed,
                   cpu_time = :cpu_time, memory = :memory
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
        "labels": json.dumps(list(assignment.labels)) if assignment.labels else None,
        "wanted": assignment.count,
        "now": clock.now(),
    }


def register(connection: Connection, worker_id: str, assignment: Assignment) -> None:
    """Write that this worker is there, and its supervisor, should nobody have done so yet."""
    values = {
        **supervisor_row(assignment),
        "id": worker_id,
        "supervisor": assignment.supervisor_id,
        "pid": os.getpid(),
        "pid_started": processes.started(os.getpid()),
        "boot_id": processes.boot_id(),
    }
    with connection.transaction() as transaction:
        if not assignment.drain:
            transaction.execute(ANNOUNCE, supervisor_row(assignment))
        transaction.execute(_REGISTER, values)
        _record(transaction, "start", worker_id)


def deregister(connection: Connection, worker_id: str, dispatcher: Dispatcher, within: float) -> None:
    """Write that it left in good order, unless it was taken for dead before; try for so many seconds."""
    values = {
        "id": worker_id,
        "now": clock.now(),
        "completed": dispatcher.completed,
        "failed": dispatcher.failed,
    }
    until = time.monotonic() + within
    while (error := _write_end(connection, values)) is not None:
        if time.monotonic() > until:
            log.warning("worker %s cannot write that it left: %s", worker_id, error)
            return
        time.sleep(RETRY)
        with contextlib.suppress(*connection.errors):
            connection.reconnect()


def _write_end(connection: Connection, values: dict[str, Any]) -> Optional[str]:
    """Returns what was wrong."""
    try:
        with connection.transaction() as transaction:
            if transaction.execute(_DEREGISTER, values).rowcount == 1:
                _record(transaction, "stop", values["id"])
    except connection.errors as error:
        return str(error).strip()
    return None


def _record(transaction: Transaction, verb: str, worker_id: str) -> None:
    me = f"worker:{worker_id}"
    values = {"now": clock.now(), "verb": verb, "actor": me, "subject": me, "seq": None, "detail": None}
    transaction.execute(EVENT, values)


class Heartbeat(threading.Thread):
    """Counts on the worker's row, on a connection of its own, so that whoever watches it knows that it lives.

    Between two beats it has the worker's wakeup listen on that connection, where there is something to be heard.
    """

    def __init__(
        self,
        connection: Connection,
        worker_id: str,
        dispatcher: Dispatcher,
        wakeup: Wakeup,
        wake_main: Callable[[], object],
    ) -> None:
        """`connection` is its own from then on. A worker that cannot have two is not to take jobs with one."""
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
                try:
                    alive = self._beat(connection)
                except Relocated as moved:
                    self._dispatcher.leave(moved)
                    alive = False
                except connection.errors:
                    with contextlib.suppress(*connection.errors):
                        connection.reconnect()
                    alive = True
                if not alive:
                    self._dispatcher.expired = True
                    self._wake_main()
                    return
                due = time.monotonic() + self._pause()
            if not self._wakeup.listen(connection, self._ended, max(0.0, due - time.monotonic())):
                due = 0.0  # the next beat connects anew

    def _pause(self) -> float:
        return min(LONGEST_PAUSE, self._dispatcher.settings.lease / BEATS)

    def _beat(self, connection: Connection) -> bool:
        cpu_time, memory = processes.usage()
        values = {
            "now": clock.now(),
            "completed": self._dispatcher.completed,
            "failed": self._dispatcher.failed,
            "cpu_time": cpu_time,
            "memory": memory,
            "id": self._worker_id,
        }
        with connection.transaction() as transaction:
            return bool(transaction.execute(_BEAT, values).rowcount == 1)
