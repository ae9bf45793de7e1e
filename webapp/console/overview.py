"""The overview: what needs attention, jobs by state, charts, workers, recent failures."""

from __future__ import annotations

from flask import Blueprint, abort, request
from flask.typing import ResponseReturnValue

from webapp.console.display import charts, times
from webapp.console.display.attention import needs
from webapp.console.frame import htmx
from webapp.db.engines import reading
from webapp.insight import exact_counts, fleet, trends
from webapp.insight.rollups import REST
from webapp.jobs import demo, queries, settings
from webapp.lib import histograms
from webapp.lib.command_patterns import words_of
from webapp.notifications import views as notifications

pages = Blueprint("overview", __name__)


@pages.get("/")
def index() -> ResponseReturnValue:
    """`over` is the time range: 1h, 24h or 7d."""
    wanted = trends.RANGES.get(request.args.get("over", "1h"))
    if wanted is None:
        abort(404, f"Unknown time range. Expected {', '.join(trends.RANGES)}.")
    with reading() as session:
        counts = exact_counts.of_states(session)
        values = settings.load(session)
        running = fleet.workers(session, values.lease)
        trend = trends.trend(session, wanted)
        return htmx.page(
            "overview",
            session,
            needs=needs(session, running, values),
            unheard=not notifications.has_rules(session),
            counts=counts,
            fleet=running,
            trend=trend,
            rate=trend.rate,
            ranges=trends.RANGES.values(),
            charts=(charts.throughput(trend), charts.failures(trend)),
            axis=charts.AXES[wanted.key],
            step=charts.STEPS[wanted.key],
            lines=charts.lines(trend),
            quantile=histograms.quantile,
            since=times.brief(trend.commands_since),
            rest=REST,
            words_of=words_of,
            failures=queries.recent_failures(session),
            oldest=queries.oldest_pending(session),
            first_run=demo.first_run(session),
        )
