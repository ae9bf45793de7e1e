"""Times as the database stores them: integer microseconds since 1970, UTC.

Integers compare the same in raw SQL on every database; texts and columns with a time zone do not. The console formats
times for people.

All processes of a queue use one clock. With SQLite it is the machine's. With PostgreSQL it is the server's: processes
read it once a minute (`follow`) and count on in between. So a machine with a wrong clock does not run jobs too early
or write wrong times.
"""

from __future__ import annotations

import time
from datetime import datetime, timedelta, timezone
from typing import Optional

SECOND = 1_000_000
DAY = 86_400 * SECOND
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


# This clock also counts while the machine sleeps, if the system has one.
_COUNTER = getattr(time, "CLOCK_BOOTTIME", None)
_ahead: Optional[int] = None  # the server's clock minus this process's counter, in microseconds


def now() -> int:
    """The current time of the queue's clock, in microseconds since 1970 UTC."""
    return time.time_ns() // 1000 if _ahead is None else counter() + _ahead


def counter() -> int:
    """Microseconds since an arbitrary moment. Setting the machine's clock does not change it."""
    return (time.monotonic_ns() if _COUNTER is None else time.clock_gettime_ns(_COUNTER)) // 1000


def follow(server_time: Optional[int], asked: Optional[int] = None) -> None:
    """From now on use the clock of the database server, which is at `server_time`. None: this machine's clock.

    `asked` is `counter()` from before the query: the answer may be as old as the query took. The offset stays the same
    if it is possible within that time, so network delays do not change durations.
    """
    global _ahead
    if server_time is None:
        _ahead = None
        return
    latest = counter()
    least, most = server_time - latest, server_time - (latest if asked is None else asked)
    _ahead = least if _ahead is None else min(max(_ahead, least), most)


def seconds(amount: float) -> int:
    """Convert seconds to microseconds."""
    return round(amount * SECOND)


def to_datetime(micros: int) -> datetime:
    return _EPOCH + timedelta(microseconds=micros)


def to_iso(micros: int | None) -> str | None:
    """ISO 8601 with `Z` and six decimals, so texts sort as times do."""
    if micros is None:
        return None
    return to_datetime(micros).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def parse_iso(text: str) -> int:
    """Read an ISO 8601 time with a time zone, into microseconds.

    Raises ValueError for other texts, years outside 1970 to 9998, and times without a zone: each machine would read
    those differently.
    """
    normal = text.strip()
    if normal[-1:] in {"Z", "z"}:
        normal = normal[:-1] + "+00:00"  # Python 3.9 does not read the Z
    moment = datetime.fromisoformat(normal)
    if moment.tzinfo is None:
        raise ValueError("the time has no time zone")
    if not 1970 <= moment.year <= 9998:
        raise ValueError("the year is out of range")
    return (moment - _EPOCH) // timedelta(microseconds=1)
