"""What a file of the API registers its views with: one decorator for the address, the scope's check, the description.

flask-smorest collects the description; what comes in is read by `bodies`, so that the words are ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import wraps
from typing import Any, Callable, Optional, TypeVar

from flask import Response
from flask_smorest import Blueprint
from marshmallow import Schema

from webapp.api.gate import JSON
from webapp.api.idempotency import HEADER
from webapp.api.problems import KINDS, MEDIA_TYPE
from webapp.api.request_body import answer
from webapp.api.schemas import NAME_PATTERN

PREFIX = "/api/v1"
BYTES = "application/octet-stream"
ALWAYS = (400, 401, 403, 406, 429, 500, 503)  # what any request may be told
NAMES = {"job_id": "a job's id", "name": "a queue's name", "group": "the key of a group of dead letters"}
KEY = {
    "in": "header",
    "name": HEADER,
    "description": "A key of your own, new for each request: sent again with it, the request is answered again and not "
    "done again. It is remembered for a day.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"},
}

View = TypeVar("View", bound=Callable[..., Any])
Answers = Mapping[int, Any]


class Noun(Blueprint):  # type: ignore[misc]
    """The addresses of one noun. `about` says what it is, in a sentence."""

    def __init__(self, title: str, about: str) -> None:
        name = "api-" + title.lower().replace(" ", "-")
        super().__init__(name, __name__, url_prefix=PREFIX, description=about)
        self.title = title
        self.about = about

    def on(
        self,
        method: str,
        rule: str,
        answers: Answers,
        *,
        query: Optional[type[Schema]] = None,
        body: Any = None,
        also: Sequence[int] = (),
        makes: Sequence[str] = (JSON,),
        headers: Optional[Mapping[str, Any]] = None,
    ) -> Callable[[View], View]:
        """Register a view that has named its scope.

        `answers` maps a status to the schema of its body (None: there is none); `also` are refusals beside those that
        follow from the rest; `body` is a schema, or a JSON schema of several.
        """

        def add(view: View) -> View:
            scope = getattr(view, "needed_scope", None)
            if scope is None:
                raise RuntimeError(f"{method} {rule} names no scope: mark it with @scope(…)")

            @wraps(view)
            def answering(**arguments: Any) -> Response:
                value = view(**arguments)
                return value if isinstance(value, Response) else answer(value)

            refusals = {*ALWAYS, *also}
            refusals |= {422} if query or body else set()
            refusals |= {413, 415, 422} if method in ("POST", "PUT") else set()
            refusals |= {404} if "<" in rule else set()
            refusals |= {409, 422} if getattr(view, "repeatable", False) else set()
            described: dict[str, Any] = {
                "operationId": view.__name__,
                "security": [{"token": [scope]}],
                "parameters": _parameters(rule, query, repeats=getattr(view, "repeatable", False)),
                "responses": {
                    **{str(status): _answer(status, schema, makes, headers) for status, schema in answers.items()},
                    **{str(status): f"Problem{status}" for status in sorted(refusals)},
                },
            }
            if body is not None:
                described["requestBody"] = {"required": True, "content": {JSON: {"schema": body}}}
            answering.needed_scope = scope  # type: ignore[attr-defined]
            answering.makes = tuple(makes)  # type: ignore[attr-defined]
            answering._apidoc = {"manual_doc": described}  # type: ignore[attr-defined]
            self.add_url_rule(rule, view.__name__, answering, methods=[method], tags=[self.title])
            return view

        return add


def _parameters(rule: str, query: Optional[type[Schema]], *, repeats: bool) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [
        {"in": "path", "name": name, "required": True, "description": about,
         "schema": {"type": "string", "pattern": NAME_PATTERN}}
        for name, about in NAMES.items() if f"<{name}>" in rule
    ]  # fmt: skip
    found += [{"in": "query", "schema": query}] if query is not None else []
    return found + ([KEY] if repeats else [])


def _answer(status: int, schema: Any, makes: Sequence[str], headers: Optional[Mapping[str, Any]]) -> dict[str, Any]:
    words = {200: "Done", 201: "Made", 202: "Begun; it goes on by itself", 204: "Done; there is nothing to show",
             206: "A part of it"}  # fmt: skip
    described: dict[str, Any] = {"description": words[status]}
    if schema is not None:
        described["content"] = {kind: {"schema": schema} for kind in makes}
    if headers:
        described["headers"] = dict(headers)
    return described


def problem_responses() -> dict[str, Any]:
    """The refusals that descriptions name, each with the kinds of problem that have its status."""
    from webapp.api.schemas import Problem

    found: dict[str, Any] = {}
    for kind in KINDS.values():
        response = found.setdefault(
            f"Problem{kind.status}",
            {"description": kind.title, "content": {MEDIA_TYPE: {"schema": Problem}}, "headers": {}},
        )
        if response["description"] != kind.title:
            response["description"] += ". Or: " + kind.title
    seconds = {"description": "seconds to wait", "schema": {"type": "integer"}}
    for status in (429, 503):
        found[f"Problem{status}"]["headers"]["Retry-After"] = seconds
    found["Problem401"]["headers"]["WWW-Authenticate"] = {"schema": {"type": "string"}}
    return {name: {key: value for key, value in response.items() if value} for name, response in found.items()}
