"""The API's part of the gate: token, rate limit, scope and media types. And who calls, for the views.

A valid token costs one write per minute, to record its use. Only failures are counted, per client address; after too
many, further failures are refused without a write. A valid token still works from such an address, because one client
with an old token must not block others on its network, and 256 random bits cannot be guessed.

Each token can send BURST requests at once and RATE per second in the long run. The counts are in the memory of this
process; a shared limit would cost a write for each request. The limit only protects the console's threads from a
runaway client. With several processes, it is as many times higher.
"""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from typing import Optional, cast

from flask import Flask, current_app, g, request
from sqlalchemy.exc import DBAPIError
from werkzeug.routing import Rule

from webapp.accounts import login_throttle, refusals, tokens
from webapp.api.problems import Problem, too_many
from webapp.core.storage.locks import Busy
from webapp.db import audit
from webapp.db.engines import reading, writing
from webapp.db.models import SCOPES, Token
from webapp.web.request_info import address

TOKEN_USE_LOCK_SECONDS = 1.0  # how long a request waits for the write lock to record that its token was used
JSON = "application/json"
LONGEST_TOKEN = 200  # characters that are hashed
RATE = 50.0  # requests per second
BURST = 200
BUCKETS = "queuectl_api_pace"  # in an application's extensions


class Buckets:
    """A token bucket for each key. It fills with time; each request takes one token."""

    def __init__(self, rate: float = RATE, burst: int = BURST) -> None:
        self._rate = rate
        self._burst = burst
        self._levels: dict[int, tuple[float, float]] = {}  # level, and when it was computed
        self._lock = threading.Lock()

    def take(self, key: int, now: Optional[float] = None) -> float:
        """Take one token. Return 0, or the seconds until one is available."""
        now = time.monotonic() if now is None else now
        with self._lock:
            level, at = self._levels.get(key, (float(self._burst), now))
            level = min(self._burst, level + max(0.0, now - at) * self._rate)
            wait = max(0.0, (1 - level) / self._rate)
            self._levels[key] = (level if wait else level - 1, now)
            return wait


def token() -> Token:
    """The token of this request. `admit` has checked and set it."""
    return cast(Token, g.queuectl_token)


def actor() -> str:
    return f"token:{token().name}"


def may(scope: str) -> bool:
    return tokens.may(token().scope, scope)


def needed_scope(app: Flask, endpoint: Optional[str]) -> Optional[str]:
    """The scope that a route named, or None."""
    return cast(Optional[str], getattr(app.view_functions.get(endpoint or ""), "needed_scope", None))


def check_route(app: Flask, rule: Rule) -> None:
    if needed_scope(app, rule.endpoint) not in SCOPES:
        raise RuntimeError(f"{rule.endpoint} at {rule.rule} names no scope")


def admit() -> None:
    """Refuse every request without a token of sufficient scope. Raises Problem."""
    g.queuectl_token = _authenticate(address())
    wait = current_app.extensions[BUCKETS].take(token().id)
    if wait:
        raise too_many(wait)
    if request.endpoint is None:
        return  # Flask answers 404 or 405
    _check_scope()
    _check_media_types()


def _authenticate(peer: Optional[str]) -> Token:
    scheme, _, secret = request.headers.get("Authorization", "").strip().partition(" ")
    secret = secret.strip()
    if scheme.lower() != "bearer" or not secret:
        raise Problem("no-token", headers={"WWW-Authenticate": 'Bearer realm="queuectl"'})
    key = login_throttle.address(peer, "token")
    with reading() as session:
        found = tokens.find(session, secret[:LONGEST_TOKEN])
        wait = login_throttle.wait_of(session, key) if found is None else 0.0
    if found is None:
        wait = wait or login_throttle.admit([key])
        if wait:
            raise too_many(wait, "Too many invalid tokens from this address.")
        with writing() as session:
            audit.note(session, "use_token", ["token"], "anonymous", outcome="refused")
        raise Problem("bad-token", headers={"WWW-Authenticate": 'Bearer realm="queuectl", error="invalid_token"'})
    with suppress(Busy, DBAPIError, OSError):
        tokens.note_use(found, peer, TOKEN_USE_LOCK_SECONDS)
    return found


def _check_scope() -> None:
    needed = needed_scope(current_app, request.endpoint)
    if needed is not None and may(needed):
        return
    refusals.note(actor(), request.method.lower(), request.endpoint, {"needs": needed, "scope": token().scope})
    challenge = f'Bearer realm="queuectl", error="insufficient_scope", scope="{needed}"'
    text = (
        f"This needs the scope {needed}; the token {token().name} has {token().scope}. An admin can create one with it."
    )
    raise Problem("scope", text, headers={"WWW-Authenticate": challenge}, needs=needed)


def _check_media_types() -> None:
    makes = getattr(current_app.view_functions[request.endpoint or ""], "makes", (JSON,))
    accepted = request.accept_mimetypes
    if accepted and not any(kind in accepted for kind in makes):
        raise Problem("not-acceptable", f"This URL returns {' or '.join(makes)}.")
    has_body = bool(request.content_length) or "Transfer-Encoding" in request.headers
    if has_body and request.mimetype != JSON:
        raise Problem("media-type")
