"""Hears what people cancelled while a worker waits for the write lock, which another process may hold for long.

A cancellation that was committed must bite at once, and reading needs no lock. While turns are short this thread rests.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import Callable

from webapp.core.statements import ASKED
from webapp.db.engines import WorkerConnection

log = logging.getLogger("queuectl.worker")

LOOK = 0.5  # seconds between two looks


class Listener(threading.Thread):
    """`heard` is called, on this thread, with the tokens of running jobs that are to stop; some of them again."""

    def __init__(
        self,
        connection: Callable[[], WorkerConnection],
        worker_id: str,
        heard: Callable[[set[str]], None],
        stuck: Callable[[], bool],
    ) -> None:
        super().__init__(name="listener", daemon=True)
        self._connect = connection
        self._worker_id = worker_id
        self._heard = heard
        self._stuck = stuck
        self._called = threading.Event()

    def listen(self) -> None:
        """Look for as long as the worker is stuck."""
        self._called.set()

    def run(self) -> None:
        while self._called.wait():
            self._called.clear()
            self._look_while_stuck()

    def _look_while_stuck(self) -> None:
        """On a connection of its own, made when it is needed, which hardly ever happens."""
        try:
            connection = self._connect()
        except Exception as error:  # whatever keeps it away: the worker says so, and tries again
            log.debug("the listener cannot connect: %s", error)
            return
        statement = connection.prepare(ASKED)
        try:
            while self._stuck():
                tokens = {row[0] for row in connection.look(statement, {"worker": self._worker_id})}
                if tokens:
                    self._heard(tokens)
                time.sleep(LOOK)
        except connection.errors as error:
            log.debug("the listener cannot read: %s", error)
        finally:
            connection.close()
