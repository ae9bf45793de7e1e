"""Limits: which jobs hold them and who waits; their form, removal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Optional

from flask import Blueprint, abort, request, url_for
from flask.typing import ResponseReturnValue
from sqlalchemy.orm import Session

from webapp.console.frame import htmx
from webapp.console.frame.person import actor, needs
from webapp.core.flow.limits import OF_QUEUE, describe, rate_text
from webapp.core.job_spec import SpecError
from webapp.db.engines import reading
from webapp.jobs.flow import limit_use, limits
from webapp.lib.text import capitalize
from webapp.web.request_info import came_from

pages = Blueprint("limits", __name__)

FIELDS = ("key", "max", "rate", "note")
MOST_HOLDERS = 5  # that a row names


@pages.get("/limits")
def index() -> ResponseReturnValue:
    with reading() as session:
        views = limit_use.views(session, limits.every(session))
        return htmx.page("limits", session, views=views, most_holders=MOST_HOLDERS, describe=describe)


@pages.get("/limits/new")
@needs("admin")
def new() -> ResponseReturnValue:
    """`queue`: for the limit of this queue."""
    queue = request.args.get("queue", "")[:128]
    return _form({"key": OF_QUEUE + queue if queue else ""})


@pages.post("/limits/new")
@needs("admin")
def add() -> ResponseReturnValue:
    return _save(None)


@pages.get("/limits/<key>/edit")
@needs("admin")
def edit(key: str) -> ResponseReturnValue:
    with reading() as session:
        row = limits.find(session, key)
        most = "" if row.most is None else str(row.most)
        values = {"key": key, "max": most, "rate": rate_text(row.rate, row.per) or "", "note": row.note or ""}
        return _form(values, editing=key, session=session)


@pages.post("/limits/<key>/edit")
@needs("admin")
def change(key: str) -> ResponseReturnValue:
    with reading() as session:
        limits.find(session, key)
    return _save(key)


@pages.post("/limits/check")
@needs("viewer")
def check() -> ResponseReturnValue:
    """Check one field."""
    name = request.args.get("field", "")
    if name not in FIELDS:
        abort(404)
    values = _values()
    # The other fields must not hide this one's error.
    values = {"key": "a-key", "max": "", "rate": "", "note": "", name: values[name]}
    return htmx.fragment("channel/_check.html", problem=_problems(values).get(name, ""))


@pages.post("/limits/<key>/remove")
@needs("admin")
def remove(key: str) -> ResponseReturnValue:
    """Remove a limit, after confirmation. If jobs name it, the confirmation says so."""
    with reading() as session:
        in_use = limits.in_use(session, limits.find(session, key).key)
    if "confirmed" not in request.form:
        text = (
            f"{in_use} They continue without a limit on that key."
            if in_use
            else "New jobs that name its key are refused."
        )
        back = came_from(url_for("limits.index"))
        return htmx.ask(f"Remove the limit {key}?", text, "Remove limit", back=back, danger=True)
    limits.remove_limit(key, actor(), force=True)
    return htmx.done(f"Limit {key} removed.", back=url_for("limits.index"))


def _values() -> dict[str, str]:
    return {name: request.form.get(name, "").strip() for name in FIELDS}


def _problems(values: Mapping[str, str]) -> dict[str, str]:
    try:
        limits.check(values["key"], values["max"], values["rate"], values["note"])
    except SpecError as error:
        return {one.field: capitalize(one.message) for one in error.errors}
    return {}


def _save(editing: Optional[str]) -> ResponseReturnValue:
    values = _values()
    if editing is not None:
        values["key"] = editing
    errors = _problems(values)
    if editing is None and not errors:
        with reading() as session:
            if values["key"] in {row.key for row in limits.every(session)}:
                errors["key"] = "This limit exists already. Edit it instead."
    if errors:
        return _form(values, errors, editing), 422
    row = limits.set_limit(values["key"], values["max"], values["rate"], values["note"], actor())
    text = f"Limit {row.key}: {describe(row.most, row.rate, row.per)}."
    return htmx.done(text, back=url_for("limits.index"), leave=True)


def _form(
    values: Mapping[str, str],
    errors: Optional[Mapping[str, str]] = None,
    editing: Optional[str] = None,
    session: Optional[Session] = None,
) -> str:
    shown: dict[str, Any] = {**dict.fromkeys(FIELDS, ""), **values}
    errors = errors or {}
    problems = {**dict.fromkeys(FIELDS, ""), **errors}
    return htmx.form_page("limits/form.html", session, v=shown, errors=errors, problems=problems, editing=editing)
