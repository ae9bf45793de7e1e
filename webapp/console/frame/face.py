"""The console as a face (`web/faces.py`): who may enter, and how an error looks.

The gate checks origin, user, role, recent password and CSRF token, in this order. Public routes stand in PUBLIC and
nowhere else. A route that writes and names no role stops the application from starting. An error is a page, or a toast
for htmx. Refused requests are recorded in the audit trail.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Optional

from flask import Flask, Response, current_app, flash, make_response, redirect, render_template, request, url_for
from flask_wtf.csrf import CSRFError, CSRFProtect
from sqlalchemy.exc import DBAPIError
from werkzeug.exceptions import Forbidden, HTTPException, Unauthorized
from werkzeug.routing import Rule
from werkzeug.wrappers import Response as AnyResponse

from webapp.accounts import refusals, sessions, users
from webapp.console.frame import kept_form
from webapp.console.frame.htmx import go_to, is_partial, renew_token, toast
from webapp.console.frame.person import Need, Person, current_person, need_of, this_person
from webapp.core.job_spec import SpecError
from webapp.core.storage.locks import Busy
from webapp.db.engines import reading
from webapp.lib import clock
from webapp.lib.text import capitalize
from webapp.web import proxy_hints
from webapp.web.request_info import came_from, config, is_own_url, is_public_host, local_path, requested_path

DOORS = frozenset({"sessions.log_in", "sessions.set_up"})  # their forms are sent by users who are signed out
PUBLIC = frozenset({"static", "sessions.log_in", "sessions.set_up", "health.alive", "health.ready"})
SHOWN_ADMINS = 3
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
    500: ("", "Internal error. The console log has the details. Your change was saved completely or not at all."),
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
            raise Forbidden(_who_may(need.role, person))
        if need.fresh and not person.fresh:
            return _ask_for_password()
        _renew(person)
        return None

    def refuse(self, error: Exception) -> Optional[Response]:
        """A form shows its SpecErrors itself; those that come here are of buttons."""
        if isinstance(error, SpecError):
            return self.explain(409, None, f"{capitalize(str(error))} Nothing changed.")
        if not isinstance(error, CSRFError):
            return None
        if request.endpoint in DOORS:
            return _open_again()
        _note_forgery("no token of this session")
        if is_partial():
            text = "You signed in again after this page was loaded, so nothing changed. Try again."
            return renew_token(toast(text, "error", 400, refresh=False))
        offered = kept_form.offer_again()
        text = "You signed in or out after this page was loaded. Reload the page."
        return self.explain(400, "This form has expired", text) if offered is None else make_response(offered)

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
            link = (url_for("sessions.log_in", next=came_from("") or None), "Sign in") if status == 401 else None
            response = toast(text, "error", status, refresh=status == 409, link=link)
            if status == 401:
                del response.headers["HX-Trigger"]  # it would close the dialog with what was typed
        else:
            response = make_response(render_template("error.html", status=status, title=title, text=text), status)
        if error is not None and error.get_headers():
            response.headers.extend({k: v for k, v in error.get_headers() if k in {"Allow", "Retry-After"}})
        if status == 503:
            response.headers["Retry-After"] = "5"
        return response


def _who_may(role: str, person: Person) -> str:
    """'This needs the role operator. Your role is viewer. An admin can change it: ana, ben.'"""
    with reading() as session:
        names = users.admins(session, SHOWN_ADMINS)
    text = f"This needs the role {role}. Your role is {person.role}. An admin can change it"
    return f"{text}: {', '.join(names)}." if names else f"{text}."


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


def _open_again() -> Response:
    """A form to sign in or set up, from a tab that was opened before another tab signed in or out."""
    target = local_path(request.form.get("next"), url_for("overview.index"))
    if current_person() is not None:
        flash(f"You are already signed in as {this_person().name}.", "info")
        return make_response(kept_form.go_on(target))
    problem = "This page has expired. Try again."
    if request.endpoint == "sessions.log_in":
        return make_response(kept_form.log_in_page(target, request.form.get("name", ""), problem), 400)
    flash(problem, "error")
    return make_response(redirect(requested_path(), 303))


def _send_to_log_in() -> AnyResponse:
    """Send page loads to sign-in and back. A form is kept meanwhile. Answer fragments with 401."""
    if is_partial():
        if request.method in SAFE:
            raise Unauthorized("You are signed out. This page is no longer refreshed.")
        raise Unauthorized("You are signed out. Nothing changed. Sign in in the new tab, then try again here.")
    if request.method not in SAFE:
        return make_response(kept_form.log_in_page(came_from(url_for("overview.index")), kept=kept_form.keep()), 401)
    here = requested_path()
    return redirect(url_for("sessions.log_in", next=here if here != url_for("overview.index") else None), 303)


def _ask_for_password() -> AnyResponse:
    """Send the user to the password page, and back to this page after it. A form is kept meanwhile."""
    here = requested_path() if request.method in SAFE else came_from(url_for("overview.index"))
    kept = "" if is_partial() or request.method in SAFE else kept_form.keep()
    if kept:
        return make_response(kept_form.confirm_page(here, kept=kept))
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
