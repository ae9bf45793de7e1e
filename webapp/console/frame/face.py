"""The console as a face (`web/faces.py`): who may enter, and how an error looks.

The gate checks origin, person, role, recent password and CSRF token, in this order. Public routes stand in PUBLIC and
nowhere else. A route that writes and names no role stops the application from starting. An error is a page, or a toast
for htmx. Refused requests are recorded in the audit trail.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Optional

from flask import Flask, Response, current_app, make_response, redirect, render_template, request, url_for
from flask_wtf.csrf import CSRFError, CSRFProtect
from sqlalchemy.exc import DBAPIError
from werkzeug.exceptions import Forbidden, HTTPException, Unauthorized
from werkzeug.routing import Rule
from werkzeug.wrappers import Response as AnyResponse

from webapp.accounts import refusals, sessions
from webapp.console.frame.htmx import go_to, is_partial, toast
from webapp.console.frame.person import Need, Person, current_person, need_of
from webapp.core.locks import Busy
from webapp.lib import clock
from webapp.web import proxy_hints
from webapp.web.request_info import came_from, config, is_own_url, is_public_host, requested_path

PUBLIC = frozenset({"static", "sessions.log_in", "sessions.set_up", "health.alive", "health.ready"})
SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
RENEWAL_TIMEOUT_SECONDS = 1.0  # how long a page waits to store the last use of its session
ERRORS = {  # of a status: its title and help
    400: ("Bad request", "The console does not send requests like this. Go back and try again."),
    401: ("Signed out", "Sign in, then try again."),
    403: ("No permission", ""),
    404: (
        "Not found",
        "The address may be wrong, or the job was discarded. Jobs are also deleted after some time (see Settings).",
    ),
    405: ("Method not allowed", "Go back and use the button on the page."),
    409: ("Already changed", ""),
    413: ("Request too large", "The limit is 1 MiB. Put long scripts and data into a file that the job reads."),
    500: ("", "Internal error. The console log has the details. Your request was not done partially."),
    503: ("The database is busy", "Another process holds the write lock. Nothing changed. Try again in a moment."),
}


def init_app(app: Flask) -> None:
    app.config["WTF_CSRF_TIME_LIMIT"] = None  # a token is valid as long as its session
    app.config["WTF_CSRF_SSL_STRICT"] = False  # the Referer check; `_refuse_other_sites` does it better
    CSRFProtect(app)  # its before_request runs after the gate's, which is registered first


class Console:
    """The methods are described in `web/faces.py`."""

    name = "console"
    prefix = "/"

    def check_route(self, app: Flask, rule: Rule) -> None:
        view, writes = app.view_functions[rule.endpoint], (rule.methods or set()) - SAFE
        if hasattr(view, "needed_scope"):
            raise RuntimeError(f"{rule.endpoint} at {rule.rule}: only views of the API name a scope")
        if writes and rule.endpoint not in PUBLIC and need_of(app, rule.endpoint) is None:
            raise RuntimeError(f"{rule.endpoint} takes {', '.join(writes)} but names no role: mark it with @needs(…)")

    def admit(self) -> Optional[AnyResponse]:
        """Deny by default."""
        _refuse_other_sites()
        if request.endpoint in PUBLIC:
            return None
        person = current_person()
        if person is None:
            return _send_to_log_in()
        need = need_of(current_app, request.endpoint) or Need("viewer")
        if not person.may(need.role):
            _note_refusal(person, {"needs": need.role, "role": person.role})
            raise Forbidden(f"This needs role {need.role}. Your role is {person.role}. Ask an admin.")
        if need.fresh and not person.fresh:
            return _ask_for_password()
        _renew(person)
        return None

    def refuse(self, error: Exception) -> Optional[Response]:
        if not isinstance(error, CSRFError):
            return None
        _note_forgery("no token of this session")
        text = "You signed in or out since the page was loaded. Reload the page."
        return self.explain(400, "This form has expired", text)

    def explain(
        self,
        status: int,
        title: Optional[str] = None,
        text: Optional[str] = None,
        error: Optional[HTTPException] = None,
    ) -> Response:
        usual_title, help_text = ERRORS.get(status, ("", ""))
        title = title or usual_title or (error.name if error is not None else "Error")
        text = text or help_text or title
        if is_partial():
            link = (url_for("sessions.log_in", next=None), "Sign in") if status == 401 else None
            response = toast(text, "error", status, refresh=status == 409, link=link)
        else:
            response = make_response(render_template("error.html", status=status, title=title, text=text), status)
        if error is not None and error.get_headers():
            response.headers.extend({k: v for k, v in error.get_headers() if k in {"Allow", "Retry-After"}})
        if status == 503:
            response.headers["Retry-After"] = "5"
        return response


def _refuse_other_sites() -> None:
    """Refuse writes from pages of other sites, as far as the browser tells."""
    if request.method in SAFE:
        return
    origin = request.headers.get("Origin")
    if request.headers.get("Sec-Fetch-Site", "same-origin") not in {"same-origin", "none"}:
        _note_forgery("a page of another site")
        raise Forbidden("This request came from another site. Nothing changed.")
    if origin is None:
        return
    if not is_own_url(origin):
        _note_forgery("a page of another site")
        raise Forbidden(proxy_hints.foreign_origin())
    if origin == config().public_origin and not is_public_host():
        proxy_hints.public_origin_with_other_host()


def _send_to_log_in() -> AnyResponse:
    """Redirect page loads to sign-in and back. Answer fragments and writes with 401."""
    if is_partial() or request.method not in SAFE:
        raise Unauthorized("You are signed out. Sign in again. Nothing changed.")
    here = requested_path()
    return redirect(url_for("sessions.log_in", next=here if here != url_for("overview.index") else None), 303)


def _ask_for_password() -> AnyResponse:
    """Send the user to the password page, and back to this page after it."""
    here = requested_path() if request.method in SAFE else came_from(url_for("overview.index"))
    return go_to(url_for("sessions.confirm", next=here))


def _renew(person: Person) -> None:
    """Renew the session, but not for polls. If the database cannot be written, skip it."""
    polls = is_partial() and request.method in SAFE
    if polls or person.seen_at > clock.now() - sessions.RENEW:
        return
    with suppress(Busy, DBAPIError, OSError):
        sessions.renew(person.session_id, RENEWAL_TIMEOUT_SECONDS)


def _note_refusal(person: Person, detail: dict[str, str]) -> None:
    refusals.note(person.actor, request.method.lower(), request.endpoint, detail)


def _note_forgery(reason: str) -> None:
    """Record a forged request. It is refused even if the record cannot be written."""
    with suppress(Busy, DBAPIError, OSError):
        person = current_person()
        if person is not None:
            _note_refusal(person, {"reason": reason})
