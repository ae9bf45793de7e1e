"""The window that a page with a chart shows, from its URL: `over` (1h, 24h, 7d), or `from` and `to`; and the chart.

`metric` is throughput, wait or run. `split` 1: by queue.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Optional

from flask import abort, url_for
from sqlalchemy.orm import Session

from webapp.console.display import times
from webapp.console.display.charts import trend_charts
from webapp.console.display.charts.trend_charts import METRICS, Chart, Page
from webapp.console.frame.params import with_query
from webapp.insight.markers import Marker, markers
from webapp.insight.trends import Trend
from webapp.insight.windows import RANGES, Range, Window, WindowError, between
from webapp.lib import clock
from webapp.lib.text import capitalize

FIELDS = ("from", "to")


@dataclass
class AskedWindow:
    """The window of a page. `problem`: what is wrong with `from` or `to`; then the window is the default range."""

    endpoint: str
    path: Mapping[str, Any]
    window: Window
    range: Optional[Range]
    ranges: Sequence[Range]
    typed: Mapping[str, str]
    metric: str
    split: bool
    problem: str = ""

    @classmethod
    def read(
        cls,
        args: Mapping[str, str],
        endpoint: str,
        *,
        ranges: Sequence[Range] = tuple(RANGES.values()),
        metrics: Sequence[str] = tuple(METRICS),
        **path: str,
    ) -> AskedWindow:
        """An unknown `over` or `metric` is a 404. `ranges`: the first is the default."""
        typed = {name: args.get(name, "").strip()[:64] for name in FIELDS}
        chosen = next((one for one in ranges if one.key == args.get("over", ranges[0].key)), None)
        if chosen is None:
            abort(404, f"Unknown time range. Expected {', '.join(one.key for one in ranges)}.")
        metric = args.get("metric", metrics[0])
        if metric not in metrics:
            abort(404, f"Unknown metric. Expected {', '.join(metrics)}.")
        asked = cls(endpoint, path, chosen.window(clock.now()), chosen, ranges, typed, metric, args.get("split") == "1")
        if any(typed.values()):
            try:
                asked.window, asked.range = _between(typed, clock.now()), None
            except WindowError as error:
                asked.problem = capitalize(str(error))
        return asked

    @property
    def status(self) -> int:
        return 422 if self.problem else 200

    @property
    def title(self) -> str:
        """'The last hour', or '29 Nov 14:00 - 15:20 CET'"""
        if self.range is not None:
            return self.range.title
        start, end = times.local(self.window.start), times.local(self.window.end)
        day = "" if start.date() == end.date() else f"{end.day} {end:%b} "
        return f"{start.day} {start:%b} {start:%H:%M} \N{EN DASH} {day}{end:%H:%M} {end.tzname()}"

    @property
    def fields(self) -> dict[str, str]:
        """The parameters of its URL that the default does not have."""
        moment = {name: clock.to_iso(at) or "" for name, at in zip(FIELDS, (self.window.start, self.window.end))}
        first = next(iter(METRICS))
        span = moment if self.range is None else {"over": self.range.key if self.range != self.ranges[0] else ""}
        return {**span, "metric": self.metric if self.metric != first else "", "split": "1" if self.split else ""}

    def url(self, **change: Any) -> str:
        """The URL of this page with some parameters changed; None removes one."""
        return with_query(url_for(self.endpoint, **self.path), {**self.fields, **change})

    def range_url(self, one: Range) -> str:
        return self.url(**{"from": None, "to": None, "over": one.key if one != self.ranges[0] else None})

    @property
    def form_values(self) -> dict[str, str]:
        """The values of the two fields with times: what was typed, if such a field can show it, or the window."""
        if self.problem:
            return {name: _as_typed(text) for name, text in self.typed.items()}
        span = (self.window.start, min(self.window.end, clock.now() // clock.seconds(60) * clock.seconds(60)))
        return {name: f"{times.local(at):%Y-%m-%dT%H:%M}" for name, at in zip(FIELDS, span)}

    def page(self, until: int, found: Sequence[Marker] = (), **fields: Optional[str]) -> Page:
        """What its charts share. `fields` narrow the lists of jobs to which bars lead."""
        return Page(self.window, until, lambda start, end: jobs_url(start, end, **fields), found)


def jobs_url(start: int, end: int, **fields: Optional[str]) -> str:
    """The list of the jobs that changed from one time to another."""
    since, until = (f"{clock.to_datetime(at):%Y-%m-%dT%H:%M:%SZ}" for at in (start, end))
    q = f"since:{since} until:{until}"
    words = fields.pop("q", None)
    return with_query(url_for("jobs.index"), {"q": f"{words} {q}" if words else q, **fields})


def draw(session: Session, asked: AskedWindow, trend: Trend, queue: Optional[str] = None) -> Chart:
    """The chart of a page, with the changes that users made in that time."""
    found = markers(session, asked.window.start, asked.window.end)
    found = [one for one in found if queue is None or one.noun != "queue" or one.name == queue]
    page = asked.page(trend.until, found, queue=queue)
    queues = trend.queues
    if asked.metric == "throughput":
        if queues:
            return trend_charts.throughput_by_queue(page, trend.points, queues)
        return trend_charts.throughput(page, trend.points)
    if queues:
        return trend_charts.durations_by_queue(page, queues, asked.metric)
    return trend_charts.durations(page, trend.points, asked.metric)


def _as_typed(text: str) -> str:
    with suppress(ValueError):
        return f"{times.local(clock.parse_iso(times.parse_form(text))):%Y-%m-%dT%H:%M}"
    return ""


def _between(typed: Mapping[str, str], now: int) -> Window:
    """Raises WindowError. Without `from`, the window is an hour long; without `to`, it ends now."""
    end = _moment(typed, "to", now)
    return between(_moment(typed, "from", min(end, now) - clock.seconds(3600)), end)


def _moment(typed: Mapping[str, str], name: str, default: int) -> int:
    if not typed[name]:
        return default
    try:
        return clock.parse_iso(times.parse_form(typed[name]))
    except ValueError as error:
        raise WindowError(name, str(error)) from None
