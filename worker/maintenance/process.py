"""A supervisor's maintenance process: it recovers jobs of dead workers, scales, and starts chores that are due.

Every supervisor has one. Several can work on one database, because every step is a guarded UPDATE. It works in plain
SQL. Bulk actions, roll-ups and retention need more memory: `chores.py` is a process that ends.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import select
import signal
import threading
import time
from typing import TYPE_CHECKING, Callable, Optional

from webapp.core import statements
from webapp.core.settings import Settings
from webapp.core.storage import schema
from webapp.core.storage.database import Database
from webapp.core.storage.locks import Busy
from webapp.core.storage.relocated import Relocated
from webapp.core.storage.transaction import Connection
from worker import processes
from worker.loop import wakeup
from worker.maintenance import recovery
from worker.maintenance.chore_starter import ChoreStarter
from worker.maintenance.dead_workers import DeadWorkers, line_of, running
from worker.maintenance.outgoing_heartbeat import OutgoingHeartbeat
from worker.maintenance.scaling import Scaling
from worker.maintenance.scheduler import Scheduler
from worker.messages import CHECK, GONE, STOP, listen

if TYPE_CHECKING:
    from webapp.notifications.dispatcher import Dispatcher

log = logging.getLogger("queuectl.maintenance")

TICK = 3.0  # seconds between ticks; the supervisor reports the end of its own workers at once
REST = 15.0  # seconds between ticks while nothing runs, if the wake-up signal tells about changes
SHORT_REST = 0.02  # seconds between ticks while notices are left
FAULT_PAUSE = 60.0  # seconds after an error of the notifications

_ANYTHING_RUNS = "SELECT 1 FROM jobs WHERE state = 'processing' LIMIT 1"
_HAS_BATCHES = "SELECT 1 FROM batches WHERE ended_at IS NULL AND closed_at IS NOT NULL LIMIT 1"
_HAS_CHANNELS = "SELECT 1 FROM channels LIMIT 1"  # without a channel there are no rules and no messages


def run(database: Database, supervisor: int, scaling: Scaling) -> int:
    """Tick until the supervisor is gone or done. `supervisor`: the pipe on which it sends CHECK and STOP."""
    # The supervisor ends this process last, by the pipe. Other signals are the workers'.
    for name in ("SIGTERM", "SIGINT", "SIGBREAK", "SIGHUP", "SIGQUIT", "SIGTSTP", "SIGUSR1", "SIGUSR2"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    received: queue.Queue[str] = queue.Queue()  # not a SimpleQueue, see worker/runner/threads.py
    listen(supervisor, received.put)
    has_signal = _listen_for_changes(database, received.put)
    scheduler = Scheduler(database, has_signal=has_signal)
    heartbeat = OutgoingHeartbeat(database.config)
    maintenance, messages = _Maintenance(database, scaling, ChoreStarter(database), heartbeat), set[str]()
    while True:
        maintenance.attend(ends=bool(messages & {STOP, GONE}))
        if GONE in messages:
            scheduler.stop()
            maintenance.close()
            return 0
        with contextlib.suppress(queue.Empty):
            messages.add(received.get(timeout=maintenance.rest if has_signal else min(maintenance.rest, TICK)))
            scheduler.wake()
            while True:  # one tick answers all messages so far
                messages.add(received.get_nowait())


def _listen_for_changes(database: Database, receive: Callable[[str], None]) -> bool:
    """Send CHECK to `receive`, from a thread, when jobs were stored, at most every TICK seconds.

    Returns False if the platform has no signal, and on PostgreSQL, where ticks cost less than a connection.
    """
    if not database.is_sqlite:
        return False
    changes = wakeup.for_sqlite(database.config, selects=processes.FORKS)

    def wait() -> None:
        while (descriptor := changes.descriptor()) is not None:
            poll = select.poll()
            poll.register(descriptor, select.POLLIN)
            poll.poll(REST * 1000)  # limited: `descriptor()` replaces the watch of a deleted file
            changes.signalled()
            receive(CHECK)
            time.sleep(TICK)

    if changes.descriptor() is None:
        changes.close()
        return False
    threading.Thread(target=wait, name="changes", daemon=True).start()
    return True


def without_supervisor(database: Database) -> Callable[[], None]:
    """A function that ticks once, for a caller that needs recovery although no supervisor may run.

    Call it every TICK seconds. Raises OSError and the driver's errors.
    """
    return _Maintenance(database).tick


class _Maintenance:
    def __init__(
        self,
        database: Database,
        scaling: Optional[Scaling] = None,
        chores: Optional[ChoreStarter] = None,
        heartbeat: Optional[OutgoingHeartbeat] = None,
    ) -> None:
        self.rest = TICK  # seconds until the next tick without a message
        self._connection = Connection(database)
        self._scaling = scaling
        self._chores = chores
        self._heartbeat = heartbeat
        self._dead_workers = DeadWorkers(self._connection, TICK)
        self._dispatcher: Optional[Dispatcher] = None
        self._notify_at = 0.0
        self._last_tick = time.monotonic()

    def attend(self, *, ends: bool) -> None:
        """Tick, and report problems. `ends`: the supervisor starts no more workers."""
        try:
            self.tick()
            if ends and self._scaling is not None:
                self._scaling.end(self._connection)
        except Relocated as moved:
            if self._scaling is not None:
                self._scaling.moved(str(moved))
        except self._connection.errors as error:
            log.warning("the database cannot be used: %s", line_of(error))
            self._connection.close()

    def tick(self) -> None:
        now = time.monotonic()
        passed, self._last_tick = min(now - self._last_tick, 2 * self.rest), now
        connection = self._connection
        connection.follow_clock()
        if connection.scalar(schema.REVISION) != schema.HEAD:
            if self._scaling is not None:
                self._scaling.taken_over()
            return  # the maintenance process of the newer version does the work
        values = Settings(dict(connection.query(statements.SETTINGS)))
        workers = running(connection)
        # Workers elsewhere need their heartbeats watched. A dead worker here that held no job can wait.
        anything_runs = connection.scalar(_ANYTHING_RUNS) is not None or any(not worker.is_here for worker in workers)
        self.rest = TICK if anything_runs or values.lease < 2 * REST else REST
        self._dead_workers.check(workers, values.lease, passed)
        recovery.recover_orphans(connection)
        self._decide_batches()
        if self._scaling is not None:
            self._scaling.tick(connection)
        if self._chores is not None:
            self._chores.start_if_due(connection, values)
        if self._heartbeat is not None:  # all before this needed the database
            self._heartbeat.ping_if_due(connection)
        if self._chores is not None:
            self._notify()

    def _decide_batches(self) -> None:
        connection = self._connection
        if connection.scalar(_HAS_BATCHES) is None:
            return
        from webapp.core.flow import batch_callbacks  # only queues with batches need it

        self.rest = min(self.rest, TICK)
        try:
            if batch_callbacks.decide(connection) == batch_callbacks.STEP:
                self.rest = SHORT_REST
        except Busy:
            log.debug("batches: waiting for the write lock")

    def _notify(self) -> None:
        """Turn notices into messages. Last in a tick: it delays no recovery, and its errors stop nothing else."""
        connection = self._connection
        if time.monotonic() < self._notify_at or connection.scalar(_HAS_CHANNELS) is None:
            return
        try:
            if self._dispatcher is None:
                from webapp.notifications.dispatcher import Dispatcher  # only queues with channels need it

                self._dispatcher = Dispatcher(connection)
            if self._dispatcher.tick():
                self.rest = SHORT_REST
        except Busy:
            log.debug("notifications: waiting for the write lock")
        except Relocated:
            raise
        except connection.errors:
            raise
        except Exception:
            log.exception("notifications: internal error; retrying in %g s", FAULT_PAUSE)
            connection.close()
            self._notify_at = time.monotonic() + FAULT_PAUSE

    def close(self) -> None:
        if self._chores is not None:
            self._chores.stop()
        self._connection.close()
