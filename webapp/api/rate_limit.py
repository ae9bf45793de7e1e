"""How fast one token may ask: BURST requests at once, RATE a second in the long run.

A bucket for each token, in the memory of this process. A limit that all processes share would cost a write for every
request, and this one is no tariff: it keeps a loop gone wild from taking the console's threads. Several processes
allow as many times more.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Optional, cast

if TYPE_CHECKING:
    from flask import Flask

RATE = 50.0  # requests a second
BURST = 200
KEY = "queuectl_api_pace"  # in an application's extensions


class Buckets:
    """A bucket for each key; it fills with time and loses one drop for each request."""

    def __init__(self, rate: float = RATE, burst: int = BURST) -> None:
        self._rate = rate
        self._burst = burst
        self._levels: dict[int, tuple[float, float]] = {}  # drops, and when they were counted
        self._lock = threading.Lock()

    def take(self, key: int, now: Optional[float] = None) -> float:
        """Take a drop; return 0, or the seconds until there is one again."""
        now = time.monotonic() if now is None else now
        with self._lock:
            level, at = self._levels.get(key, (float(self._burst), now))
            level = min(self._burst, level + max(0.0, now - at) * self._rate)
            if level < 1:
                self._levels[key] = (level, now)
                return (1 - level) / self._rate
            self._levels[key] = (level - 1, now)
            return 0.0


def buckets(app: Flask) -> Buckets:
    return cast(Buckets, app.extensions[KEY])
