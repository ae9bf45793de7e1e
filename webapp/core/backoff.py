"""How long a failed job waits for its next attempt: exponential backoff, as pure functions."""

from __future__ import annotations

import math

from webapp.core.notices import SYSTEM_QUEUE
from webapp.core.settings import Settings

MESSAGE_WAIT = 300.0  # seconds at the most between two tries to send a message: its receiver may be back


def delay(failures: int, base: float, longest: float, jitter: float, luck: float) -> float:
    """Seconds to wait after this number of failures (1 or more): `base ** failures`, at most `longest`, plus jitter.

    The jitter is `jitter * luck` times the wait; `luck` is a random number from 0 to 1.
    """
    reaches_limit = failures * math.log(base) >= math.log(longest)  # the power itself may overflow
    wait = longest if reaches_limit else base**failures
    return wait * (1 + jitter * luck)


def of_job(queue: str, failures: int, settings: Settings, luck: float) -> float:
    """The delay of a job in this queue, by the settings."""
    longest = min(settings.backoff_max, MESSAGE_WAIT) if queue == SYSTEM_QUEUE else settings.backoff_max
    return delay(failures, settings.backoff_base, longest, settings.backoff_jitter, luck)


def timetable(settings: Settings, max_retries: int) -> list[float]:
    """The waits before retry 1, 2, … in seconds, without jitter."""
    return [
        delay(failures, settings.backoff_base, settings.backoff_max, 0, 0) for failures in range(1, max_retries + 1)
    ]
