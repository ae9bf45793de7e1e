"""queuectl: the queue, its console and its API.

Importing this package imports nothing else, so `--help` stays fast.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Optional

if TYPE_CHECKING:
    from flask import Flask

    from webapp.config import Config


def create_app(config: Optional[Config] = None) -> Flask:
    """Create the application with console and API."""
    from webapp import api, console
    from webapp.db.application import create_core
    from webapp.web import gate, setup

    app = create_core(config)
    setup.init_app(app, [api.Metrics(), api.Api(), console.Console()])
    console.init_app(app)
    api.init_app(app)
    gate.check_routes(app)
    return app
