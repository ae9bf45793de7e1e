"""Times for a reader: absolute, in the zone of the `tz` cookie, else UTC, and named. `app.js` makes them relative.

The server never writes 'three minutes ago': a fragment would differ each time that it is asked for.
"""

from __future__ import annotations

import re
from datetime import datetime, timezone, tzinfo
from functools import lru_cache
from typing import Optional
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from flask import has_request_context, request
from markupsafe import Markup

from webapp.lib import clock

ZONE_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_+-]*(/[A-Za-z0-9_+-]+){0,2}\Z")
_WHEN = Markup('<time datetime="{iso}" title="{exact}"{mode}>{text}</time>')


@lru_cache(maxsize=128)
def _zone(name: str) -> tzinfo:
    if not ZONE_NAME.match(name):
        return timezone.utc
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return timezone.utc


def zone() -> tzinfo:
    """The reader's zone, as far as the browser has told."""
    return _zone(request.cookies.get("tz", "UTC")[:64]) if has_request_context() else timezone.utc


def local(micros: int) -> datetime:
    return clock.to_datetime(micros).astimezone(zone())


def exact(micros: Optional[int]) -> str:
    """'24 Nov 2026, 04:37:12 UTC'"""
    if micros is None:
        return "\N{EN DASH}"
    moment = local(micros)
    return f"{moment.day} {moment:%b %Y, %H:%M:%S} {moment.tzname()}"


def brief(micros: int) -> str:
    """'24 Nov 04:37 UTC', with its year where that is not this one"""
    moment = local(micros)
    year = "" if moment.year == local(clock.now()).year else f" {moment.year}"
    return f"{moment.day} {moment:%b}{year} {moment:%H:%M} {moment.tzname()}"


def when(micros: Optional[int], mode: str = "ago") -> str:
    """A time element. `mode`: `ago` ('3 min ago', 'in 5 s'), `for` ('3 min', counting on), `due` (as `ago`, but
    'any moment now' once it is there), or `exact`, which stays."""
    if micros is None:
        return Markup('<span class="muted">\N{EN DASH}</span>')
    attribute = Markup("") if mode == "exact" else Markup(' data-when="{}"').format(mode)
    text = exact(micros) if mode == "exact" else brief(micros)
    return _WHEN.format(iso=iso(micros), exact=exact(micros), mode=attribute, text=text)


def iso(micros: int) -> str:
    return clock.to_datetime(micros).strftime("%Y-%m-%dT%H:%M:%S.") + f"{micros % clock.SECOND // 1000:03d}Z"


def duration(seconds: Optional[float]) -> str:
    """'42 ms', '1.5 s', '12 s', '3 min 20 s', '2 h 5 min', '3 d 4 h': two units at most."""
    if seconds is None:
        return "\N{EN DASH}"
    if 0 < seconds < 0.9995:
        return f"{round(seconds * 1000)} ms"
    if seconds < 10:
        return f"{round(seconds, 2):g} s"
    whole = round(seconds)
    parts = ((whole // 86400, "d"), (whole % 86400 // 3600, "h"), (whole % 3600 // 60, "min"), (whole % 60, "s"))
    first = next(index for index, (number, _) in enumerate(parts) if number)
    return " ".join(f"{number} {unit}" for number, unit in parts[first : first + 2] if number)


def about(seconds: Optional[float]) -> str:
    """A duration of which two digits are known: '1 h 20 min', '170 ms', 'under 1 ms'."""
    if seconds is not None and seconds < 0.001:
        return "under 1 ms"
    return duration(None if seconds is None else float(f"{seconds:.2g}"))


def between(start: Optional[int], end: Optional[int]) -> str:
    """How long it took from one time to another."""
    if start is None or end is None:
        return "\N{EN DASH}"
    return duration(max(end - start, 0) / clock.SECOND)


_UNITS = {"": 1, "s": 1, "sec": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}
_DURATION = re.compile(r"\s*([0-9]*\.?[0-9]+)\s*([a-z]*)\s*\Z", re.IGNORECASE)


def parse_duration(text: str) -> Optional[float]:
    """Seconds that a person wrote as `90`, `10m`, `2 h` or `1d`; None for anything else."""
    match = _DURATION.match(text)
    if match is None or match[2].lower() not in _UNITS:
        return None
    return float(match[1]) * _UNITS[match[2].lower()]


def parse_form(text: str) -> str:
    """What a datetime-local field sent, as ISO 8601 with the reader's zone. Raises ValueError."""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=zone())
    return moment.isoformat()


def zone_name() -> str:
    """'Europe/Berlin' or 'UTC', for a form that asks for a time."""
    return str(zone())
