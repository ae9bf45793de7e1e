"""The process of a supervisor that looks after the database: what dead workers left, unfinished bulk acts, old jobs.

Every supervisor has one; several on one database are safe, for every step is a guarded UPDATE. It judges a worker by
its pid where it runs on the same host and boot, and else by a heartbeat that stands still for `lease` seconds on the
keeper's own monotonic clock, of which only that time counts in which the keeper itself could write.
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
from worker.messages import GONE, LOOK, STOP, listen

log = logging.getLogger("queuectl.keeper")

TICK = 3.0  # seconds between looks; the death of a worker of its own the supervisor tells at once
REST = 15.0  # seconds between looks while nothing runs and nobody writes, where the doorbell tells of that
NO_BEAT = 15.0  # seconds without a heartbeat, after which a worker is gone that was there before a restart
PATIENCE = 1.0  # seconds that a look waits for the write lock: whoever holds it may be one that it should end
ACTS_EVERY_LOOK = 1.0  # seconds of each look for bulk acts that somebody left unfinished
RETENTION_EVERY = 60.0  # from the end of one round over all tables to the start of the next
FOLD_EVERY = 20.0  # between foldings of ended attempts into roll-ups


@dataclass
class _Watch:
    """How long a heartbeat has stood still, in the keeper's own time."""

    heartbeat: int
    still: float = 0.0


def run(app: Flask, supervisor: int, crew: Scaling) -> int:
    """Keep until the supervisor, which speaks through this pipe, is gone or done; LOOK asks for a look at once, and
    STOP says that the supervisor was told to stop."""
    for name in ("SIGTERM", "SIGINT", "SIGBREAK"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)  # the supervisor ends its keeper last, by the pipe
    heard: queue.SimpleQueue[str] = queue.SimpleQueue()
    listen(supervisor, heard.put)
    hears = _hear_bell(app.extensions["queuectl_config"], heard.put)
    keeper, words = _Keeper(crew), set[str]()
    with app.app_context():
        while True:
            try:
                keeper.tick()
                if words & {STOP, GONE}:
                    crew.end()
            except Relocated as moved:
                crew.moved(str(moved))
            except (DBAPIError, Busy, OSError) as error:
                log.warning("the database cannot be used: %s", _line(error))
            if GONE in words:
                return 0
            with contextlib.suppress(queue.Empty):
                words.add(heard.get(timeout=0.01 if keeper.has_more else keeper.rest if hears else TICK))
                while True:  # one look will do for all that was said so far, by the supervisor and by the bell
                    words.add(heard.get_nowait())


def _hear_bell(config: Config, hear: Callable[[str], None]) -> bool:
    """Have `hear` called, in a thread, when somebody stored something, once in TICK seconds at the most.

    False where nothing tells, and on PostgreSQL, where being told takes a connection and looking costs less.
    """
    if not config.is_sqlite:
        return False
    bell = wakeup.of(config, selects=processes.FORKS)

    def wait() -> None:
        while (descriptor := bell.descriptor()) is not None:
            poll = select.poll()
            poll.register(descriptor, select.POLLIN)
            poll.poll(REST * 1000)  # not for ever: a watch whose file was away is made anew by `descriptor()`
            bell.rang()
            hear(LOOK)
            time.sleep(TICK)

    if bell.descriptor() is None:
        bell.close()
        return False
    threading.Thread(target=wait, name="bell", daemon=True).start()
    return True


def without_supervisor() -> Callable[[], None]:
    """A look of a keeper, for whoever waits for what dead workers held when no supervisor may be there any more.

    To be called every TICK seconds. Raises DBAPIError, Busy, OSError.
    """
    return _Keeper().tick


class _Keeper:
    def __init__(self, crew: Optional[Scaling] = None) -> None:
        self._crew = crew
        self.acts: list[int] = []  # bulk acts that this keeper carries on
        self.rest = TICK  # seconds until the next look, unless something happens
        self._watches: dict[str, _Watch] = {}
        self._writable: Optional[bool] = None  # whether this keeper can write, once it has been asked in this tick
        self._could_write = True  # in the tick before
        self._last_tick = time.monotonic()
        self._retention = Retention(PATIENCE)
        self._retained_at = time.monotonic() - RETENTION_EVERY
        self._retention_goes_on = False
        self._folded_at = time.monotonic() - FOLD_EVERY

    @property
    def has_more(self) -> bool:
        """Whether this look left work for the next one, which should follow at once."""
        return bool(self.acts) or self._retention_goes_on

    def tick(self) -> None:
        now = time.monotonic()
        passed, self._last_tick = min(now - self._last_tick, 2 * self.rest), now
        with reading() as session:
            taken_over = session.scalar(text(schema.REVISION)) != schema.HEAD
            if taken_over:
                if self._crew is not None:
                    self._crew.taken_over()
                return  # the keeper of a newer version looks after it
            values = settings.load(session)
            running = list(session.scalars(sql_select(Worker).where(Worker.state == literal_column("'running'"))))
            anything_runs = session.scalar(sql_select(Job.seq).where(in_state("processing")).limit(1)) is not None
            acts = actions.abandoned(session)
            canaries_wait = canary.any_waiting(session)
        # A dead process of this machine that held nothing can wait; for others their heartbeats must be watched.
        others = any(not processes.is_here(worker.host, worker.boot_id) for worker in running)
        self.rest = TICK if anything_runs or others or values.lease < 2 * REST else REST
        self._could_write, self._writable = self._writable is not False, None
        for worker in running:
            reason = self._verdict(worker, values.lease, passed)
            if reason is not None:
                self._expire(worker, reason)
        self._watches = {worker.id: self._watches[worker.id] for worker in running if worker.id in self._watches}
        recovery.recover_orphans()
        if self._crew is not None:
            self._crew.tick()
        self._carry_on([*acts, *(canary.check_all(PATIENCE) if canaries_wait else ())])
        if now - self._folded_at >= FOLD_EVERY:
            # Not all of it in one look, when a day must be caught up: the next one goes on at once.
            self._folded_at = now if rollups.fold(patience=PATIENCE) < rollups.FOLD_BATCH else now - FOLD_EVERY
        if self._retention_goes_on or now - self._retained_at >= RETENTION_EVERY:
            self._retained_at, self._retention_goes_on = now, False
            self._retention_goes_on = self._retention.resume(values)
            if not self._retention_goes_on:
                _look_at_log()

    def _carry_on(self, found: list[int]) -> None:
        """Bring unfinished acts forward, for a while: workers must be watched meanwhile."""
        until = time.monotonic() + ACTS_EVERY_LOOK
        for act in dict.fromkeys([*self.acts, *found]):
            done = actions.resume(act, max(0.0, until - time.monotonic()), PATIENCE).done
            self.acts = [one for one in self.acts if one != act] + ([] if done else [act])

    # --- workers ---

    def _verdict(self, worker: Worker, lease: float, passed: float) -> Optional[str]:
        """Why this worker is dead, or None while it may live."""
        here = processes.is_here(worker.host, worker.boot_id)
        restarted = processes.was_restarted(worker.host, worker.boot_id)
        if here and not processes.is_alive(worker.pid, worker.pid_started):
            return f"its process {worker.pid} is gone"
        if restarted and engines.is_sqlite():  # which serves one machine; else it may be another one of the same name
            return "its machine was restarted"
        watch = self._watches.get(worker.id)
        if watch is None or watch.heartbeat != worker.heartbeat:
            self._watches[worker.id] = _Watch(worker.heartbeat)
            return None
        stopped = here and processes.is_stopped(worker.pid)
        if restarted:
            lease = min(lease, NO_BEAT)
        elif not here:
            lease += min(
                2 * TICK, lease / 2
            )  # the keeper on its own machine, which can end its commands, is to be first
        passed = min(passed, lease / 3)  # no fewer than three looks, however short the lease is
        if watch.still + passed > lease / 2 and not stopped and not (self._can_write() and self._could_write):
            return None  # whoever waited for a lock that was just given back is to have a chance
        watch.still += passed
        if watch.still < lease:
            return None
        if stopped:  # it may be the very one that holds the lock
            processes.kill_exactly(worker.pid, worker.pid_started)
            return f"its process {worker.pid} was stopped for {lease:g} s"
        return "its machine was restarted" if restarted else f"its heartbeat stood still for {lease:g} s"

    def _can_write(self) -> bool:
        """A real write, so that time in which the disk is full or the lock held is held against nobody."""
        if self._writable is None:
            began = time.monotonic()
            try:
                db_errors.prove_writable(PATIENCE)
                # One that had to wait for a stranger, which no patience ends, was as long in everybody's way.
                self._writable = time.monotonic() - began < 2 * PATIENCE
            except (DBAPIError, Busy, OSError) as error:
                log.warning("nobody is taken for dead, for this keeper cannot write either: %s", _line(error))
                self._writable = False
                _wake_holder()
        return self._writable

    def _expire(self, worker: Worker, reason: str) -> None:
        with writing(PATIENCE) as session:
            expired = session.execute(
                update(Worker)
                .where(Worker.id == worker.id, Worker.state == "running", Worker.heartbeat == worker.heartbeat)
                .values(state="expired", stopped_at=clock.now())
                .returning(Worker.id)
            ).first()
            if expired is None:
                return  # it beat after all, or another keeper was first
            worker_actions.record_expiry(session, worker.id, reason)
        log.warning(
            "worker %s on %s is taken for dead: %s", worker.id, worker.host, reason, extra={"worker": worker.id}
        )


def _wake_holder() -> None:
    """Ctrl-Z on a command in the middle of its write would stop the whole queue: have it go on."""
    holder = engines.write_lock().holder()
    if holder is None or not processes.is_stopped(holder):
        return
    with reading() as session:
        if session.scalar(sql_select(Worker.id).where(Worker.pid == holder, Worker.state == "running")) is not None:
            return  # a worker that stands still loses its lease instead
    log.warning("process %d was stopped with the write lock in its hand; it is told to go on", holder)
    processes.resume_process(holder)


def _line(error: BaseException) -> str:
    return db_errors.explain(error) or str(error).splitlines()[0]


def _look_at_log() -> None:
    size = db_errors.large_log(current_app.extensions["queuectl_config"])
    if size is not None:
        log.warning(
            "the log of the database has grown to %d MiB: some program has kept a transaction open for long", size >> 20
        )
