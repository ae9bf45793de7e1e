"""A command: the runs of all jobs whose commands have one pattern, their durations and failures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flask import Blueprint, abort, request, url_for
from flask.typing import ResponseReturnValue

from webapp.console.display import times
from webapp.console.display.charts import trend_charts
from webapp.console.display.charts.chart_window import AskedWindow
from webapp.console.display.charts.trend_charts import QUANTILES
from webapp.console.frame import htmx
from webapp.db.engines import reading
from webapp.insight import commands
from webapp.insight.commands import CommandView
from webapp.insight.markers import Marker, markers
from webapp.insight.rollups import REST
from webapp.insight.windows import RANGES
from webapp.lib import histograms
from webapp.lib.command_patterns import SHAPE_LIMIT, words_of

pages = Blueprint("command", __name__)

SHOWN_RANGES = (RANGES["7d"], RANGES["24h"])
SEARCHABLE = 3  # characters; a shorter text would match too much


# A pattern may contain slashes, also two together, such as in a URL.
@pages.get("/command/<path:pattern>", merge_slashes=False)
def show(pattern: str) -> ResponseReturnValue:
    """For the parameters see `display/chart_window.py`; `over` is 7d or 24h."""
    if pattern == REST or len(pattern) > SHAPE_LIMIT:
        abort(404, "This is not the pattern of a command.")
    asked = AskedWindow.read(
        request.args, "command.show", ranges=SHOWN_RANGES, metrics=("throughput",), pattern=pattern
    )
    with reading() as session:
        view = commands.view(session, pattern, asked.window)
        changes = markers(session, view.window.start, view.window.end)
        return htmx.page("command", session, asked.status, asked=asked, view=view, **_shown(view, asked, changes))


def _shown(view: CommandView, asked: AskedWindow, changes: Sequence[Marker]) -> dict[str, Any]:
    words = words_of(view.shape)
    query = f'"{words}"' if len(words) >= SEARCHABLE else None
    asked.window = view.window
    page = asked.page(view.until, changes, q=query)
    return {
        "zone": times.zone_name(),
        "jobs_url": url_for("jobs.index", q=query) if query else None,
        "chart": trend_charts.throughput(page, view.points),
        "trend": trend_charts.durations(page, view.points, "run"),
        "dots": trend_charts.scatter(page, view.runs, lambda job: url_for("job.show", job_id=job)),
        "lines": trend_charts.rows(view.points, view.window),
        "usual": {name: histograms.quantile(view.usual.durations, part) for name, part in QUANTILES.items()},
        "usual_days": commands.USUAL_DAYS,
        "quantile": histograms.quantile,
        "quantiles": QUANTILES,
    }
