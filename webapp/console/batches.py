"""A batch: the jobs of one multi-line form, with their progress."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, abort, request, url_for
from flask.typing import ResponseReturnValue

from webapp.console.frame import htmx
from webapp.console.frame.params import whole_number
from webapp.core.states import TERMINAL
from webapp.db.engines import reading
from webapp.jobs import queries

pages = Blueprint("batches", __name__)

PAGE = 50  # rows


@pages.get("/batch/<key>")
def show(key: str) -> ResponseReturnValue:
    if "\0" in key:
        abort(404)
    with reading() as session:
        counts = queries.count_states_of_batch(session, key)
        there = sum(counts.values())
        if not there:
            abort(404, "All jobs of this batch were discarded.")
        first = min(whole_number(request.args.get("from", ""), 6) or 0, there - 1) // PAGE * PAGE
        ended = sum(counts[state] for state in TERMINAL)
        return htmx.page(
            "batch",
            session,
            size=queries.size_of_batch(key),
            counts={state: number for state, number in counts.items() if number},
            there=there,
            ended=ended,
            watched="watch" in request.args and ended < there,
            jobs=queries.page_of_batch(session, key, first, PAGE),
            before=_url(key, first - PAGE) if first else None,
            behind=_url(key, first + PAGE) if first + PAGE < there else None,
        )


def _url(key: str, first: int) -> str:
    asked: dict[str, Any] = {"from": first or None, "watch": 1 if "watch" in request.args else None}
    return url_for("batches.show", key=key, **asked)
