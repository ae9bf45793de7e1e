"""Dead letters: jobs that no retry will save, newest first, each with its error. `/dead/<group>` is kept for groups."""

from __future__ import annotations

from flask import Blueprint, abort, request, url_for
from flask.typing import ResponseReturnValue

from webapp import queries
from webapp.console import htmx
from webapp.console.jobs import LONGEST_SEARCH, PAGE
from webapp.db import reading
from webapp.filters import JobFilter
from webapp.lifecycle import in_state

pages = Blueprint("dead_letters", __name__)


@pages.get("/dead")
def index() -> ResponseReturnValue:
    text = request.args.get("q", "").strip()[:LONGEST_SEARCH] or None
    wanted = JobFilter(state="dead", text=text)
    before, after = request.args.get("before"), request.args.get("after")
    with reading() as session:
        try:
            page = queries.page_of_jobs(session, wanted, limit=PAGE, before=before, after=after)
        except ValueError:
            abort(400, "This page of the list does not exist. Begin at its top.")
        return htmx.page(
            "dead",
            session,
            page=page,
            wanted=wanted,
            total=None if text else queries.count(session, in_state("dead")),
            newer=("Newer", url_for("dead_letters.index", q=text, before=page.newer)) if page.newer else None,
            older=("Older", url_for("dead_letters.index", q=text, after=page.older)) if page.older else None,
            top=url_for("dead_letters.index", q=text) if before or after else None,
        )
