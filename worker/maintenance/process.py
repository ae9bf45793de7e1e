"""A supervisor's maintenance process: it recovers jobs of dead workers, continues bulk actions, deletes old jobs.

Every supervisor has one. Several can work on one database, because every step is a guarded UPDATE. It judges a worker
on the same host and boot by its pid, and others by a heartbeat that stands still for `lease` seconds. That time is
measured on its own monotonic clock, and only while it can write itself.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import select
import signal
import threading
import time
from dataclasses import dataclass
from typing import Callable, Optional

from flask import Flask, current_app
from sqlalchemy import literal_column, text, update
from sqlalchemy import select as sql_select
from sqlalchemy.exc import DBAPIError

from webapp.config import Config
from webapp.core import schema
from webapp.core.locks import Busy
from webapp.core.relocated import Relocated
from webapp.db import db_errors, engines
from webapp.db.engines import reading, writing
from webapp.db.models import Job, Worker
from webapp.insight import rollups
from webapp.jobs import actions, canary, settings, worker_actions
from webapp.jobs.lifecycle import in_state
from webapp.lib import clock
from worker import processes
from worker.loop import wakeup
from worker.maintenance import recovery
from worker.maintenance.retention import Retention
from worker.maintenance.scaling import Scaling
from worker.messages import CHECK, GONE, STOP, listen

log = logging.getLogger("queuectl.maintenance")

TICK = 3.0  # seconds between ticks; the supervisor reports the end of its own workers at once
REST = 15.0  # seconds between ticks while nothing runs, if the wake-up signal tells about changes
RESTARTED_LEASE = 15.0  # seconds without a heartbeat after which a worker from before a restart is lost
LOCK_TIMEOUT = 1.0  # seconds that a tick waits for the write lock: a suspended worker may hold it
ACTIONS_BUDGET = 1.0  # seconds of each tick for unfinished bulk actions
RETENTION_EVERY = 60.0  # seconds from the end of one round to the start of the next
FOLD_EVERY = 20.0  # seconds between updates of the roll-ups


@dataclass
class _Watch:
    """For how many seconds a heartbeat has stood still."""

    heartbeat: int
    still: float = 0.0


def run(app: Flask, supervisor: int, scaling: Scaling) -> int:
    """Tick until the supervisor is gone or done. `supervisor`: the pipe on which it sends CHECK and STOP."""
    for name in ("SIGTERM", "SIGINT", "SIGBREAK"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)  # the supervisor ends this process last, by the pipe
    received: queue.Queue[str] = queue.Queue()  # not a SimpleQueue, see worker/runner/threads.py
    listen(supervisor, received.put)
    has_signal = _listen_for_changes(app.extensions["queuectl_config"], received.put)
    maintenance, messages = _Maintenance(scaling), set[str]()
    with app.app_context():
        while True:
            try:
                maintenance.tick()
                if messages & {STOP, GONE}:
                    scaling.end()
            except Relocated as moved:
                scaling.moved(str(moved))
            except (DBAPIError, Busy, OSError) as error:
                log.warning("the database cannot be used: %s", _line(error))
            if GONE in messages:
                return 0
            pause = 0.01 if maintenance.has_more else maintenance.rest if has_signal else TICK
            with contextlib.suppress(queue.Empty):
                messages.add(received.get(timeout=pause))
                while True:  # one tick answers all messages so far
                    messages.add(received.get_nowait())


def _listen_for_changes(config: Config, receive: Callable[[str], None]) -> bool:
    """Send CHECK to `receive`, from a thread, when jobs were stored, at most every TICK seconds.

    Returns False if the platform has no signal, and on PostgreSQL, where ticks cost less than a connection.
    """
    if not config.is_sqlite:
        return False
    changes = wakeup.for_sqlite(config, selects=processes.FORKS)

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


def without_supervisor() -> Callable[[], None]:
    """A function that ticks once, for a caller that needs recovery although no supervisor may run.

    Call it every TICK seconds. Raises DBAPIError, Busy, OSError.
    """
    return _Maintenance().tick


class _Maintenance:
    def __init__(self, scaling: Optional[Scaling] = None) -> None:
        self._scaling = scaling
        self.actions: list[int] = []  # bulk actions that this process continues
        self.rest = TICK  # seconds until the next tick without a message
        self._watches: dict[str, _Watch] = {}
        self._writable: Optional[bool] = None  # whether this process can write; None: not tested in this tick
        self._could_write = True  # in the tick before
        self._last_tick = time.monotonic()
        self._retention = Retention(LOCK_TIMEOUT)
        self._retained_at = time.monotonic() - RETENTION_EVERY
        self._retention_has_more = False
        self._folded_at = time.monotonic() - FOLD_EVERY

    @property
    def has_more(self) -> bool:
        """Whether the next tick should follow at once."""
        return bool(self.actions) or self._retention_has_more

    def tick(self) -> None:
        now = time.monotonic()
        passed, self._last_tick = min(now - self._last_tick, 2 * self.rest), now
        with reading() as session:
            if session.scalar(text(schema.REVISION)) != schema.HEAD:
                if self._scaling is not None:
                    self._scaling.taken_over()
                return  # the maintenance process of the newer version does the work
            values = settings.load(session)
            running = list(session.scalars(sql_select(Worker).where(Worker.state == literal_column("'running'"))))
            anything_runs = session.scalar(sql_select(Job.seq).where(in_state("processing")).limit(1)) is not None
            unfinished = actions.abandoned(session)
            canaries_wait = canary.any_waiting(session)
        # Workers elsewhere need their heartbeats watched. A dead worker here that held no job can wait.
        others = any(not processes.is_here(worker.host, worker.boot_id) for worker in running)
        self.rest = TICK if anything_runs or others or values.lease < 2 * REST else REST
        self._could_write, self._writable = self._writable is not False, None
        for worker in running:
            reason = self._death_reason(worker, values.lease, passed)
            if reason is not None:
                self._expire(worker, reason)
        self._watches = {worker.id: self._watches[worker.id] for worker in running if worker.id in self._watches}
        recovery.recover_orphans()
        if self._scaling is not None:
            self._scaling.tick()
        self._continue_actions([*unfinished, *(canary.check_all(LOCK_TIMEOUT) if canaries_wait else ())])
        if now - self._folded_at >= FOLD_EVERY:
            # A long backlog takes several ticks, which follow at once.
            self._folded_at = now if rollups.fold(patience=LOCK_TIMEOUT) < rollups.FOLD_BATCH else now - FOLD_EVERY
        if self._retention_has_more or now - self._retained_at >= RETENTION_EVERY:
            self._retained_at, self._retention_has_more = now, False
            self._retention_has_more = self._retention.resume(values)
            if not self._retention_has_more:
                _check_log_size()

    def _continue_actions(self, found: list[int]) -> None:
        """Continue unfinished bulk actions for a limited time, because workers must be watched meanwhile."""
        until = time.monotonic() + ACTIONS_BUDGET
        for action in dict.fromkeys([*self.actions, *found]):
            done = actions.resume(action, max(0.0, until - time.monotonic()), LOCK_TIMEOUT).done
            self.actions = [one for one in self.actions if one != action] + ([] if done else [action])

    # --- workers ---

    def _death_reason(self, worker: Worker, lease: float, passed: float) -> Optional[str]:
        """Why this worker is lost, or None while it may live."""
        here = processes.is_here(worker.host, worker.boot_id)
        restarted = processes.was_restarted(worker.host, worker.boot_id)
        if here and not processes.is_alive(worker.pid, worker.pid_started):
            return f"its process {worker.pid} is gone"
        if restarted and engines.is_sqlite():  # SQLite serves one machine; on PostgreSQL two may have the same name
            return "its machine was restarted"
        watch = self._watches.get(worker.id)
        if watch is None or watch.heartbeat != worker.heartbeat:
            self._watches[worker.id] = _Watch(worker.heartbeat)
            return None
        stopped = here and processes.is_stopped(worker.pid)
        if restarted:
            lease = min(lease, RESTARTED_LEASE)
        elif not here:  # maintenance on its own machine goes first, because it can end its commands
            lease += min(2 * TICK, lease / 2)
        passed = min(passed, lease / 3)  # at least three ticks, however short the lease is
        if watch.still + passed > lease / 2 and not stopped and not (self._can_write() and self._could_write):
            return None  # the worker may have waited for a lock that was just released
        watch.still += passed
        if watch.still < lease:
            return None
        if stopped:  # it may hold the write lock
            processes.kill_exactly(worker.pid, worker.pid_started)
            return f"its process {worker.pid} was suspended for {lease:g} s"
        return "its machine was restarted" if restarted else f"its heartbeat stood still for {lease:g} s"

    def _can_write(self) -> bool:
        """Test with a real write: no worker is lost because the disk is full or another process holds the lock."""
        if self._writable is None:
            began = time.monotonic()
            try:
                db_errors.prove_writable(LOCK_TIMEOUT)
                # A foreign program's lock ignores the timeout. If this write was slow, so were the workers' writes.
                self._writable = time.monotonic() - began < 2 * LOCK_TIMEOUT
            except (DBAPIError, Busy, OSError) as error:
                log.warning("no worker is marked lost, because maintenance cannot write either: %s", _line(error))
                self._writable = False
                _resume_lock_holder()
        return self._writable

    def _expire(self, worker: Worker, reason: str) -> None:
        with writing(LOCK_TIMEOUT) as session:
            expired = session.execute(
                update(Worker)
                .where(Worker.id == worker.id, Worker.state == "running", Worker.heartbeat == worker.heartbeat)
                .values(state="expired", stopped_at=clock.now())
                .returning(Worker.id)
            ).first()
            if expired is None:
                return  # it is alive, or another maintenance process was first
            worker_actions.record_expiry(session, worker.id, reason)
        log.warning("worker %s on %s is marked lost: %s", worker.id, worker.host, reason, extra={"worker": worker.id})


def _resume_lock_holder() -> None:
    """Resume a command that was suspended (Ctrl-Z) during its write, because it blocks the whole queue."""
    holder = engines.write_lock().holder()
    if holder is None or not processes.is_stopped(holder):
        return
    with reading() as session:
        if session.scalar(sql_select(Worker.id).where(Worker.pid == holder, Worker.state == "running")) is not None:
            return  # a suspended worker loses its lease instead
    log.warning("process %d was suspended while it held the write lock; resuming it", holder)
    processes.resume_process(holder)


def _line(error: BaseException) -> str:
    return db_errors.explain(error) or str(error).splitlines()[0]


def _check_log_size() -> None:
    size = db_errors.large_log(current_app.extensions["queuectl_config"])
    if size is not None:
        text_ = "the log of the database has grown to %d MiB: a program keeps a transaction open for a long time"
        log.warning(text_, size >> 20)
