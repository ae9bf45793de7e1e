"""Registers the API's routes, each with its scope and its description for the OpenAPI document (`api/__init__.py`)."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from functools import wraps
from typing import Any, Callable, Optional, TypeVar

from flask import Blueprint, Response
from marshmallow import Schema

from webapp.api.fields import NAME_PATTERN
from webapp.api.gate import JSON
from webapp.api.idempotency import HEADER, repeatable_view
from webapp.api.request_body import answer, no_body

PREFIX = "/api/v1"
BYTES = "application/octet-stream"
COMMON_ERRORS = {400, 401, 403, 406, 429, 500, 503}
LARGEST_ID = 2**53 - 1  # the largest integer that every JSON parser reads exactly
ARGUMENT = re.compile(r"<(?:[^<>]*:)?(\w+)>")  # of a Flask rule
DESCRIPTIONS = {200: "OK", 201: "Created", 202: "Accepted; still running", 204: "No content", 206: "Partial content"}

_NAME = {"type": "string", "pattern": NAME_PATTERN}
_TEXT = {"type": "string", "minLength": 1}
_NUMBER = {"type": "integer", "minimum": 0, "maximum": LARGEST_ID}
IN_PATH = {
    name: {"in": "path", "name": name, "required": True, "description": about, "schema": schema, "example": example}
    for name, about, schema, example in (
        ("job_id", "job id", _NAME, "job1"),
        ("name", "name of the queue, schedule, channel, rule or batch", _NAME, "default"),
        ("group", "key of a group of dead letters", _NAME, "GROUP"),
        ("key", "setting name", _TEXT, "backoff_base"),
        ("limit", "key of a limit", _TEXT, "LIMIT"),
        ("worker_id", "worker id", _TEXT, "WORKER"),
        ("supervisor_id", "supervisor id", _TEXT, "SUPERVISOR"),
        ("act_id", "action id", _NUMBER, 1),
        ("delivery_id", "id of the message", _NUMBER, 1),
    )
}
IDEMPOTENCY_KEY = {
    "in": "header",
    "name": HEADER,
    "description": "A unique key for this request. If you repeat the request with the same key within a day, you get "
    "the same response, and nothing is done twice.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"},
}

View = TypeVar("View", bound=Callable[..., Any])


class Noun(Blueprint):
    """The routes of one noun. `about` describes it in a sentence; `described` are its operations."""

    def __init__(self, title: str, about: str) -> None:
        super().__init__("api-" + title.lower().replace(" ", "-"), __name__, url_prefix=PREFIX)
        self.title = title
        self.about = about
        self.described: list[tuple[str, str, dict[str, Any]]] = []  # path, method, OpenAPI operation

    def on(
        self,
        method: str,
        rule: str,
        answers: Mapping[int, Any],
        *,
        scope: str,
        repeatable: bool = False,
        query: Optional[type[Schema]] = None,
        body: Any = None,
        errors: Sequence[int] = (),
        makes: Sequence[str] = (JSON,),
        headers: Optional[Mapping[str, Any]] = None,
    ) -> Callable[[View], View]:
        """Register a view for tokens of at least this scope.

        `answers` maps each status to its schema (None: no body). `repeatable`: the view returns a Response and honours
        Idempotency-Key. `body`: a schema with an `example`, or a JSON schema with `examples`. `errors`: statuses
        beyond those that follow from the rest.
        """

        def add(view: View) -> View:
            called = repeatable_view(view) if repeatable else view

            @wraps(view)
            def answering(**arguments: Any) -> Response:
                if body is None and method in ("POST", "PUT"):
                    no_body()
                value = called(**arguments)
                return value if isinstance(value, Response) else answer(value)

            statuses = COMMON_ERRORS | set(errors)
            statuses |= {422} if query or body else set()
            statuses |= {413, 415, 422} if method in ("POST", "PUT") else set()
            statuses |= {404} if "<" in rule else set()
            statuses |= {409, 422} if repeatable else set()
            operation: dict[str, Any] = {
                **_summary(view),
                "tags": [self.title],
                "operationId": view.__name__,
                "security": [{"token": [scope]}],
                "parameters": [IN_PATH[name] for name in ARGUMENT.findall(rule)]
                + ([{"in": "query", "schema": query}] if query else [])
                + ([IDEMPOTENCY_KEY] if repeatable else []),
                "responses": {
                    **{str(status): _response(status, schema, makes, headers) for status, schema in answers.items()},
                    **{str(status): f"Problem{status}" for status in sorted(statuses)},
                },
            }
            if body is not None:
                example = body["examples"][0] if isinstance(body, dict) else body.example
                operation["requestBody"] = {"required": True, "content": {JSON: {"schema": body, "example": example}}}
            answering.needed_scope = scope  # type: ignore[attr-defined]
            answering.makes = tuple(makes)  # type: ignore[attr-defined]
            self.add_url_rule(rule, view.__name__, answering, methods=[method])
            self.described.append((PREFIX + ARGUMENT.sub(r"{\1}", rule), method.lower(), operation))
            return view

        return add


def _summary(view: Callable[..., Any]) -> dict[str, str]:
    summary, _, about = (inspect.getdoc(view) or "").partition("\n\n")
    return {"summary": summary, "description": about} if about else {"summary": summary}


def _response(status: int, schema: Any, makes: Sequence[str], headers: Optional[Mapping[str, Any]]) -> dict[str, Any]:
    described: dict[str, Any] = {"description": DESCRIPTIONS[status]}
    if schema is not None:
        described["content"] = {kind: {"schema": schema} for kind in makes}
    if headers:
        described["headers"] = dict(headers)
    return described
