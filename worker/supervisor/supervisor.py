"""Starts worker processes and a keeper, replaces what dies, has more or fewer as people want, drains on TERM or INT.

How a child is started, told and waited for is the platform's: `worker/supervisor/forking.py` where there is fork, `worker/supervisor/spawning.py`
elsewhere. The supervisor holds no database connection, because forks of it would share it; what it has to do in the
database its keeper does, which also passes on how many workers people want (`worker/maintenance/scaling.py`). Children have sessions of
their own: a terminal's Ctrl-C reaches the supervisor alone.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Optional, Protocol

from webapp.config import Config
from webapp.lib.sd_notify import NOBODY, Manager
from webapp.lib.text import plural
from worker import processes
from worker.assignment import Assignment
from worker.messages import DONE, ELSEWHERE, END, LOOK, MOVED, NOW, OUTDATED, QUIET, STOP, TAKEN_OVER, Wanted
from worker.supervisor.forking import Forks
from worker.supervisor.signal_pipe import SignalPipe
from worker.supervisor.spawning import Spawns

log = logging.getLogger("queuectl.supervisor")

LONGEST_PAUSE = 30.0  # seconds before a child that keeps dying is started again
IMPATIENCE = 0.2  # seconds between looks of the keeper while a manager waits for the first worker
KEEPER_LOOK = 5.0  # seconds between looks at the keeper, which nobody else watches
KEEPER_GRACE = 15.0  # seconds for its last look, in which it may have to end commands of dead workers
HEALTHY = 10.0  # seconds that a child must have lived for its next start to be at once
WHY_STOPPING = {
    END: "a person asked for it",
    TAKEN_OVER: "the database was taken over",
    ELSEWHERE: "the queue was moved to another database",
}


class Family(Protocol):
    """A supervisor's child processes, by pid; and its keeper, of which there is one at a time."""

    def start_worker(self, name: str) -> int: ...

    def start_keeper(self, name: str) -> int: ...

    def ended(self) -> list[tuple[int, int]]:
        """Those that ended since the last call: pid and exit code, or the signal's number below zero."""

    def heard(self) -> list[Wanted]:
        """What the keeper passed on since the last call."""

    def tell(self, pid: int, word: str) -> None:
        """Say STOP, NOW or QUIET to a worker."""

    def tell_keeper(self, word: str) -> None:
        """Have the keeper look at once; with STOP, and write down that no more workers will come."""

    def end_keeper(self, within: float) -> bool:
        """Let the keeper look once more and end; False: it did not in so many seconds, and was killed."""


@dataclass
class _Child:
    """A place for a process: the one that is in it, or when the next is due."""

    name: str
    pid: int = 0
    started_at: float = 0.0
    pause: float = 0.0
    due: float = 0.0
    wanted: bool = True


def run(
    config: Config,
    *,
    count: int = 1,
    slots: int = 1,
    queues: Optional[Sequence[str]] = None,
    labels: Sequence[str] = (),
    drain: bool = False,
    manager: Manager = NOBODY,
) -> int:
    """Run `count` workers of `slots` jobs each until told to stop, or, with `drain`, until nothing is left to do.

    `queues` None: all. `labels`: what they have beside their host's, for jobs that require some.

    People may change how many there are while it runs, down to none, but not with `drain`. `manager` hears when the
    first of them can take jobs, that the supervisor lives, and of a stop that has an end.
    Returns the exit code: 0 when everything ended in good order; else whoever started this may start it again, also
    when a newer version has taken over the database, or the queue was moved to another one. Raises ConfigError where
    the database cannot be used.
    """
    supervisor_id, bell = processes.new_id(), SignalPipe()
    kind = Forks if processes.FORKS else Spawns
    assignment = Assignment(supervisor_id, os.getpid(), count, slots, queues, labels, drain)
    family: Family = kind(config, assignment, bell)
    return _Supervisor(supervisor_id, family, bell, count, drain, manager).run()


class _Supervisor:
    def __init__(
        self, supervisor_id: str, family: Family, bell: SignalPipe, count: int, drain: bool, manager: Manager
    ) -> None:
        self._id = supervisor_id
        self._family = family
        self._bell = bell
        self._manager = manager
        self._asked_to_stop = 0
        self._broken = False
        self._asked_at = 0.0
        self._serves = drain  # one that drains has no row, and nobody counts its workers
        self._stays = not drain  # even with no worker at all, for people may want some again
        self._wanted = count
        self._number = 0  # of the last place
        self._workers = [self._place() for _ in range(count)]
        self._keeper = _Child("keeper")
        self._keeper_stood_still = False
        self._keeper_look = time.monotonic() + KEEPER_LOOK

    def run(self) -> int:
        self._bell.listen()
        log.info("supervisor %s started (pid %d, %d workers)", self._id, os.getpid(), len(self._workers))
        self._start_due()
        while self._stays or self._workers:
            self._bell.wait(self._pause())
            self._heed_signals()
            for pid, code in self._family.ended():
                for child in (self._keeper, *self._workers):
                    if child.pid == pid:
                        self._ended(child, code)
            for wanted in self._family.heard():
                self._have(wanted)
            self._watch_keeper()
            self._start_due()
            self._tell()
        if not self._family.end_keeper(KEEPER_GRACE):
            log.warning("the keeper did not end within %g s and was killed", KEEPER_GRACE)
        log.info("supervisor %s stopped", self._id)
        return 1 if self._broken else 0

    # --- children ---

    def _start_due(self) -> None:
        now = time.monotonic()
        for child in (self._keeper, *self._workers):
            if child.wanted and not child.pid and child.due <= now:
                child.started_at = now
                start = self._family.start_keeper if child is self._keeper else self._family.start_worker
                child.pid = start(child.name)

    def _ended(self, child: _Child, code: int) -> None:
        child.pid = 0
        if child is not self._keeper:
            self._family.tell_keeper(LOOK)  # which also tells how many there are to be
            if code in {DONE, OUTDATED, MOVED} or self._asked_to_stop:
                child.wanted = False
                self._broken = self._broken or code != 0
                if code in {OUTDATED, MOVED}:
                    self._stays, self._wanted = False, 0
            if not child.wanted or self._surplus() > 0:
                self._workers.remove(child)
                return
        lived = time.monotonic() - child.started_at
        child.pause = 0.0 if lived >= HEALTHY else min(LONGEST_PAUSE, max(0.1, child.pause * 2))
        child.due = time.monotonic() + child.pause
        what = f"signal {-code}" if code < 0 else f"exit code {code}"
        log.warning("%s ended (%s); starting another in %.1f s", child.name, what, child.pause)

    def _have(self, wanted: Wanted) -> None:
        """Have as many workers as people want: places for more; of fewer, those in which nobody is go first.

        Of the workers themselves the keeper asks some to stop, so that what they run may finish; their places go when
        they end.
        """
        if not self._stays:
            return
        self._wanted = wanted.count
        self._serves = self._serves or wanted.serving >= min(1, wanted.count)
        for child in self._workers:
            child.wanted = child.wanted and child.pid not in wanted.leaving
        for child in [child for child in self._workers if not child.pid]:
            if self._surplus() > 0:
                self._workers.remove(child)
        while self._surplus() < 0:
            self._workers.append(self._place())
        if wanted.then:
            self._stays = False
            self._broken = self._broken or wanted.then != END
            log.info("stopping: %s", WHY_STOPPING[wanted.then])

    def _surplus(self) -> int:
        return sum(child.wanted for child in self._workers) - self._wanted

    def _place(self) -> _Child:
        self._number += 1
        return _Child(f"worker {self._number}")

    def _watch_keeper(self) -> None:
        """Replace a keeper that was stopped (STOP) and stays so: it may have the write lock in its hand."""
        now = time.monotonic()
        if now < self._keeper_look:
            return
        self._keeper_look = now + KEEPER_LOOK
        stands = bool(self._keeper.pid) and processes.is_stopped(self._keeper.pid)
        if stands and self._keeper_stood_still:
            log.warning("the keeper (pid %d) was stopped; it is replaced", self._keeper.pid)
            processes.kill([self._keeper.pid])
        self._keeper_stood_still = stands

    def _pause(self) -> float:
        now = time.monotonic()
        waits = [child.due - now for child in (self._keeper, *self._workers) if child.wanted and not child.pid]
        if self._manager and not self._serves:
            waits.append(IMPATIENCE)
        return max(0.0, min([self._keeper_look - now, self._manager.due_in(), *waits]))

    # --- who started this ---

    def _tell(self) -> None:
        if not self._manager:
            return
        now = time.monotonic()
        if not self._serves and now >= self._asked_at + IMPATIENCE:
            self._asked_at = now
            self._family.tell_keeper(LOOK)
        number = len(self._workers)
        self._manager.status(f"{plural(number, 'worker')}{'' if self._stays else ', finishing'}")
        if self._serves:
            self._manager.ready()
        self._manager.tick()

    # --- signals ---

    def _heed_signals(self) -> None:
        for number in self._bell.signals():
            word = QUIET
            if number in {signal.SIGTERM, signal.SIGINT, getattr(signal, "SIGBREAK", None)}:
                self._asked_to_stop += 1
                word = STOP if self._asked_to_stop == 1 else NOW
                if word == STOP:
                    log.info("stopping: running jobs may finish; a second signal hands them back at once")
                    self._manager.stopping()
                    self._family.tell_keeper(STOP)
                self._stays = False
                self._workers = [child for child in self._workers if child.pid]
                for child in self._workers:
                    child.wanted = False
            for child in self._workers:
                if child.pid:
                    self._family.tell(child.pid, word)
