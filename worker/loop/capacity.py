"""How many jobs a worker runs at a time: its slots, or fewer while its machine has no room for more."""

from __future__ import annotations

import math
import sys
import time
from typing import Callable

FIRST_PAUSE, LONGEST_PAUSE = 5.0, 60.0  # seconds until a worker that was short of something tries more jobs again


class Capacity:
    """See the module. Only the thread that takes turns at the database changes it.

    Attributes:
        slots: jobs at a time now; 0: not even one could be started.
        reason: why these are fewer than was asked for; '' if they are not.
    """

    def __init__(self, slots: int, estimate: Callable[[int], int] = lambda _: sys.maxsize) -> None:
        """`estimate`: how many jobs the machine seems to have room for when so many run. Asked before more are run."""
        self._estimate = estimate
        self.slots = self._asked = self._most = slots
        self.reason = self._lasting = ""
        self._pause = FIRST_PAUSE
        self._grow_at = math.inf

    @property
    def shown(self) -> int:
        """For the worker's row: a worker that waits until it can start one job again has one slot."""
        return max(1, self.slots)

    def limit(self, most: int, reason: str) -> None:
        """Never run more than `most` jobs: a limit of this process."""
        self.slots = self._most = min(most, self._most)
        self.reason = self._lasting = reason

    def shrink(self, running: int, reason: str) -> bool:
        """A command could not be started beside `running` others. Returns whether this is news."""
        news = self._grow_at == math.inf
        self._pause = FIRST_PAUSE if news else min(LONGEST_PAUSE, 2 * self._pause)
        # What runs may need more of it, too: processes, memory.
        self.start_with(max(1, running // 2) if running else 0, reason)
        return news

    def start_with(self, slots: int, reason: str) -> None:
        """Run `slots` jobs at a time, then step by step more."""
        self.slots, self.reason = min(slots, self._most), reason
        self._grow_at = time.monotonic() + self._pause

    def grow(self, running: int) -> bool:
        """Allow more jobs, if the time for that has come. Returns whether the shortage is over now."""
        if time.monotonic() < self._grow_at:
            return False
        more = max(self.slots + 1, self.slots * 3 // 2)
        self.slots = min(self._most, more, max(self.slots, self._estimate(running)))
        over = self.slots == self._most
        self._grow_at = math.inf if over else time.monotonic() + self._pause
        if over:
            self.reason = self._lasting
        return over

    def describe(self) -> str:
        """'runs at most 12 of 40 jobs at a time: `ulimit -n` is 64; …'"""
        return f"runs at most {self.shown} of {self._asked} jobs at a time: {self.reason}"
