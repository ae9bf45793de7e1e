"""Limits: which jobs hold them and who waits; their form, removal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

from flask import Blueprint, request, url_for
from flask.typing import ResponseReturnValue
from sqlalchemy.orm import Session

from webapp.console.display.forms import Form
from webapp.console.frame import htmx
from webapp.console.frame.params import checked_field
from webapp.console.frame.person import actor, needs
from webapp.core.flow.limits import OF_QUEUE, describe, rate_text
from webapp.db.engines import reading
from webapp.jobs.flow import limit_use, limits
from webapp.web.request_info import came_from

pages = Blueprint("limits", __name__)

MOST_HOLDERS = 5  # that a row names


@dataclass
class LimitForm(Form):
    FIELDS = ("key", "max", "rate", "note")

    @classmethod
    def of(cls, **typed: str) -> LimitForm:
        """The form with these values, checked."""
        form = cls({**dict.fromkeys(cls.FIELDS, ""), **typed})
        form.saves(limits.check, *form.values.values())
        return form


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
    return _form(LimitForm({**dict.fromkeys(LimitForm.FIELDS, ""), "key": OF_QUEUE + queue if queue else ""}))


@pages.post("/limits/new")
@needs("admin")
def add() -> ResponseReturnValue:
    return _save("")


@pages.get("/limits/<key>/edit")
@needs("admin")
def edit(key: str) -> ResponseReturnValue:
    with reading() as session:
        row = limits.find(session, key)
        most = "" if row.most is None else str(row.most)
        values = {"key": key, "max": most, "rate": rate_text(row.rate, row.per) or "", "note": row.note or ""}
        return _form(LimitForm(values), key, session)


@pages.post("/limits/<key>/edit")
@needs("admin")
def change(key: str) -> ResponseReturnValue:
    with reading() as session:
        limits.find(session, key)
    return _save(key)


@pages.post("/limits/check")
@needs("viewer")
def check() -> ResponseReturnValue:
    """Check one field. The other fields must not hide its error."""
    name = checked_field(LimitForm.FIELDS)
    form = LimitForm.of(**{"key": "a-key", name: request.form.get(name, "").strip()})
    return htmx.fragment("channel/_check.html", problem=form.problems[name])


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


def _save(editing: str) -> ResponseReturnValue:
    typed = {name: request.form.get(name, "").strip() for name in LimitForm.FIELDS}
    form = LimitForm.of(**{**typed, "key": editing or typed["key"]})
    values = form.values
    if not editing and not form.errors:
        with reading() as session:
            if values["key"] in {row.key for row in limits.every(session)}:
                form.errors["key"] = "This limit exists already. Edit it instead."
    if form.errors:
        return _form(form, editing), 422
    row = limits.set_limit(values["key"], values["max"], values["rate"], values["note"], actor())
    text = f"Limit {row.key}: {describe(row.most, row.rate, row.per)}."
    return htmx.done(text, back=url_for("limits.index"), leave=True)


def _form(form: LimitForm, editing: str = "", session: Optional[Session] = None) -> str:
    return htmx.form_page("limits/form.html", session, form=form, editing=editing)
