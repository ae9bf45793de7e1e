"""Times as the database keeps them: integer microseconds since 1970, UTC.

Integers compare the same in raw SQL on every database; texts and zone-aware columns do not. How a page shows
a time (zone, 'in 5 minutes') is the console's business, not this module's.
"""

from __future__ import annotations

import time
from datetime import datetime, timedelta, timezone

SECOND = 1_000_000
DAY = 86_400 * SECOND
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


def now() -> int:
    """The wall clock, in microseconds since 1970 UTC."""
    return time.time_ns() // 1000


def seconds(amount: float) -> int:
    """Turn a duration in seconds into microseconds."""
    return round(amount * SECOND)


def to_datetime(micros: int) -> datetime:
    return _EPOCH + timedelta(microseconds=micros)


def to_iso(micros: int | None) -> str | None:
    """Write ISO 8601 with a `Z` and six decimals, so that texts sort as times do."""
    if micros is None:
        return None
    return to_datetime(micros).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def parse_iso(text: str) -> int:
    """Read an ISO 8601 time that names its zone, into microseconds.

    Raises ValueError when it is no such time, names no zone, or lies outside the years 1970 to 9998: a time without
    a zone means another moment on each machine, which is no way to run a job.
    """
    normal = text.strip()
    if normal[-1:] in {"Z", "z"}:
        normal = normal[:-1] + "+00:00"  # Python 3.9 does not read the Z
    moment = datetime.fromisoformat(normal)
    if moment.tzinfo is None:
        raise ValueError("the time names no zone")
    if not 1970 <= moment.year <= 9998:
        raise ValueError("the year is out of range")
    return (moment - _EPOCH) // timedelta(microseconds=1)
