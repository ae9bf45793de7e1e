"""What a file of the API registers its views with: one decorator for the address, the scope's check, the description.

`document.py` makes the OpenAPI document of the descriptions; what comes in is read by `bodies`, so that the words are
ours.
"""

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
from webapp.api.idempotency import HEADER
from webapp.api.request_body import answer

PREFIX = "/api/v1"
BYTES = "application/octet-stream"
ALWAYS = (400, 401, 403, 406, 429, 500, 503)  # what any request may be told
LARGEST_ID = 2**53 - 1  # the largest integer that every JSON reader keeps exactly
ARGUMENT = re.compile(r"<(?:[^<>]*:)?(\w+)>")  # as Flask writes it in a rule
WORDS = {200: "Done", 201: "Made", 202: "Begun; it goes on by itself", 204: "Done; there is nothing to show",
         206: "A part of it"}  # fmt: skip

_NAME = {"type": "string", "pattern": NAME_PATTERN}
_TEXT = {"type": "string", "minLength": 1}
_NUMBER = {"type": "integer", "minimum": 0, "maximum": LARGEST_ID}
IN_PATH = {
    name: {"in": "path", "name": name, "required": True, "description": about, "schema": schema, "example": example}
    for name, about, schema, example in (
        ("job_id", "a job's id", _NAME, "job1"),
        ("name", "a queue's name", _NAME, "default"),
        ("group", "the key of a group of dead letters", _NAME, "GROUP"),
        ("key", "a setting's name", _TEXT, "backoff_base"),
        ("worker_id", "a worker's id", _TEXT, "WORKER"),
        ("supervisor_id", "a supervisor's id", _TEXT, "SUPERVISOR"),
        ("act_id", "an act's number", _NUMBER, 1),
    )
}
KEY = {
    "in": "header",
    "name": HEADER,
    "description": "A key of your own, new for each request: sent again with it, the request is answered again and not "
    "done again. It is remembered for a day.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"},
}

View = TypeVar("View", bound=Callable[..., Any])


class Noun(Blueprint):
    """The addresses of one noun. `about` says what it is, in a sentence; `described` are its operations."""

    def __init__(self, title: str, about: str) -> None:
        super().__init__("api-" + title.lower().replace(" ", "-"), __name__, url_prefix=PREFIX)
        self.title = title
        self.about = about
        self.described: list[tuple[str, str, dict[str, Any]]] = []  # path, method, operation as OpenAPI has it

    def on(
        self,
        method: str,
        rule: str,
        answers: Mapping[int, Any],
        *,
        query: Optional[type[Schema]] = None,
        body: Any = None,
        also: Sequence[int] = (),
        makes: Sequence[str] = (JSON,),
        headers: Optional[Mapping[str, Any]] = None,
    ) -> Callable[[View], View]:
        """Register a view that has named its scope.

        `answers` maps a status to the schema of its body (None: there is none); `also` are refusals beside those that
        follow from the rest; `body` is a schema, or a JSON schema of several, and has an example.
        """

        def add(view: View) -> View:
            scope = getattr(view, "needed_scope", None)
            if scope is None:
                raise RuntimeError(f"{method} {rule} names no scope: mark it with @scope(…)")
            repeats = getattr(view, "repeatable", False)

            @wraps(view)
            def answering(**arguments: Any) -> Response:
                value = view(**arguments)
                return value if isinstance(value, Response) else answer(value)

            refusals = {*ALWAYS, *also}
            refusals |= {422} if query or body else set()
            refusals |= {413, 415, 422} if method in ("POST", "PUT") else set()
            refusals |= {404} if "<" in rule else set()
            refusals |= {409, 422} if repeats else set()
            operation: dict[str, Any] = {
                **_words(view),
                "tags": [self.title],
                "operationId": view.__name__,
                "security": [{"token": [scope]}],
                "parameters": _parameters(rule, query, repeats=repeats),
                "responses": {
                    **{str(status): _answer(status, schema, makes, headers) for status, schema in answers.items()},
                    **{str(status): f"Problem{status}" for status in sorted(refusals)},
                },
            }
            if body is not None:
                example = body["examples"][0] if isinstance(body, dict) else body.example
                operation["requestBody"] = {"required": True, "content": {JSON: {"schema": body, "example": example}}}
            answering.makes = tuple(makes)  # type: ignore[attr-defined]
            self.add_url_rule(rule, view.__name__, answering, methods=[method])
            self.described.append((PREFIX + ARGUMENT.sub(r"{\1}", rule), method.lower(), operation))
            return view

        return add


def _words(view: Callable[..., Any]) -> dict[str, str]:
    summary, _, about = (inspect.getdoc(view) or "").partition("\n\n")
    return {"summary": summary, "description": about} if about else {"summary": summary}


def _parameters(rule: str, query: Optional[type[Schema]], *, repeats: bool) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [IN_PATH[name] for name in ARGUMENT.findall(rule)]
    found += [{"in": "query", "schema": query}] if query is not None else []
    return found + ([KEY] if repeats else [])


def _answer(status: int, schema: Any, makes: Sequence[str], headers: Optional[Mapping[str, Any]]) -> dict[str, Any]:
    described: dict[str, Any] = {"description": WORDS[status]}
    if schema is not None:
        described["content"] = {kind: {"schema": schema} for kind in makes}
    if headers:
        described["headers"] = dict(headers)
    return described
