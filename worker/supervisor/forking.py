"""A supervisor's children where there is fork: they share its memory, receive signals, and are reaped.

The supervisor has no database connection and no thread, because its children are forks of it.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import sys
from dataclasses import replace
from importlib import import_module
from typing import Callable, Optional

from webapp.config import Config
from webapp.core.storage.database import open_database
from worker import messages
from worker.loop import worker as loop
from worker.maintenance import process as maintenance
from worker.maintenance import scaling
from worker.messages import NOW, QUIET, RESUME, STOP, Assignment, DesiredWorkers
from worker.supervisor.console import Console
from worker.supervisor.signal_pipe import SignalPipe

_SIGNALS = {QUIET: "SIGUSR1", RESUME: "SIGCONT", STOP: "SIGTERM", NOW: "SIGQUIT"}


def _numbers(*names: str) -> list[signal.Signals]:
    """Those that the platform has: Windows imports this module, too."""
    return [signal.Signals[name] for name in names if hasattr(signal, name)]


_STOPS = _numbers("SIGTERM", "SIGINT", "SIGQUIT")
_OTHERS = _numbers("SIGHUP", "SIGTSTP", "SIGUSR1", "SIGUSR2")


class Forks:
    """A supervisor's child processes, by pid. There is one maintenance process at a time."""

    def __init__(self, config: Config, assignment: Assignment, pipe: SignalPipe) -> None:
        """`pipe` wakes the supervisor when the maintenance process sends a report."""
        self._console: Optional[Console] = None
        self._database = open_database(config, "worker")
        self._pipe = pipe
        # This process holds the write ends while it lives; the other end closes when it dies.
        self._life_read, self._life_write = os.pipe()
        self._maintenance_read, self._maintenance_write = os.pipe()
        self._report_read, self._report_write = os.pipe()  # used by each maintenance process in turn
        os.set_blocking(self._report_read, False)
        os.set_blocking(self._report_write, False)  # maintenance must not wait for a suspended supervisor
        self._unread = b""
        pipe.watch(self._report_read)
        self._assignment = replace(assignment, parent=self._life_read)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # so that it is written to the wake-up descriptor
        # Children share what is loaded before the fork.
        for module in ("ctypes", "resource"):
            with contextlib.suppress(ImportError):  # not on every platform
                import_module(module)
        gc.collect()
        gc.freeze()  # the collector does not touch these pages, so they stay shared

    def start_worker(self, name: str) -> int:
        return self._fork(name, self._work)

    def start_maintenance(self, name: str) -> int:
        return self._fork(name, self._maintain)

    def start_console(self, console: Console) -> int:
        """Call this before any other start, so that later forks close what belongs to the console."""
        self._console = console
        return console.start().pid

    def ended(self) -> list[tuple[int, int]]:
        """Children that ended since the last call: pid and exit code, or the negative number of a signal."""
        found = []
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    break
                found.append((pid, os.waitstatus_to_exitcode(status)))
        return found

    def reports(self) -> list[DesiredWorkers]:
        """What the maintenance process reported since the last call."""
        with contextlib.suppress(BlockingIOError):
            self._unread += os.read(self._report_read, 65536)
        *lines, self._unread = self._unread.split(b"\n")
        return [report for report in map(DesiredWorkers.parse, lines) if report is not None]

    def send(self, pid: int, message: str) -> None:
        """Send STOP, NOW, QUIET or RESUME to a worker."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, getattr(signal, _SIGNALS[message]))

    def send_to_maintenance(self, message: str) -> None:
        """Send CHECK or STOP."""
        with contextlib.suppress(OSError):
            os.write(self._maintenance_write, message.encode() + b"\n")

    def end_maintenance(self) -> None:
        """Let the maintenance process tick once more and end."""
        os.close(self._maintenance_write)
        self._maintenance_write = -1

    def _fork(self, name: str, work: Callable[[], int]) -> int:
        sys.stdout.flush()
        sys.stderr.flush()
        # Blocked until the child has its own handlers: the supervisor's would lose a signal in the child. A worker
        # unblocks the others when it can handle them.
        signal.pthread_sigmask(signal.SIG_BLOCK, [*_STOPS, *_OTHERS])
        try:
            pid = os.fork()
            if pid == 0:
                messages.run_child(name, work)
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [*_STOPS, *_OTHERS])
        return pid

    # --- in a child ---

    def _leave_supervisor(self) -> None:
        """Start a session, and close what belongs to the supervisor."""
        os.setsid()
        self._pipe.detach()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for number in _STOPS:
            signal.signal(number, lambda *_: os._exit(messages.DONE))  # it has no jobs yet
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPS)
        if self._console is not None:
            self._console.stop_listening()
        os.close(self._life_write)
        os.close(self._maintenance_write)
        os.close(self._report_read)

    def _work(self) -> int:
        self._leave_supervisor()
        os.close(self._maintenance_read)
        os.close(self._report_write)
        return loop.run(self._database, self._assignment)

    def _maintain(self) -> int:
        self._leave_supervisor()
        os.close(self._life_read)
        return maintenance.run(
            self._database, self._maintenance_read, scaling.Scaling(self._assignment, self._report_write)
        )
