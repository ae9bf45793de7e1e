"""The gate before every request of both faces: known host, current schema, then authorization by the face.

Deny by default: the application does not start if a route names no role or scope.
"""

from __future__ import annotations

import os
import signal
import time
from typing import Optional

from flask import Flask, Response, current_app, request
from sqlalchemy import text
from werkzeug.wrappers import Response as AnyResponse

from webapp.core import audit_lines
from webapp.core.storage import schema
from webapp.db.engines import reading
from webapp.web import proxy_hints
from webapp.web.faces import current_face, face_of
from webapp.web.request_info import address, is_known_host

WITHOUT_HOST_CHECK = frozenset({"health.alive", "health.ready"})  # probes send any Host, or none
WITHOUT_DATABASE = frozenset({"static", "health.alive", "health.ready"})  # /readyz asks the database itself
SCHEMA_CHECK_INTERVAL_SECONDS = 1.0
SERVER = "queuectl_server"  # extension key: the pid of the server's main process

_KEY = "queuectl_schema_seen"


class Outdated(Exception):
    """The database belongs to a newer version than this process."""


def init_app(app: Flask) -> None:
    app.before_request(guard)


def check_routes(app: Flask) -> None:
    """Raise RuntimeError if a route names no role or scope."""
    for rule in app.url_map.iter_rules():
        face_of(app, rule.rule).check_route(app, rule)


def guard() -> Optional[AnyResponse]:
    face = current_face()
    audit_lines.set_origin(audit_lines.Origin(face.name, address()))
    refusal = _refuse_unknown_host()
    if refusal is not None:
        return refusal
    if request.endpoint not in WITHOUT_DATABASE:
        _refuse_when_outdated()
    return face.admit()


def _refuse_unknown_host() -> Optional[Response]:
    if request.endpoint in WITHOUT_HOST_CHECK or is_known_host():
        return None
    return Response(proxy_hints.unknown_host(), 400, content_type="text/plain; charset=utf-8")


def _refuse_when_outdated() -> None:
    """Stop the server and raise Outdated if the database is newer."""
    now = time.monotonic()
    if now < current_app.extensions.get(_KEY, 0.0) + SCHEMA_CHECK_INTERVAL_SECONDS:
        return
    with reading() as session:
        found = session.scalar(text(schema.REVISION))
    if found == schema.HEAD:
        current_app.extensions[_KEY] = now
        return
    server = current_app.extensions.get(SERVER)
    if server is not None:
        os.kill(server, signal.SIGTERM)
    raise Outdated("A newer version of queuectl has upgraded the database. Restart this console with that version")
