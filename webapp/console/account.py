"""The user's own account: password, sessions, and the browser's theme, refresh and keys.

Browser preferences are cookies, so that they work without JavaScript.
"""

from __future__ import annotations

from typing import Optional

from flask import Blueprint, request, url_for
from flask.typing import ResponseReturnValue

from webapp.accounts import users
from webapp.console.display.wording import sentence
from webapp.console.frame import htmx
from webapp.console.frame.person import actor, needs, this_person
from webapp.console.frame.templating import PREFERENCES
from webapp.console.people import report_ended, sent_handle, signed_in
from webapp.console.sessions import confirm_password, renew_as_fresh
from webapp.db.engines import reading
from webapp.web.request_info import is_public_https

pages = Blueprint("account", __name__)

YEAR_SECONDS = 365 * 86400


@pages.get("/account")
def show() -> ResponseReturnValue:
    return _page()


def _page(errors: Optional[dict[str, str]] = None) -> str:
    with reading() as session:
        return htmx.form_page(
            "account/page.html",
            session,
            signed=signed_in(session, this_person().user_id),
            shortest=users.SHORTEST,
            errors=errors or {},
        )


@pages.post("/account")
@needs("viewer")
def choose() -> ResponseReturnValue:
    response = htmx.done("Saved for this browser.", back=url_for("account.show"), leave=True)
    for name, allowed in PREFERENCES.items():
        value = request.form.get(name)
        if value in allowed:  # not HttpOnly: app.js uses them too
            response.set_cookie(name, value, max_age=YEAR_SECONDS, samesite="Lax", secure=is_public_https())
    return response


@pages.post("/account/password")
@needs("viewer")
def set_password() -> ResponseReturnValue:
    """Change the own password. Without a recent confirmation, the current password is needed too."""
    person = this_person()
    if not person.fresh:
        # This renews the session now: a rejected new password does not ask for the old one again.
        problem, status, headers = confirm_password(request.form.get("current", ""))
        if problem:
            return _page({"current": problem}), status, headers
    try:
        users.set_password(person.name, request.form.get("password", ""), actor(), spare=person.session_id)
    except users.AccountError as error:
        return _page({error.field: sentence(str(error))}), 422
    renew_as_fresh()
    message = "Password changed. Your other sessions were signed out."
    return htmx.done(message, back=url_for("account.show"), leave=True)


@pages.post("/account/sessions/end")
@needs("viewer")
def end_sessions() -> ResponseReturnValue:
    """Sign out one other session, or all others."""
    person = this_person()
    ended = users.end_sessions(person.name, actor(), handle=sent_handle(), spare=person.session_id)
    return report_ended(ended, url_for("account.show"))
