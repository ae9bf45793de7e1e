"""The OpenAPI document: made from the routes by flask-smorest, asked for with any token, shown on /api-docs."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, partial
from threading import Lock
from typing import TYPE_CHECKING, Any, cast

from flask import current_app
from flask_smorest import Api

from webapp.accounts import tokens
from webapp.api.routes import Noun, problem_responses
from webapp.api.scopes import scope
from webapp.lib.version import __version__

if TYPE_CHECKING:
    from flask import Flask

OPENAPI = "3.1.0"
ABOUT = """Submit jobs and steer the queue from programs.

Each request carries a token: `Authorization: Bearer qctl_…`. Bodies and answers are JSON, refusals are
`application/problem+json`. Times are ISO 8601 in UTC, durations are seconds."""

routes = Noun("Document", "This description, for programs.")
_KEY = "queuectl_api_document"
_making = Lock()


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


def describe(app: Flask, nouns: Sequence[Noun]) -> None:
    """Register the nouns. Their document is made when it is first asked for: that takes longer than this."""
    api = Described()
    api.DEFAULT_ERROR_RESPONSE_NAME = None
    info = {"title": "queuectl", "version": __version__, "info": {"description": ABOUT}}
    api.init_app(app, spec_kwargs={**info, "openapi_version": OPENAPI})
    for noun in nouns:
        # The half of Api.register_blueprint that answers requests; the other one is in `make`.
        app.extensions["flask-smorest"]["blp_name_to_api"][noun.name] = api
        app.register_blueprint(noun)
    app.extensions[_KEY] = cache(partial(make, app, api, nouns))


def make(app: Flask, api: Api, nouns: Sequence[Noun]) -> dict[str, Any]:
    """Make the document of the nouns. To be called once, for the specification can be filled once."""
    scopes = "; ".join(f"`{name}`: {meaning}" for name, meaning in tokens.MEANINGS.items())
    bearer = {"type": "http", "scheme": "bearer", "description": f"A token, with a scope. {scopes}."}
    api.spec.components.security_scheme("token", bearer)
    for name, response in problem_responses().items():
        api.spec.components.response(name, response)
    for noun in nouns:
        noun.register_views_in_doc(api, app, api.spec, name=noun.name, parameters=None)
    found = api.spec.to_dict()
    found["tags"] = [{"name": noun.title, "description": noun.about} for noun in nouns]
    found["servers"] = [{"url": "/"}]
    return cast("dict[str, Any]", found)


def document() -> dict[str, Any]:
    with _making:  # two requests may be the first
        return cast("dict[str, Any]", current_app.extensions[_KEY]())


@routes.on("GET", "/openapi.json", {200: {"type": "object"}})
@scope("read")
def get_openapi() -> Any:
    """This document.

    Give it to a generator of clients.
    """
    return document()
