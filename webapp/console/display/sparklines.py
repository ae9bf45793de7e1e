"""Dead letters per hour as a small chart, and the same as text."""

from __future__ import annotations

from dataclasses import dataclass

from webapp.console.display.times import local
from webapp.insight.failure_groups import HOUR, Deaths

STEP, BAR, HEIGHT = 4, 3, 20  # pixels: distance of bars, their width, highest bar


@dataclass(frozen=True)
class Sparkline:
    """`path` draws the bars; `label` is the text."""

    path: str
    label: str
    width: int
    height: int = HEIGHT


def sparkline(deaths: Deaths) -> Sparkline:
    most = max(deaths.hours)
    bars = []
    for place, number in enumerate(deaths.hours):
        if number:
            height = max(round(HEIGHT * number / most), 2)
            bars.append(f"M{place * STEP} {HEIGHT}v-{height}h{BAR}v{height}z")
    return Sparkline("".join(bars), _label(deaths, most), len(deaths.hours) * STEP - (STEP - BAR))


def _label(deaths: Deaths, most: int) -> str:
    if not most:
        return "No dead letters in the last 24 hours"
    at = local(deaths.since + deaths.hours.index(most) * HOUR)
    more = " or more" if most >= deaths.cap else ""
    return f"{deaths.total} in the last 24 hours, at most {most}{more} per hour, from {at:%H:%M}"
