"""When a schedule fires: a cron expression in a time zone, or a fixed interval. Reads no database.

At changes of the clock it follows Debian's cron: a fixed time that does not exist fires when the gap ends, a fixed time
that exists twice fires once, and a wildcard (`*/20 2`) fires at all times that exist.
"""

from __future__ import annotations

import hashlib
import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from functools import lru_cache
from typing import Optional
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from webapp.core.job_spec import FieldError, SpecError
from webapp.lib import clock, time_zones
from webapp.lib.durations import duration
from webapp.lib.text import plural, shorten

ALIASES = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
# Name, lowest, highest. H uses days 1 to 28, which each month has, and one name for Sunday.
_FIELDS = (("minute", 0, 59), ("hour", 0, 23), ("day of month", 1, 31), ("month", 1, 12), ("day of week", 0, 7))
_H_HIGHEST = (59, 23, 28, 12, 6)
_H = re.compile(r"H(?:\((\d+)-(\d+)\))?(?:/(\d+))?")
_HOUR = timedelta(hours=1)
LATEST = clock.parse_iso("9998-12-31T23:59:59Z")  # no fire is after it: dates end a year later
_LONGEST_CHANGE = timedelta(hours=25)  # of a clock; Samoa left out a day


@dataclass(frozen=True)
class Timing:
    """When a schedule fires. Exactly one of `cron` and `every` is set.

    Attributes:
        name: of the schedule; `H` and `spread` choose a time by its hash.
        every: seconds between two fires, counted from `anchor`.
        anchor: microseconds since 1970 UTC.
        spread: seconds; all fires are delayed by a fixed time up to this.
        starts_at, ends_at: microseconds; no fire is before or after.
    """

    name: str
    cron: Optional[str] = None
    every: Optional[int] = None
    anchor: int = 0
    tz: str = "UTC"
    spread: int = 0
    starts_at: Optional[int] = None
    ends_at: Optional[int] = None

    @property
    def offset(self) -> int:
        """Microseconds that each fire is later because of `spread`."""
        return _hash(f"{self.name}:spread") % self.spread * clock.SECOND if self.spread else 0

    def after(self, moment: int) -> Iterator[int]:
        """The fires after a moment, in order. Both in microseconds since 1970 UTC. Raises SpecError, see `zone_of`."""
        latest = moment if self.starts_at is None else max(moment, self.starts_at - 1)
        for due in self._all_after(latest - self.offset):
            due += self.offset
            if due > (LATEST if self.ends_at is None else min(self.ends_at, LATEST)):
                return
            if due > latest:
                latest = due
                yield due

    def next_after(self, moment: int) -> Optional[int]:
        return next(self.after(moment), None)

    def _all_after(self, moment: int) -> Iterator[int]:
        if self.every is not None:
            interval = self.every * clock.SECOND
            due = self.anchor + ((moment - self.anchor) // interval + 1) * interval
            while True:
                yield due
                due += interval
        cron = plain_cron(self.cron or "", self.name)
        for fire in _fires(cron, zone_of(self.tz), clock.to_datetime(moment)):
            yield int(fire.timestamp()) * clock.SECOND

    def shortest_gap(self, moment: int) -> Optional[float]:
        """The shortest time between two of the next 50 fires, in seconds."""
        fires = [due for due, _ in zip(self.after(moment), range(50))]
        return min(((later - due) / clock.SECOND for due, later in zip(fires, fires[1:])), default=None)


def zone_of(name: str) -> ZoneInfo:
    """Raises SpecError for an unknown zone."""
    try:
        return time_zones.zone_of(name)
    except ValueError as error:
        raise SpecError([FieldError("tz", str(error))]) from None


@lru_cache(maxsize=4096)
def plain_cron(text: str, name: str) -> str:
    """The five fields that cronsim understands: without aliases, `?` and `H`. Raises SpecError."""
    stripped = text.strip()
    if stripped.startswith("@"):
        alias = ALIASES.get(stripped.lower())
        if alias is None:
            raise _bad(f"{shorten(ascii(stripped), 60)} is not allowed; expected one of {', '.join(ALIASES)}.")
        return alias
    parts = stripped.upper().split()
    if len(parts) != len(_FIELDS):
        names = ", ".join(field for field, _, _ in _FIELDS)
        raise _bad(f"has {plural(len(parts), 'field')}; expected 5: {names}. Example: 0 2 * * *")
    for index in (2, 4):
        parts[index] = "*" if parts[index] == "?" else parts[index]
    plain = [_without_hash(part, name, index) for index, part in enumerate(parts)]
    for index, part in enumerate(plain):
        alone = ["*"] * len(_FIELDS)
        alone[index] = part
        field, lowest, highest = _FIELDS[index]
        try:
            CronSim(" ".join(alone), datetime(2026, 1, 1, tzinfo=timezone.utc))
        except (CronSimError, ValueError):
            rule = f"expected * or numbers from {lowest} to {highest}, as lists 1,2, ranges 1-5 or steps */5"
            raise _bad(f"{field} {shorten(ascii(part), 60)} is not allowed; {rule}.") from None
    cron = " ".join(plain)
    try:
        first = next(CronSim(cron, datetime(2026, 1, 1, tzinfo=timezone.utc)), None)
    except CronSimError:
        first = None
    if first is None:
        raise _bad(f"{shorten(ascii(stripped), 60)} never fires: no month has such a day.")
    return cron


def _bad(message: str) -> SpecError:
    return SpecError([FieldError("cron", message)])


def _without_hash(part: str, name: str, index: int) -> str:
    """Replace `H`, `H(0-29)` and `H/15` by a number that depends on the schedule's name only."""
    if "H" not in part or "TH" in part or "MARCH" in part:  # THU
        return part
    field, lowest, highest = _FIELDS[index][0], _FIELDS[index][1], _H_HIGHEST[index]
    match = _H.fullmatch(part)
    if match is None:
        raise _bad(f"{field} {shorten(ascii(part), 60)} is not allowed; expected H, H(a-b) or H/n.")
    first, last, step = (None if group is None else int(group) for group in match.groups())
    first, last = lowest if first is None else first, highest if last is None else last
    size = last - first + 1 if step is None else min(step, last - first + 1)
    if not lowest <= first <= last <= highest or size < 1:
        raise _bad(f"{field} {shorten(ascii(part), 60)} is not allowed; expected numbers from {lowest} to {highest}.")
    chosen = first + _hash(f"{name}:{index}") % size
    return str(chosen) if step is None else f"{chosen}-{last}/{step}"


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


# --- time zones ------------------------------------------------------------------------------------------------------


def follows_wildcards(cron: str) -> bool:
    """Whether it fires at all matching times that exist, also when the clock changes. Else once for each time."""
    minute, hour = cron.split()[:2]
    return minute.startswith("*") or hour.startswith("*")


def _fires(cron: str, zone: ZoneInfo, start: datetime) -> Iterator[datetime]:
    """The fires from about `start`, in order, in UTC. Some may be earlier or repeated.

    cronsim finds the times on the wall clock; its own time zones fail where the clock changes by half an hour.
    """
    around = {(start + side).astimezone(zone).utcoffset() for side in (-_LONGEST_CHANGE, timedelta(), _LONGEST_CHANGE)}
    if len(around) > 1:
        start -= _LONGEST_CHANGE  # times that the clock shows before `start` may fire after it
    wildcards = follows_wildcards(cron)
    repeated: deque[datetime] = deque()  # times that the clock shows again after a change
    for wall in CronSim(cron, start.astimezone(zone).replace(tzinfo=None)):
        first = wall.replace(tzinfo=zone).astimezone(timezone.utc)
        second = wall.replace(tzinfo=zone, fold=1).astimezone(timezone.utc)
        if first > second:  # the clock jumps over this time
            if wildcards:
                continue
            first = _change_between(zone, second, first)
        elif first < second and wildcards:
            repeated.append(second)
        while repeated and repeated[0] <= first:
            yield repeated.popleft()
        yield first


def _change_between(zone: ZoneInfo, low: datetime, high: datetime) -> datetime:
    """The moment at which the offset changes, to the second."""
    before = low.astimezone(zone).utcoffset()
    while high - low > timedelta(seconds=1):
        middle = low + (high - low) / 2
        low, high = (middle, high) if middle.astimezone(zone).utcoffset() == before else (low, middle)
    return (high + timedelta(seconds=30)).replace(second=0, microsecond=0)


# --- in words --------------------------------------------------------------------------------------------------------


def in_words(timing: Timing) -> str:
    """'At 02:00 every day', 'Every 15 min'."""
    if timing.every is not None:
        words = f"Every {duration(timing.every)}"
    else:
        words = _cron_in_words(plain_cron(timing.cron or "", timing.name))
    return words if not timing.offset else f"{words}, {duration(timing.offset / clock.SECOND)} later"


def _cron_in_words(cron: str) -> str:
    minute, hour, day, month, weekday = cron.split()
    if day.startswith("*") or weekday.startswith("*"):
        return _explained(cron)
    # If both days are given, cron fires on either; cronsim's own words say "and".
    of_weekday = _explained(f"{minute} {hour} * {month} {weekday}")
    return f"{_explained(f'{minute} {hour} {day} {month} *')}, or {of_weekday[of_weekday.rindex(' on ') + 1 :]}"


def _explained(cron: str) -> str:
    return CronSim(cron, datetime(2026, 1, 1, tzinfo=timezone.utc)).explain()


@dataclass(frozen=True)
class ClockChange:
    """A fire that a clock change affects. `wall`: its time in the zone, without offset."""

    wall: datetime
    words: str


def clock_changes(timing: Timing, start: int, end: int) -> list[ClockChange]:
    """How clock changes affect the fires between two moments (microseconds since 1970 UTC)."""
    if timing.cron is None:
        return []
    zone, cron = zone_of(timing.tz), plain_cron(timing.cron, timing.name)
    if timing.starts_at is not None:
        start = max(start, timing.starts_at)
    wildcards = follows_wildcards(cron)
    found = []
    for change in _changes(zone, clock.to_datetime(start), clock.to_datetime(end)):
        before, after = (moment.astimezone(zone).utcoffset() or timedelta() for moment in (change - _HOUR, change))
        wall = change.replace(tzinfo=None) + min(before, after)
        length = abs(after - before)
        names = list(_walls(cron, wall, wall + length))
        if after > before:
            happens = "does not exist: " + ("skipped" if wildcards else f"runs at {wall + length:%H:%M} instead")
        else:
            happens = "occurs twice: " + ("runs both times" if wildcards else "runs once, at the first")
        found += [ClockChange(name, f"{name:%H:%M} {happens}") for name in names]
    return found


def _walls(cron: str, start: datetime, end: datetime) -> Iterator[datetime]:
    """Times on a wall clock that match, from `start` until before `end`."""
    for fire in CronSim(cron, start - timedelta(seconds=1)):
        if fire >= end:
            return
        yield fire


def _changes(zone: ZoneInfo, start: datetime, end: datetime) -> Iterator[datetime]:
    """The moments between two at which the zone's offset changes, in UTC, to the minute."""

    def offset(moment: datetime) -> Optional[timedelta]:
        return moment.astimezone(zone).utcoffset()

    day = start
    while day < end:
        following = min(day + timedelta(days=1), end)
        if offset(day) != offset(following):
            yield _change_between(zone, day, following)
        day = following
