"""Generated job ids: short, sortable by time, easy to read aloud (`0dk3-8f2m-x7qa`).

Crockford's base 32 (no i, l, o, u): 40 bits of milliseconds, 20 random bits.
"""

from __future__ import annotations

import os
import threading
import time

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_PAIRS = [first + second for first in _ALPHABET for second in _ALPHABET]  # two digits at a time
_START = 1_735_689_600_000  # 2025-01-01 in milliseconds; 40 bits last until 2059
_lock = threading.Lock()
_last = 0


def new_job_id() -> str:
    """A new id. In a process each is greater than the one before, even within a millisecond."""
    global _last
    with _lock:
        value = (max(time.time_ns() // 1_000_000 - _START, 0) << 20) | int.from_bytes(os.urandom(3), "big") >> 4
        if value <= _last:
            value = _last + 1 + (os.urandom(1)[0] & 15)
        _last = value
    a, b, c, d, e, f = [_PAIRS[(value >> shift) & 1023] for shift in (50, 40, 30, 20, 10, 0)]
    return f"{a}{b}-{c}{d}-{e}{f}"
