"""Finds workers that died, and marks them lost.

A worker on the same host and boot is judged by its pid, others by a heartbeat that stands still for `lease` seconds.
That time is measured on the monotonic clock of this process, and only while it can write itself.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import NamedTuple, Optional

from webapp.core import notices
from webapp.core.events import record
from webapp.core.storage import db_errors
from webapp.core.storage.schema import BUMP_REVISION
from webapp.core.storage.transaction import Connection
from webapp.lib import clock
from worker import processes

log = logging.getLogger("queuectl.maintenance")

RESTARTED_LEASE = 15.0  # seconds without a heartbeat after which a worker from before a restart is lost
LOCK_TIMEOUT = 1.0  # seconds that a tick waits for the write lock: a suspended worker may hold it

_RUNNING = "SELECT id, host, boot_id, pid, pid_started, heartbeat FROM workers WHERE state = 'running'"
_EXPIRE = """
UPDATE workers SET state = 'expired', stopped_at = :now
WHERE id = :id AND state = 'running' AND heartbeat = :heartbeat
"""


class RunningWorker(NamedTuple):
    """A row of a worker that runs, or seems to."""

    id: str
    host: str
    boot_id: str
    pid: int
    pid_started: float
    heartbeat: int

    @property
    def is_here(self) -> bool:
        return processes.is_here(self.host, self.boot_id)


@dataclass
class _Watch:
    """For how many seconds a heartbeat has stood still."""

    heartbeat: int
    still: float = 0.0


def running(connection: Connection) -> list[RunningWorker]:
    return [RunningWorker(*row) for row in connection.query(_RUNNING)]


class DeadWorkers:
    """See the module. `tick` is the seconds between two checks while anything runs."""

    def __init__(self, connection: Connection, tick: float) -> None:
        self._connection = connection
        self._tick = tick
        self._watches: dict[str, _Watch] = {}
        self._writable: Optional[bool] = None  # whether this process can write; None: not tested in this check
        self._could_write = True  # in the check before

    def check(self, workers: list[RunningWorker], lease: float, passed: float) -> None:
        """Mark dead ones of these workers lost. `passed`: seconds since the last check."""
        self._could_write, self._writable = self._writable is not False, None
        for worker in workers:
            reason = self._death_reason(worker, lease, passed)
            if reason is not None:
                self._expire(worker, reason)
        self._watches = {worker.id: self._watches[worker.id] for worker in workers if worker.id in self._watches}

    def _death_reason(self, worker: RunningWorker, lease: float, passed: float) -> Optional[str]:
        """Why this worker is lost, or None while it may live."""
        restarted = processes.was_restarted(worker.host, worker.boot_id)
        if worker.is_here and not processes.is_alive(worker.pid, worker.pid_started):
            return f"its process {worker.pid} is gone"
        if restarted and self._connection.is_sqlite:  # it serves one machine; with PostgreSQL two may have one name
            return "its machine was restarted"
        watch = self._watches.get(worker.id)
        if watch is None or watch.heartbeat != worker.heartbeat:
            self._watches[worker.id] = _Watch(worker.heartbeat)
            return None
        stopped = worker.is_here and processes.is_stopped(worker.pid)
        if restarted:
            lease = min(lease, RESTARTED_LEASE)
        elif not worker.is_here:  # maintenance on its own machine goes first, because it can end its commands
            lease += min(2 * self._tick, lease / 2)
        passed = min(passed, lease / 3)  # at least three checks, however short the lease is
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
                db_errors.prove_writable(self._connection.database, LOCK_TIMEOUT)
                # A foreign program's lock ignores the timeout. If this write was slow, so were the workers' writes.
                self._writable = time.monotonic() - began < 2 * LOCK_TIMEOUT
            except self._connection.errors as error:
                log.warning("no worker is marked lost, because maintenance cannot write either: %s", line_of(error))
                self._writable = False
                self._resume_lock_holder()
        return self._writable

    def _expire(self, worker: RunningWorker, reason: str) -> None:
        values = {"id": worker.id, "heartbeat": worker.heartbeat, "now": clock.now()}
        with self._connection.transaction(LOCK_TIMEOUT, wakes_workers=True) as transaction:
            if transaction.execute(_EXPIRE, values).rowcount != 1:
                return  # it is alive, or another maintenance process was first
            transaction.execute(BUMP_REVISION)  # tells the worker, in case it still runs
            record(transaction, "expire", f"worker:{worker.id}", "rule:maintenance", detail={"text": reason})
            lost = {"worker": worker.id, "host": worker.host, "text": reason}
            notices.record(transaction, "worker-lost", f"host:{worker.host}", detail=lost)  # a message for each machine
        log.warning("worker %s on %s is marked lost: %s", worker.id, worker.host, reason, extra={"worker": worker.id})

    def _resume_lock_holder(self) -> None:
        """Resume a command that was suspended (Ctrl-Z) during its write, because it blocks the whole queue."""
        holder = self._connection.database.lock.holder()
        if holder is None or not processes.is_stopped(holder):
            return
        if holder in {worker.pid for worker in running(self._connection)}:
            return  # a suspended worker loses its lease instead
        log.warning("process %d was suspended while it held the write lock; resuming it", holder)
        processes.resume_process(holder)


def line_of(error: BaseException) -> str:
    """An error of the database in one line for the log."""
    return db_errors.explain(error) or (str(error).splitlines() or [type(error).__name__])[0]
