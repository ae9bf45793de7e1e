"""Errors as application/problem+json (RFC 9457). `web/errors.py` decides which face answers.

Each kind has its own `type`: a URL on the page /api-docs that explains it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Optional

from flask import Response
from marshmallow import fields as ma
from werkzeug.exceptions import HTTPException

from webapp.api import fields
from webapp.core.flow.unique_keys import Holder
from webapp.core.job_spec import KeyTaken, SpecError
from webapp.core.settings import SettingError
from webapp.core.storage.relocated import Relocated
from webapp.jobs.filters import FilterError
from webapp.jobs.lifecycle import Conflict, KeyHeld
from webapp.jobs.setting_deletions import NeedsConfirmation
from webapp.lib.text import capitalize
from webapp.web.request_info import below_root

ROOT = "/api/"
MEDIA_TYPE = "application/problem+json"
MOST_ERRORS = 100  # in one response; a batch can have thousands


@dataclass(frozen=True)
class Kind:
    """A kind of problem. `meaning` is the default for `detail`."""

    status: int
    title: str
    meaning: str


KINDS: Mapping[str, Kind] = {
    "malformed": Kind(400, "Bad request", "The request is not valid HTTP or JSON."),
    "no-token": Kind(401, "Token required", "Send `Authorization: Bearer qctl_…`. An admin can create a token."),
    "bad-token": Kind(401, "Invalid token", "The token does not exist, was revoked, or has expired."),
    "scope": Kind(403, "No permission", "This request needs a token with a larger scope."),
    "not-found": Kind(404, "Not found", "The URL is wrong, or the resource was deleted."),
    "method": Kind(405, "Method not allowed", "The header Allow lists the allowed methods."),
    "not-acceptable": Kind(406, "Not acceptable", "The header Accept names no media type that this URL returns."),
    "conflict": Kind(409, "Already changed", "The current state does not allow this. Nothing was changed."),
    "in-flight": Kind(409, "Request in progress", "Another request with this Idempotency-Key has not finished yet."),
    "confirm": Kind(409, "Confirmation required", "The change deletes something. Send `confirm` to do it anyway."),
    "too-large": Kind(413, "Request too large", "A request can have up to 1 MiB. Split it into several requests."),
    "media-type": Kind(415, "Unsupported media type", "Send JSON with `Content-Type: application/json`."),
    "range": Kind(416, "Range not satisfiable", "The range starts after the end, or is not a single range of bytes."),
    "invalid": Kind(422, "Invalid request", "`errors` lists each invalid field with a message."),
    "key-reused": Kind(422, "Idempotency-Key reused", "The key belongs to another request. Use a new key for each."),
    "too-many": Kind(429, "Too many requests", "Wait for the number of seconds in the header Retry-After."),
    "broken": Kind(500, "Internal error", "This is a bug in queuectl. See the console's log for details."),
    "busy": Kind(503, "Database unavailable", "Nothing was changed. Try again in a moment."),
    "moved": Kind(503, "Queue moved", "Nothing was changed. `detail` has the URL of the new database."),
}
_BY_STATUS = {KINDS[name].status: name for name in reversed(list(KINDS))}  # the first kind of each status


class FieldError(fields.Answer):
    field = fields.text("the field; empty: the whole request")
    place = fields.integer("in a list: the position, from 0", null=True)
    message = fields.text("what is wrong, and what is allowed")


class ProblemSchema(fields.Answer):
    type = fields.text("URL on this server that explains the kind", format="uri-reference")
    title = fields.text("the kind, as a text")
    status = fields.integer("the HTTP status")
    detail = fields.text("what went wrong this time")
    errors = ma.List(ma.Nested(FieldError), metadata={"description": "the invalid fields"})
    state = ma.String(allow_none=True, metadata={"description": "in a conflict: the current state"})
    holder = ma.Dict(
        metadata={"description": "in a conflict about a unique key: id and state of the job that holds it"}
    )
    group = ma.Dict(metadata={"description": "in a conflict about a group: the current group"})
    needs = ma.String(metadata={"description": "the required scope"})
    deletes = ma.Integer(metadata={"description": "how many rows the change deletes; bytes for the size limit"})


class Problem(Exception):
    """An error response. `more` are further members, such as the `state` of a conflict."""

    def __init__(
        self,
        kind: str,
        detail: Optional[str] = None,
        *,
        errors: Sequence[Mapping[str, Any]] = (),
        headers: Optional[Mapping[str, str]] = None,
        **more: Any,
    ) -> None:
        self.kind = kind
        self.detail = detail or KINDS[kind].meaning
        self.headers = headers or {}
        self.more = {**more, "errors": list(errors)} if errors else more
        super().__init__(self.detail)


def too_many(seconds: float, detail: Optional[str] = None) -> Problem:
    return Problem("too-many", detail, headers={"Retry-After": str(max(1, math.ceil(seconds)))})


def field_problem(field: str, message: str) -> Problem:
    return Problem("invalid", f"{field}: {message}", errors=[{"field": field, "place": None, "message": message}])


def refuse(error: Exception) -> Optional[Response]:
    """Answer an exception of the API or of the queue; None for others."""
    problem = problem_of(error)
    return None if problem is None else _answer(problem)


def problem_of(error: Exception) -> Optional[Problem]:
    """The problem for an exception of the queue, with the same message as in the console and the CLI."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, Conflict):
        return Problem("conflict", capitalize(str(error)))
    if isinstance(error, KeyHeld):
        return Problem("conflict", str(error), holder=holder_json(error.holder))
    if isinstance(error, KeyTaken) and error.holders[0].place is None:
        found = _invalid(error)
        return Problem(
            "conflict", f"{found.detail} Nothing was stored.", holder=holder_json(error.holders[0]), **found.more
        )
    if isinstance(error, SpecError):
        return _invalid(error)
    if isinstance(error, SettingError):
        return field_problem("value", str(error))
    if isinstance(error, NeedsConfirmation):
        return Problem("confirm", f"{error} Send `confirm` with true to do it.", deletes=error.deletion.number)
    if isinstance(error, FilterError):
        return field_problem(error.field, str(error))
    if isinstance(error, Relocated):
        # A client that retries reaches the queue once this console restarts with the new database URL.
        return Problem("moved", f"{error}. Nothing was changed.", headers={"Retry-After": "60"})
    return None


def _invalid(error: SpecError) -> Problem:
    more = len(error.errors) - 1
    detail = str(error).partition("\n")[0] + (f" And {more} more." if more else "")
    return Problem("invalid", detail, errors=[one._asdict() for one in error.errors[:MOST_ERRORS]])


def holder_json(holder: Holder) -> dict[str, str]:
    return {"id": holder.id, "state": holder.state}


def explain(
    status: int, title: Optional[str] = None, text: Optional[str] = None, error: Optional[HTTPException] = None
) -> Response:
    """Answer an error of Flask or the database. `text`: a better detail than the default."""
    headers = {}
    if error is not None:
        headers = {name: value for name, value in error.get_headers() if name in {"Allow", "Content-Range"}}
    if status == 503:
        headers["Retry-After"] = "5"
    if status in _BY_STATUS:
        return _answer(Problem(_BY_STATUS[status], text, headers=headers))
    title = title or (error.name if error is not None else "Error")
    return _response({"type": "about:blank", "title": title, "status": status, "detail": text or title})


def _answer(problem: Problem) -> Response:
    kind = KINDS[problem.kind]
    url = below_root(f"/api-docs#{problem.kind}")
    body = {"type": url, "title": kind.title, "status": kind.status, "detail": problem.detail}
    response = _response({**body, **problem.more})
    response.headers.extend(problem.headers)
    return response


def _response(body: dict[str, Any]) -> Response:
    return Response(json.dumps(body) + "\n", body["status"], content_type=MEDIA_TYPE)
