"""Charts of ended attempts: the bars and lines of an SVG, its axes, and the same as text.

No style attributes and no script: positions are SVG attributes, colours come from the stylesheet. Across, all is in
percent of the width; down, in pixels. So bars stretch and texts do not.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Callable, NamedTuple, Optional

from webapp.console.display import times
from webapp.console.display.charts.marker_text import marker_text
from webapp.console.display.wording import number
from webapp.insight.commands import Run
from webapp.insight.markers import Marker
from webapp.insight.rollups import Sum
from webapp.insight.windows import Window
from webapp.lib import clock, histograms
from webapp.lib.clock import HOUR, MINUTE
from webapp.lib.durations import about
from webapp.lib.histograms import Histogram
from webapp.lib.text import plural

HEIGHT = 180  # pixels
ACROSS = 1000  # units of the box of lines, which stretches
MAX_TICKS = 7
SHORTEST = 0.001  # seconds on a logarithmic scale
WIDE = 20  # from this ratio of the longest to the shortest duration on, the scale is logarithmic
QUANTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
METRICS = {"throughput": "Throughput", "wait": "Wait", "run": "Run"}
_TICKS = (5 * MINUTE, 10 * MINUTE, 15 * MINUTE, 30 * MINUTE, *(hours * HOUR for hours in (1, 2, 3, 6, 12)))
_ROUND_SECONDS = (
    *(base * scale for scale in (0.001, 0.01, 0.1, 1) for base in (1, 2, 5)),
    *(10, 20, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200),
)

Points = Sequence[tuple[int, Sum]]


class Bar(NamedTuple):
    """One step with attempts. `parts`: class, top and height of each. `open`: the step has not ended yet."""

    x: str
    width: str
    inner_x: str
    inner_width: str
    text: str
    url: str
    parts: list[tuple[str, float, float]]
    open: bool


class Key(NamedTuple):
    """A part of the legend: the class of its colour, its name, its figure in the window."""

    kind: str
    label: str
    value: str


class Chart(NamedTuple):
    """One chart. `levels`: texts of the upper edge, the middle and the ground. `ticks`: place and text. `dots`: class,
    place across and down, text, link. If there are no bars and no dots, the text `nothing` is shown."""

    title: str
    nothing: str
    description: str
    window: Window
    levels: tuple[str, str, str]
    ticks: list[tuple[str, str]]
    bars: list[Bar]
    lines: list[tuple[str, str]]
    legend: list[Key]
    markers: list[tuple[str, str]]
    dots: list[tuple[str, str, float, str, str]]


class Scale(NamedTuple):
    """Durations down the chart, in seconds. `low` 0: linear; else logarithmic, for durations that differ widely."""

    low: float
    top: float

    @classmethod
    def of(cls, found: Iterable[float]) -> Scale:
        values = [max(seconds, SHORTEST) for seconds in found]
        top, least = _round_seconds(max(values, default=1)), min(values, default=1)
        return cls(0 if top / least <= WIDE else _round_down(least), top)

    def y(self, seconds: float) -> float:
        if not self.low:
            return round(HEIGHT - seconds / self.top * HEIGHT, 1)
        part = math.log(max(seconds, self.low) / self.low) / math.log(self.top / self.low)
        return round(HEIGHT - part * HEIGHT, 1)

    @property
    def levels(self) -> tuple[str, str, str]:
        middle = math.sqrt(self.low * self.top) if self.low else self.top / 2
        return about(self.top), about(middle), about(self.low) if self.low else "0"


class Page(NamedTuple):
    """What all charts of a page share. `url_of`: the page of the jobs that changed from one time to another."""

    window: Window
    until: int
    url_of: Callable[[int, int], str]
    markers: Sequence[Marker] = ()

    def across(self, at: float) -> float:
        """A place in percent."""
        return (at - self.window.start) / (self.window.end - self.window.start) * 100


# --- what charts show ------------------------------------------------------------------------------------------------


def throughput(page: Page, points: Points) -> Chart:
    """Runs by result. Failed attempts with which their jobs gave up are shown apart."""

    def parts(one: Sum) -> dict[str, int]:
        return {"completed": one.completed, "failed": max(one.failed - one.dead, 0), "dead": one.dead}

    def text(one: Sum) -> str:
        return f"{one.completed:,} completed, {one.failed:,} failed, {one.dead:,} gave up"

    total = _total(points)
    legend = [
        Key("completed", "completed", f"{total.completed:,}"),
        Key("failed", "failed", f"{total.failed:,}"),
        Key("dead", "gave up", f"{total.dead:,}"),
    ]
    if total.lost:
        legend.append(Key("", "lost (worker crashed)", f"{total.lost:,}"))
    bars, top = _bars(page, points, {at: parts(one) for at, one in points}, text)
    most = max((one.ended for _, one in points), default=0)
    description = (
        f"{plural(total.completed, 'run')} completed, {total.failed:,} failed, {plural(total.dead, 'job')} gave up"
    )
    return _chart(page, "Throughput", f"{description}, at most {most:,} runs {step_text(page.window)}.",
                  _levels(top), bars, legend=legend)  # fmt: skip


def throughput_by_queue(page: Page, points: Points, queues: Mapping[str, Points]) -> Chart:
    """Runs by queue; the other queues are one part."""
    parts: dict[int, dict[str, int]] = {at: {} for at, _ in points}
    for place, found in enumerate(queues.values()):
        for at, one in found:
            if at in parts:
                parts[at][f"q{place}"] = one.ended
    for at, one in points:
        parts[at]["others"] = max(one.ended - sum(parts[at].values()), 0)
    names = {f"q{place}": queue for place, queue in enumerate(queues)} | {"others": "other queues"}
    totals = {kind: sum(one.get(kind, 0) for one in parts.values()) for kind in names}
    texts = {
        at: ", ".join(f"{names[kind]} {count:,}" for kind, count in found.items() if count)
        for at, found in parts.items()
    }
    bars, top = _bars(page, points, parts, lambda _: "", texts)
    legend = [Key(kind, names[kind], f"{count:,}") for kind, count in totals.items() if count]
    description = ", ".join(f"{key.label} {plural(totals[key.kind], 'run')}" for key in legend)
    return _chart(page, "Throughput by queue", f"{description}.", _levels(top), bars, legend=legend)


def durations(page: Page, points: Points, metric: str) -> Chart:
    """p50, p95 and p99 of the waits or runs of each step."""
    series = {name: [(at, _quantile(one, metric, part)) for at, one in points] for name, part in QUANTILES.items()}
    total = _total(points)
    legend = [Key(name, name, about(_quantile(total, metric, part))) for name, part in QUANTILES.items()]

    def text(one: Sum) -> str:
        shown = (f"{name} {about(_quantile(one, metric, part))}" for name, part in QUANTILES.items())
        return f"{', '.join(shown)}; {plural(sum(_histogram(one, metric).values()), 'run')}"

    texts = {at: text(one) for at, one in points if _histogram(one, metric)}
    description = f"{METRICS[metric]}: {', '.join(f'{key.label} {key.value}' for key in legend)}."
    return _line_chart(page, f"{METRICS[metric]} time", description, points, series, legend, texts)


def durations_by_queue(page: Page, queues: Mapping[str, Points], metric: str) -> Chart:
    """p95 of the waits or runs of each queue."""
    series, legend, texts = {}, [], dict[int, str]()
    for place, (queue, points) in enumerate(queues.items()):
        found = [(at, _quantile(one, metric, 0.95)) for at, one in points]
        series[f"q{place}"] = found
        legend.append(Key(f"q{place}", queue, about(_quantile(_total(points), metric, 0.95))))
        for at, seconds in found:
            if seconds is not None:
                texts[at] = f"{texts[at]}, {queue} {about(seconds)}" if at in texts else f"p95 {queue} {about(seconds)}"
    description = f"{METRICS[metric]}, p95: {', '.join(f'{key.label} {key.value}' for key in legend)}."
    first = next(iter(queues.values()), ())
    return _line_chart(page, f"{METRICS[metric]} time by queue, p95", description, first, series, legend, texts)


def scatter(page: Page, runs: Sequence[Run], job_url: Callable[[str], str]) -> Chart:
    """The duration of each run."""
    scale = Scale.of(run.seconds for run in runs)
    dots = [
        (
            "failed" if run.failed else "completed",
            f"{page.across(run.finished_at):.2f}%",
            scale.y(run.seconds),
            f"{times.brief(run.finished_at)}: {about(run.seconds)}{', failed' if run.failed else ''}",
            job_url(run.job),
        )
        for run in runs
    ]
    description = f"Durations of {plural(len(runs), 'run')}."
    return Chart("Durations", "No runs.", description, page.window, scale.levels, _ticks(page), [], [], [],
                 _marks(page), dots)  # fmt: skip


# --- how they are drawn ----------------------------------------------------------------------------------------------


def _bars(
    page: Page,
    points: Points,
    parts: Mapping[int, Mapping[str, int]],
    text: Callable[[Sum], str],
    texts: Optional[Mapping[int, str]] = None,
) -> tuple[list[Bar], int]:
    """Stacked bars, and the number of runs at the upper edge. `text` or `texts`: what a bar says."""
    top = _round_up(max((sum(found.values()) for found in parts.values()), default=0))
    bars = []
    for at, one in points:
        if any(parts[at].values()) or one.lost:
            shown = texts[at] if texts is not None else text(one)
            bars.append(_bar(page, at, shown, _stack(parts[at], top)))
    return bars, top


def _bar(page: Page, at: int, text: str, parts: list[tuple[str, float, float]]) -> Bar:
    step, end = page.window.step, at + page.window.step
    x, width = page.across(at), step / (page.window.end - page.window.start) * 100
    is_open = page.until < end
    said = f"{moment(at, page.window)}: {text}{' so far' if is_open else ''}"
    return Bar(f"{x:.3f}%", f"{width:.3f}%", f"{x + width * 0.1:.3f}%", f"{width * 0.8:.3f}%", said,
               page.url_of(at, end), parts, is_open)  # fmt: skip


def _line_chart(
    page: Page,
    title: str,
    description: str,
    points: Points,
    series: Mapping[str, Sequence[tuple[int, Optional[float]]]],
    legend: list[Key],
    texts: Mapping[int, str],
) -> Chart:
    scale = Scale.of(seconds for found in series.values() for _, seconds in found if seconds is not None)
    lines = [(kind, _path(page, found, scale)) for kind, found in reversed(list(series.items()))]  # the first is on top
    bars = [_bar(page, at, texts[at], []) for at, _ in points if at in texts]
    return _chart(page, title, description, scale.levels, bars, lines, legend)


def _path(page: Page, found: Sequence[tuple[int, Optional[float]]], scale: Scale) -> str:
    """A level for each step; neighbours are joined, gaps are not."""
    path, joined = [], False
    unit = ACROSS / (page.window.end - page.window.start)
    for at, seconds in found:
        if seconds is None:
            joined = False
            continue
        left, right = (at - page.window.start) * unit, (at + page.window.step - page.window.start) * unit
        path.append(f"{'V' if joined else f'M{left:.1f} '}{scale.y(seconds):g}H{right:.1f}")
        joined = True
    return "".join(path)


def _chart(
    page: Page,
    title: str,
    description: str,
    levels: tuple[str, str, str],
    bars: list[Bar],
    lines: Sequence[tuple[str, str]] = (),
    legend: Sequence[Key] = (),
) -> Chart:
    return Chart(title, "No runs ended in this time.", description, page.window, levels, _ticks(page), bars,
                 list(lines), list(legend), _marks(page), [])  # fmt: skip


def _stack(parts: Mapping[str, int], top: int) -> list[tuple[str, float, float]]:
    stack, foot = [], float(HEIGHT)
    for kind, count in parts.items():
        if count:
            height = max(round(count / top * HEIGHT, 1), 2)  # keep one in a thousand visible
            foot = max(round(foot - height, 1), 0)
            stack.append((kind, foot, height))
    return stack


def _levels(top: int) -> tuple[str, str, str]:
    return f"{top:,}", number(top / 2), "0"


def _round_up(most: int) -> int:
    """The next of 2, 4, 6, 8, 10, 20 …"""
    scale = 1
    while most > 10 * scale:
        scale *= 10
    return next(step * scale for step in (1, 2, 4, 6, 8, 10) if most <= step * scale and step * scale > 1)


def _round_seconds(most: float) -> float:
    """The next round duration, such as 20 ms, 5 s or 30 min; from a day on, in days."""
    days = -(-most // 86400) * 86400
    return next((seconds for seconds in _ROUND_SECONDS if most <= seconds), days)


def _round_down(least: float) -> float:
    return max((seconds for seconds in _ROUND_SECONDS if seconds <= least), default=SHORTEST)


def _ticks(page: Page) -> list[tuple[str, str]]:
    """At most MAX_TICKS round times of the user's clock, with their places. None at the very edges."""
    start, end = page.window.start, page.window.end
    step = next((step for step in _TICKS if (end - start) / step <= MAX_TICKS), None)
    found = _days(start, end) if step is None else _times(start, end, step)
    return [(f"{page.across(at):.2f}%", text) for at, text in found if 2 <= page.across(at) <= 98]


def _times(start: int, end: int, step: int) -> Iterable[tuple[int, str]]:
    offset = times.local(start).utcoffset() or timedelta()
    shift = offset // timedelta(microseconds=1)
    for at in range((start + shift) // step * step - shift, end, step):
        shown = times.local(at)
        yield at, f"{shown:%a} {shown.day}" if (shown.hour, shown.minute) == (0, 0) else f"{shown:%H:%M}"


def _days(start: int, end: int) -> Iterable[tuple[int, str]]:
    every = -(-(end - start) // clock.DAY // MAX_TICKS) or 1
    first = times.local(start)
    for number_of_days in range(0, (end - start) // clock.DAY + 2, every):
        day = first.date() + timedelta(days=number_of_days)
        midnight = datetime(day.year, day.month, day.day, tzinfo=first.tzinfo)
        yield clock.seconds(midnight.timestamp()), f"{midnight:%a} {midnight.day}"


def _marks(page: Page) -> list[tuple[str, str]]:
    return [
        (f"{page.across(one.at):.2f}%", f"{moment(one.at, page.window)} {marker_text(one)}") for one in page.markers
    ]


# --- texts -----------------------------------------------------------------------------------------------------------


def moment(at: int, window: Window) -> str:
    """A time in the user's time zone: '14:05', or 'Tue 14:05' where the window is longer than half a day."""
    return times.local(at).strftime("%H:%M" if window.end - window.start <= clock.DAY // 2 else "%a %H:%M")


def step_text(window: Window) -> str:
    """'per minute', 'per 30 min'"""
    return "per minute" if window.step == MINUTE else f"per {about(window.step / clock.SECOND)}"


def rows(points: Points, window: Window) -> list[tuple[str, Sum]]:
    """The steps with ended attempts and their start, newest first, for a table."""
    return [(moment(at, window), one) for at, one in reversed(points) if one.completed or one.failed or one.lost]


def _total(points: Points) -> Sum:
    total = Sum()
    for _, one in points:
        total.add(one)
    return total


def _histogram(one: Sum, metric: str) -> Histogram:
    return one.waits if metric == "wait" else one.runs


def _quantile(one: Sum, metric: str, part: float) -> Optional[float]:
    return histograms.quantile(_histogram(one, metric), part)
