"""The fires of cron, computed independently of the product: a walk over every minute of UTC with zoneinfo."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from zoneinfo import ZoneInfo

MINUTE = timedelta(minutes=1)
_NAMES = {name: number for number, name in enumerate(["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"])}


class Cron:
    """The five fields as sets, by Debian's rules. Understands lists, ranges, steps and names of days."""

    def __init__(self, text: str) -> None:
        minute, hour, day, month, weekday = text.split()
        self.minutes, self.hours = _numbers(minute, 0, 59), _numbers(hour, 0, 23)
        self.days, self.months = _numbers(day, 1, 31), _numbers(month, 1, 12)
        self.weekdays = {number % 7 for number in _numbers(weekday, 0, 7)}
        self.both_days = day.startswith("*") or weekday.startswith("*")
        self.is_wildcard = minute.startswith("*") or hour.startswith("*")

    def matches(self, wall: datetime) -> bool:
        days = (wall.day in self.days, wall.isoweekday() % 7 in self.weekdays)
        day = all(days) if self.both_days else any(days)
        return day and wall.month in self.months and wall.hour in self.hours and wall.minute in self.minutes


def _numbers(field: str, lowest: int, highest: int) -> set[int]:
    found: set[int] = set()
    for part in field.split(","):
        span, _, step = part.partition("/")
        if span == "*":
            first, last = lowest, highest
        else:
            start, _, end = span.partition("-")
            first = _NAMES.get(start, -1) if start in _NAMES else int(start)
            last = (_NAMES[end] if end in _NAMES else int(end)) if end else highest if step else first
        found.update(range(first, last + 1, int(step or 1)))
    return found


def fires(text: str, zone: str, start: datetime, end: datetime) -> Iterator[datetime]:
    """The fires after `start`, until `end`, in UTC. Both are whole minutes of UTC."""
    cron, local = Cron(text), ZoneInfo(zone)
    moment = start - timedelta(days=1)  # so that the latest time on the wall is known
    latest = _wall(moment, local)
    while moment < end:
        moment += MINUTE
        wall = _wall(moment, local)
        if cron.is_wildcard:
            found = cron.matches(wall)
        else:
            # The times that the clock jumped over fire now, once; those that it shows again do not.
            skipped = int((wall - latest) / MINUTE)
            found = any(cron.matches(latest + place * MINUTE) for place in range(1, skipped + 1))
        latest = max(latest, wall)
        if found and moment > start:
            yield moment


def _wall(moment: datetime, zone: ZoneInfo) -> datetime:
    return moment.astimezone(zone).replace(tzinfo=None)


def utc(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=timezone.utc)  # type: ignore[arg-type, misc]
