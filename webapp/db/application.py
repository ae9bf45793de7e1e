"""Makes the Flask application that commands and workers need: configuration and database, no pages."""

from __future__ import annotations

from typing import Optional

from flask import Flask

from webapp import config as configuration
from webapp.config import Config
from webapp.db import engines


def create_core(config: Optional[Config] = None, *, migrate: bool = True) -> Flask:
    """Make the application without console and API, with its database brought up to date.

    Raises ConfigError if the configuration or the home folder cannot be used.
    """
    settings = config or configuration.load()
    root = configuration.CHECKOUT
    app = Flask(__name__, root_path=str(root), static_folder="static", template_folder="templates")
    app.extensions["queuectl_config"] = settings
    engines.init_app(app, settings)
    if migrate:
        from webapp.db.migrations import ensure_current

        with app.app_context():
            ensure_current(settings)
    return app
