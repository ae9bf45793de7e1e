"""Deaths per hour as a small drawing: bars in one path, and the same in words."""

from __future__ import annotations

from dataclasses import dataclass

from webapp.console.times import local
from webapp.insight.failure_groups import HOUR, Deaths

STEP, BAR, HEIGHT = 4, 3, 20  # pixels: from bar to bar, a bar's width, the highest one


@dataclass(frozen=True)
class Sparkline:
    """`path` draws the bars from left to right; `label` says what they show."""

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
        return "None died in the last 24 hours"
    at = local(deaths.since + deaths.hours.index(most) * HOUR)
    more = " or more" if most >= deaths.cap else ""
    return f"{deaths.total} died in the last 24 hours, most from {at:%H:%M} on: {most}{more}"
