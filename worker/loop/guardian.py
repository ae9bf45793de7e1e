"""Stands in for a worker's main thread at its commands while that thread waits for the database.

The main thread does both, because handing each job from one thread to another and back costs as much as claiming it.
But a turn at the database may take long: the lock is held, the disk hangs. Then limits, cancellations and the
supervisor's orders must bite all the same. So whoever holds the baton attends to the commands: the main thread, but
for its turns; and this thread when it sees that one lasts. While nothing runs it rests.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Callable, Optional

log = logging.getLogger("queuectl.worker")

LOOK = 0.05  # seconds between two looks at how long a turn lasts, and that one may last before somebody stands in
STUCK = 1.0  # seconds after which a turn counts as stuck


class Guardian(threading.Thread):
    """See the module. The thread that makes this holds the baton first.

    `attend` is called, with the time in seconds that it may wait, by whoever holds the baton; `wake` ends that wait
    from any thread. `stuck` is called once for each turn that is.
    """

    def __init__(
        self, attend: Callable[[float], object], wake: Callable[[], object], stuck: Callable[[], object]
    ) -> None:
        super().__init__(name="guardian", daemon=True)
        self._attend = attend
        self._wake = wake
        self._stuck = stuck
        self._baton = threading.Lock()
        self._baton.acquire()
        self._turn_began: Optional[float] = None  # on the monotonic clock
        self._needed = threading.Event()
        self.stands_in = False

    @contextmanager
    def turn(self) -> Iterator[None]:
        """What the main thread does in here may take long."""
        self._turn_began = time.monotonic()
        self._baton.release()
        try:
            yield
        finally:
            self._turn_began = None
            if self.stands_in:  # set before it looks at `_turn_began`: either it sees the end, or it is woken
                self._wake()
            self._baton.acquire()

    def need(self, needed: bool) -> None:
        """Say whether anything runs."""
        if needed and not self._needed.is_set():
            self._needed.set()
        elif not needed and self._needed.is_set():
            self._needed.clear()

    def run(self) -> None:
        while self._needed.wait():
            time.sleep(LOOK)
            if self._lasts(LOOK):
                with self._baton:
                    self._stand_in()

    def _lasts(self, seconds: float) -> bool:
        began = self._turn_began
        return began is not None and time.monotonic() - began >= seconds

    def _stand_in(self) -> None:
        told, self.stands_in = False, True
        try:
            while self._turn_began is not None:
                self._attend(LOOK)
                if not told and self._lasts(STUCK):
                    told = True
                    self._stuck()
        except Exception:
            log.exception("nobody attended to the commands while the database was busy")
        finally:
            self.stands_in = False
