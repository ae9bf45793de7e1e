"""The settings: all of them, and one with its bounds, consequence and history. `settings` reads and checks values."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Optional

from flask import Blueprint, flash, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from sqlalchemy.orm import Session

from webapp import clock, operations, queries, settings
from webapp.console import htmx
from webapp.console.nav import nav_of
from webapp.console.roles import needs
from webapp.console.sessions import actor
from webapp.console.submit import Timetable, timetable
from webapp.db import reading
from webapp.lifecycle import in_state
from webapp.models import Event, Job

pages = Blueprint("config", __name__)

BACKOFF = frozenset({"max_retries", "backoff_base", "backoff_max", "backoff_jitter"})
KEPT = {"keep_completed": "completed", "keep_cancelled": "cancelled", "keep_dead": "dead"}
GROUPS = (
    ("Retries", ("max_retries", "backoff_base", "backoff_max", "backoff_jitter")),
    ("Running", ("job_timeout", "kill_grace", "output_limit", "job_memory_limit", "job_process_limit")),
    ("Workers", ("shutdown_grace", "lease")),
    ("Keeping", ("keep_completed", "keep_cancelled", "keep_dead")),
)


@dataclass(frozen=True)
class Change:
    """One line of a setting's history."""

    at: int
    actor: str
    before: Any
    after: Any
    to_default: bool


@dataclass(frozen=True)
class Consequence:
    """What a new value would do: two timetables, or a sentence."""

    before: Optional[Timetable] = None
    after: Optional[Timetable] = None
    text: str = ""


@pages.get("/config")
def index() -> ResponseReturnValue:
    with reading() as session:
        values = {value.definition.key: value for value in settings.describe(session)}
        return htmx.page("config", session, groups=_grouped(values))


def _grouped(values: dict[str, settings.Value]) -> list[tuple[str, list[settings.Value]]]:
    """The settings under their headings; one that no heading names stands under the last."""
    named = {key for _, keys in GROUPS for key in keys}
    groups = [(title, [values[key] for key in keys if key in values]) for title, keys in GROUPS]
    rest = [value for key, value in values.items() if key not in named]
    return [*groups, ("Others", rest)] if rest else groups


@pages.get("/config/<key>")
def show(key: str) -> ResponseReturnValue:
    with reading() as session:
        value = _value(session, key)
        return _page(session, value, str(value.value))


@pages.post("/config/<key>")
@needs("admin")
def change(key: str) -> ResponseReturnValue:
    """Set it, or with `reset` put it back to its default."""
    with reading() as session:
        value = _value(session, key)
    text = request.form.get("value", "")
    try:
        after = operations.unset_setting(key, actor()) if "reset" in request.form else (
            operations.set_setting(key, text, actor()))  # fmt: skip
    except settings.SettingError as error:
        with reading() as session:
            return _page(session, value, text, _without_key(error, key)), 422
    flash(f"{key} is {after.value}{' again, its default' if 'reset' in request.form else ''}. It holds from now on.",
          "success")  # fmt: skip
    return redirect(url_for("config.show", key=key), 303)


@pages.post("/config/<key>/check")
@needs("admin")
def check(key: str) -> ResponseReturnValue:
    """What is wrong with a value, or what it would do."""
    text = request.form.get("value", "")
    with reading() as session:
        value = _value(session, key)
        problem, consequence = "", None
        try:
            consequence = _consequence(session, value, value.definition.parse(text))
        except settings.SettingError as error:
            problem = _without_key(error, key)
    return htmx.fragment("config/_check.html", problem=problem, consequence=consequence)


def _without_key(error: settings.SettingError, key: str) -> str:
    """A message without the setting's name in front, which stands above the field already."""
    text = str(error)
    return text[len(key) + 2 :].strip() if text.startswith(f"{key}: ") else text


def _value(session: Session, key: str) -> settings.Value:
    """One setting as it stands, or NotFound."""
    for value in settings.describe(session):
        if value.definition.key == key:
            return value
    try:
        settings.define(key)
    except settings.SettingError as error:
        raise operations.NotFound(str(error).replace("`config list` shows them all.", "").strip()) from None
    raise LookupError(key)


def _page(session: Session, value: settings.Value, text: str, problem: str = "") -> str:
    new = value.value if problem else value.definition.parse(text)
    return render_template(
        "config/one.html",
        nav=nav_of(session),
        value=value,
        text=text,
        problem=problem,
        consequence=_consequence(session, value, new),
        history=[_as_change(event) for event in queries.events_of(session, f"setting:{value.definition.key}")],
    )


def _as_change(event: Event) -> Change:
    detail = json.loads(event.detail) if event.detail else {}
    return Change(event.at, event.actor, detail.get("from"), detail.get("to"), bool(detail.get("default")))


def _consequence(session: Session, value: settings.Value, new: settings.Number) -> Optional[Consequence]:
    """What a value would do, compared with the one that stands. None where nothing can be told beforehand."""
    key = value.definition.key
    if key in BACKOFF:
        before, after = settings.load(session), settings.load(session)
        setattr(after, key, new)
        old = timetable(before, before.max_retries) if new != value.value else None
        return Consequence(old, timetable(after, after.max_retries))
    if key in KEPT:
        return Consequence(text=_kept(session, KEPT[key], int(new)))
    return None


def _kept(session: Session, state: str, days: int) -> str:
    if days == 0:
        return f"All {state} jobs are kept until somebody discards them."
    older = queries.count(session, in_state(state), Job.finished_at < clock.now() - days * clock.DAY)
    if older.number == 0:
        return f"No {state} job is older than that now."
    return f"{older} {state} {'job is' if older.number == 1 else 'jobs are'} older than that and would be deleted soon."
