"""Durations as people write and read them: `10min`, `1.5h`, '3 min 20 s'."""

from __future__ import annotations

import math
from string import ascii_letters
from typing import Optional

from webapp.lib import clock

UNITS = {"": 1, "s": 1, "sec": 1, "m": 60, "min": 60, "h": 3600, "d": 86400, "w": 7 * 86400}  # seconds
RULE = "expected seconds, or a number with s, min, h, d or w, such as 90, 10min, 1.5h or 2d"


def parse(text: str) -> float:
    """Seconds, from a number and one of UNITS. Raises ValueError; its message needs the field's name in front."""
    number = text.strip().rstrip(ascii_letters)
    try:
        if not number.isascii() or "_" in number:  # float() takes 1_0 and digits of any script
            raise ValueError(number)
        seconds = float(number) * UNITS[text.strip()[len(number) :].lower()]
    except (ValueError, KeyError):
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise ValueError(f"{text[:40]!r} is not a duration; {RULE}.")
    return seconds


def duration(seconds: Optional[float]) -> str:
    """'42 ms', '1.5 s', '12 s', '3 min 20 s', '2 h 5 min', '3 d 4 h': at most two units; a dash for None."""
    if seconds is None:
        return "\N{EN DASH}"
    if 0 < seconds < 0.9995:
        return f"{round(seconds * 1000)} ms"
    if seconds < 10:
        return f"{round(max(seconds, 0), 2):g} s"
    whole = round(seconds)
    parts = ((whole // 86400, "d"), (whole % 86400 // 3600, "h"), (whole % 3600 // 60, "min"), (whole % 60, "s"))
    first = next(index for index, (number, _) in enumerate(parts) if number)
    return " ".join(f"{number} {unit}" for number, unit in parts[first : first + 2] if number)


def short(seconds: int) -> str:
    """'15m' from 900, '' from 0: what `parse` reads, for a form."""
    if not seconds:
        return ""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds % size == 0:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


def about(seconds: Optional[float]) -> str:
    """A duration with two significant digits: '1 h 20 min', '170 ms', 'under 1 ms'."""
    if seconds is not None and seconds < 0.001:
        return "under 1 ms"
    return duration(None if seconds is None else float(f"{seconds:.2g}"))


def between(start: Optional[int], end: Optional[int]) -> str:
    """The duration between two times in microseconds; a dash if one of them is None."""
    return duration(None if start is None or end is None else max(end - start, 0) / clock.SECOND)
