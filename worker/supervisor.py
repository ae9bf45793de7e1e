"""Starts worker processes and a keeper, replaces what dies, and drains on TERM or INT.

The supervisor holds no database connection and no thread, because its children are forks of it; what it has to do in
the database its keeper does. Children have sessions of their own: a terminal's Ctrl-C reaches the supervisor alone.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import selectors
import signal
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Callable, Optional

from webapp import create_core
from webapp.config import Config, ConfigError
from worker import keeper, loop, processes

if TYPE_CHECKING:
    from flask import Flask

log = logging.getLogger("queuectl.supervisor")

LONGEST_PAUSE = 30.0  # seconds before a child that keeps dying is started again
HEALTHY = 10.0  # seconds that a child must have lived for its next start to be at once


@dataclass
class _Child:
    """A place for a process: the one that is in it, or when the next is due."""

    name: str
    start: Callable[[], int]
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
    drain: bool = False,
) -> int:
    """Run `count` workers of `slots` jobs each until told to stop, or, with `drain`, until nothing is left to do.

    Returns the exit code: 0 when everything ended in good order. Raises ConfigError where the database cannot be used.
    """
    _ready_database(config)
    app = create_core(config, migrate=False)
    gc.collect()
    gc.freeze()  # what is here now is shared with the children for as long as neither touches it
    return _Supervisor(app, config, count, slots, queues, drain).run()


def _ready_database(config: Config) -> None:
    """Bring the database up to date, in a child: this process must never have had a connection."""
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        with contextlib.suppress(BaseException):
            os.close(read_end)
            try:
                create_core(config)
                os._exit(0)
            except ConfigError as error:
                os.write(write_end, str(error).encode()[:4000])
            except Exception as error:
                os.write(write_end, f"cannot use the database: {error}".splitlines()[0].encode()[:4000])
        os._exit(1)
    os.close(write_end)
    with os.fdopen(read_end, "rb") as answer:
        message = answer.read().decode(errors="replace")
    _, status = os.waitpid(pid, 0)
    if status != 0:
        raise ConfigError(message or "the database could not be prepared")


class _Supervisor:
    def __init__(
        self, app: Flask, config: Config, count: int, slots: int, queues: Optional[Sequence[str]], drain: bool
    ) -> None:
        self._id = processes.new_id()
        self._app = app
        self._config = config
        self._slots = slots
        self._queues = queues
        self._drain = drain
        self._asked_to_stop = 0
        self._signals: list[int] = []
        self._broken = False
        self._wake_read, self._wake_write = socket.socketpair()
        # This process holds the write ends for as long as it lives; a child at the other end learns of its death.
        self._life_read, self._life_write = os.pipe()
        self._keeper_read, self._keeper_write = os.pipe()
        self._workers = [_Child(f"worker {number}", self._run_worker) for number in range(1, count + 1)]
        self._keeper = _Child("keeper", self._run_keeper)

    def run(self) -> int:
        self._listen()
        log.info("supervisor %s started (pid %d, %d workers)", self._id, os.getpid(), len(self._workers))
        for child in (self._keeper, *self._workers):
            self._start(child)
        selector = selectors.DefaultSelector()
        selector.register(self._wake_read, selectors.EVENT_READ)
        while any(child.wanted or child.pid for child in self._workers):
            for _ in selector.select(self._pause()):
                with contextlib.suppress(BlockingIOError):
                    self._wake_read.recv(4096)
            self._heed_signals()
            self._reap()
            self._start_due()
        self._end_keeper()
        log.info("supervisor %s stopped", self._id)
        return 1 if self._broken else 0

    # --- children ---

    def _start(self, child: _Child) -> None:
        child.started_at = time.monotonic()
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid == 0:
            code = loop.BROKEN
            try:
                os.setsid()
                self._forget()
                code = child.start()
            except ConfigError as error:
                log.error("%s: %s", child.name, error)
            except BaseException:
                log.exception("%s failed", child.name)
            finally:
                with contextlib.suppress(Exception):
                    logging.shutdown()
                os._exit(code)
        child.pid = pid

    def _forget(self) -> None:
        """In a child: let go of what belongs to the supervisor."""
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGTSTP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        self._wake_read.close()
        self._wake_write.close()
        os.close(self._life_write)
        os.close(self._keeper_write)

    def _run_worker(self) -> int:
        os.close(self._keeper_read)
        assignment = loop.Assignment(self._id, self._slots, self._queues, self._drain, self._life_read)
        return loop.run(self._app, self._config, assignment)

    def _run_keeper(self) -> int:
        os.close(self._life_read)
        return keeper.run(self._app, self._keeper_read)

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            for child in (self._keeper, *self._workers):
                if child.pid == pid:
                    self._ended(child, status)

    def _ended(self, child: _Child, status: int) -> None:
        child.pid = 0
        if child is not self._keeper:
            self._wake_keeper()
            if status == 0 or self._asked_to_stop:
                child.wanted = False
                self._broken = self._broken or status != 0
                return
        lived = time.monotonic() - child.started_at
        child.pause = 0.0 if lived >= HEALTHY else min(LONGEST_PAUSE, max(0.1, child.pause * 2))
        child.due = time.monotonic() + child.pause
        what = f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else f"exit code {os.WEXITSTATUS(status)}"
        log.warning("%s ended (%s); starting another in %.1f s", child.name, what, child.pause)

    def _start_due(self) -> None:
        now = time.monotonic()
        for child in (self._keeper, *self._workers):
            if child.wanted and not child.pid and child.due <= now:
                self._start(child)

    def _pause(self) -> Optional[float]:
        waits = [
            child.due - time.monotonic() for child in (self._keeper, *self._workers) if child.wanted and not child.pid
        ]
        return max(0.0, min(waits)) if waits else None

    def _wake_keeper(self) -> None:
        with contextlib.suppress(OSError):
            os.write(self._keeper_write, b"x")

    def _end_keeper(self) -> None:
        self._keeper.wanted = False
        os.close(self._keeper_write)
        if self._keeper.pid:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(self._keeper.pid, 0)

    # --- signals ---

    def _listen(self) -> None:
        self._wake_read.setblocking(False)
        self._wake_write.setblocking(False)
        signal.set_wakeup_fd(self._wake_write.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGTSTP, signal.SIGUSR1):
            signal.signal(number, lambda received, _frame: self._signals.append(received))
        signal.signal(signal.SIGCHLD, lambda *_: None)

    def _heed_signals(self) -> None:
        while self._signals:
            number = self._signals.pop(0)
            if number in {signal.SIGTERM, signal.SIGINT}:
                self._asked_to_stop += 1
                if self._asked_to_stop == 1:
                    log.info("stopping: running jobs may finish; a second signal hands them back at once")
                for child in self._workers:
                    child.wanted = False
                number = signal.SIGTERM
            for child in self._workers:
                if child.pid:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(child.pid, number)
