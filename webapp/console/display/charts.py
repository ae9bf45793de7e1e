"""Charts of finished attempts, and small ones of dead letters: the bars of an SVG, and the same as text.

No style attributes and no script: positions are SVG attributes, colours come from the stylesheet. The labels are
outside the SVG, because it is stretched to the available width.
"""

from __future__ import annotations

from typing import Callable, NamedTuple

from webapp.console.display import times
from webapp.insight.failure_groups import HOUR, Deaths
from webapp.insight.rollups import Sum
from webapp.insight.trends import Trend
from webapp.lib.text import plural

HEIGHT = 100  # in units of the view box; each bar with its gap is STEP wide
STEP = 10
GAP = 2


class Bar(NamedTuple):
    """One step of the range. `parts`: class, top and height of each. `open`: the step has not ended yet."""

    x: int
    text: str
    parts: list[tuple[str, float, float]]
    open: bool


class Chart(NamedTuple):
    """One chart. `top` is the value of its upper edge; if it is 0, the text `nothing` is shown."""

    id: str
    title: str
    nothing: str
    description: str
    width: int
    top: int
    bars: list[Bar]


STEPS = {"1h": "per minute", "24h": "per 30 minutes", "7d": "per 3 hours"}
AXES = {
    "1h": ("1 h ago", "30 min ago", "now"),
    "24h": ("24 h ago", "12 h ago", "now"),
    "7d": ("7 d ago", "3½ d ago", "now"),
}


def throughput(trend: Trend) -> Chart:
    def shown(one: Sum) -> tuple[str, dict[str, int]]:
        return f"{one.completed:,} completed", {"completed": one.completed}

    summary = f"{trend.total.completed:,} completed"
    return _chart(trend, "throughput", "Completed", "No completed jobs.", summary, shown)


def failures(trend: Trend) -> Chart:
    """Failed attempts; those after which a job gave up are shown apart."""

    def shown(one: Sum) -> tuple[str, dict[str, int]]:
        parts = {"dead": one.dead, "failed": max(one.failed - one.dead, 0)}
        return f"{one.failed:,} failed, {one.dead:,} gave up", parts

    summary = f"{trend.total.failed:,} failed, {plural(trend.total.dead, 'job')} gave up"
    return _chart(trend, "failures", "Failed attempts", "No failed attempts.", summary, shown)


def _chart(
    trend: Trend, id_: str, title: str, nothing: str, summary: str, shown: Callable[[Sum], tuple[str, dict[str, int]]]
) -> Chart:
    """`shown`: the text of a step, and the height of each part."""
    steps = [(at, *shown(one)) for at, one in trend.points]
    most = max(sum(parts.values()) for _, _, parts in steps)
    top = _round_up(most)
    bars = []
    for index, (at, text, parts) in enumerate(steps):
        if any(parts.values()):
            is_open = index == len(steps) - 1
            text = f"{moment(at, trend)}: {text}{' so far' if is_open else ''}"
            bars.append(Bar(index * STEP + GAP // 2, text, _stack(parts, top), is_open))
    peak = f", at most {most:,} {STEPS[trend.range.key]}" if most else ""
    description = f"{trend.range.title}: {summary}{peak}."
    return Chart(id_, title, nothing, description, len(steps) * STEP, top, bars)


def _stack(parts: dict[str, int], top: int) -> list[tuple[str, float, float]]:
    stack, foot = [], float(HEIGHT)
    for kind, number in parts.items():
        if number:
            height = max(round(number / top * HEIGHT, 1), 1.5)  # keep one in a thousand visible
            foot = max(round(foot - height, 1), 0)
            stack.append((kind, foot, height))
    return stack


def _round_up(most: int) -> int:
    """The next of 1, 2, 3, 4, 5, 6, 8, 10, 20 …"""
    scale = 1
    while most > 10 * scale:
        scale *= 10
    return next((step * scale for step in (1, 2, 3, 4, 5, 6, 8, 10) if most <= step * scale), 1) if most else 0


def lines(trend: Trend) -> list[tuple[str, Sum]]:
    """The steps with finished attempts and their start, newest first."""
    points = reversed(trend.points)
    return [(moment(at, trend), one) for at, one in points if one.completed or one.failed or one.lost]


def moment(at: int, trend: Trend) -> str:
    """The start of a step in the user's time zone: '14:05' or 'Tue 14:00'."""
    return times.local(at).strftime("%H:%M" if trend.range.key == "1h" else "%a %H:%M")


SPARK_STEP, SPARK_BAR, SPARK_HEIGHT = 4, 3, 20  # pixels: distance of bars, their width, highest bar


class Sparkline(NamedTuple):
    """`path` draws the bars; `label` is the text."""

    path: str
    label: str
    width: int
    height: int = SPARK_HEIGHT


def sparkline(deaths: Deaths) -> Sparkline:
    most = max(deaths.hours)
    bars = []
    for place, number in enumerate(deaths.hours):
        if number:
            height = max(round(SPARK_HEIGHT * number / most), 2)
            bars.append(f"M{place * SPARK_STEP} {SPARK_HEIGHT}v-{height}h{SPARK_BAR}v{height}z")
    label = "No dead letters in the last 24 hours"
    if most:
        at = times.local(deaths.since + deaths.hours.index(most) * HOUR)
        more = " or more" if most >= deaths.cap else ""
        label = f"{deaths.total} in the last 24 hours, at most {most}{more} per hour, from {at:%H:%M}"
    return Sparkline("".join(bars), label, len(deaths.hours) * SPARK_STEP - 1)
