"""Starts worker processes and a keeper, replaces what dies, has more or fewer as people want, drains on TERM or INT.
For `up` the console is one child more.

How a child is started, told and waited for is the platform's: `worker/supervisor/forking.py` where there is fork, `worker/supervisor/spawning.py`
elsewhere. The supervisor holds no database connection, because forks of it would share it; what it has to do in the
database its keeper does, which also passes on how many workers people want (`worker/maintenance/scaling.py`). Children have sessions of
their own: a terminal's Ctrl-C reaches the supervisor alone.
"""

from __future__ import annotations

import logging
import math
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Callable, Optional, Protocol

from webapp.config import Config
from webapp.lib import process_group
from webapp.lib.sd_notify import NOBODY, Manager
from webapp.lib.text import plural
from worker import processes
from worker.assignment import Assignment
from worker.messages import DONE, ELSEWHERE, END, LOOK, MOVED, NOW, OUTDATED, QUIET, STOP, TAKEN_OVER, Wanted
from worker.supervisor import forking, spawning
from worker.supervisor.console import Console
from worker.supervisor.signal_pipe import SignalPipe

log = logging.getLogger("queuectl.supervisor")

SHORTEST_PAUSE, LONGEST_PAUSE = 0.1, 30.0  # seconds before a child that keeps dying is started again
CONSOLE_PAUSE = 1.0  # the same for the console, at least
MOST_DEATHS = 5  # of the console in a row, none of them healthy: then another start does not help
IMPATIENCE = 0.2  # seconds between looks of the keeper while a manager waits for the first worker
KEEPER_LOOK = 5.0  # seconds between looks at the keeper, which nobody else watches
KEEPER_GRACE = 15.0  # seconds for its last look, in which it may have to end commands of dead workers
LAST_GRACE = 15.0  # seconds from the second signal until what is left is killed: a worker may need 10, see LAST_WORDS
HEALTHY = 10.0  # seconds that a child must have lived for its next start to be at once
STOPS, QUIET_SIGNAL, CTRL_Z = ("SIGTERM", "SIGINT", "SIGBREAK", "SIGHUP"), "SIGUSR1", "SIGTSTP"
WHY_STOPPING = {
    END: "a person asked for it",
    TAKEN_OVER: "the database was taken over",
    ELSEWHERE: "the queue was moved to another database",
}


class Family(Protocol):
    """A supervisor's child processes, by pid; and its keeper, of which there is one at a time."""

    def start_worker(self, name: str) -> int: ...

    def start_keeper(self, name: str) -> int: ...

    def start_console(self, console: Console) -> int:
        """To be called before any other start: forks that follow let go of what the console has."""

    def ended(self) -> list[tuple[int, int]]:
        """Those that ended since the last call: pid and exit code, or the signal's number below zero."""

    def heard(self) -> list[Wanted]:
        """What the keeper passed on since the last call."""

    def tell(self, pid: int, word: str) -> None:
        """Say STOP, NOW or QUIET to a worker."""

    def tell_keeper(self, word: str) -> None:
        """Have the keeper look at once; with STOP, and write down that no more workers will come."""

    def end_keeper(self) -> None:
        """Let the keeper look once more and end."""


@dataclass(eq=False)
class _Child:
    """A place for a process: the one that is in it, or when the next is due."""

    name: str
    start: Callable[[str], int]
    wanted: bool = True
    shortest_pause: float = SHORTEST_PAUSE
    pid: int = 0
    started_at: float = 0.0
    deaths: int = 0  # in a row, none of them healthy
    pause: float = 0.0
    due: float = 0.0
    kill_at: float = math.inf


def run(
    config: Config,
    *,
    count: int = 1,
    slots: int = 1,
    queues: Optional[Sequence[str]] = None,
    labels: Sequence[str] = (),
    drain: bool = False,
    manager: Manager = NOBODY,
    console: Optional[Console] = None,
    prepare: Callable[[], str] = lambda: "",
    started: Callable[[str], None] = lambda _: None,
) -> int:
    """Run `count` workers of `slots` jobs each until told to stop, or, with `drain`, until nothing is left to do.

    `queues` None: all. `labels`: what they have beside their host's, for jobs that require some. With a `console` this
    goes on when people stop all workers, and ends when the console cannot be kept running. `prepare` runs once, while
    the database is open. `started` gets its answer when all children are started and signals are heard.

    People may change how many there are while it runs, down to none, but not with `drain`. `manager` hears when the
    first of them can take jobs and the console serves, that the supervisor lives, and of a stop that has an end.
    Returns the exit code: 0 when everything ended in good order, else 1: a service manager may start this again, also
    when a newer version has taken over the database, or the queue was moved to another one. Raises ConfigError where
    the database cannot be used.
    """
    supervisor_id, bell = processes.new_id(), SignalPipe()
    ready_database = forking.ready_database if processes.FORKS else spawning.ready_database
    answer = ready_database(config, prepare)
    assignment = Assignment(supervisor_id, os.getpid(), count, slots, queues, labels, drain)
    family: Family = (forking.Forks if processes.FORKS else spawning.Spawns)(config, assignment, bell)
    supervisor = _Supervisor(supervisor_id, family, bell, count, drain, manager, console)
    return supervisor.run(lambda: started(answer))


class _Supervisor:
    def __init__(
        self,
        supervisor_id: str,
        family: Family,
        bell: SignalPipe,
        count: int,
        drain: bool = False,
        manager: Manager = NOBODY,
        console: Optional[Console] = None,
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
        self._keeper = _Child("keeper", family.start_keeper)
        self._keeper_stood_still = False
        self._keeper_look = time.monotonic() + KEEPER_LOOK
        self._console = console
        self._console_child = _Child(
            "console",
            lambda _: family.start_console(console) if console else 0,
            wanted=console is not None,
            shortest_pause=CONSOLE_PAUSE,
        )

    def run(self, started: Callable[[], None]) -> int:
        # Ctrl-Z quiets workers, but suspends `up`: there it is how people put a command in the background.
        self._bell.listen([*STOPS, QUIET_SIGNAL, *([CTRL_Z] if self._console is None else [])])
        if self._console is not None and self._console.pipe >= 0:
            self._bell.watch(self._console.pipe)
        log.info("supervisor %s started (pid %d, %d workers)", self._id, os.getpid(), len(self._workers))
        self._start_due()
        started()
        while any(child.pid or child.wanted for child in self._children()):
            self._bell.wait(self._pause())
            self._heed_signals()
            for pid, code in self._family.ended():
                for child in self._children():
                    if child.pid == pid:
                        self._ended(child, code)
            for wanted in self._family.heard():
                self._have(wanted)
            self._watch_keeper()
            self._finish()
            self._start_due()
            self._tell()
        log.info("supervisor %s stopped", self._id)
        return 1 if self._broken else 0

    # --- children ---

    def _children(self) -> list[_Child]:
        return [self._console_child, self._keeper, *self._workers]

    def _start_due(self) -> None:
        now = time.monotonic()
        for child in self._children():
            if child.wanted and not child.pid and child.due <= now:
                child.started_at = now
                child.pid = child.start(child.name)

    def _ended(self, child: _Child, code: int) -> None:
        child.pid = 0
        if child is self._console_child:
            self._console_ended(code)
        elif child is not self._keeper:
            self._worker_ended(child, code)
        if child.wanted:
            self._start_again(child, f"signal {-code}" if code < 0 else f"exit code {code}")

    def _console_ended(self, code: int) -> None:
        if self._console is not None:
            self._console.ended(code)
        if code == 0 and self._console_child.wanted:
            self._console_child.wanted = False
            log.info("console: stopped from elsewhere; not started again")

    def _worker_ended(self, child: _Child, code: int) -> None:
        self._family.tell_keeper(LOOK)  # which also tells how many there are to be
        if code in {DONE, OUTDATED, MOVED} or self._asked_to_stop:
            child.wanted = False
            self._broken = self._broken or code != 0
            if code in {OUTDATED, MOVED}:
                self._stays, self._wanted = False, 0
        if not child.wanted or self._surplus() > 0:
            child.wanted = False
            self._workers.remove(child)

    def _start_again(self, child: _Child, why: str) -> None:
        healthy = time.monotonic() - child.started_at >= HEALTHY
        child.deaths = 0 if healthy else child.deaths + 1
        if child is self._console_child and child.deaths >= MOST_DEATHS:
            log.error("console cannot be kept running: %s, %d times in a row", why, child.deaths)
            self._broken = True
            self._stop()
            return
        child.pause = 0.0 if healthy else min(LONGEST_PAUSE, max(child.shortest_pause, child.pause * 2))
        child.due = time.monotonic() + child.pause
        log.warning("%s ended (%s); starting another in %.1f s", child.name, why, child.pause)

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
        return _Child(f"worker {self._number}", self._family.start_worker)

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

    def _finish(self) -> None:
        """End the keeper after the last worker; kill what does not end in time."""
        now = time.monotonic()
        if self._keeper.wanted and not self._stays and not self._workers:
            self._keeper.wanted = False
            self._keeper.kill_at = min(self._keeper.kill_at, now + KEEPER_GRACE)
            self._family.end_keeper()
            if self._broken:
                self._stop_console()
            elif self._console_child.wanted:
                log.info("workers: stopped from elsewhere; not started again")
        for child in self._children():
            if child.pid and child.kill_at <= now:
                child.kill_at = now + LAST_GRACE
                log.warning("%s (pid %d) did not end in time and is killed", child.name, child.pid)
                process_group.kill(child.pid)

    def _pause(self) -> float:
        now = time.monotonic()
        waits = [child.due - now for child in self._children() if child.wanted and not child.pid]
        waits += [child.kill_at - now for child in self._children() if child.pid]
        if self._manager and not self._serves and self._keeper.wanted:
            waits.append(IMPATIENCE)
        # While the console is silent the tick stays due, and is not to be waited for without a pause.
        waits.append(max(IMPATIENCE, self._manager.due_in()))
        return max(0.0, min([self._keeper_look - now, *waits]))

    # --- who started this ---

    def _tell(self) -> None:
        if not self._manager:
            return
        now = time.monotonic()
        if self._console is not None:
            self._console.listen()
        if not self._serves and self._keeper.wanted and now >= self._asked_at + IMPATIENCE:
            self._asked_at = now
            self._family.tell_keeper(LOOK)
        self._manager.status(self._status())
        if self._is_ready():
            self._manager.ready()
        if self._console is None or self._console.lives:
            self._manager.tick()

    def _is_ready(self) -> bool:
        """Whether all that is to run does what it is for."""
        if self._asked_to_stop:
            return False
        console_serves = self._console is None or self._console.serves or not self._console_child.wanted
        return console_serves and (self._serves or not self._keeper.wanted)

    def _status(self) -> str:
        number = len(self._workers)
        workers = f"{plural(number, 'worker')}{'' if self._stays else ', finishing'}"
        if self._console is None:
            return workers
        said = ["console: answers"] if self._console.serves else []
        return "; ".join(said + ([f"workers: {workers}"] if self._keeper.wanted else []))

    # --- signals ---

    def _heed_signals(self) -> None:
        for number in self._bell.signals():
            if signal.Signals(number).name not in STOPS:
                for child in self._workers:
                    if child.pid:
                        self._family.tell(child.pid, QUIET)
            else:
                self._stop()

    def _stop(self) -> None:
        """Stop everything: the first time when the jobs that run are done, the second time at once."""
        self._asked_to_stop += 1
        if self._asked_to_stop == 1:
            log.info("stopping: running jobs may finish; a second signal hands them back at once")
            self._manager.stopping()
            self._family.tell_keeper(STOP)
        else:
            log.info("stopping now")
            for child in self._children():
                child.kill_at = min(child.kill_at, time.monotonic() + LAST_GRACE)
        self._stays = False
        self._stop_console()
        self._workers = [child for child in self._workers if child.pid]
        for child in self._workers:
            child.wanted = False
            self._family.tell(child.pid, STOP if self._asked_to_stop == 1 else NOW)

    def _stop_console(self) -> None:
        self._console_child.wanted = False
        if self._console is not None:
            self._console.stop_listening()
        if self._console_child.pid:
            process_group.ask_to_stop(self._console_child.pid)
