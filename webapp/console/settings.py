"""The settings: the list, and one setting with its bounds, effect and history."""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import Callable, Optional

from flask import Blueprint, abort, redirect, request, url_for
from flask.typing import ResponseReturnValue
from sqlalchemy.orm import Session

from webapp.console.display.setting_effects import foresee
from webapp.console.display.wording import number, who
from webapp.console.frame import htmx
from webapp.console.frame.params import whole_number
from webapp.console.frame.person import actor, needs
from webapp.core.settings import PER_QUEUE, Definition, SettingError
from webapp.db.engines import reading
from webapp.jobs import lifecycle, settings
from webapp.jobs.setting_deletions import Deletion

pages = Blueprint("config", __name__)

HISTORY = 50  # changes that a page shows
MOST_OWN = 50  # queues with their own value that a page shows


@pages.get("/config")
def index() -> ResponseReturnValue:
    with reading() as session:
        values = {value.definition.key: value for value in settings.describe(session)}
        own = Counter(value.definition.base for value in values.values() if value.definition.queue)
        return htmx.page("config", session, values=values, own=own)


@pages.get("/config/<key>/queue")
def of_queue(key: str) -> ResponseReturnValue:
    """Go to the value of the queue that the form names."""
    return redirect(url_for("config.show", key=f"{key}@{request.args.get('queue', '').strip()}"))


@pages.get("/config/<key>")
def show(key: str, text: Optional[str] = None, *, problem: str = "", conflict: str = "") -> str:
    """The page of one setting. `text` is the typed value; by default the current value."""
    with reading() as session:
        value = _value(session, key)
        typed = str(value.value) if text is None else text
        new = value.value if _problem(value.definition, typed) else value.definition.parse(typed)
        history = settings.history(session, key, HISTORY)
        return htmx.form_page(
            "config/one.html",
            session,
            value=value,
            text=typed,
            problem=problem,
            conflict=conflict,
            unsaved=new != value.value,
            consequence=foresee(session, value, new),
            history=history,
            seen=history[0].id if history else 0,
            own=_own(session, value.definition),
            most_own=MOST_OWN,
        )


@pages.post("/config/<key>")
@needs("admin")
def change(key: str) -> ResponseReturnValue:
    """Set a value. `reset` restores the default; `preview` only shows the effect."""
    text = request.form.get("value", "")
    with reading() as session:
        definition = _value(session, key).definition
    if "preview" in request.form:
        problem = _problem(definition, text)
        return show(key, text, problem=problem), 422 if problem else 200
    if "reset" in request.form:
        wanted = number(definition.tidy(definition.default))
        save = partial(settings.unset_setting, key, actor())
    else:
        wanted = text.strip()
        save = partial(settings.set_setting, key, text, actor())
    return _save(key, save, text, wanted, f"Not saved. Save again to set it to {wanted}.")


@pages.post("/config/<key>/revert")
@needs("admin")
def revert(key: str) -> ResponseReturnValue:
    """Restore the value before a change. This is a normal change, checked and recorded."""
    with reading() as session:
        _value(session, key)
    change_id = whole_number(request.form.get("change", ""))
    if change_id is None:
        abort(400, "This form is incomplete. Reload the page.")
    save = partial(settings.revert_setting, key, change_id, actor())
    return _save(key, save, None, None, "Not reverted. Check the updated history below.")


def _save(
    key: str, save: Callable[..., settings.Value], typed: Optional[str], wanted: Optional[str], then: str
) -> ResponseReturnValue:
    """Save and go to the page. On an error it shows `typed`; after a change by another user, `wanted` and `then`."""
    seen = request.form.get("seen", "")
    try:
        # The newest change that the user saw.
        after = save(seen=whole_number(seen), confirmed="confirmed" in request.form)
    except settings.NeedsConfirmation as unconfirmed:
        return _ask(key, unconfirmed.deletion)
    except SettingError as error:
        return show(key, typed, problem=_without_key(error, key)), 422
    except settings.Outdated as error:
        change = error.change
        default = " (default)" if change.after_default else ""
        conflict = f"{who(change.actor)} changed it to {number(change.after)}{default}. {then}"
        return show(key, wanted, conflict=conflict), 409
    default = "" if after.changed_by else " (default)"
    message = f"Saved: {key} = {number(after.value)}{default}"
    return htmx.done(message, back=url_for("config.show", key=key), leave=True)


def _ask(key: str, deletion: Deletion) -> ResponseReturnValue:
    """Ask before a change that deletes something. The button repeats the form."""
    sent = [(name, request.form[name]) for name in ("value", "reset", "change", "seen") if name in request.form]
    return htmx.ask(
        f"Delete {deletion.what}?",
        f"{key} = {number(deletion.new)} {deletion}",
        deletion.button,
        hidden=sent,
        back=url_for("config.show", key=key),
        danger=True,
    )


@pages.post("/config/<key>/check")
@needs("admin")
def check(key: str) -> ResponseReturnValue:
    """Check a value: the error, or the effect."""
    text = request.form.get("value", "")
    with reading() as session:
        value = _value(session, key)
        problem = _problem(value.definition, text)
        consequence = None if problem else foresee(session, value, value.definition.parse(text))
    return htmx.fragment("config/_check.html", problem=problem, consequence=consequence)


def _problem(definition: Definition, text: str) -> str:
    """Why the value is not allowed, or ''."""
    try:
        definition.parse(text)
    except SettingError as error:
        return _without_key(error, definition.key)
    return ""


def _without_key(error: SettingError, key: str) -> str:
    """A message without the setting's name at its start."""
    text = str(error)
    return text[len(key) + 2 :].strip() if text.startswith(f"{key}: ") else text


def _value(session: Session, key: str) -> settings.Value:
    """A setting with its value, or NotFound."""
    try:
        return settings.find(session, key)
    except SettingError as error:
        raise lifecycle.NotFound(str(error)) from None


def _own(session: Session, definition: Definition) -> Optional[list[settings.Value]]:
    """The queues with their own value; None: queues cannot have one."""
    if definition.key not in PER_QUEUE:
        return None
    return [one for one in settings.describe(session) if one.definition.base == definition.key and one.definition.queue]
