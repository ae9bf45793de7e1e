"""Who gets in: one gate before every request, closed unless a route says otherwise.

The order is Host, origin, person, role, a fresh password, CSRF token; for the API, which `api/gate.py` goes on with,
Host, token, pace, scope. Public routes stand in PUBLIC and nowhere else; a route that writes and names no role stops
the application from starting.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Optional

from flask import Response, current_app, redirect, request, url_for
from flask_wtf.csrf import CSRFProtect
from sqlalchemy.exc import DBAPIError
from werkzeug.exceptions import Forbidden, Unauthorized

from webapp.accounts import sessions
from webapp.api import problems
from webapp.api.gate import admit
from webapp.api.scopes import needed_scope
from webapp.console.htmx import is_partial
from webapp.console.refusals import note_forgery, note_refusal
from webapp.console.roles import needed_role, needs_fresh
from webapp.console.sessions import RENEWAL_PATIENCE, Person, current_person
from webapp.core.locks import Busy
from webapp.db import audit
from webapp.lib import clock
from webapp.web.request_info import address, came_from, public_host, requested_host, requested_origin, site_of
from webapp.web.schema_guard import refuse_when_outdated

if TYPE_CHECKING:
    from flask import Flask
    from werkzeug.wrappers import Response as AnyResponse

PUBLIC = frozenset({"static", "sessions.log_in", "sessions.set_up", "health.alive", "health.ready"})
WITHOUT_HOST_CHECK = frozenset({"health.alive"})
WITHOUT_DATABASE = frozenset({"static", "health.alive", "health.ready"})  # of these the last asks for itself
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
SAFE = frozenset({"GET", "HEAD", "OPTIONS"})


def init_app(app: Flask) -> None:
    app.before_request(guard)
    app.config["WTF_CSRF_TIME_LIMIT"] = None  # a token lives as long as its session
    app.config["WTF_CSRF_SSL_STRICT"] = False  # the Referer check; `_refuse_strangers` does it better
    CSRFProtect(app)  # registers its own before_request, behind the gate's


def check_routes(app: Flask) -> None:
    """Refuse to start with a route that says for whom it is nowhere: a page that writes, anything of the API."""
    for rule in app.url_map.iter_rules():
        scope = needed_scope(app, rule.endpoint)
        if rule.rule.startswith(problems.ROOT) != (scope is not None):
            raise RuntimeError(f"{rule.endpoint} at {rule.rule}: the API's views, and they alone, name a scope")
        if scope is not None:
            continue
        writes = (rule.methods or set()) - SAFE
        if writes and rule.endpoint not in PUBLIC and needed_role(app, rule.endpoint) is None:
            raise RuntimeError(f"{rule.endpoint} takes {', '.join(writes)} but names no role: mark it with @needs(…)")


def guard() -> Optional[AnyResponse]:
    """Admit nobody to anything, but for what this function says."""
    if problems.asked():
        return _guard_api()
    audit.set_origin(audit.Origin("console", address()))
    refusal = _refuse_unknown_host()
    if refusal is not None:
        return refusal
    if request.endpoint not in WITHOUT_DATABASE:
        refuse_when_outdated()
    _refuse_strangers()
    if request.endpoint in PUBLIC:
        return None
    person = current_person()
    if person is None:
        return _send_to_log_in()
    role = needed_role(current_app, request.endpoint) or "viewer"
    if not person.may(role):
        note_refusal(person, {"needs": role, "role": person.role})
        raise Forbidden(_too_little(person, role))
    if needs_fresh(current_app, request.endpoint) and not person.fresh:
        return _ask_for_password()
    _renew(person)
    return None


def _guard_api() -> Optional[AnyResponse]:
    """Programs: the same host and the same version; then a token, and neither cookie, origin nor role."""
    audit.set_origin(audit.Origin("api", address()))
    refusal = _refuse_unknown_host()
    if refusal is not None:
        return refusal
    refuse_when_outdated()
    admit(address())
    return None


def _renew(person: Person) -> None:
    """Pages and acts keep a session alive; polls do not. Noted now and then, and not at all where nobody can write."""
    polls = is_partial() and request.method in SAFE
    if polls or person.seen_at > clock.now() - sessions.RENEW:
        return
    with suppress(Busy, DBAPIError, OSError):
        sessions.renew(person.session_id, RENEWAL_PATIENCE)


def _ask_for_password() -> AnyResponse:
    """Nothing was done; the person comes back to the page after it."""
    here = request.full_path.rstrip("?") if request.method in SAFE else came_from(url_for("overview.index"))
    url = url_for("sessions.confirm", next=here)
    if not is_partial():
        return redirect(url, 303)
    response = Response("")
    response.headers["HX-Redirect"] = url
    return response


def _too_little(person: Person, role: str) -> str:
    return f"This needs the role {role}; {person.name} is {person.role}. Ask an administrator."


def _refuse_unknown_host() -> Optional[Response]:
    """A page of another site may resolve its own name to this machine and read along: only known names are served."""
    if request.endpoint in WITHOUT_HOST_CHECK:
        return None
    host = requested_host()
    if host in LOOPBACK or (host and host == public_host()):
        return None
    shown = ascii((host or "")[:100])
    text = (
        f"This console is not served under the name {shown}.\n"
        "Open it as http://127.0.0.1 or http://localhost with its port, "
        "or start it with QUEUECTL_PUBLIC_URL set to the address that people use.\n"
    )
    return Response(text, 400, content_type="text/plain; charset=utf-8")


def _refuse_strangers() -> None:
    """A request that writes must come from a page of this very console, as far as the browser tells."""
    if request.method in SAFE:
        return
    origin = request.headers.get("Origin")
    from_here = request.headers.get("Sec-Fetch-Site", "same-origin") in {"same-origin", "none"}
    if not from_here or (origin is not None and site_of(origin) != site_of(requested_origin())):
        note_forgery("a page of another site")
        raise Forbidden("This request came from a page of another site. Nothing was done.")


def _send_to_log_in() -> AnyResponse:
    """A page load goes to log-in and comes back; a fragment or a write is told that the session has ended."""
    if is_partial() or request.method not in SAFE:
        raise Unauthorized("You are signed out. Log in again; nothing was done.")
    here = request.full_path.rstrip("?")
    return redirect(url_for("sessions.log_in", next=here if here != "/" else None), 303)
