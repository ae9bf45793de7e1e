"""The API's part of the gate: token, rate limit, scope and media types.

A valid token costs one write per minute, to record its use. Only failures are counted, per client address; after too
many, further failures are refused without a write. A valid token still works from such an address, because one client
with an old token must not block others on its network, and nobody can guess 256 random bits.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Optional

from flask import Flask, current_app, g, request
from sqlalchemy.exc import DBAPIError
from werkzeug.routing import Rule

from webapp.accounts import login_throttle, refusals, tokens
from webapp.api import rate_limit
from webapp.api.problems import Problem, too_many
from webapp.api.scopes import actor, may, needed_scope
from webapp.core.locks import Busy
from webapp.db import audit
from webapp.db.engines import reading, writing
from webapp.db.models import SCOPES, Token
from webapp.web.request_info import address

TOKEN_USE_LOCK_SECONDS = 1.0  # how long a request waits for the write lock to record that its token was used
JSON = "application/json"
LONGEST_TOKEN = 200  # characters that are hashed


def check_route(app: Flask, rule: Rule) -> None:
    if needed_scope(app, rule.endpoint) not in SCOPES:
        raise RuntimeError(f"{rule.endpoint} at {rule.rule} names no scope")


def admit() -> None:
    """Refuse every request without a token of sufficient scope. Raises Problem."""
    token = g.queuectl_token = _authenticate(address())
    wait = current_app.extensions[rate_limit.KEY].take(token.id)
    if wait:
        raise too_many(wait)
    if request.endpoint is None:
        return  # Flask answers 404 or 405
    _check_scope(token)
    _check_media_types()


def _authenticate(peer: Optional[str]) -> Token:
    scheme, _, secret = request.headers.get("Authorization", "").strip().partition(" ")
    secret = secret.strip()
    if scheme.lower() != "bearer" or not secret:
        raise Problem("no-token", headers={"WWW-Authenticate": 'Bearer realm="queuectl"'})
    key = login_throttle.address(peer, "token")
    with reading() as session:
        token = tokens.find(session, secret[:LONGEST_TOKEN])
        wait = login_throttle.wait_of(session, key) if token is None else 0.0
    if token is None:
        wait = wait or login_throttle.admit([key])
        if wait:
            raise too_many(wait, "Too many invalid tokens from this address.")
        with writing() as session:
            audit.note(session, "use_token", ["token"], "anonymous", outcome="refused")
        raise Problem("bad-token", headers={"WWW-Authenticate": 'Bearer realm="queuectl", error="invalid_token"'})
    with suppress(Busy, DBAPIError, OSError):
        tokens.note_use(token, peer, TOKEN_USE_LOCK_SECONDS)
    return token


def _check_scope(token: Token) -> None:
    needed = needed_scope(current_app, request.endpoint)
    if needed is not None and may(needed):
        return
    refusals.note(actor(), request.method.lower(), request.endpoint, {"needs": needed, "scope": token.scope})
    challenge = f'Bearer realm="queuectl", error="insufficient_scope", scope="{needed}"'
    text = f"This needs the scope {needed}; the token {token.name} has {token.scope}."
    raise Problem("scope", text, headers={"WWW-Authenticate": challenge}, needs=needed)


def _check_media_types() -> None:
    makes = getattr(current_app.view_functions[request.endpoint or ""], "makes", (JSON,))
    accepted = request.accept_mimetypes
    if accepted and not any(kind in accepted for kind in makes):
        raise Problem("not-acceptable", f"This URL returns {' or '.join(makes)}.")
    has_body = bool(request.content_length) or "Transfer-Encoding" in request.headers
    if has_body and request.mimetype != JSON:
        raise Problem("media-type")
