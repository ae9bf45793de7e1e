"""The API: the JSON face of the queue, under /api/v1. A file a noun; this one puts the house together.

It shows what `queries`, `story` and `shapes` give and acts through `operations` and `jobs.actions`, as the console and
the CLI do. Who may what is decided in `gate.py`, which the console's gate calls; every view names its scope. Nothing
here imports the console.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from webapp.api import gate, problems, rate_limit
from webapp.api.actions import routes as acts_routes
from webapp.api.dead_letters import routes as dead_letters_routes
from webapp.api.document import document
from webapp.api.document import routes as document_routes
from webapp.api.jobs import routes as jobs_routes
from webapp.api.output import routes as output_routes
from webapp.api.queues import routes as queues_routes
from webapp.api.settings import routes as config_routes
from webapp.api.status import routes as status_routes
from webapp.api.workers import routes as workers_routes
from webapp.web.api_description import ApiDescription, register

if TYPE_CHECKING:
    from flask import Flask

NOUNS = (
    jobs_routes,
    acts_routes,
    output_routes,
    dead_letters_routes,
    workers_routes,
    queues_routes,
    config_routes,
    status_routes,
    document_routes,
)


class Api:
    """The API as `web/faces.py` describes a face."""

    name = "api"
    prefix = problems.ROOT
    check_route = staticmethod(gate.check_route)
    admit = staticmethod(gate.admit)
    refuse = staticmethod(problems.refuse)
    explain = staticmethod(problems.explain)


def init_app(app: Flask) -> None:
    """Give the application its API."""
    register(app, ApiDescription(document, problems.KINDS))
    app.extensions[rate_limit.KEY] = rate_limit.Buckets()
    for noun in NOUNS:
        app.register_blueprint(noun)
        app.extensions["csrf"].exempt(noun)  # no cookie is read here, so no other site's page can act for anybody
