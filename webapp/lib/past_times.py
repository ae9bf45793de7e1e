"""Times in the past as people type them: `2h` ago, `yesterday`, a date, or a time; for searches and `--since`.

Days and times without a zone are in the reader's zone: a page has the browser's, the command line the machine's (None),
the API UTC.
"""

from __future__ import annotations

import re
from contextlib import suppress
from datetime import date, datetime, timedelta, timezone, tzinfo
from typing import Optional

from webapp.lib import clock, durations

MAX_AGO = 100 * 365 * 86400  # seconds
WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_DATE = re.compile(r"\d{4}-\d\d-\d\d\Z", re.ASCII)


def since(text: str, zone: Optional[tzinfo]) -> int:
    """Microseconds since 1970 of a time: a day begins then. Raises ValueError, whose message needs the field's name."""
    return _moment(text, zone, 0)


def until(text: str, zone: Optional[tzinfo]) -> int:
    """The first microsecond after a time: a day is included. Raises ValueError, as `since`."""
    return _moment(text, zone, 1)


def day(text: str, zone: Optional[tzinfo]) -> tuple[int, int]:
    """The first microsecond of a day and of the next one. Raises ValueError, whose message needs the field's name."""
    found = _day(text, zone)
    if found is None:
        raise ValueError(
            f"{text[:40]!r} is not a day; expected today, yesterday, a weekday such as monday, or a date such as "
            f"2026-11-24 ({zone_name(zone)})."
        )
    return _begins(found, zone), _begins(found + timedelta(days=1), zone)


def rule(zone: Optional[tzinfo]) -> str:
    return (
        "expected a duration before now, such as 30min, 2h or 7d, or today, yesterday or a date such as 2026-11-24 "
        f"({zone_name(zone)}), or a time, such as 2026-11-24T09:30"
    )


def zone_name(zone: Optional[tzinfo]) -> str:
    return "this machine's time zone" if zone is None else str(zone)


def _moment(text: str, zone: Optional[tzinfo], days_later: int) -> int:
    with suppress(ValueError):
        seconds = durations.parse(text)
        if seconds <= MAX_AGO:
            return max(0, clock.now() - clock.seconds(seconds))
    found = _day(text, zone)
    if found is not None:
        return _begins(found + timedelta(days=days_later), zone)
    try:
        if "T" not in text.upper() and " " not in text.strip():  # '08:00' would be a time to come
            raise ValueError(text)
        return clock.parse_local(text, zone)
    except ValueError:
        raise ValueError(f"{text[:40]!r} is not a time; {rule(zone)}.") from None


def _day(text: str, zone: Optional[tzinfo]) -> Optional[date]:
    """The day that a text names; None: it names none."""
    name = text.strip().lower()
    today = clock.to_datetime(clock.now()).astimezone(zone).date()
    if name in ("today", "yesterday"):
        return today - timedelta(days=name == "yesterday")
    if name in WEEKDAYS:  # the last such day, today included
        return today - timedelta(days=(today.weekday() - WEEKDAYS.index(name)) % 7)
    with suppress(ValueError):
        found = date.fromisoformat(name) if _DATE.match(name) else None
        return found if found is not None and 1970 <= found.year <= 9998 else None
    return None


def _begins(found: date, zone: Optional[tzinfo]) -> int:
    """Midnight. Where the clock skips it, the first moment of the day; where it comes twice, the first one."""
    midnight = datetime(found.year, found.month, found.day, tzinfo=zone)
    with suppress(OverflowError, OSError):
        return max(0, int(midnight.timestamp()) * clock.SECOND)
    return max(0, int(midnight.replace(tzinfo=timezone.utc).timestamp()) * clock.SECOND)
