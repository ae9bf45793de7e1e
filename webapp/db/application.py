"""Creates the Flask application for commands and workers: configuration and database, without pages."""

from __future__ import annotations

from typing import Optional

from flask import Flask

from webapp import config as configuration
from webapp.config import Config
from webapp.db import engines
from webapp.db.migrations import ensure_current


def create_core(config: Optional[Config] = None, *, migrate: bool = True) -> Flask:
    """Create the application without console and API, and migrate its database.

    Raises ConfigError if the configuration, the home folder or the database cannot be used.
    """
    settings = config or configuration.load()
    root = configuration.CHECKOUT
    app = Flask(__name__, root_path=str(root), static_folder="static", template_folder="templates")
    app.extensions["queuectl_config"] = settings
    engines.init_app(app, settings)
    if migrate:
        with app.app_context():
            ensure_current(settings)
    return app
