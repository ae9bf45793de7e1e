"""Small charts in rows of a table: deaths or runs by hour, with the same as text. `trend_charts.py` has the large ones.

No style attributes and no script: positions are SVG attributes, colours come from the stylesheet.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from webapp.console.display import times
from webapp.insight.failure_groups import Deaths
from webapp.lib.clock import HOUR

SPARK_STEP, SPARK_BAR, SPARK_HEIGHT = 4, 3, 20  # pixels: distance of bars, their width, highest bar


class Sparkline(NamedTuple):
    """`path` draws the bars; `label` is the text."""

    path: str
    label: str
    width: int
    height: int = SPARK_HEIGHT


def sparkline(deaths: Deaths) -> Sparkline:
    most = max(deaths.hours)
    label = "No dead letters in the last 24 hours"
    if most:
        at = times.local(deaths.since + deaths.hours.index(most) * HOUR)
        more = " or more" if most >= deaths.cap else ""
        label = f"{deaths.total} in the last 24 hours, at most {most}{more} per hour, from {at:%H:%M}"
    return Sparkline(_path(deaths.hours), label, len(deaths.hours) * SPARK_STEP - 1)


def run_sparkline(hours: Sequence[int]) -> Sparkline:
    """Runs that ended in each of the last hours, the current one last."""
    label = f"{sum(hours):,} runs in the last {len(hours)} hours, at most {max(hours):,} per hour"
    return Sparkline(_path(hours), label, len(hours) * SPARK_STEP - 1)


def _path(numbers: Sequence[int]) -> str:
    bars, most = [], max(numbers)
    for place, number in enumerate(numbers):
        if number:
            height = max(round(SPARK_HEIGHT * number / most), 2)
            bars.append(f"M{place * SPARK_STEP} {SPARK_HEIGHT}v-{height}h{SPARK_BAR}v{height}z")
    return "".join(bars)
