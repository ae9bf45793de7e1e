"""How long a failed job waits for its next attempt: exponential backoff, as pure functions."""

from __future__ import annotations

import math
from typing import Protocol


class BackoffSettings(Protocol):
    """The settings that a wait depends on, as `setting_values.Settings` has them."""

    max_retries: int
    backoff_base: float
    backoff_max: float
    backoff_jitter: float


def delay(failures: int, base: float, longest: float, jitter: float, luck: float) -> float:
    """Seconds to wait after so many failures (1 or more): `base ** failures`, at most `longest`, and jitter on top.

    `luck` from 0 to 1 says how much of the jitter is taken; up to `jitter` times the wait is added.
    """
    grown_out = failures * math.log(base) >= math.log(longest)  # asked by logarithm: the power itself may overflow
    wait = longest if grown_out else base**failures
    return wait * (1 + jitter * luck)


def timetable(settings: BackoffSettings, max_retries: int) -> list[float]:
    """The waits before retry 1, 2, … in seconds, without jitter."""
    return [
        delay(failures, settings.backoff_base, settings.backoff_max, 0, 0) for failures in range(1, max_retries + 1)
    ]
