"""The settings: the list, and one setting with its bounds, effect and history."""

from __future__ import annotations

import re
from typing import Optional

from flask import Blueprint, abort, flash, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from sqlalchemy.orm import Session

from webapp.console.display.setting_effects import foresee
from webapp.console.display.wording import number, who
from webapp.console.frame import htmx
from webapp.console.frame.nav import nav_of
from webapp.console.frame.roles import needs
from webapp.console.sessions import actor
from webapp.core import settings as setting_values
from webapp.db.engines import reading
from webapp.jobs import operations, settings

pages = Blueprint("config", __name__)

HISTORY = 50  # changes that a page shows
GROUPS = (
    ("Retries", ("max_retries", "backoff_base", "backoff_max", "backoff_jitter")),
    ("Running", ("job_timeout", "kill_grace", "output_limit", "job_memory_limit", "job_process_limit")),
    ("Workers", ("shutdown_grace", "lease")),
    ("Retention", ("keep_completed", "keep_cancelled", "keep_dead", "keep_audit")),
)


@pages.get("/config")
def index() -> ResponseReturnValue:
    with reading() as session:
        values = {value.definition.key: value for value in settings.describe(session)}
        return htmx.page("config", session, groups=_grouped(values))


def _grouped(values: dict[str, settings.Value]) -> list[tuple[str, list[settings.Value]]]:
    """The settings by group. Settings without a group come last."""
    named = {key for _, keys in GROUPS for key in keys}
    groups = [(title, [values[key] for key in keys if key in values]) for title, keys in GROUPS]
    rest = [value for key, value in values.items() if key not in named]
    return [*groups, ("Others", rest)] if rest else groups


@pages.get("/config/<key>")
def show(key: str) -> ResponseReturnValue:
    with reading() as session:
        return _page(session, key)


@pages.post("/config/<key>")
@needs("admin")
def change(key: str) -> ResponseReturnValue:
    """Set a value. `reset` restores the default; `preview` only shows the effect."""
    text = request.form.get("value", "")
    with reading() as session:
        definition = _value(session, key).definition
        if "preview" in request.form:
            return _preview(session, key, text)
    try:
        if "reset" in request.form:
            after = operations.unset_setting(key, actor(), seen=_seen())
        else:
            after = operations.set_setting(key, text, actor(), seen=_seen())
    except setting_values.SettingError as error:
        with reading() as session:
            return _page(session, key, text, problem=_without_key(error, key)), 422
    except settings.Outdated as error:
        wanted = number(definition.tidy(definition.default)) if "reset" in request.form else text.strip()
        then = f"Not saved. Save again to set it to {wanted}."
        with reading() as session:
            return _page(session, key, wanted, conflict=_happened(error, then)), 409
    _say(after)
    return redirect(url_for("config.show", key=key), 303)


@pages.post("/config/<key>/revert")
@needs("admin")
def revert(key: str) -> ResponseReturnValue:
    """Restore the value before a change. This is a normal change, checked and recorded."""
    change_id = request.form.get("change", "")
    with reading() as session:
        _value(session, key)
    if not re.fullmatch(r"[0-9]{1,18}", change_id):
        abort(400, "This form is incomplete. Reload the page.")
    try:
        after = operations.revert_setting(key, int(change_id), actor(), seen=_seen())
    except setting_values.SettingError as error:
        with reading() as session:
            return _page(session, key, problem=_without_key(error, key)), 422
    except settings.Outdated as error:
        then = "Not reverted. Check the updated history below."
        with reading() as session:
            return _page(session, key, conflict=_happened(error, then)), 409
    _say(after)
    return redirect(url_for("config.show", key=key), 303)


@pages.post("/config/<key>/check")
@needs("admin")
def check(key: str) -> ResponseReturnValue:
    """Check a value: the error, or the effect."""
    text = request.form.get("value", "")
    with reading() as session:
        value = _value(session, key)
        problem, consequence = "", None
        try:
            consequence = foresee(session, value, value.definition.parse(text))
        except setting_values.SettingError as error:
            problem = _without_key(error, key)
    return htmx.fragment("config/_check.html", problem=problem, consequence=consequence)


def _say(after: settings.Value) -> None:
    default = "" if after.changed_by else " (default)"
    flash(f"Saved: {after.definition.key} = {number(after.value)}{default}", "success")


def _seen() -> Optional[int]:
    """The newest change that the user saw; None if the form does not say."""
    text = request.form.get("seen", "")
    return int(text) if re.fullmatch(r"[0-9]{1,18}", text) else None


def _happened(error: settings.Outdated, then: str) -> str:
    change = error.change
    default = " (default)" if change.after_default else ""
    return f"{who(change.actor)} changed it to {number(change.after)}{default}. {then}"


def _without_key(error: setting_values.SettingError, key: str) -> str:
    """A message without the setting's name at its start."""
    text = str(error)
    return text[len(key) + 2 :].strip() if text.startswith(f"{key}: ") else text


def _value(session: Session, key: str) -> settings.Value:
    """One setting, or NotFound."""
    for value in settings.describe(session):
        if value.definition.key == key:
            return value
    try:
        setting_values.define(key)
    except setting_values.SettingError as error:
        raise operations.NotFound(str(error)) from None
    raise LookupError(key)


def _preview(session: Session, key: str, text: str) -> ResponseReturnValue:
    try:
        _value(session, key).definition.parse(text)
    except setting_values.SettingError as error:
        return _page(session, key, text, problem=_without_key(error, key)), 422
    return _page(session, key, text)


def _page(session: Session, key: str, text: Optional[str] = None, *, problem: str = "", conflict: str = "") -> str:
    """The page of one setting. `text` is the typed value; by default the current value."""
    value = _value(session, key)
    typed = str(value.value) if text is None else text
    try:
        new = value.definition.parse(typed)
    except setting_values.SettingError:
        new = value.value
    history = settings.history(session, key, HISTORY)
    return render_template(
        "config/one.html",
        nav=nav_of(session),
        value=value,
        text=typed,
        problem=problem,
        conflict=conflict,
        unsaved=new != value.value,
        consequence=foresee(session, value, new),
        history=history,
        seen=history[0].id if history else 0,
    )
