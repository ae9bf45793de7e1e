"""The web console. Each file holds the pages of one noun; this one registers them all.

Pages read through `jobs/`, `accounts/` and `insight/`, and write through their functions. `frame/face.py` controls
access for all routes.
"""

from __future__ import annotations

from flask import Blueprint, Flask
from werkzeug.utils import find_modules, import_string

from webapp.console import sessions
from webapp.console.frame import face, htmx, templating
from webapp.console.frame.face import Console

__all__ = ["Console", "init_app"]


def init_app(app: Flask) -> None:
    """Give the application its console."""
    sessions.init_app(app)
    face.init_app(app)
    htmx.init_app(app)  # after the gate, which refuses users without access
    templating.init_app(app)
    for name in find_modules(__name__, recursive=True):
        for value in vars(import_string(name)).values():
            if isinstance(value, Blueprint):
                app.register_blueprint(value)
