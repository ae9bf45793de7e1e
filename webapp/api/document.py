"""The OpenAPI document, made from the descriptions of the routes."""

from __future__ import annotations

from functools import cache
from typing import Any

from apispec import APISpec
from apispec.ext.marshmallow import MarshmallowPlugin
from flask import current_app

from webapp.accounts import tokens
from webapp.api.problems import KINDS, MEDIA_TYPE, ProblemSchema
from webapp.api.routes import Noun
from webapp.lib.version import __version__

OPENAPI = "3.1.0"
ABOUT = """Submit jobs and manage the queue from programs.

Send a token with each request: `Authorization: Bearer qctl_…`. Requests and responses are JSON, errors are
`application/problem+json`. Times are ISO 8601 in UTC; durations are seconds."""

routes = Noun("Document", "This description in OpenAPI format.")


@routes.on("GET", "/openapi.json", {200: {"type": "object"}}, scope="read")
def get_openapi() -> Any:
    """Get this OpenAPI document.

    Use it to generate a client.
    """
    return document()


def document() -> dict[str, Any]:
    return _make(tuple(noun for noun in current_app.blueprints.values() if isinstance(noun, Noun)))


@cache
def _make(nouns: tuple[Noun, ...]) -> dict[str, Any]:
    """Built on first use, because it takes longer than the rest of the start."""
    spec = APISpec(
        "queuectl",
        __version__,
        OPENAPI,
        plugins=[MarshmallowPlugin()],
        info={"description": ABOUT},
        servers=[{"url": "/"}],
        tags=[{"name": noun.title, "description": noun.about} for noun in nouns],
    )
    scopes = "; ".join(f"`{name}`: {meaning}" for name, meaning in tokens.MEANINGS.items())
    bearer = {"type": "http", "scheme": "bearer", "description": f"A token with a scope. {scopes}."}
    spec.components.security_scheme("token", bearer)
    for status in sorted({kind.status for kind in KINDS.values()}):
        spec.components.response(f"Problem{status}", _problem(status))
    for noun in nouns:
        for path, method, operation in noun.described:
            spec.path(path, operations={method: operation})
    return spec.to_dict()


def _problem(status: int) -> dict[str, Any]:
    titles = " or ".join(kind.title for kind in KINDS.values() if kind.status == status)
    response: dict[str, Any] = {"description": titles, "content": {MEDIA_TYPE: {"schema": ProblemSchema}}}
    if status in (429, 503):
        response["headers"] = {"Retry-After": {"description": "seconds to wait", "schema": {"type": "integer"}}}
    if status == 401:
        response["headers"] = {"WWW-Authenticate": {"schema": {"type": "string"}}}
    return response
