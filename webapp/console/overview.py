"""The overview: what needs attention, jobs by state, a chart whose window the page follows, failures, workers."""

from __future__ import annotations

from typing import Optional

from flask import Blueprint, request
from flask.typing import ResponseReturnValue

from webapp.console.display import times
from webapp.console.display.attention import needs
from webapp.console.display.charts import chart_window, trend_charts
from webapp.console.display.charts.chart_window import AskedWindow
from webapp.console.display.charts.sparklines import sparkline
from webapp.console.display.charts.trend_charts import METRICS, QUANTILES
from webapp.console.frame import htmx
from webapp.db.engines import reading
from webapp.insight import exact_counts, failure_groups, fleet, trends
from webapp.insight.failure_groups import DeadGroup
from webapp.insight.rollups import REST, Commands
from webapp.insight.windows import Window
from webapp.jobs import demo, queries, settings
from webapp.lib import histograms
from webapp.notifications import views as notifications

pages = Blueprint("overview", __name__)

MOST_FAILURES = 8  # groups
LATEST_GROUPS = 25  # among which these are searched
MOST_COMMANDS = 6  # of the busiest, and half as many of those that fail most
MOST_WORKERS = 12


@pages.get("/")
def index() -> ResponseReturnValue:
    """For the parameters see `display/chart_window.py`."""
    asked = AskedWindow.read(request.args, "overview.index")
    with reading() as session:
        counts = exact_counts.of_states(session)
        values = settings.load(session)
        running = fleet.workers(session, values.lease)
        trend = trends.trend(session, asked.window, split=asked.split)
        groups = failure_groups.listing(session, size=LATEST_GROUPS).groups
        found = _top_failures(groups, None if asked.range else asked.window)
        return htmx.page(
            "overview",
            session,
            asked.status,
            needs=needs(session, running, values),
            unheard=not notifications.has_rules(session),
            counts=counts,
            oldest=queries.oldest_pending(session),
            first_run=demo.first_run(session),
            fleet=running,
            most_workers=MOST_WORKERS,
            asked=asked,
            metrics=METRICS,
            zone=times.zone_name(),
            trend=trend,
            chart=chart_window.draw(session, asked, trend),
            lines=trend_charts.rows(trend.points, trend.window),
            quantile=histograms.quantile,
            quantiles=QUANTILES,
            commands=_commands(trend),
            rest=REST,
            failures=found,
            sparks={one.key: sparkline(one.deaths) for one in found},
        )


def _top_failures(groups: list[DeadGroup], window: Optional[Window]) -> list[DeadGroup]:
    """Open groups with the most deaths in the last 24 hours, then in all. In a window: those that died meanwhile."""
    shown = [
        one
        for one in groups
        if one.is_open and (window is None or (one.last_at >= window.start and one.first_at < window.end))
    ]
    return sorted(shown, key=lambda one: (-one.deaths.total.number, -one.count.number))[:MOST_FAILURES]


def _commands(trend: trends.Trend) -> list[Commands]:
    """The busiest commands, then those of the others that fail most."""
    busiest = trend.busiest[:MOST_COMMANDS]
    shown = {one.shape for one in busiest}
    failing = [one for one in trend.failing if one.shape not in shown]
    return [*busiest, *failing[: MOST_COMMANDS // 2]]
