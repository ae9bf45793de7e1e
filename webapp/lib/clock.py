"""Times as the database stores them: integer microseconds since 1970, UTC.

Integers compare the same in raw SQL on every database; texts and columns with a time zone do not. The console formats
times for people.

All processes of a queue use one clock. With SQLite it is the machine's. With PostgreSQL it is the server's: processes
read it once a minute (`follow`) and count on in between. So a machine with a wrong clock does not run jobs too early
or write wrong times.
"""

from __future__ import annotations

import re
import time
from datetime import datetime, timedelta, timezone, tzinfo
from typing import Any, Optional

SECOND = 1_000_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
DAY = 24 * HOUR
LOCAL_RULE = (
    "expected a time such as 08:00 (the next one), a date and a time such as '2030-01-31 08:00', or a time with its "
    "zone, such as 2030-01-31T08:00:00Z"
)
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_TIME_OF_DAY = re.compile(r"(\d{1,2}):(\d\d)(?::(\d\d))?\Z", re.ASCII)


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


def columns(row: Any, *names: str) -> dict[str, Any]:
    """These attributes of a row for JSON; times (`at`, `…_at`) in ISO 8601."""
    values = {name: getattr(row, name) for name in names}
    return {name: to_iso(value) if name.endswith("at") else value for name, value in values.items()}


def parse_iso(text: str) -> int:
    """Read an ISO 8601 time with a time zone, into microseconds.

    Raises ValueError for other texts, years outside 1970 to 9998, and times without a zone: each machine would read
    those differently.
    """
    moment = _read_iso(text)
    if moment.tzinfo is None:
        raise ValueError("the time has no time zone")
    return _micros(moment)


def parse_local(text: str, zone: Optional[tzinfo] = None) -> int:
    """Read a time as `parse_iso` does, but in `zone` if the text names none; None: the zone of the system.

    '08:00' is the next such time. Where the clock is put back, a time that occurs twice is the first that has not
    passed. A time that the clock skips is counted from before the change: 02:30 becomes 03:30 (RFC 5545, 3.3.5).
    Raises ValueError with a message that needs the field's name in front.
    """
    try:
        found = _TIME_OF_DAY.match(text.strip())
        if found is None:
            moment = _read_iso(text)
            return _micros(moment) if moment.tzinfo is not None else _of_wall_clock(moment, zone)
        hour, minute, second = (int(part or 0) for part in found.groups())
        current = now()
        today = to_datetime(current).astimezone(zone).replace(tzinfo=None, fold=0, microsecond=0)
        today = today.replace(hour=hour, minute=minute, second=second)
        first = _of_wall_clock(today, zone)
        return first if first > current else _of_wall_clock(today + timedelta(days=1), zone)
    except (ValueError, OverflowError, OSError):
        raise ValueError(f"{text[:40]!r} is not a time; {LOCAL_RULE}.") from None


def _read_iso(text: str) -> datetime:
    normal = text.strip()
    if normal[-1:] in {"Z", "z"}:
        normal = normal[:-1] + "+00:00"  # Python 3.9 does not read the Z
    moment = datetime.fromisoformat(normal)
    if not 1970 <= moment.year <= 9998:
        raise ValueError("the year is out of range")
    return moment


def _of_wall_clock(moment: datetime, zone: Optional[tzinfo]) -> int:
    """A time without a zone on the clock of `zone`; see `parse_local` for times that the clock skips or repeats."""
    # Not astimezone(): of a skipped time on the system's clock it takes the offset from after the change.
    first, second = (
        int(moment.replace(tzinfo=zone, fold=fold, microsecond=0).timestamp()) * SECOND + moment.microsecond
        for fold in (0, 1)
    )  # equal, but for a time that is skipped (then the first is later) or repeated
    return second if first <= now() and first < second else first


def _micros(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(microseconds=1)
