"""Limits requests per token: BURST at once, RATE per second in the long run.

The counts are in the memory of this process; a shared limit would cost a write for each request. The limit only
protects the console's threads from a runaway client. With several processes, the limit is as many times higher.
"""

from __future__ import annotations

import threading
import time
from typing import Optional

RATE = 50.0  # requests per second
BURST = 200
KEY = "queuectl_api_pace"  # in an application's extensions


class Buckets:
    """A token bucket for each key. It fills with time; each request takes one token."""

    def __init__(self, rate: float = RATE, burst: int = BURST) -> None:
        self._rate = rate
        self._burst = burst
        self._levels: dict[int, tuple[float, float]] = {}  # level, and when it was computed
        self._lock = threading.Lock()

    def take(self, key: int, now: Optional[float] = None) -> float:
        """Take one token. Return 0, or the seconds until one is available."""
        now = time.monotonic() if now is None else now
        with self._lock:
            level, at = self._levels.get(key, (float(self._burst), now))
            level = min(self._burst, level + max(0.0, now - at) * self._rate)
            wait = max(0.0, (1 - level) / self._rate)
            self._levels[key] = (level if wait else level - 1, now)
            return wait
