"""Users, for admins: the list, adding a user, one user's role, password and sessions. Also each user's own account.

`webapp/accounts/users.py` checks names, roles and passwords, and keeps the last admin. Pages that change rights need a
recently confirmed password, also to show their form. The theme, refresh and keys of a browser are cookies, so that they
work without JavaScript.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Optional

from flask import Blueprint, abort, request, url_for
from flask.typing import ResponseReturnValue
from sqlalchemy.orm import Session

from webapp.accounts import sessions, users
from webapp.console.display.wording import ROLE_HELP, browser
from webapp.console.frame import htmx
from webapp.console.frame.person import actor, needs, this_person
from webapp.console.frame.templating import PREFERENCES
from webapp.console.sessions import confirm_password, renew_as_fresh
from webapp.db.engines import reading
from webapp.db.models import ROLES, User
from webapp.jobs import lifecycle
from webapp.lib.text import capitalize, plural
from webapp.web.request_info import came_from, cookie_path, is_public_https

pages = Blueprint("people", __name__)
account = Blueprint("account", __name__)

YEAR_SECONDS = 365 * 86400
HANDLE = re.compile(r"[0-9a-f]{16}\Z")


def _signed_in(session: Session, user_id: int) -> list[dict[str, Any]]:
    """A user's sessions as shown, the current one (`here`) first."""
    shown = [
        {
            "row": row,
            "handle": sessions.handle_of(row),
            "browser": browser(row.browser),
            "here": sessions.is_this(row, this_person().session_id),
        }
        for row in sessions.of_user(session, user_id)
    ]
    return sorted(shown, key=lambda one: not one["here"])


@pages.get("/people")
@needs("admin")
def index() -> ResponseReturnValue:
    with reading() as session:
        signed = sessions.of_everyone(session)
        rows = [(user, *signed.get(user.id, (0, None))) for user in users.list_all(session)]
        return htmx.page("people", session, rows=rows)


@pages.get("/people/new")
@needs("admin", fresh=True)
def new(typed: Optional[dict[str, str]] = None, errors: Optional[dict[str, str]] = None) -> str:
    """The form. After an error, with what was typed."""
    return htmx.form_page(
        "people/new.html",
        typed=typed or {"name": "", "role": "operator"},
        errors=errors or {},
        roles=ROLE_HELP.items(),
        shortest=users.SHORTEST,
    )


@pages.post("/people/new")
@needs("admin", fresh=True)
def add() -> ResponseReturnValue:
    typed = {"name": request.form.get("name", "").strip(), "role": request.form.get("role", "")}
    password = request.form.get("password", "")
    errors = users.problems(typed["name"], password, typed["role"])
    if not errors:
        try:
            users.add(typed["name"], password, typed["role"], actor())
        except users.AccountError as error:
            errors[error.field] = str(error)
    if errors:
        return new(typed, {field: capitalize(text) for field, text in errors.items()}), 422
    return _done(typed["name"], f"User {typed['name']} added as {typed['role']}.")


@pages.get("/person/<name>")
@needs("admin", fresh=True)
def show(name: str, errors: Optional[dict[str, str]] = None, role: str = "") -> str:
    """One user's page. `role` is the chosen role after an error."""
    user = _known(name)
    with reading() as session:
        return htmx.form_page(
            "people/one.html",
            session,
            user=user,
            role=role or user.role,
            signed=_signed_in(session, user.id),
            errors=errors or {},
            roles=ROLE_HELP.items(),
            shortest=users.SHORTEST,
        )


def _known(name: str) -> User:
    """The user, or NotFound."""
    with reading() as session:
        user = users.find(session, name)
    if user is None:
        raise lifecycle.NotFound(f"user {name!r} does not exist.")
    return user


@pages.post("/person/<name>/role")
@needs("admin", fresh=True)
def set_role(name: str) -> ResponseReturnValue:
    """Change a user's role. Lowering your own role needs confirmation."""
    user, role = _known(name), request.form.get("role", "")
    lesser = role in ROLES and ROLES.index(role) < ROLES.index(user.role)
    if _is_reader(user) and lesser and "confirmed" not in request.form:
        text = f"You are {name}. You will be signed out everywhere. Only another admin can undo this."
        return _ask(f"Change your own role to {role}?", text, "Change my role", [("role", role)])
    try:
        changed = users.set_role(name, role, actor())
    except users.AccountError as error:
        return show(name, {"role": capitalize(str(error))}, role if role in ROLES else ""), 422
    if not changed:
        return _done(name, f"{name} is already {role}. Nothing changed.", level="info")
    signed_out = " All sessions were signed out." if lesser else ""
    return _done(name, f"{name} is now {role}.{signed_out}", out=_is_reader(user) and lesser)


@pages.post("/person/<name>/disable")
@needs("admin", fresh=True)
def disable(name: str) -> ResponseReturnValue:
    """Block a user's sign-in, after confirmation."""
    user = _known(name)
    if "confirmed" in request.form:
        return _set_disabled(user, True, f"{name} disabled and signed out everywhere.")
    if _is_reader(user):
        text = f"You are {name}. You will be signed out and cannot sign in until another admin enables you."
        return _ask("Disable yourself?", text, "Disable me")
    text = f"{name} is signed out everywhere and cannot sign in. Tokens that {name} created keep working"
    return _ask(f"Disable {name}?", f"{text}; revoke them on the Tokens page.", f"Disable {name}")


@pages.post("/person/<name>/enable")
@needs("admin", fresh=True)
def enable(name: str) -> ResponseReturnValue:
    return _set_disabled(_known(name), False, f"{name} can sign in again.")


def _set_disabled(user: User, disabled: bool, said: str) -> ResponseReturnValue:
    try:
        changed = users.set_disabled(user.name, disabled, actor())
    except users.AccountError as error:
        return htmx.refused(f"{user.name} {error}", "The last admin stays")
    if not changed:
        return htmx.refused(f"{user.name} is already {'disabled' if disabled else 'enabled'}. Nothing changed.")
    return _done(user.name, said, out=disabled and _is_reader(user))


@pages.post("/person/<name>/password")
@needs("admin", fresh=True)
def set_password(name: str) -> ResponseReturnValue:
    """Set a user's password. All sessions of the user end, except the current one."""
    own = _is_reader(_known(name))
    try:
        users.set_password(name, request.form.get("password", ""), actor(), spare=this_person().session_id)
    except users.AccountError as error:
        return show(name, {error.field: capitalize(str(error))}), 422
    ended = "Your other sessions were signed out." if own else "All sessions were signed out."
    return _done(name, f"Password of {name} changed. {ended}")


@pages.post("/person/<name>/sessions/end")
@needs("admin", fresh=True)
def end_sessions(name: str) -> ResponseReturnValue:
    """Sign a user out: one session (`handle`), or all after confirmation."""
    own, handle = _is_reader(_known(name)), _sent_handle()
    if not handle and "confirmed" not in request.form:
        if own:
            return _ask("Sign out all other sessions?", "You stay signed in here.", "Sign out")
        return _ask(f"Sign {name} out everywhere?", f"{name} can sign in again.", "Sign out")
    return _end_sessions(name, handle, url_for("people.show", name=name))


def _sent_handle() -> str:
    """The session handle that the button sent, or '' for all."""
    handle = request.form.get("handle", "")
    if handle and not HANDLE.match(handle):
        abort(400)
    return handle


def _end_sessions(name: str, handle: str, back: str) -> ResponseReturnValue:
    """End one session of a user, or all; never the current one."""
    ended = users.end_sessions(name, actor(), handle=handle, spare=this_person().session_id)
    if not ended:
        return htmx.refused("Already signed out. Nothing changed.")
    # Pages with forms have no live region, so reload the page.
    return htmx.done(f"{plural(ended, 'session')} signed out.", back=back, leave=True)


def _is_reader(user: User) -> bool:
    return user.id == this_person().user_id


def _ask(title: str, text: str, button: str, hidden: Sequence[tuple[str, str]] = ()) -> ResponseReturnValue:
    back = url_for("people.show", name=(request.view_args or {})["name"])
    return htmx.ask(title, text, button, danger=True, hidden=hidden, back=back)


def _done(name: str, message: str, *, level: str = "success", out: bool = False) -> ResponseReturnValue:
    """Show a message on the user's page, or on the sign-in page for users who signed themselves `out`."""
    back = url_for("sessions.log_in") if out else url_for("people.show", name=name)
    return htmx.done(message, back=back, level=level, leave=True)


# --- the own account -------------------------------------------------------------------------------------------------


@account.get("/account", endpoint="show")
def show_account(errors: Optional[dict[str, str]] = None) -> str:
    with reading() as session:
        return htmx.form_page(
            "account/page.html",
            session,
            signed=_signed_in(session, this_person().user_id),
            shortest=users.SHORTEST,
            errors=errors or {},
        )


@account.post("/account", endpoint="choose")
@needs("viewer")
def choose_preferences() -> ResponseReturnValue:
    response = htmx.done("Saved for this browser.", back=came_from(url_for("account.show")), leave=True)
    for name, allowed in PREFERENCES.items():
        value = request.form.get(name)
        if value in allowed:  # not HttpOnly: app.js uses them too
            path, secure = cookie_path(), is_public_https()
            response.set_cookie(name, value, max_age=YEAR_SECONDS, path=path, samesite="Lax", secure=secure)
    return response


@account.post("/account/password", endpoint="set_password")
@needs("viewer")
def set_own_password() -> ResponseReturnValue:
    """Change the own password. Without a recent confirmation, the current password is needed too."""
    person = this_person()
    if not person.fresh:
        # This renews the session now: a rejected new password does not ask for the old one again.
        problem, status, headers = confirm_password(request.form.get("current", ""))
        if problem:
            return show_account({"current": problem}), status, headers
    try:
        users.set_password(person.name, request.form.get("password", ""), actor(), spare=person.session_id)
    except users.AccountError as error:
        return show_account({error.field: capitalize(str(error))}), 422
    renew_as_fresh()
    message = "Password changed. Your other sessions were signed out."
    return htmx.done(message, back=url_for("account.show"), leave=True)


@account.post("/account/sessions/end", endpoint="end_sessions")
@needs("viewer")
def end_own_sessions() -> ResponseReturnValue:
    """Sign out one other session, or all others."""
    return _end_sessions(this_person().name, _sent_handle(), url_for("account.show"))
