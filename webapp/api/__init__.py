"""The JSON API under /api/v1: one file for each noun. This file puts them together, and describes them in OpenAPI.

It reads and acts through the same functions as the console and the CLI. Each route names its scope.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from apispec import APISpec
from apispec.ext.marshmallow import MarshmallowPlugin
from flask import Flask

from webapp.accounts import tokens
from webapp.api import (
    actions,
    channels,
    dead_letters,
    gate,
    jobs,
    metrics,
    notifications,
    output,
    problems,
    queues,
    schedules,
    settings,
    workers,
)
from webapp.api.flow import batches, limits
from webapp.api.problems import KINDS
from webapp.api.routes import Noun
from webapp.lib.version import __version__
from webapp.web.request_info import below_root

OPENAPI = "3.1.0"
ABOUT = """Submit jobs and manage the queue from programs.

Send a token with each request: `Authorization: Bearer qctl_…`. Requests and responses are JSON, errors are
`application/problem+json`. Times are ISO 8601 in UTC; durations are seconds."""

description = Noun("Document", "This description in OpenAPI format.")
NOUNS = (
    jobs.routes,
    actions.routes,
    batches.routes,
    output.routes,
    dead_letters.routes,
    workers.routes,
    queues.routes,
    limits.routes,
    schedules.routes,
    notifications.routes,
    channels.routes,
    settings.routes,
    queues.status,
    description,
)


def init_app(app: Flask) -> None:
    app.extensions["queuectl_api"] = Api
    app.extensions[gate.BUCKETS] = gate.Buckets()
    for noun in NOUNS:
        app.register_blueprint(noun)
        app.extensions["csrf"].exempt(noun)  # the API reads no cookies
    app.register_blueprint(metrics.routes)


@description.on("GET", "/openapi.json", {200: {"type": "object"}}, scope="read")
def get_openapi() -> Any:
    """Get this OpenAPI document.

    Use it to generate a client.
    """
    return {**document(), "servers": [{"url": below_root("") or "/"}]}


@cache
def document() -> dict[str, Any]:
    """The OpenAPI document. Built on first use, because it takes longer than the rest of the start."""
    spec = APISpec(
        "queuectl",
        __version__,
        OPENAPI,
        plugins=[MarshmallowPlugin()],
        info={"description": ABOUT},
        tags=[{"name": noun.title, "description": noun.about} for noun in NOUNS],
    )
    scopes = "; ".join(f"`{name}`: {meaning}" for name, meaning in tokens.MEANINGS.items())
    bearer = {"type": "http", "scheme": "bearer", "description": f"A token with a scope. {scopes}."}
    spec.components.security_scheme("token", bearer)
    for status in sorted({kind.status for kind in KINDS.values()}):
        spec.components.response(f"Problem{status}", _problem(status))
    for noun in NOUNS:
        for path, method, operation in noun.described:
            spec.path(path, operations={method: operation})
    return spec.to_dict()


def _problem(status: int) -> dict[str, Any]:
    titles = " or ".join(kind.title for kind in KINDS.values() if kind.status == status)
    content = {problems.MEDIA_TYPE: {"schema": problems.ProblemSchema}}
    response: dict[str, Any] = {"description": titles, "content": content}
    if status in (429, 503):
        response["headers"] = {"Retry-After": {"description": "seconds to wait", "schema": {"type": "integer"}}}
    if status == 401:
        response["headers"] = {"WWW-Authenticate": {"schema": {"type": "string"}}}
    return response


class Api:
    """The API as a face (`web/faces.py`). The console's API page shows `document()` and `kinds`."""

    name = "api"
    prefix = problems.ROOT
    kinds = KINDS
    document = staticmethod(document)
    check_route = staticmethod(gate.check_route)
    admit = staticmethod(gate.admit)
    refuse = staticmethod(problems.refuse)
    explain = staticmethod(problems.explain)


class Metrics(Api):
    """The same for `/metrics`, which also answers programs on this machine without a token."""

    prefix = metrics.PATH
    admit = staticmethod(metrics.admit)
