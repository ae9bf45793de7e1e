"""One worker process. Its main thread attends to the commands and takes turns at the database.

It waits for commands, the supervisor and new work in one place, `Runner.poll()`. When a turn at the database takes
long, the standby thread attends to the commands. The heartbeat has its own thread.
"""

from __future__ import annotations

import logging
import math
import os
import time
from functools import partial
from typing import Any, Optional

from webapp.core.storage.database import Database
from webapp.core.storage.transaction import connect
from webapp.lib import clock
from worker import processes, shortage
from worker.attempt import AttemptResult, Claim
from worker.loop import heartbeat, wakeup
from worker.loop.dispatcher import Dispatcher
from worker.loop.standby import Standby
from worker.loop.wakeup_postgresql import Notified
from worker.messages import BROKEN, DONE, EXPIRED, GONE, MOVED, NOW, OUTDATED, QUIET, RESUME, Assignment
from worker.runner import environment
from worker.runner.base import Runner
from worker.runner.posix import PosixRunner
from worker.runner.threads import ThreadRunner
from worker.shortage import Shortage

log = logging.getLogger("queuectl.worker")

SETTLE_WITHIN = 10.0  # seconds to settle the last results, once all commands have ended and the database is away


def run(database: Database, assignment: Assignment) -> int:
    """Work until the worker must stop. Returns the exit code. The database has the role worker."""
    worker = _Worker(database, assignment)
    try:
        return worker.run()
    finally:
        worker.close()


class _Worker:
    def __init__(self, database: Database, assignment: Assignment) -> None:
        self.id = processes.new_id()
        self._facts = {"worker": self.id}  # for the log
        self._assignment = assignment
        runner = PosixRunner if processes.FORKS else ThreadRunner
        self._runner: Runner[Any] = runner(
            assignment.parent, environment.of_jobs(database.config), environment.of_system_jobs(database.config)
        )
        selects = self._runner.selects
        self._wakeup = (
            wakeup.for_sqlite(database.config, selects=selects) if database.is_sqlite else Notified(selects=selects)
        )
        self._asks = self._wakeup.poll_every < math.inf
        self._connection = connect(database)
        self._dispatcher = Dispatcher(
            self._connection, self.id, assignment, lambda: self._wakeup.check_every, self._runner.captures
        )
        self._standby = Standby(
            self._stand_in, self._runner.wake, partial(connect, database), self.id, self._stop_these
        )
        self._runner.called = lambda: self._standby.need(True)
        self._heartbeat = heartbeat.Heartbeat(
            connect(database), self.id, self._dispatcher, self._wakeup, self._runner.wake
        )
        self._stopping = False
        self._patient = False
        self._quiet = False  # by a signal
        self._release_at: Optional[float] = None
        self._give_up_at: Optional[float] = None

    def run(self) -> int:
        self._fit()
        heartbeat.register(self._connection, self.id, self._assignment)
        try:
            with processes.signals_blocked():
                for thread in (self._standby, self._heartbeat):
                    thread.start()
        except RuntimeError as error:  # no more threads: the supervisor tries again later
            log.error("worker %s cannot start: %s", self.id, shortage.of(error) or error, extra=self._facts)
            heartbeat.deregister(self._connection, self.id, self._dispatcher, within=SETTLE_WITHIN)
            return BROKEN
        slots = self._dispatcher.capacity.shown
        log.info("worker %s started (pid %d, slots: %d)", self.id, os.getpid(), slots, extra=self._facts)
        try:
            while not self._dispatcher.finished:
                # A signal may have come while there was no room: then do not wait.
                signalled = self._runner.signalled and self._dispatcher.has_room
                self._attend(0.0 if signalled else self._dispatcher.due_in())
                if self._dispatcher.expired:
                    return self._abandon()
                if self._may_have_work() or self._dispatcher.due_in() == 0:
                    self._take_turn()
                if self._stopping and self._is_away():
                    return BROKEN
        except Exception:
            log.exception("worker %s failed", self.id, extra=self._facts)
            return self._abandon()
        heartbeat.deregister(self._connection, self.id, self._dispatcher, within=SETTLE_WITHIN)
        if self._dispatcher.outdated:
            log.warning("worker %s stopped: a newer version uses the database", self.id, extra=self._facts)
            return OUTDATED
        log.info("worker %s stopped", self.id, extra=self._facts)
        return DONE

    def _fit(self) -> None:
        """Run no more jobs at a time than the limits of this process and of its user allow."""
        asked, capacity = self._assignment.slots, self._dispatcher.capacity
        files, too_few_files = shortage.files_allow(asked)
        some, too_few_processes = shortage.processes_allow(asked, self._assignment.count)
        if too_few_files:
            capacity.limit(files, too_few_files)
        if too_few_processes and some < files:
            capacity.start_with(some, too_few_processes)
        if too_few_files or too_few_processes:
            self._dispatcher.tell_shortage()

    def close(self) -> None:
        self._runner.close()
        self._heartbeat.stop()
        self._wakeup.close()
        self._connection.close()

    # --- the database ---

    def _may_have_work(self) -> bool:
        """Whether there may be new work. A full worker leaves it to the others and checks later."""
        if not (self._runner.signalled or self._asks) or not self._dispatcher.has_room:
            return False
        self._runner.signalled = False
        return self._wakeup.signalled()

    def _take_turn(self) -> None:
        with self._standby:  # it attends if the turn takes long
            claims = self._dispatcher.turn()
        self._start(claims)
        self._stop_cancelled()  # after the starts, because the turn may have learned about these jobs too
        self._standby.need(self._dispatcher.holds)
        if self._dispatcher.stop_requested and not self._stopping:
            # A request through the database sets no time limit; a newer version does, as a signal does.
            self._stop(patient=not self._dispatcher.outdated)

    def _start(self, claims: list[Claim]) -> None:
        for place, claim in enumerate(claims):
            if self._stopping:
                now = clock.now()
                error = "interrupted: worker shut down before the start"
                self._dispatcher.done(AttemptResult(claim, "released", "released", now, now, error=error))
                continue
            try:
                self._runner.start(claim, self._dispatcher.settings)
            except Shortage as short:
                self._dispatcher.give_back(claims[place:], str(short), len(self._runner))
                return

    def _is_away(self) -> bool:
        """While it stops: whether to give up, because the database is unavailable for long and nothing runs."""
        if len(self._runner):
            return False
        self._give_up_at = self._give_up_at or time.monotonic() + SETTLE_WITHIN
        if time.monotonic() <= self._give_up_at:
            return False
        text = "worker %s: the database is unavailable; its jobs are requeued when it returns"
        log.error(text, self.id, extra=self._facts)
        return True

    # --- the commands: on the thread that holds the standby's baton ---

    def _attend(self, timeout: float) -> None:
        """Wait for commands, messages or new work; collect what ended, and end what must end."""
        if self._dispatcher.has_room and not self._runner.signalled:
            timeout = min(timeout, self._wakeup.poll_every)
            self._runner.arm(self._wakeup.descriptor())
        if self._release_at is not None:
            timeout = min(timeout, max(0.0, self._release_at - time.monotonic()))
        for one in self._runner.poll(timeout):
            self._dispatcher.done(one)
        self._stop_cancelled()
        self._handle_messages()
        if self._release_at is not None and time.monotonic() >= self._release_at:
            self._release(self._dispatcher.settings.kill_grace)

    def _stand_in(self, timeout: float) -> None:
        """Attend in place of the main thread, which waits for the database."""
        self._attend(timeout)
        if self._dispatcher.expired:
            self._runner.stop("lost", 0.0)
        if self._stopping and self._is_away():
            os._exit(BROKEN)  # nothing else ends a thread that waits for a lock

    def _stop_these(self, tokens: set[str]) -> None:
        self._dispatcher.to_stop.extend(tokens)
        self._runner.wake()

    def _stop_cancelled(self) -> None:
        while self._dispatcher.to_stop:
            token = self._dispatcher.to_stop.popleft()
            self._runner.stop("cancelled", self._dispatcher.settings.kill_grace, {token})

    def _handle_messages(self) -> None:
        while self._runner.messages:
            message = self._runner.messages.popleft()
            if message in {QUIET, RESUME}:
                self._handle_quiet(message == QUIET)
                continue
            if message == GONE:
                log.warning("worker %s: its supervisor is gone; finishing running jobs", self.id, extra=self._facts)
            if not self._stopping or self._patient:
                self._stop()
            if message == NOW:
                self._release(0.0)

    def _handle_quiet(self, quiet: bool) -> None:
        """A signal drains this worker, or ends that. What people requested in the console stays."""
        if self._stopping or not (quiet or self._quiet):
            return
        self._quiet = quiet
        if quiet:
            text = "worker %s drains: it takes no new jobs until SIGCONT, or `manage.py worker resume %s`"
            log.warning(text, self.id, self.id, extra=self._facts)
            self._dispatcher.be_quiet()
        else:
            log.info("worker %s takes jobs again", self.id, extra=self._facts)
            self._dispatcher.resume()

    # --- ending ---

    def _stop(self, patient: bool = False) -> None:
        """Claim no more, and end when nothing runs; unless `patient`, within the setting `shutdown_grace`."""
        self._stopping, self._patient = True, patient
        self._dispatcher.accept_no_more()
        log.info("worker %s claims no more jobs", self.id, extra=self._facts)
        if not patient:
            self._release_at = time.monotonic() + self._dispatcher.settings.shutdown_grace

    def _release(self, grace: float) -> None:
        self._release_at = None
        self._runner.stop("released", grace)

    def _abandon(self) -> int:
        """The claims are lost, or this worker failed: end its commands and do nothing else."""
        log.error("worker %s: marked lost or failed; ending its commands", self.id, extra=self._facts)
        self._runner.stop("lost", 0.0)
        deadline = time.monotonic() + 5
        while len(self._runner) and time.monotonic() < deadline:
            self._runner.poll(0.1)
        if self._dispatcher.moved:
            return MOVED
        return EXPIRED if self._dispatcher.expired else BROKEN
