"""queuectl: what the queue is, its console and its API.

`create_core()` makes what commands and workers need: configuration and database. `create_app()` adds both faces.
Nothing heavy is imported before one of them is called, so that `--help` is quick.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Optional

if TYPE_CHECKING:
    from flask import Flask

    from webapp.config import Config

__version__ = "0.1.0"


def create_core(config: Optional[Config] = None, *, migrate: bool = True) -> Flask:
    """Make the application without its console, with its database brought up to date.

    Raises ConfigError where the configuration or the home folder cannot be used.
    """
    from flask import Flask

    from webapp import config as configuration
    from webapp import db

    settings = config or configuration.load()
    root = configuration.CHECKOUT
    app = Flask(__name__, root_path=str(root), static_folder="static", template_folder="templates")
    app.extensions["queuectl_config"] = settings
    db.init_app(app, settings)
    if migrate:
        from webapp.migrations import ensure_current

        with app.app_context():
            ensure_current(settings)
    return app


def create_app(config: Optional[Config] = None) -> Flask:
    """Make the whole application, console and API included."""
    app = create_core(config)
    from webapp import api, console
    from webapp.console.gate import check_routes

    console.init_app(app)
    api.init_app(app)
    check_routes(app)
    return app
