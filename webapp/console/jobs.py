"""The list of jobs: state tabs, search, key-based pages, saved views, export.

Its buttons are in `activity.py`, the search syntax in `webapp/jobs/search.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Optional
from urllib.parse import parse_qsl, urlencode

from flask import Blueprint, Response, abort, redirect, request, url_for
from flask.typing import ResponseReturnValue
from sqlalchemy.orm import Session

from webapp.accounts import saved_searches
from webapp.console.display import suggestions, times, wait_reason
from webapp.console.display.wording import EMPTY
from webapp.console.frame import htmx
from webapp.console.frame.params import attachment, no_such_page, streamed, whole_number, with_query
from webapp.console.frame.person import actor, needs, this_person
from webapp.console.frame.templating import may_open
from webapp.db import audit
from webapp.db.engines import reading, writing
from webapp.db.models import View
from webapp.insight import exact_counts
from webapp.insight.queues import some_names
from webapp.jobs import exports, filters, job_detail, listing, queries, search, settings
from webapp.jobs.filters import FilterError, JobFilter
from webapp.lib import clock
from webapp.lib.text import capitalize, plural, storable

pages = Blueprint("jobs", __name__)

PAGE = 50  # rows
# The columns of each state's list after Job: names, and their titles.
COLUMNS = {
    "": "state queue submitted attempts duration error",
    "blocked": "reason due queue priority submitted",
    "scheduled": "due queue priority submitted",
    "pending": "reason waiting queue priority submitted",
    "processing": "worker running queue attempt submitted",
    "failed": "retry failures queue error",
    "completed": "ended duration queue attempts submitted",
    "dead": "ended queue attempts duration error",
    "cancelled": "ended queue attempts duration error",
}
TITLES = {
    "reason": "Waits for", "running": "Running for", "retry": "Next retry", "failures": "Failed attempts",
    "ended": "Finished", "error": "Last error",
}  # fmt: skip
NUMBERS = ("attempts", "priority", "attempt", "duration")
# The column by which an index sorts the list, and whether it rises in the usual order.
SORTED_BY = {
    "": ("submitted", False), "blocked": ("due", True), "scheduled": ("due", True), "pending": ("waiting", False),
    "processing": ("running", False), "failed": ("retry", True),
}  # fmt: skip
MOST_FOUND = 10**9  # rows that a URL says were searched
MANY_QUEUES = 30  # from here the queue is typed, with suggestions, instead of chosen
SORTS = {  # the two sort orders of a state's list, the default first
    "blocked": ("soonest", "latest"),
    "scheduled": ("soonest", "latest"),
    "pending": ("next", "last"),
    "processing": ("longest", "shortest"),
    "failed": ("soonest", "latest"),
}


@dataclass
class Asked:
    """The list that a URL asks for. If the search is invalid, `problem` says why, and `wanted` has the rest.

    `q` is the search without state and queue, which the tabs and the select show.
    """

    wanted: JobFilter
    q: str = ""
    sort: str = ""  # '' for the default order
    problem: str = ""
    before: Optional[str] = None
    after: Optional[str] = None
    moved: bool = False  # the search named a state or a queue: redirect to the plain URL

    @classmethod
    def read(cls, values: Mapping[str, str]) -> Asked:
        """An unknown state or order is a 404."""
        try:
            wanted = JobFilter(state=values.get("state") or None, queue=values.get("queue") or None)
        except FilterError as error:
            abort(404, str(error))
        q, problem, moved = values.get("q", "").strip(), "", False
        try:
            if len(q) > search.MAX_TYPED:
                raise search.SearchError(
                    f"a search has at most {search.MAX_TYPED} characters; this one has {len(q):,}."
                )
            found = search.parse(q, zone=times.zone())
            wanted = replace(found, state=found.state or wanted.state, queue=found.queue or wanted.queue)
            moved = found.state is not None or found.queue is not None
            q = search.without(q, "state", "queue")
        except FilterError as error:
            problem = capitalize(str(error))
        sort = values.get("sort", "")
        asked = cls(wanted, q, "", problem, values.get("before"), values.get("after"), moved)
        usual, other = asked.sorts
        if sort and not moved and sort not in (usual, other):
            abort(404, f"Unknown sort order. Expected {usual} or {other}.")
        asked.sort = sort if sort == other else ""
        return asked

    @property
    def sorts(self) -> tuple[str, str]:
        return SORTS.get(self.wanted.state or "", ("newest", "oldest"))

    @property
    def fields(self) -> dict[str, Optional[str]]:
        """The list's parameters without the page key."""
        return {"state": self.wanted.state, "queue": self.wanted.queue, "q": self.q, "sort": self.sort}

    @property
    def query(self) -> str:
        return urlencode({name: value for name, value in self.fields.items() if value})

    def url(self, endpoint: str = "jobs.index", **other: Optional[str]) -> str:
        """The URL of this list with some parameters changed."""
        return with_query(url_for(endpoint), {**self.fields, **other})


# --- the page --------------------------------------------------------------------------------------------------------


@pages.get("/jobs")
def index() -> ResponseReturnValue:
    asked = Asked.read(request.args)
    if asked.moved and not asked.problem and not htmx.is_partial():
        return redirect(asked.url(), 303)
    if "found" in request.args and htmx.is_partial() and not asked.problem:
        return _more_rows(asked)
    return show(asked)


def show(asked: Asked, *, view_name: str = "", view_problem: str = "") -> Response:
    """The page of a list. `view_name` and `view_problem`: what was typed in the view form, and its error."""
    wanted = asked.wanted
    with reading() as session:
        page = None
        if not asked.problem:
            page = page_of_jobs(session, wanted, asked.before, asked.after, turned=bool(asked.sort))
            job_detail.add_progress(session, page.jobs)
        counts = exact_counts.of_lists(session, wanted)
        response = htmx.page(
            "jobs",
            session,
            # Not the URL of the request: a form that saves a view shows the list under another URL.
            here=asked.url(before=asked.before, after=asked.after),
            tabs=[(state, count, asked.url(state=state, sort=None)) for state, count in counts.items()],
            queues=_queue_choice(session, wanted.queue),
            many_queues=MANY_QUEUES,
            total=counts[wanted.state or ""],
            teach=EMPTY[wanted.state or ""],
            searched=asked.q,
            without_filter=asked.url(q=None, queue=None),
            qualifiers=search.QUALIFIERS,
            views=saved_searches.of(session, this_person().user_id) if not htmx.is_partial() else [],
            view_name=view_name,
            view_problem=view_problem,
            further=_further(asked, page) if page and page.search_capped else None,
            **_table(session, asked, page),
        )
    if asked.problem or view_problem:
        response.status_code = 422
    return response


def _table(session: Session, asked: Asked, page: Optional[listing.Page]) -> dict[str, Any]:
    """Values for the rows and their head."""
    wanted, jobs = asked.wanted, page.jobs if page else []
    sorted_by, rises = SORTED_BY.get(wanted.state or "", ("ended", False))
    names, values = COLUMNS[wanted.state or ""].split(), settings.load(session)
    return {
        "asked": asked,
        "wanted": wanted,
        "page": page,
        "columns": {name: TITLES.get(name, name.capitalize()) for name in names},
        "numbers": NUMBERS,
        "sorted_by": sorted_by,
        "rising": rises != bool(asked.sort),
        "default_retries": values.max_retries,
        "reasons": wait_reason.short_reasons(session, jobs, values.lease),
        "lines": queries.lines_found(session, jobs, filters.words(wanted.text or "")),
    }


# --- searches that take long -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Further:
    """The row at the end of a search whose time was over. `more`: where htmx gets the next rows; '' at the end.

    `at` is where the search stopped: another place is another row, which htmx loads anew after a refresh.
    """

    at: str
    text: str
    more: str = ""
    url: str = ""
    label: str = ""


def _more_rows(asked: Asked) -> ResponseReturnValue:
    """The next rows of a search, and the row that continues it. `found` rows are on the page already."""
    found, searched = (min(whole_number(request.args.get(name, "")) or 0, MOST_FOUND) for name in ("found", "searched"))
    with reading() as session:
        limit = max(PAGE - found, 1)
        page = page_of_jobs(session, asked.wanted, asked.before, asked.after, turned=bool(asked.sort), limit=limit)
        further = _further(asked, page, found, searched)
        return htmx.fragment("jobs/_rows.html", further=further, **_table(session, asked, page))


def _further(asked: Asked, page: listing.Page, found: int = 0, searched: int = 0) -> Further:
    """`found` and `searched`: rows of the page, and rows that were read, before this part of the search."""
    found, searched = found + len(page.jobs), searched + page.searched
    key, at = ("before", page.newer) if asked.before else ("after", page.older)
    if at is None:
        return Further("end", f"Searched to the end. {plural(found, 'match', 'matches')} on this page.")
    url = asked.url(**{key: at})
    text = f"{plural(found, 'match', 'matches')} so far. Searched {searched:,} jobs."
    if found >= PAGE:
        return Further("full", "This page is full.", url=url, label="Next page")
    more = asked.url(**{key: at, "found": str(found or "0"), "searched": str(searched)})
    return Further(at, text, more, url, "Search further")


def _queue_choice(session: Session, chosen: Optional[str]) -> list[str]:
    """The queues to choose from, at most MANY_QUEUES and the chosen one."""
    return sorted({*some_names(session, MANY_QUEUES), *([chosen] if chosen else [])})


def page_of_jobs(
    session: Session,
    wanted: JobFilter,
    before: Optional[str],
    after: Optional[str],
    *,
    turned: bool = False,
    limit: int = PAGE,
) -> listing.Page:
    """A page of a list. Aborts if the URL names no page."""
    try:
        return listing.page_of_jobs(session, wanted, limit=limit, before=before, after=after, turned=turned)
    except ValueError:
        no_such_page()


@pages.get("/jobs/suggestions")
def suggest() -> ResponseReturnValue:
    """Completion of the last word in the search box."""
    typed = storable(request.args.get("q", "")[: search.MAX_TYPED])
    with reading() as session:
        found = suggestions.suggestions(session, typed, may_open)
        return htmx.fragment("jobs/_suggestions.html", suggestions=found)


# --- export ----------------------------------------------------------------------------------------------------------


@pages.get("/jobs.csv", endpoint="export_csv", defaults={"kind": "csv"})
@pages.get("/jobs.jsonl", endpoint="export_json", defaults={"kind": "jsonl"})
def export(kind: str) -> Response:
    """All matching jobs as a file of any length. The audit entry is written before the first byte is sent."""
    asked = Asked.read(request.args)
    if asked.problem:
        abort(400, asked.problem)
    person = this_person()
    pieces = exports.pieces(kind, asked.wanted, turned=bool(asked.sort), with_env=person.may("operator"))
    with writing() as session:
        audit.note(session, "export_jobs", ["jobs"], actor(), details=[{"format": kind, "search": asked.query}])
    state = f"-{asked.wanted.state}" if asked.wanted.state else ""
    name = f"queuectl-jobs{state}-{times.local(clock.now()):%Y-%m-%d}.{kind}"
    content_type = "text/csv" if kind == "csv" else "application/jsonl"
    return attachment(streamed(pieces), f"{content_type}; charset=utf-8", name)


# --- saved views -----------------------------------------------------------------------------------------------------


@pages.post("/views")
@needs("viewer")
def save_view() -> ResponseReturnValue:
    """Save the search as a view. Errors are shown in the form."""
    asked, name = Asked.read(request.form), request.form.get("name", "")
    if asked.problem:
        return show(asked)
    try:
        view = saved_searches.save(this_person().user_id, name, asked.query, actor())
    except saved_searches.ViewError as error:
        return show(asked, view_name=name, view_problem=str(error))
    return htmx.done(f"View “{view.name}” saved.", back=asked.url(), leave=True)


@pages.post("/view/<int(max=9007199254740991):view_id>/rename")
@needs("viewer")
def rename_view(view_id: int) -> ResponseReturnValue:
    name, person = request.form.get("name", ""), this_person()
    view = saved_searches.find(person.user_id, view_id)
    try:
        saved_searches.rename(person.user_id, view_id, name, actor())
    except saved_searches.ViewError as error:
        return show(_asked_by(view), view_name=name, view_problem=str(error))
    return htmx.done(f"View “{view.name}” renamed to “{name.strip()}”.", back=_asked_by(view).url(), leave=True)


@pages.post("/view/<int(max=9007199254740991):view_id>/remove")
@needs("viewer")
def remove_view(view_id: int) -> ResponseReturnValue:
    view = saved_searches.remove(this_person().user_id, view_id, actor())
    return htmx.done(f"View “{view.name}” deleted.", back=_asked_by(view).url(), leave=True)


def _asked_by(view: View) -> Asked:
    return Asked.read(dict(parse_qsl(view.query)))
