"""The thread that replaces a worker's main thread while that thread waits for the database.

The main thread both attends to commands and takes turns at the database, because passing each job between two threads
costs as much as claiming it. But a turn may take long: another process holds the lock, or the disk hangs. Time limits,
cancellations and messages from the supervisor must work all the same. So the thread that holds the baton attends to
the commands: the main thread except during its turns, and this thread when a turn takes long.

During a stuck turn, a third thread reads which jobs were cancelled; a read needs no lock. It has its own thread because
nothing can end a read that blocks. While no command runs, nothing happens here.
"""

from __future__ import annotations

import logging
import threading
import time
from contextlib import closing, suppress
from typing import Callable, Optional

from webapp.core.statements import CANCELLED
from webapp.core.storage.transaction import Connection

log = logging.getLogger("queuectl.worker")

STAND_IN_AFTER = 0.05  # seconds that a turn may take before this thread attends; also between two checks
STUCK_AFTER = 1.0  # seconds after which a turn counts as stuck
READ_EVERY = 0.5  # seconds between two reads of the cancelled jobs


class Standby(threading.Thread):
    """See the module. The thread that creates this holds the baton first."""

    def __init__(
        self,
        attend: Callable[[float], object],
        wake: Callable[[], object],
        connect: Callable[[], Connection],
        worker_id: str,
        stop: Callable[[set[str]], object],
    ) -> None:
        """Create the thread without starting it.

        Args:
            attend: attends to the commands and waits at most so many seconds; the thread with the baton calls it.
            wake: ends that wait, from any thread.
            connect: opens the connection for reading which jobs were cancelled.
            stop: receives their tokens, on another thread, the same ones repeatedly.
        """
        super().__init__(name="standby", daemon=True)
        self._attend = attend
        self._wake = wake
        self._connect = connect
        self._worker_id = worker_id
        self._stop = stop
        self._reader: Optional[threading.Thread] = None
        self._read_at = 0.0  # when the next reader may start, on the monotonic clock
        self._baton = threading.Lock()
        self._baton.acquire()
        self._turn_began: Optional[float] = None  # on the monotonic clock
        self._needed = threading.Event()
        self.stands_in = False

    def __enter__(self) -> None:
        """The main thread takes a turn at the database in a `with` block."""
        self._turn_began = time.monotonic()
        self._baton.release()

    def __exit__(self, *raised: object) -> None:
        self._turn_began = None
        if self.stands_in:  # this thread sets it before it reads `_turn_began`, so it sees the end or is woken
            self._wake()
        self._baton.acquire()

    def need(self, needed: bool) -> None:
        """Set whether any command runs."""
        if needed and not self._needed.is_set():
            self._needed.set()
        elif not needed and self._needed.is_set():
            self._needed.clear()

    def run(self) -> None:
        while self._needed.wait():
            time.sleep(STAND_IN_AFTER)
            if self._turn_lasts(STAND_IN_AFTER):
                with self._baton:
                    self._stand_in()

    def _turn_lasts(self, seconds: float) -> bool:
        began = self._turn_began
        return began is not None and time.monotonic() - began >= seconds

    def _stand_in(self) -> None:
        self.stands_in = True
        try:
            while self._turn_began is not None:
                self._attend(STAND_IN_AFTER)
                if self._turn_lasts(STUCK_AFTER):
                    self._keep_reading()
        except Exception:
            log.exception("attending to the commands failed while the database was busy")
        finally:
            self.stands_in = False

    def _keep_reading(self) -> None:
        """Start a thread that reads the cancelled jobs, if none runs."""
        if time.monotonic() < self._read_at or (self._reader is not None and self._reader.is_alive()):
            return
        self._read_at = time.monotonic() + READ_EVERY
        self._reader = threading.Thread(target=self._read_cancelled, name="cancelled", daemon=True)
        with suppress(RuntimeError):  # the thread limit is reached: tried again
            self._reader.start()

    def _read_cancelled(self) -> None:
        try:
            with closing(self._connect()) as connection:
                while self.stands_in:
                    tokens = {token for (token,) in connection.query(CANCELLED, {"worker": self._worker_id})}
                    if tokens:
                        self._stop(tokens)
                    time.sleep(READ_EVERY)
        except Exception as error:  # the main thread reports problems with the database
            log.debug("cannot read which jobs were cancelled: %s", error)
