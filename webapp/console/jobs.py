"""The list of jobs: a tab a state, a search, pages by key. What its buttons do is in `acts.py`."""

from __future__ import annotations

from typing import Any, Optional
from urllib.parse import urlencode

from flask import Blueprint, abort, request, url_for
from flask.typing import ResponseReturnValue
from sqlalchemy import select
from sqlalchemy.orm import Session

from webapp import queries, settings
from webapp.console import htmx
from webapp.console.words import EMPTY
from webapp.db import reading
from webapp.filters import SEARCH_CAP, FilterError, JobFilter
from webapp.models import STATES, Queue

pages = Blueprint("jobs", __name__)

PAGE = 50  # rows
LONGEST_SEARCH = 200  # characters
# Columns after Job, by tab; the order of rows is `queries.page_of_jobs`'s.
COLUMNS = {
    "": ("state", "queue", "attempts", "changed"),
    "scheduled": ("due", "queue", "priority"),
    "pending": ("waiting", "queue", "priority"),
    "processing": ("worker", "running", "attempt"),
    "failed": ("retry", "failures"),
    "completed": ("attempts", "duration", "ended"),
    "dead": ("attempts", "duration", "ended"),
    "cancelled": ("attempts", "duration", "ended"),
}
TITLES = {
    "state": "State",
    "queue": "Queue",
    "attempts": "Attempts",
    "changed": "Changed",
    "due": "Due",
    "priority": "Priority",
    "waiting": "Waiting for",
    "worker": "Worker",
    "running": "Running for",
    "attempt": "Attempt",
    "retry": "Next retry",
    "failures": "Failed attempts",
    "duration": "Duration",
    "ended": "Ended",
}
NUMBERS = frozenset({"attempts", "priority", "attempt", "duration"})
# What the two page buttons say: the newest stand on top of most lists, the soonest of these three.
WAYS = {"scheduled": ("Sooner", "Later"), "failed": ("Sooner", "Later"), "pending": ("Ahead", "Behind")}


@pages.get("/jobs")
def index() -> ResponseReturnValue:
    wanted = wanted_from(request.args)
    with reading() as session:
        try:
            page = queries.page_of_jobs(
                session, wanted, limit=PAGE, before=request.args.get("before"), after=request.args.get("after")
            )
        except ValueError:
            abort(400, "This page of the list does not exist. Begin at its top.")
        return htmx.page("jobs", session, **list_values(session, wanted, page))


def wanted_from(values: Any) -> JobFilter:
    """The filter that a URL asks for. An unknown state is a 404."""
    try:
        return JobFilter(
            state=values.get("state") or None,
            queue=values.get("queue") or None,
            text=(values.get("q") or "").strip()[:LONGEST_SEARCH] or None,
        )
    except FilterError as error:
        abort(404, str(error))


def list_values(session: Session, wanted: JobFilter, page: queries.Page) -> dict[str, Any]:
    """What the list's templates need."""
    state = wanted.state or ""
    total = None if wanted.text else queries.count(session, wanted.where())
    newer, older = WAYS.get(state, ("Newer", "Older"))
    return {
        "page": page,
        "wanted": wanted,
        "columns": COLUMNS[state],
        "titles": TITLES,
        "numbers": NUMBERS,
        "tabs": [(one, _count(session, one, wanted), url_of(wanted, state=one)) for one in ("", *STATES)],
        "queues": list(session.scalars(select(Queue.name).order_by(Queue.name))),
        "total": total,
        "default_retries": settings.load(session).max_retries,
        "teach": EMPTY[state],
        "newer": (newer, url_of(wanted, before=page.newer)) if page.newer else None,
        "older": (older, url_of(wanted, after=page.older)) if page.older else None,
        "top": url_of(wanted) if request.args.get("before") or request.args.get("after") else None,
        "search_cap": SEARCH_CAP,
        "without_filter": url_of(JobFilter(state=wanted.state)),
    }


def _count(session: Session, state: str, wanted: JobFilter) -> Optional[queries.Count]:
    """A tab's number, with the queue that is filtered by. None with a text: that would be seven searches."""
    if wanted.text:
        return None
    return queries.count(session, JobFilter(state=state or None, queue=wanted.queue).where())


def url_of(wanted: JobFilter, *, state: Optional[str] = None, **key: Optional[str]) -> str:
    """The address of a list: this filter, perhaps with another state, at a page's key."""
    fields = {"state": wanted.state if state is None else state, "queue": wanted.queue, "q": wanted.text, **key}
    query = urlencode({name: value for name, value in fields.items() if value})
    return url_for("jobs.index") + (f"?{query}" if query else "")
