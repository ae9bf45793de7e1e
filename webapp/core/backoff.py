"""How long a failed job waits for its next attempt: exponential backoff, as pure functions."""

from __future__ import annotations

import math

from webapp.core.settings import Settings


def delay(failures: int, base: float, longest: float, jitter: float, luck: float) -> float:
    """Seconds to wait after this number of failures (1 or more): `base ** failures`, at most `longest`, plus jitter.

    The jitter is `jitter * luck` times the wait; `luck` is a random number from 0 to 1.
    """
    reaches_limit = failures * math.log(base) >= math.log(longest)  # the power itself may overflow
    wait = longest if reaches_limit else base**failures
    return wait * (1 + jitter * luck)


def timetable(settings: Settings, max_retries: int) -> list[float]:
    """The waits before retry 1, 2, … in seconds, without jitter."""
    return [
        delay(failures, settings.backoff_base, settings.backoff_max, 0, 0) for failures in range(1, max_retries + 1)
    ]
