"""One worker process: its main thread, which attends to the commands and takes turns at the database.

It waits for its commands, its supervisor and for work, all of it in `Runner.poll()`. When a turn at the database takes
long, the standby thread attends to the commands. The heartbeat has a thread of its own.
"""

from __future__ import annotations

import logging
import math
import os
import time
from typing import Any, Optional

from flask import Flask

from webapp.config import Config
from webapp.core.transaction import Connection
from webapp.db import engines
from webapp.lib import clock
from worker import processes
from worker.assignment import Assignment
from worker.attempt import AttemptResult
from worker.loop import heartbeat, wakeup
from worker.loop.dispatcher import Dispatcher
from worker.loop.standby import Standby
from worker.messages import BROKEN, DONE, EXPIRED, GONE, MOVED, NOW, OUTDATED, QUIET
from worker.runner.posix import PosixRunner
from worker.runner.runner import Runner
from worker.runner.threads import ThreadRunner

log = logging.getLogger("queuectl.worker")

LAST_WORDS = 10.0  # seconds that a worker tries to settle when all its commands have ended and the database is away


def run(app: Flask, config: Config, assignment: Assignment) -> int:
    """Work until told to stop. Returns the exit code."""
    with app.app_context():
        worker = _Worker(app, config, assignment)
        try:
            return worker.run()
        finally:
            worker.close()


class _Worker:
    def __init__(self, app: Flask, config: Config, assignment: Assignment) -> None:
        self.id = processes.new_id()
        self._named = {"worker": self.id}  # for the log
        self._assignment = assignment
        self._runner: Runner[Any] = (PosixRunner if processes.FORKS else ThreadRunner)(assignment.parent)

        def connect() -> Connection:
            with app.app_context():
                return engines.worker_connection()

        self._wakeup = wakeup.of(config, selects=self._runner.selects)
        self._asks = self._wakeup.look_every < math.inf
        self._connection = connect()
        self._dispatcher = Dispatcher(
            self._connection,
            self.id,
            assignment,
            lambda: self._wakeup.slow_look,
            self._runner.captures,
        )
        self._standby = Standby(self._stand_in, self._runner.wake, connect, self.id, self._stop_these)
        self._runner.called = lambda: self._standby.need(True)
        self._heartbeat = heartbeat.Heartbeat(connect(), self.id, self._dispatcher, self._wakeup, self._runner.wake)
        self._stopping = False
        self._patient = False
        self._release_at: Optional[float] = None
        self._give_up: Optional[float] = None

    def run(self) -> int:
        heartbeat.register(self._connection, self.id, self._assignment)
        for thread in (self._standby, self._heartbeat):
            thread.start()
        log.info(
            "worker %s started (pid %d, slots: %d)", self.id, os.getpid(), self._assignment.slots, extra=self._named
        )
        try:
            while not self._dispatcher.finished:
                # It may have rung while there was no room: then there is nothing to wait for now.
                rang = self._runner.rang and self._dispatcher.has_room
                self._attend(0.0 if rang else self._dispatcher.due_in())
                if self._dispatcher.expired:
                    return self._abandon()
                if self._rang() or self._dispatcher.due_in() == 0:
                    self._take_turn()
                if self._is_away():
                    return BROKEN
        except Exception:
            log.exception("worker %s failed", self.id, extra=self._named)
            return self._abandon()
        heartbeat.deregister(self._connection, self.id, self._dispatcher, within=LAST_WORDS)
        if self._dispatcher.outdated:
            log.warning("worker %s stopped: the database is of a newer version now", self.id, extra=self._named)
            return OUTDATED
        log.info("worker %s stopped", self.id, extra=self._named)
        return DONE

    def close(self) -> None:
        self._runner.close()
        self._heartbeat.stop()
        self._wakeup.close()
        self._connection.close()

    # --- the database ---

    def _rang(self) -> bool:
        """Whether there may be work for which there is room. A full worker leaves it to the others, and looks later."""
        if not self._dispatcher.has_room or not (self._runner.rang or self._asks):
            return False
        self._runner.rang = False
        return self._wakeup.rang()

    def _take_turn(self) -> None:
        with self._standby.turn():
            claims = self._dispatcher.turn()
        for claim in claims:
            if self._stopping:
                now = clock.now()
                error = "interrupted: worker shut down before the start"
                self._dispatcher.done(AttemptResult(claim, "released", "released", now, now, error=error))
            else:
                self._runner.start(claim, self._dispatcher.settings)
        self._stop_cancelled()  # now, and after the starts: what the turn has learned is not to wait for the next event
        self._standby.need(self._dispatcher.holds)
        if self._dispatcher.stop_asked and not self._stopping:
            # Who asked it to stop through the database is in no hurry; a signal, or a newer version, is.
            self._stop(patient=not self._dispatcher.outdated)

    def _is_away(self) -> bool:
        """Whether the database has been out of reach for so long that a worker with nothing left to run gives up."""
        if not self._stopping or len(self._runner):
            return False
        self._give_up = self._give_up or time.monotonic() + LAST_WORDS
        if time.monotonic() <= self._give_up:
            return False
        log.error("worker %s: the database is away; its jobs go back when it returns", self.id, extra=self._named)
        return True

    # --- the commands: on the thread that holds the standby's baton ---

    def _attend(self, timeout: float) -> None:
        """Wait for something to happen to the commands, or for the bell; take in what ended, and end what must."""
        if self._dispatcher.has_room and not self._runner.rang:
            timeout = min(timeout, self._wakeup.look_every)
            self._runner.arm(self._wakeup.descriptor())
        if self._release_at is not None:
            timeout = min(timeout, max(0.0, self._release_at - time.monotonic()))
        for one in self._runner.poll(timeout):
            self._dispatcher.done(one)
        self._stop_cancelled()
        self._heed_orders()
        if self._release_at is not None and time.monotonic() >= self._release_at:
            self._release(self._dispatcher.settings.kill_grace)

    def _stand_in(self, timeout: float) -> None:
        """Attend in the place of the main thread, which waits for the database."""
        self._attend(timeout)
        if self._dispatcher.expired:
            self._runner.stop("lost", 0.0)
        if self._is_away():
            os._exit(BROKEN)  # nothing else ends a thread that waits for a lock

    def _stop_these(self, tokens: set[str]) -> None:
        self._dispatcher.to_stop.extend(tokens)
        self._runner.wake()

    def _stop_cancelled(self) -> None:
        tokens = set()
        while self._dispatcher.to_stop:
            tokens.add(self._dispatcher.to_stop.popleft())
        if tokens:
            self._runner.stop("cancelled", self._dispatcher.settings.kill_grace, tokens)

    def _heed_orders(self) -> None:
        while self._runner.orders:
            word = self._runner.orders.popleft()
            if word == QUIET:
                self._dispatcher.be_quiet()
                continue
            if word == GONE:
                log.warning("worker %s: its supervisor is gone; finishing what runs", self.id, extra=self._named)
            if not self._stopping or self._patient:
                self._stop()
            if word == NOW:
                self._release(0.0)

    # --- ending ---

    def _stop(self, patient: bool = False) -> None:
        """Take no more, and end when nothing runs any more; unless `patient`, within the shutdown's grace."""
        self._stopping, self._patient = True, patient
        self._dispatcher.accept_no_more()
        log.info("worker %s takes no more", self.id, extra=self._named)
        if not patient:
            self._release_at = time.monotonic() + self._dispatcher.settings.shutdown_grace

    def _release(self, grace: float) -> None:
        self._release_at = None
        self._runner.stop("released", grace)

    def _abandon(self) -> int:
        """Others hold this worker's claims now, or it broke: end what runs and touch nothing else."""
        log.error("worker %s: taken for dead or broken; ending what it runs", self.id, extra=self._named)
        self._runner.stop("lost", 0.0)
        deadline = time.monotonic() + 5
        while len(self._runner) and time.monotonic() < deadline:
            self._runner.poll(0.1)
        if self._dispatcher.moved:
            return MOVED
        return EXPIRED if self._dispatcher.expired else BROKEN
