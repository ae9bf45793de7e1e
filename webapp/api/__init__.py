"""The JSON API under /api/v1: one file for each noun. This file puts them together.

It reads and acts through the same functions as the console and the CLI. Each route names its scope.
"""

from __future__ import annotations

from flask import Flask

from webapp.api import (
    actions,
    dead_letters,
    document,
    gate,
    jobs,
    output,
    problems,
    queues,
    rate_limit,
    settings,
    status,
    workers,
)

NOUNS = (jobs, actions, output, dead_letters, workers, queues, settings, status, document)


class Api:
    """The API as a face (`web/faces.py`). The console's API page shows `document()` and `kinds`."""

    name = "api"
    prefix = problems.ROOT
    kinds = problems.KINDS
    document = staticmethod(document.document)
    check_route = staticmethod(gate.check_route)
    admit = staticmethod(gate.admit)
    refuse = staticmethod(problems.refuse)
    explain = staticmethod(problems.explain)


def init_app(app: Flask) -> None:
    app.extensions["queuectl_api"] = Api
    app.extensions[rate_limit.KEY] = rate_limit.Buckets()
    for noun in NOUNS:
        app.register_blueprint(noun.routes)
        app.extensions["csrf"].exempt(noun.routes)  # the API reads no cookies
