"""A supervisor's children where there is fork: each shares its parent's memory, hears signals, and is reaped.

The supervisor holds no connection and no thread, because its children are forks of it.
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

from sqlalchemy.orm import configure_mappers

from webapp.config import Config, ConfigError
from webapp.db.application import create_core
from worker import messages
from worker.assignment import Assignment
from worker.loop import worker as loop
from worker.maintenance import process as maintenance
from worker.maintenance import scaling
from worker.messages import NOW, QUIET, STOP, Wanted
from worker.supervisor import spawning
from worker.supervisor.console import Console
from worker.supervisor.signal_pipe import SignalPipe

_STOPS = (signal.SIGTERM, signal.SIGINT)


class Forks:
    """See the module, and `supervisor.Family`."""

    def __init__(self, config: Config, assignment: Assignment, bell: SignalPipe) -> None:
        """`bell` tells the supervisor that the keeper said something."""
        self._config = config
        self._console: Optional[Console] = None
        self._app = create_core(config, migrate=False)
        self._bell = bell
        # This process holds the write ends for as long as it lives; a child at the other end learns of its death.
        self._life_read, self._life_write = os.pipe()
        self._keeper_read, self._keeper_write = os.pipe()
        self._news_read, self._news_write = os.pipe()  # from the keeper, whichever it is
        os.set_blocking(self._news_read, False)
        os.set_blocking(self._news_write, False)  # no keeper waits for a supervisor that stands still
        self._unread = b""
        bell.watch(self._news_read)
        self._assignment = replace(assignment, parent=self._life_read)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # only to have it written to the wake-up descriptor
        _warm_up()
        gc.collect()
        gc.freeze()  # what is here now is shared with the children for as long as neither touches it

    def start_worker(self, name: str) -> int:
        return self._fork(name, self._work)

    def start_keeper(self, name: str) -> int:
        return self._fork(name, self._keep)

    def start_console(self, console: Console) -> int:
        self._console = console
        return console.start().pid

    def ended(self) -> list[tuple[int, int]]:
        found = []
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    break
                found.append((pid, os.waitstatus_to_exitcode(status)))
        return found

    def heard(self) -> list[Wanted]:
        with contextlib.suppress(BlockingIOError):
            self._unread += os.read(self._news_read, 65536)
        *lines, self._unread = self._unread.split(b"\n")
        return [wanted for wanted in map(Wanted.parse, lines) if wanted is not None]

    def tell(self, pid: int, word: str) -> None:
        with contextlib.suppress(ProcessLookupError):
            # Two signals of one number may arrive as one, so NOW, the second stop, has another number than the first.
            os.kill(pid, {QUIET: signal.SIGUSR1, STOP: signal.SIGTERM, NOW: signal.SIGINT}[word])

    def tell_keeper(self, word: str) -> None:
        with contextlib.suppress(OSError):
            os.write(self._keeper_write, word.encode() + b"\n")

    def end_keeper(self) -> None:
        os.close(self._keeper_write)
        self._keeper_write = -1

    def _fork(self, name: str, work: Callable[[], int]) -> int:
        sys.stdout.flush()
        sys.stderr.flush()
        # Held back until the child has handlers of its own: with the supervisor's, it would never hear of a stop.
        signal.pthread_sigmask(signal.SIG_BLOCK, _STOPS)
        try:
            pid = os.fork()
            if pid == 0:
                messages.live(name, work)
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPS)
        return pid

    # --- in a child ---

    def _leave_home(self) -> None:
        """Be a process of one's own, and let go of what belongs to the supervisor."""
        os.setsid()
        self._bell.leave()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for number in _STOPS:
            signal.signal(number, lambda *_: os._exit(messages.DONE))  # it holds nothing yet
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPS)
        if self._console is not None:
            self._console.stop_listening()
        os.close(self._life_write)
        os.close(self._keeper_write)
        os.close(self._news_read)

    def _work(self) -> int:
        self._leave_home()
        os.close(self._keeper_read)
        os.close(self._news_write)
        return loop.run(self._app, self._config, self._assignment)

    def _keep(self) -> int:
        self._leave_home()
        os.close(self._life_read)
        return maintenance.run(self._app, self._keeper_read, scaling.Scaling(self._assignment, self._news_write))


def _warm_up() -> None:
    """Have what each child would load or make for itself: what is there before the fork, they share."""
    for module in ("ctypes", "inotify_simple", "resource"):
        with contextlib.suppress(ImportError):  # not everywhere
            import_module(module)
    configure_mappers()


def ready_database(config: Config, also: Callable[[], str]) -> str:
    """Bring the database up to date, in a child: this process must never have had a connection.

    Returns the answer of `also`, which is called there with a connection. Raises ConfigError.
    """
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        with contextlib.suppress(BaseException):
            try:
                text, code = spawning.ready_database(config, also), 0
            except ConfigError as error:
                text = str(error)
            os.write(write_end, text.encode()[:4000])
        os._exit(code)
    os.close(write_end)
    with os.fdopen(read_end, "rb") as answer:
        text = answer.read().decode(errors="replace")
    _, status = os.waitpid(pid, 0)
    if status != 0:
        raise ConfigError(text or "the database could not be prepared")
    return text
