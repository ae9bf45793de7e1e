"""The overview: what needs attention, jobs by state, charts, workers, recent failures."""

from __future__ import annotations

from typing import Optional

from flask import Blueprint, abort, request
from flask.typing import ResponseReturnValue

from webapp.console.display import charts, times
from webapp.console.display.attention import needs
from webapp.console.frame import htmx
from webapp.db.engines import reading
from webapp.insight import fleet, trends
from webapp.insight.queues import all_queues
from webapp.insight.rollups import REST
from webapp.jobs import queries, settings
from webapp.lib import durations, histograms
from webapp.lib.command_patterns import words_of
from webapp.lib.histograms import Histogram

pages = Blueprint("overview", __name__)

QUANTILES = ((0.5, "p50"), (0.95, "p95"), (0.99, "p99"))
SHORTEST_SEARCH = 3  # characters; a shorter text matches too much


@pages.get("/")
def index() -> ResponseReturnValue:
    """`over` is the time range: 1h, 24h or 7d."""
    wanted = trends.RANGES.get(request.args.get("over", "1h"))
    if wanted is None:
        abort(404, f"Unknown time range. Expected {', '.join(trends.RANGES)}.")
    with reading() as session:
        counts = queries.count_states(session)
        values = settings.load(session)
        running = fleet.workers(session, values.lease)
        trend = trends.trend(session, wanted)
        queues = all_queues(session, trend.rates)
        return htmx.page(
            "overview",
            session,
            needs=needs(session, running, queues, values),
            counts=counts,
            fleet=running,
            trend=trend,
            rate=sum(trend.rates.values()),
            ranges=trends.RANGES.values(),
            charts=(charts.throughput(trend), charts.failures(trend)),
            axis=charts.AXES[wanted.key],
            step=charts.STEPS[wanted.key],
            lines=charts.lines(trend),
            spans=(("Wait", _quantiles(trend.total.waits)), ("Run", _quantiles(trend.total.runs))),
            quantiles=[label for _, label in QUANTILES],
            since=times.brief(trend.commands_since),
            rest=REST,
            search_for=_search_for,
            failures=queries.recent_failures(session),
            oldest=min((view.oldest_run_at for view in queues if view.oldest_run_at is not None), default=None),
        )


def _quantiles(histogram: Histogram) -> list[str]:
    """The percentiles as text."""
    return [durations.about(histograms.quantile(histogram, part)) for part, _ in QUANTILES]


def _search_for(shape: str) -> Optional[str]:
    """A search that finds the jobs of a command pattern; None if there is none."""
    words = words_of(shape) if shape != REST else ""
    return f'"{words}"' if len(words) >= SHORTEST_SEARCH else None
