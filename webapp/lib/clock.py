"""Times as the database keeps them: integer microseconds since 1970, UTC.

Integers compare the same in raw SQL on every database; texts and zone-aware columns do not. How a page shows
a time (zone, 'in 5 minutes') is the console's business, not this module's.

There is one clock for all that share a queue. On SQLite that is the machine's. On PostgreSQL it is the server's, of
which each process is told now and then (`follow`); in between it counts on by itself, so that a machine whose clock
is wrong, or is set, neither runs a job too early nor writes a time that nobody else can place.
"""

from __future__ import annotations

import time
from datetime import datetime, timedelta, timezone
from typing import Optional

SECOND = 1_000_000
DAY = 86_400 * SECOND
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


# Runs on while the machine sleeps, where there is such a clock: a laptop that was closed is not an hour behind.
_COUNTER = getattr(time, "CLOCK_BOOTTIME", None)
_ahead: Optional[int] = None  # what the database's clock said, less this process's counter, in microseconds


def now() -> int:
    """The time by the queue's clock, in microseconds since 1970 UTC."""
    return time.time_ns() // 1000 if _ahead is None else counter() + _ahead


def counter() -> int:
    """Microseconds since some moment; nobody sets it."""
    return (time.monotonic_ns() if _COUNTER is None else time.clock_gettime_ns(_COUNTER)) // 1000


def follow(told: Optional[int], asked: Optional[int] = None) -> None:
    """From now on, go by the clock of a database server, which has said this time; None: by this machine's.

    `asked` is what `counter()` gave before the question: the answer is as old as it took at the most. A time that fits
    it stands, so that what is measured meanwhile does not shrink or grow by what a network needs.
    """
    global _ahead
    if told is None:
        _ahead = None
        return
    latest = counter()
    least, most = told - latest, told - (latest if asked is None else asked)
    _ahead = least if _ahead is None else min(max(_ahead, least), most)


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
