"""The API's part of the gate: a token, not too many requests, the scope that the view names, types that it speaks.

A good token is looked up first, so that it costs no write but one a minute, for when it was used last. Only what fails
is counted, for the address that it came from; an address with too many failures is refused by a read. It still gets in
with a good token: one program with an old token must not lock out the others of its network, and 256 random bits are
not found by trying.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Optional

from flask import current_app, request
from sqlalchemy.exc import DBAPIError

from webapp.accounts import login_throttle, refusals, tokens
from webapp.api import problems, rate_limit
from webapp.api.problems import Problem
from webapp.api.scopes import Caller, needed_scope, set_caller
from webapp.core.locks import Busy
from webapp.db import audit
from webapp.db.engines import reading, writing
from webapp.db.models import Token
from webapp.web.request_info import address

if TYPE_CHECKING:
    from flask import Flask
    from werkzeug.routing import Rule

USE_PATIENCE = 1.0  # seconds that a request waits to note that its token was used
JSON = "application/json"
LONGEST = 200  # characters of a token that are looked at


def check_route(app: Flask, rule: Rule) -> None:
    if needed_scope(app, rule.endpoint) is None:
        raise RuntimeError(f"{rule.endpoint} at {rule.rule} names no scope: mark it with @scope(…)")


def admit() -> None:
    """Deny every request without a token of sufficient scope. Raises Problem."""
    caller = set_caller(_token(address()))
    wait = rate_limit.buckets(current_app).take(caller.token_id)
    if wait:
        raise problems.too_many(wait)
    if request.endpoint is None:
        return  # nothing is there, or not with this method: Flask says which
    _check_scope(caller)
    _check_types()


def _token(peer: Optional[str]) -> Token:
    scheme, _, secret = request.headers.get("Authorization", "").strip().partition(" ")
    secret = secret.strip()
    if scheme.lower() != "bearer" or not secret:
        raise Problem("no-token", headers={"WWW-Authenticate": 'Bearer realm="queuectl"'})
    key = login_throttle.address(peer, "token")
    with reading() as session:
        token = tokens.find(session, secret[:LONGEST])
        wait = login_throttle.wait_of(session, key) if token is None else 0.0
    if token is None:
        wait = wait or login_throttle.admit([key])
        if wait:
            raise problems.too_many(wait, "Too many tokens that do not work came from this address.")
        _note_wrong_token()
        raise Problem("bad-token", headers={"WWW-Authenticate": 'Bearer realm="queuectl", error="invalid_token"'})
    with suppress(Busy, DBAPIError, OSError):
        tokens.used(token, peer, USE_PATIENCE)
    return token


def _note_wrong_token() -> None:
    with writing() as session:
        audit.note(session, "use_token", ["token"], "anonymous", outcome="refused")


def _check_scope(caller: Caller) -> None:
    needed = needed_scope(current_app, request.endpoint)
    if needed is not None and caller.may(needed):
        return
    refusals.note(caller.actor, request.method.lower(), request.endpoint, {"needs": needed, "scope": caller.scope})
    challenge = f'Bearer realm="queuectl", error="insufficient_scope", scope="{needed}"'
    text = f"This needs the scope {needed}; the token {caller.name} has {caller.scope}."
    raise Problem("scope", text, headers={"WWW-Authenticate": challenge}, needs=needed)


def _check_types() -> None:
    """What comes is JSON or nothing; what goes is of a type that the program takes."""
    makes = getattr(current_app.view_functions[request.endpoint or ""], "makes", (JSON,))
    accepted = request.accept_mimetypes
    if accepted and not any(kind in accepted for kind in makes):
        raise Problem("not-acceptable", f"This address gives {' or '.join(makes)}.")
    has_body = bool(request.content_length) or "Transfer-Encoding" in request.headers
    if has_body and request.mimetype != JSON:
        raise Problem("media-type")
