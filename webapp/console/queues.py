"""The queues as a list with the problems first, and each as a page; pausing, resuming and removing."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, Optional, Union

from flask import Blueprint, abort, request, url_for
from flask.typing import ResponseReturnValue

from webapp.console.display import times
from webapp.console.display.charts import chart_window, trend_charts
from webapp.console.display.charts.chart_window import AskedWindow
from webapp.console.display.charts.sparklines import run_sparkline
from webapp.console.display.charts.trend_charts import METRICS, QUANTILES
from webapp.console.display.wait_reason import start_command
from webapp.console.frame import htmx
from webapp.console.frame.params import no_such_page, whole_number, with_query
from webapp.console.frame.person import actor, needs
from webapp.core.flow import limits, retry_rules
from webapp.core.job_spec import DEFAULT_QUEUE
from webapp.db.engines import reading
from webapp.db.name_pages import Page
from webapp.insight import blockers, trends
from webapp.insight.fleet import WorkerView, workers
from webapp.insight.queues import (
    LATEST_DEAD,
    MAX_RANKED,
    ORDERS,
    SHOWN,
    QueueFilter,
    QueueView,
    Ranked,
    causes,
    count_queues,
    page_of_queues,
    ranked,
    some_names,
    view_of,
)
from webapp.jobs import queries, queue_actions, settings
from webapp.jobs.flow import limit_use
from webapp.lib import histograms
from webapp.web.request_info import came_from

pages = Blueprint("queues", __name__)

MOST_LABEL_SETS = 3  # label sets without workers that are named per queue
PAGE = 50  # rows
SUGGESTIONS = 30  # names for a form


@pages.get("/queues")
def index() -> ResponseReturnValue:
    """`q` is a part of the name, `show` is busy or paused, `sort` one of ORDERS.

    By name, `after` and `before` are the names between two pages; in other orders `page` is a number.
    """
    asked = {name: request.args.get(name, "").strip()[:128] for name in ("q", "show", "sort")}
    if asked["show"] not in ("", *SHOWN):
        abort(404, f"Unknown selection. Expected {' or '.join(SHOWN)}.")
    if asked["sort"] not in ("", *ORDERS):
        abort(404, f"Unknown order. Expected {', '.join(ORDERS)}.")
    after, before = request.args.get("after") or None, request.args.get("before") or None
    order = asked["sort"] or ("name" if after or before else ORDERS[0])
    wanted = QueueFilter(asked["q"], asked["show"])
    number = whole_number(request.args.get("page", "1"), digits=3)
    if not number:
        no_such_page()
    with reading() as session:
        alive = [view for view in workers(session, settings.load(session).lease) if view.alive]
        found: Union[Page[QueueView], Ranked]
        if order == "name":
            found = page_of_queues(session, wanted, limit=PAGE, after=after, before=before, with_day=True)
        else:
            found = ranked(session, wanted, alive, by=order, page=number, size=PAGE)
        return htmx.page(
            "queues",
            session,
            rows=[_row(view, alive) for view in found.views],
            asked=asked,
            order=order,
            number=count_queues(session, wanted),
            capped=isinstance(found, Ranked) and found.capped,
            most_ranked=MAX_RANKED,
            default=DEFAULT_QUEUE,
            any_alive=bool(alive),
            start_command=start_command,
            most_label_sets=MOST_LABEL_SETS,
            sort_url=lambda by: _url(asked, sort="" if by == ORDERS[0] else by),
            **_pager(asked, found, is_first=not (after or before)),
        )


def _pager(asked: Mapping[str, str], found: Union[Page[QueueView], Ranked], *, is_first: bool) -> dict[str, Any]:
    """The links to the pages beside this one, and to the first."""
    if isinstance(found, Page):
        by_name = {**asked, "sort": "name"}
        return {
            "newer": ("Previous", _url(by_name, before=found.newer)) if found.newer else None,
            "older": ("Next", _url(by_name, after=found.older)) if found.older else None,
            "top": None if is_first else _url(by_name),
        }
    at = found.page
    return {
        "newer": ("Previous", _url(asked, page=str(at - 1) if at > 2 else None)) if at > 1 else None,
        "older": ("Next", _url(asked, page=str(at + 1))) if found.more else None,
        "top": _url(asked) if at > 1 else None,
    }


def _url(asked: Mapping[str, str], **at: Optional[str]) -> str:
    return with_query(url_for("queues.index"), {**asked, **at})


@pages.get("/queue/<name>")
def show(name: str) -> ResponseReturnValue:
    """One queue. For the parameters see `display/chart_window.py`."""
    asked = AskedWindow.read(request.args, "queues.show", name=name)
    with reading() as session:
        view = view_of(session, name, with_day=True)
        alive = [one for one in workers(session, settings.load(session).lease) if one.alive]
        trend = trends.trend(session, asked.window, name)
        limit = limit_use.read(session).of_queue(name)
        return htmx.page(
            "queue",
            session,
            asked.status,
            row=_row(view, alive),
            asked=asked,
            zone=times.zone_name(),
            metrics=METRICS,
            trend=trend,
            chart=chart_window.draw(session, asked, trend, name),
            lines=trend_charts.rows(trend.points, trend.window),
            quantile=histograms.quantile,
            quantiles=QUANTILES,
            causes=causes(session, name),
            limit=limit,
            limit_text="none" if limit is None else limits.describe(limit.most, limit.rate, limit.per),
            own_limit=limits.OF_QUEUE + name,
            retry_lines=retry_rules.stored(view.queue.retry).lines,
            look=LATEST_DEAD,
            default=DEFAULT_QUEUE,
            start_command=start_command,
            any_alive=bool(alive),
        )


@pages.get("/queues/names")
def names() -> ResponseReturnValue:
    """Suggestions for a field: names that contain the typed text."""
    with reading() as session:
        return htmx.fragment(
            "queues/_names.html", queues=some_names(session, SUGGESTIONS, request.args.get("queue", "")[:128])
        )


def _row(view: QueueView, alive: list[WorkerView]) -> dict[str, Any]:
    """A queue, its workers, its label sets that no worker takes (`stuck`), the other pending jobs (`moving`), and the
    seconds until these are done at the current rate."""
    fleet = partial(blockers.serving, view.queue.name, view.queue, alive)
    label_sets = [(one, fleet(one.label_set.requires).obstacle) for one in view.waiting if one.label_set.requires]
    stuck = [(one, why) for one, why in label_sets if why is not None and why.kind in {"unlabelled", "quiet"}]
    without_worker = [one for one, _ in stuck]
    moving = queries.total(one.number for one in view.waiting if one not in without_worker)
    return {
        "view": view,
        "fleet": fleet(""),
        "stuck": sorted(stuck, key=lambda pair: -pair[0].number.number),
        "moving": moving,
        "drain_seconds": trends.drain_time(moving.number, view.per_minute),
        "spark": run_sparkline(view.day.hours) if view.day else None,
    }


@pages.post("/queue/<name>/pause")
@needs("operator")
def pause(name: str) -> ResponseReturnValue:
    """Pause a queue: no more of its jobs start. 409 if it is paused already."""
    if not queue_actions.pause_queue(name, actor()):
        return htmx.refused(f"Queue {name} is already paused. Nothing changed.")
    return htmx.done(f"Queue {name} paused. Running jobs continue; no new jobs start.", back=url_for("queues.index"))


@pages.post("/queue/<name>/resume")
@needs("operator")
def resume(name: str) -> ResponseReturnValue:
    if not queue_actions.resume_queue(name, actor()):
        return htmx.refused(f"Queue {name} is not paused. Nothing changed.")
    return htmx.done(f"Queue {name} resumed.", back=url_for("queues.index"))


@pages.post("/queue/<name>/remove")
@needs("operator")
def remove(name: str) -> ResponseReturnValue:
    """Remove a queue, after confirmation. 409 if it has unfinished jobs."""
    if "confirmed" not in request.form:
        text = "Its finished jobs stay. If you submit another job to this queue, the queue is created again."
        back = came_from(url_for("queues.index"))
        return htmx.ask(f"Remove queue {name}?", text, "Remove queue", back=back, danger=True)
    queue_actions.remove_queue(name, actor())
    return htmx.done(f"Queue {name} removed.", back=url_for("queues.index"), leave=_is_from(name))


def _is_from(name: str) -> bool:
    """Whether the request comes from the page of this queue, which is gone now."""
    return came_from("").partition("?")[0].endswith(url_for("queues.show", name=name))
