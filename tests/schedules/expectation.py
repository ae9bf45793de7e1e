"""The fires of cron, computed independently of the product: a walk over every minute of UTC with zoneinfo."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from zoneinfo import ZoneInfo

MINUTE = timedelta(minutes=1)
_NAMES = {name: number for number, name in enumerate(["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"])}


class Cron:
    """The five fields as sets, by Debian's rules. Understands lists, ranges, steps and names of days."""

    def __init__(self, text: str) -> None:
        self.text = text
        minute, hour, day, month, weekday = text.split()
        self.minutes, self.hours = _numbers(minute, 0, 59), _numbers(hour, 0, 23)
        self.days, self.months = _numbers(day, 1, 31), _numbers(month, 1, 12)
        self.weekdays = {number % 7 for number in _numbers(weekday, 0, 7)}
        self.both_days = day.startswith("*") or weekday.startswith("*")
        self.is_wildcard = minute.startswith("*") or hour.startswith("*")

    def has_day(self, wall: datetime) -> bool:
        days = (wall.day in self.days, wall.isoweekday() % 7 in self.weekdays)
        return wall.month in self.months and (all(days) if self.both_days else any(days))


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


def fires(texts: Sequence[str], zone: str, start: datetime, end: datetime) -> dict[str, list[datetime]]:
    """The fires of each expression after `start`, until `end`, in UTC. Both are whole minutes of UTC.

    One walk serves all expressions, because the time on the wall costs most.
    """
    crons = [Cron(one) for one in texts]
    by_time = [
        [cron for cron in crons if time // 60 in cron.hours and time % 60 in cron.minutes] for time in range(24 * 60)
    ]

    def matching(wall: datetime) -> list[Cron]:
        return [cron for cron in by_time[wall.hour * 60 + wall.minute] if cron.has_day(wall)]

    found: dict[str, list[datetime]] = {one: [] for one in texts}
    local = ZoneInfo(zone)
    moment = start - timedelta(days=1)  # so that the latest time on the wall is known
    latest = _wall(moment, local)
    while moment < end:
        moment += MINUTE
        wall = _wall(moment, local)
        shown = now = matching(wall)
        if wall - latest != MINUTE:
            # The times that the clock jumped over fire now, once; those that it shows again do not.
            jumped = [latest + place * MINUTE for place in range(1, int((wall - latest) / MINUTE) + 1)]
            shown = list({cron for one in jumped for cron in matching(one)})
        latest = max(latest, wall)
        if moment > start:
            for cron in crons if now is not shown else now:
                if cron in (now if cron.is_wildcard else shown):
                    found[cron.text].append(moment)
    return found


def _wall(moment: datetime, zone: ZoneInfo) -> datetime:
    return moment.astimezone(zone).replace(tzinfo=None)


def utc(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=timezone.utc)  # type: ignore[arg-type, misc]
