"""The OpenAPI document: made from the routes by flask-smorest, asked for with any token, shown on /api-docs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, cast

from flask import current_app
from flask_smorest import Api

from webapp import __version__, tokens
from webapp.api.routes import Noun, problem_responses
from webapp.api.scopes import scope

if TYPE_CHECKING:
    from flask import Flask

OPENAPI = "3.1.0"
ABOUT = """Submit jobs and steer the queue from programs.

Each request carries a token: `Authorization: Bearer qctl_…`. Bodies and answers are JSON, refusals are
`application/problem+json`. Times are ISO 8601 in UTC, durations are seconds."""

routes = Noun("Document", "This description, for programs.")
_KEY = "queuectl_api_document"


class Described(Api):  # type: ignore[misc]
    """flask-smorest but for its handler of errors, which would take the console's as well."""

    def _register_error_handlers(self) -> None:
        """`console/errors.py` answers for both faces."""

    def _register_responses(self) -> None:
        """Ours are in `routes.problem_responses`."""

    def _register_etag_headers(self) -> None:
        """None is used."""

    def _register_pagination_header(self) -> None:
        """Pages have a cursor and `Link` instead."""


def describe(app: Flask, nouns: Iterable[Noun]) -> None:
    """Register the nouns, and make the document of them."""
    api = Described()
    api.DEFAULT_ERROR_RESPONSE_NAME = None
    info = {"title": "queuectl", "version": __version__, "info": {"description": ABOUT}}
    api.init_app(app, spec_kwargs={**info, "openapi_version": OPENAPI})
    scopes = "; ".join(f"`{name}`: {meaning}" for name, meaning in tokens.MEANINGS.items())
    bearer = {"type": "http", "scheme": "bearer", "description": f"A token, with a scope. {scopes}."}
    api.spec.components.security_scheme("token", bearer)
    for name, response in problem_responses().items():
        api.spec.components.response(name, response)
    for noun in nouns:
        api.register_blueprint(noun)
    found = api.spec.to_dict()
    found["tags"] = [{"name": noun.title, "description": noun.about} for noun in nouns]
    found["servers"] = [{"url": "/"}]
    app.extensions[_KEY] = found


def document() -> dict[str, Any]:
    return cast("dict[str, Any]", current_app.extensions[_KEY])


@routes.on("GET", "/openapi.json", {200: {"type": "object"}})
@scope("read")
def get_openapi() -> Any:
    """This document.

    Give it to a generator of clients.
    """
    return document()
