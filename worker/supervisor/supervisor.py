"""Starts workers and a maintenance process, replaces those that die, scales them, and drains on TERM or INT.

For `up` the console is a further child. `worker/supervisor/forking.py` starts the children where there is fork,
`worker/supervisor/spawning.py` elsewhere. The supervisor has no database connection, because its forks would share it:
the maintenance process uses the database for it and reports how many workers people want
(`worker/maintenance/scaling.py`). Children have their own sessions, so Ctrl-C reaches only the supervisor.
"""

from __future__ import annotations

import logging
import math
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Callable, Optional, Union

from webapp.config import Config
from webapp.lib.system import process_group
from webapp.lib.system.sd_notify import NO_MANAGER, Manager
from webapp.lib.text import plural
from worker import processes, shortage
from worker.messages import (
    CHECK,
    DONE,
    MOVED,
    NOW,
    OUTDATED,
    QUIET,
    RESUME,
    STOP,
    STOP_REQUESTED,
    Assignment,
    DesiredWorkers,
)
from worker.supervisor import database, forking, spawning
from worker.supervisor.console import Console
from worker.supervisor.signal_pipe import SignalPipe, is_in_foreground

log = logging.getLogger("queuectl.supervisor")

Children = Union[forking.Forks, spawning.Spawns]  # with the same methods, documented in `Forks`

SHORTEST_PAUSE, LONGEST_PAUSE = 0.1, 30.0  # seconds before a child that keeps dying is started again
CONSOLE_PAUSE = 1.0  # the shortest pause for the console
CONSOLE_DEATHS_LIMIT = 5  # unhealthy ends of the console in a row, after which it is not started again
READY_CHECK = 0.2  # seconds between checks while a manager waits for the first worker
MAINTENANCE_CHECK = 5.0  # seconds between checks whether the maintenance process is suspended
MAINTENANCE_GRACE = 15.0  # seconds for its last tick, in which it may have to end commands of dead workers
LAST_GRACE = 15.0  # seconds from the second signal until children are killed: a worker may need 10, see SETTLE_WITHIN
HEALTHY = 10.0  # seconds that a child must have lived to be started again at once
STOPS = ("SIGTERM", "SIGINT", "SIGBREAK", "SIGHUP")
# docs/deployment.md has what each does. SIGUSR2 does nothing; unhandled it would end the process.
SIGNALS = (*STOPS, "SIGQUIT", "SIGUSR1", "SIGTSTP", "SIGCONT", "SIGUSR2")


@dataclass(eq=False)
class _Child:
    """A place for a process: the current one, or when to start the next."""

    name: str
    start: Callable[[str], int]
    wanted: bool = True
    shortest_pause: float = SHORTEST_PAUSE
    pid: int = 0
    started_at: float = 0.0
    deaths: int = 0  # unhealthy ones in a row
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
    order: Union[str, Sequence[int], None] = None,
    manager: Manager = NO_MANAGER,
    console: Optional[Console] = None,
    prepare: Optional[Callable[[], str]] = None,
    started: Callable[[str], None] = lambda _: None,
) -> int:
    """Run `count` workers of `slots` jobs each until stopped, or, with `drain`, until no jobs are left.

    Args:
        queues: None for all.
        labels: the workers' labels, without the host's.
        order: see `worker/messages.py`.
        manager: is notified when a worker can take jobs and the console serves, that the supervisor lives, and when it
            stops.
        console: keeps running when people stop all workers. The supervisor ends if it cannot be kept running.
        prepare: runs once, in the context of the application.
        started: gets the answer of `prepare` when all children are started and signals are handled.

    People may change the number of workers while it runs, down to 0, except with `drain`. Returns the exit code: 0 if
    everything ended normally, else 1, also if a newer version uses the database or the queue was moved. Raises
    ConfigError if the database cannot be used.
    """
    supervisor_id, pipe = processes.new_id(), SignalPipe()
    answer = database.prepare(config, prepare)
    assignment = Assignment(supervisor_id, os.getpid(), count, slots, queues, labels, drain, order=order)
    children: Children = (forking.Forks if processes.FORKS else spawning.Spawns)(config, assignment, pipe)
    supervisor = _Supervisor(supervisor_id, children, pipe, count, drain, manager, console)
    return supervisor.run(lambda: started(answer))


class _Supervisor:
    def __init__(
        self,
        supervisor_id: str,
        children: Children,
        pipe: SignalPipe,
        count: int,
        drain: bool,
        manager: Manager,
        console: Optional[Console],
    ) -> None:
        self._id = supervisor_id
        self._processes = children
        self._pipe = pipe
        self._manager = manager
        self._stop_signals = 0
        self._quiet = False  # by a signal
        self._broken = False
        self._checked_at = 0.0
        self._serves = drain  # with `drain` there is no row, so nothing counts the workers
        self._stays = not drain  # even with no workers, because people may want some again
        self._desired = count
        self._number = 0  # of the last place
        self._workers = [self._place() for _ in range(count)]
        self._maintenance = _Child("maintenance", children.start_maintenance)
        self._maintenance_suspended = False
        self._next_check = time.monotonic() + MAINTENANCE_CHECK
        self._console = console
        self._console_child = _Child(
            "console",
            lambda _: children.start_console(console) if console else 0,
            wanted=console is not None,
            shortest_pause=CONSOLE_PAUSE,
        )

    def run(self, started: Callable[[], None]) -> int:
        self._pipe.listen(SIGNALS)
        if self._console is not None and self._console.pipe >= 0:
            self._pipe.watch(self._console.pipe)
        log.info("supervisor %s started (pid %d, %d workers)", self._id, os.getpid(), len(self._workers))
        self._start_due()
        started()
        while any(child.pid or child.wanted for child in self._children()):
            self._pipe.wait(self._pause())
            self._handle_signals()
            for pid, code in self._processes.ended():
                for child in self._children():
                    if child.pid == pid:
                        self._ended(child, code)
            for desired in self._processes.reports():
                self._scale(desired)
            self._check_maintenance()
            self._finish()
            self._start_due()
            self._notify_manager()
        log.info("supervisor %s stopped", self._id)
        return 1 if self._broken else 0

    # --- children ---

    def _children(self) -> list[_Child]:
        return [self._console_child, self._maintenance, *self._workers]

    def _start_due(self) -> None:
        now = time.monotonic()
        for child in self._children():
            if child.wanted and not child.pid and child.due <= now:
                child.started_at = now
                try:
                    child.pid = child.start(child.name)
                except OSError as error:
                    self._cannot_start(child, error)

    def _cannot_start(self, child: _Child, error: OSError) -> None:
        """No process can be made now: try again later. This counts as no death, so the console is not given up."""
        child.pause = min(LONGEST_PAUSE, max(CONSOLE_PAUSE, child.pause * 2))
        child.due = time.monotonic() + child.pause
        why = shortage.of(error) or error
        log.warning("%s cannot be started: %s; trying again in %.1f s", child.name, why, child.pause)

    def _ended(self, child: _Child, code: int) -> None:
        child.pid = 0
        if child is self._console_child:
            self._console_ended(code)
        elif child is not self._maintenance:
            self._worker_ended(child, code)
        if child.wanted:
            self._start_again(child, f"signal {-code}" if code < 0 else f"exit code {code}")

    def _console_ended(self, code: int) -> None:
        if self._console is not None:
            self._console.ended(code)
        if code == 0 and self._console_child.wanted:
            self._console_child.wanted = False
            log.info("console: stopped by another process; not started again")

    def _worker_ended(self, child: _Child, code: int) -> None:
        self._processes.send_to_maintenance(CHECK)  # which also reports the desired number
        if code in {DONE, OUTDATED, MOVED} or self._stop_signals:
            child.wanted = False
            self._broken = self._broken or code != 0
            if code in {OUTDATED, MOVED}:
                self._stays, self._desired = False, 0
        if not child.wanted or self._surplus() > 0:
            child.wanted = False
            self._workers.remove(child)

    def _start_again(self, child: _Child, why: str) -> None:
        healthy = time.monotonic() - child.started_at >= HEALTHY
        child.deaths = 0 if healthy else child.deaths + 1
        if child is self._console_child and child.deaths >= CONSOLE_DEATHS_LIMIT:
            log.error("console cannot be kept running: %s, %d times in a row", why, child.deaths)
            self._broken = True
            self._stop()
            return
        child.pause = 0.0 if healthy else min(LONGEST_PAUSE, max(child.shortest_pause, child.pause * 2))
        child.due = time.monotonic() + child.pause
        log.warning("%s ended (%s); starting another in %.1f s", child.name, why, child.pause)

    def _scale(self, desired: DesiredWorkers) -> None:
        """Have as many workers as people want: add places, or remove empty places.

        The maintenance process asks surplus workers to stop, so that their jobs can finish. Their places go when they
        end.
        """
        if not self._stays:
            return
        self._desired = desired.count
        self._serves = self._serves or desired.serving >= min(1, desired.count)
        for child in self._workers:
            child.wanted = child.wanted and child.pid not in desired.leaving
        for child in [child for child in self._workers if not child.pid]:
            if self._surplus() > 0:
                self._workers.remove(child)
        while self._surplus() < 0:
            self._workers.append(self._place())
        if desired.stop_reason:
            self._stays = False
            self._broken = self._broken or desired.stop_reason != STOP_REQUESTED
            log.info("stopping: %s", desired.stop_reason)

    def _surplus(self) -> int:
        return sum(child.wanted for child in self._workers) - self._desired

    def _place(self) -> _Child:
        self._number += 1
        return _Child(f"worker {self._number}", self._processes.start_worker)

    def _check_maintenance(self) -> None:
        """Replace a maintenance process that is suspended (STOP) at two checks: it may hold the write lock."""
        now = time.monotonic()
        if now < self._next_check:
            return
        self._next_check = now + MAINTENANCE_CHECK
        pid = self._maintenance.pid
        try:
            suspended = bool(pid) and processes.is_stopped(pid)
        except OSError:  # no more open files: unknown
            suspended = False
        if suspended and self._maintenance_suspended:
            log.warning("the maintenance process (pid %d) is suspended; replacing it", pid)
            processes.kill([pid])
        self._maintenance_suspended = suspended

    def _finish(self) -> None:
        """End the maintenance process after the last worker; kill children that do not end in time."""
        now = time.monotonic()
        if self._maintenance.wanted and not self._stays and not self._workers:
            self._maintenance.wanted = False
            self._maintenance.kill_at = min(self._maintenance.kill_at, now + MAINTENANCE_GRACE)
            self._processes.end_maintenance()
            if self._broken:
                self._stop_console()
            elif self._console_child.wanted:
                log.info("workers: stopped by another process; not started again")
        for child in self._children():
            if child.pid and child.kill_at <= now:
                child.kill_at = now + LAST_GRACE
                log.warning("%s (pid %d) did not end in time and is killed", child.name, child.pid)
                process_group.kill(child.pid)

    def _pause(self) -> float:
        """Seconds to wait for the next event."""
        now = time.monotonic()
        waits = [child.due - now for child in self._children() if child.wanted and not child.pid]
        waits += [child.kill_at - now for child in self._children() if child.pid]
        if self._manager and not self._serves and self._maintenance.wanted:
            waits.append(READY_CHECK)
        # While the console is silent the tick stays due, so the pause needs a minimum.
        waits.append(max(READY_CHECK, self._manager.due_in()))
        return max(0.0, min([self._next_check - now, *waits]))

    # --- the service manager ---

    def _notify_manager(self) -> None:
        if not self._manager:
            return
        now = time.monotonic()
        if self._console is not None:
            self._console.read_reports()
        if not self._serves and self._maintenance.wanted and now >= self._checked_at + READY_CHECK:
            self._checked_at = now
            self._processes.send_to_maintenance(CHECK)
        self._manager.status(self._status())
        console_serves = self._console is None or self._console.serves or not self._console_child.wanted
        workers_serve = self._serves or not self._maintenance.wanted
        if console_serves and workers_serve and not self._stop_signals:
            self._manager.ready()
        if self._console is None or self._console.lives:
            self._manager.tick()

    def _status(self) -> str:
        workers = f"{plural(len(self._workers), 'worker')}{'' if self._stays else ', finishing'}"
        if self._console is None:
            return workers
        parts = ["console: answers"] if self._console.serves else []
        return "; ".join(parts + ([f"workers: {workers}"] if self._maintenance.wanted else []))

    # --- signals ---

    def _handle_signals(self) -> None:
        for number in self._pipe.signals():
            name = signal.Signals(number).name
            if name in STOPS and (name != "SIGHUP" or not self._stop_signals):  # a closed terminal may send it twice
                self._stop()
            elif name == "SIGQUIT":
                self._stop(now=True)
            elif name in {"SIGUSR1", "SIGTSTP"}:
                self._drain(name)
            elif name == "SIGCONT" and self._quiet:
                self._quiet = False
                log.info("%s: workers take jobs again", name)
                self._send_to_workers(RESUME)

    def _drain(self, name: str) -> None:
        """Let workers take no new jobs. In a terminal, Ctrl-Z also suspends this process, as it does any command."""
        self._quiet = True
        again = f"kill -CONT {os.getpid()}, or manage.py worker resume"
        log.warning("%s: workers finish their jobs and take no new ones. To resume: %s", name, again)
        self._send_to_workers(QUIET)
        if name == "SIGTSTP" and is_in_foreground():
            os.kill(os.getpid(), signal.SIGSTOP)  # until `fg` or `bg`, which send SIGCONT

    def _send_to_workers(self, message: str) -> None:
        for child in self._workers:
            if child.pid:
                self._processes.send(child.pid, message)

    def _stop(self, *, now: bool = False) -> None:
        """Stop everything: the first time when running jobs have finished; the second time, or `now`, at once."""
        self._stop_signals += 2 if now else 1
        now = self._stop_signals > 1
        if not now:
            log.info("stopping: waiting for running jobs; a second signal releases them at once")
            self._manager.stopping()
            self._processes.send_to_maintenance(STOP)
        else:
            log.info("stopping now")
            for child in self._children():
                child.kill_at = min(child.kill_at, time.monotonic() + LAST_GRACE)
        self._stays = False
        self._stop_console()
        self._workers = [child for child in self._workers if child.pid]
        for child in self._workers:
            child.wanted = False
            self._processes.send(child.pid, NOW if now else STOP)

    def _stop_console(self) -> None:
        self._console_child.wanted = False
        if self._console is not None:
            self._console.stop_listening()
        if self._console_child.pid:
            process_group.ask_to_stop(self._console_child.pid)
