"""Hears what people cancelled while the dispatcher waits for the write lock, which another process may hold for long.

A cancellation that was committed must bite at once, and reading needs no lock. While the dispatcher gets on, or while
nothing runs, this thread rests.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import Callable, Optional

from webapp.db import WorkerConnection

log = logging.getLogger("queuectl.worker")

LOOK = 0.5  # seconds between two looks
PATIENCE = 1.0  # seconds that a turn may take before it counts as stuck


class Listener(threading.Thread):
    """`heard` is called, on this thread, with the tokens of running jobs that are to stop; some of them again."""

    def __init__(
        self, connection: Callable[[], WorkerConnection], worker_id: str, heard: Callable[[set[str]], None]
    ) -> None:
        super().__init__(name="listener", daemon=True)
        self.turn_began: Optional[float] = None  # on the monotonic clock; None between turns
        self._connect = connection
        self._worker_id = worker_id
        self._heard = heard
        self._needed = threading.Event()
        self._ended = False

    def need(self, needed: bool) -> None:
        """Say whether anything runs that somebody could want to stop."""
        if needed and not self._needed.is_set():
            self._needed.set()
        elif not needed and self._needed.is_set():
            self._needed.clear()

    def end(self) -> None:
        self._ended = True
        self._needed.set()

    def run(self) -> None:
        while self._needed.wait() and not self._ended:
            if self._is_stuck():
                self._look_while_stuck()
            time.sleep(LOOK)

    def _is_stuck(self) -> bool:
        began = self.turn_began
        return began is not None and time.monotonic() - began > PATIENCE

    def _look_while_stuck(self) -> None:
        """On a connection of its own, made when it is needed, which hardly ever happens."""
        try:
            connection = self._connect()
        except Exception as error:  # whatever keeps it away: the dispatcher says so, and tries again
            log.debug("the listener cannot connect: %s", error)
            return
        asked = "FROM jobs WHERE state = 'processing' AND worker_id = :worker AND cancel_requested_at IS NOT NULL"
        statement = connection.prepare("SELECT token " + asked)
        try:
            while self._is_stuck() and not self._ended:
                tokens = {row[0] for row in connection.look(statement, {"worker": self._worker_id})}
                if tokens:
                    self._heard(tokens)
                time.sleep(LOOK)
        except connection.errors as error:
            log.debug("the listener cannot read: %s", error)
        finally:
            connection.close()
