"""What went wrong, for programs: application/problem+json (RFC 9457). `web/errors.py` decides which face answers.

Each kind has a type of its own, an address on the page /api-docs that explains it.
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
from webapp.core.job_spec import SpecError
from webapp.core.relocated import Relocated
from webapp.core.settings import SettingError
from webapp.jobs.filters import FilterError

ROOT = "/api/"
MEDIA_TYPE = "application/problem+json"
MOST_ERRORS = 100  # of one answer: a batch may have thousands


@dataclass(frozen=True)
class Kind:
    """A kind of problem; `meaning` is its detail where nothing better is known."""

    status: int
    title: str
    meaning: str


KINDS: Mapping[str, Kind] = {
    "malformed": Kind(400, "The request cannot be read", "Something in the request is not as HTTP or JSON has it."),
    "no-token": Kind(401, "A token is needed", "Send `Authorization: Bearer qctl_…`. An administrator makes tokens."),
    "bad-token": Kind(401, "The token does not work", "There is no such token, or it was revoked, or it has ended."),
    "scope": Kind(403, "The token's scope is too small", "This needs a token with a larger scope."),
    "not-found": Kind(404, "There is nothing here", "The address may be mistyped, or what was here was discarded."),
    "method": Kind(405, "This address takes no such request", "The header Allow lists the methods that it takes."),
    "not-acceptable": Kind(406, "No such type can be given", "The header Accept names no type that this address has."),
    "conflict": Kind(409, "Somebody was first", "It is in another state by now, so nothing was changed."),
    "in-flight": Kind(409, "The first request still runs", "Another one with this Idempotency-Key is being answered."),
    "too-large": Kind(413, "That is too much at once", "A request may carry 1 MiB. Split it into several."),
    "media-type": Kind(415, "The body must be JSON", "Send it with `Content-Type: application/json`."),
    "range": Kind(416, "There are no such bytes", "The range lies behind the end, or is no single range of bytes."),
    "invalid": Kind(422, "Something in the request is not allowed", "`errors` names each field and what is wrong."),
    "key-reused": Kind(422, "The Idempotency-Key was used", "It came with another request. Take a new key for each."),
    "too-many": Kind(429, "Too many requests", "Wait for the seconds in the header Retry-After, then go on."),
    "broken": Kind(500, "Something broke", "The fault is ours; the log of the console has the details."),
    "busy": Kind(503, "The database cannot be used now", "Nothing was changed. Try again in a moment."),
    "moved": Kind(503, "The queue is elsewhere", "Nothing was changed. `detail` has the address of its new database."),
}
_BY_STATUS = {KINDS[name].status: name for name in reversed(list(KINDS))}  # the first of each


class Fault(fields.Answer):
    field = fields.text("which; empty: the whole")
    place = fields.whole("of many, which, from 0", null=True)
    message = fields.text("what is wrong, and what is allowed")


class ProblemSchema(fields.Answer):
    type = fields.text("an address on this server that explains the kind", format="uri-reference")
    title = fields.text("the kind, in words")
    status = fields.whole("as in the answer's first line")
    detail = fields.text("what happened this time")
    errors = ma.List(ma.Nested(Fault), metadata={"description": "each thing that is not allowed"})
    state = ma.String(allow_none=True, metadata={"description": "of a conflict: the state that it is in"})
    group = ma.Dict(metadata={"description": "of a conflict about a group: the group as it is now"})
    needs = ma.String(metadata={"description": "the scope that would be enough"})


class Problem(Exception):
    """An answer that refuses. `more` are further members of the problem, such as the `state` of a conflict."""

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
        self.errors = errors
        self.headers = headers or {}
        self.more = more
        super().__init__(self.detail)


def too_many(seconds: float, detail: Optional[str] = None) -> Problem:
    return Problem("too-many", detail, headers={"Retry-After": str(max(1, math.ceil(seconds)))})


def one_field(field: str, message: str) -> Problem:
    return Problem("invalid", f"{field}: {message}", errors=[{"field": field, "place": None, "message": message}])


def refuse(error: Exception) -> Optional[Response]:
    """Answer a refusal of the queue's own."""
    problem = known(error)
    return None if problem is None else answer(problem)


def known(error: Exception) -> Optional[Problem]:
    """What the queue's own refusals are here: the same words as in the console and on the command line."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, SpecError):
        return Problem("invalid", _first(error), errors=[vars(one) for one in error.errors[:MOST_ERRORS]])
    if isinstance(error, SettingError):
        return one_field("value", str(error))
    if isinstance(error, FilterError):
        return one_field(error.field, str(error))
    if isinstance(error, Relocated):
        # Whoever tries on reaches the queue as soon as this console has been started with the new address.
        return Problem("moved", f"{error}. Nothing was changed.", headers={"Retry-After": "60"})
    return None


def _first(error: SpecError) -> str:
    text = str(error).partition("\n")[0]
    return text if len(error.errors) == 1 else f"{text} And {len(error.errors) - 1} more."


def explain(status: int, _title: Optional[str], text: Optional[str], error: Optional[HTTPException] = None) -> Response:
    """Answer for what Flask or the database say. `text`: a better detail than the kind's own."""
    headers = {}
    if error is not None:
        headers = {name: value for name, value in error.get_headers() if name in {"Allow", "Content-Range"}}
    if status == 503:
        headers["Retry-After"] = "5"
    if status in _BY_STATUS:
        return answer(Problem(_BY_STATUS[status], text, headers=headers))
    title = error.name if error is not None else "Error"
    return _response(status, {"type": "about:blank", "title": title, "status": status, "detail": text or title}, {})


def answer(problem: Problem) -> Response:
    kind = KINDS[problem.kind]
    body: dict[str, Any] = {
        "type": f"/api-docs#{problem.kind}",
        "title": kind.title,
        "status": kind.status,
        "detail": problem.detail,
        **problem.more,
    }
    if problem.errors:
        body["errors"] = list(problem.errors)
    return _response(kind.status, body, problem.headers)


def _response(status: int, body: Mapping[str, Any], headers: Mapping[str, str]) -> Response:
    response = Response(json.dumps(body) + "\n", status, content_type=MEDIA_TYPE)
    response.headers.extend(headers)
    return response
