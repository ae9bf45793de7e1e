"""The console's part of the gate: origin, person, role, recent password, CSRF token, in this order.

Public routes stand in PUBLIC and nowhere else. A route that writes and names no role stops the application from
starting.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Optional

from flask import current_app, redirect, request, url_for
from flask_wtf.csrf import CSRFProtect
from sqlalchemy.exc import DBAPIError
from werkzeug.exceptions import Forbidden, Unauthorized

from webapp.accounts import sessions
from webapp.console.frame.error_pages import note_forgery, note_refusal
from webapp.console.frame.htmx import go_to, is_partial
from webapp.console.frame.roles import needed_role, needs_fresh
from webapp.console.sessions import RENEWAL_TIMEOUT_SECONDS, Person, current_person
from webapp.core.locks import Busy
from webapp.lib import clock
from webapp.web.request_info import came_from, requested_origin, site_of

if TYPE_CHECKING:
    from flask import Flask
    from werkzeug.routing import Rule
    from werkzeug.wrappers import Response as AnyResponse

PUBLIC = frozenset({"static", "sessions.log_in", "sessions.set_up", "health.alive", "health.ready"})
SAFE = frozenset({"GET", "HEAD", "OPTIONS"})


def init_app(app: Flask) -> None:
    app.config["WTF_CSRF_TIME_LIMIT"] = None  # a token is valid as long as its session
    app.config["WTF_CSRF_SSL_STRICT"] = False  # the Referer check; `_refuse_other_sites` does it better
    CSRFProtect(app)  # its before_request runs after the gate's, which is registered first


def check_route(app: Flask, rule: Rule) -> None:
    view, writes = app.view_functions[rule.endpoint], (rule.methods or set()) - SAFE
    if hasattr(view, "needed_scope"):
        raise RuntimeError(f"{rule.endpoint} at {rule.rule}: only views of the API name a scope")
    if writes and rule.endpoint not in PUBLIC and needed_role(app, rule.endpoint) is None:
        raise RuntimeError(f"{rule.endpoint} takes {', '.join(writes)} but names no role: mark it with @needs(…)")


def admit() -> Optional[AnyResponse]:
    """Deny by default."""
    _refuse_other_sites()
    if request.endpoint in PUBLIC:
        return None
    person = current_person()
    if person is None:
        return _send_to_log_in()
    role = needed_role(current_app, request.endpoint) or "viewer"
    if not person.may(role):
        note_refusal(person, {"needs": role, "role": person.role})
        raise Forbidden(f"This needs role {role}. Your role is {person.role}. Ask an admin.")
    if needs_fresh(current_app, request.endpoint) and not person.fresh:
        return _ask_for_password()
    _renew(person)
    return None


def _renew(person: Person) -> None:
    """Renew the session, but not for polls. If the database cannot be written, skip it."""
    polls = is_partial() and request.method in SAFE
    if polls or person.seen_at > clock.now() - sessions.RENEW:
        return
    with suppress(Busy, DBAPIError, OSError):
        sessions.renew(person.session_id, RENEWAL_TIMEOUT_SECONDS)


def _ask_for_password() -> AnyResponse:
    """Send the user to the password page, and back to this page after it."""
    here = request.full_path.rstrip("?") if request.method in SAFE else came_from(url_for("overview.index"))
    return go_to(url_for("sessions.confirm", next=here))


def _refuse_other_sites() -> None:
    """Refuse writes from pages of other sites, as far as the browser tells."""
    if request.method in SAFE:
        return
    origin = request.headers.get("Origin")
    from_here = request.headers.get("Sec-Fetch-Site", "same-origin") in {"same-origin", "none"}
    if not from_here or (origin is not None and site_of(origin) != site_of(requested_origin())):
        note_forgery("a page of another site")
        raise Forbidden("This request came from another site. Nothing changed.")


def _send_to_log_in() -> AnyResponse:
    """Redirect page loads to sign-in and back. Answer fragments and writes with 401."""
    if is_partial() or request.method not in SAFE:
        raise Unauthorized("You are signed out. Sign in again. Nothing changed.")
    here = request.full_path.rstrip("?")
    return redirect(url_for("sessions.log_in", next=here if here != "/" else None), 303)
