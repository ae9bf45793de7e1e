"""What both faces stand on: who asks, may they, how it fails, headers, streaming.

Nothing here knows the console or the API; each registers itself as a face (`faces.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from webapp.accounts import refusals
from webapp.web import compression, errors, faces, gate, headers, health, static
from webapp.web.gate import check_routes as check_routes

if TYPE_CHECKING:
    from flask import Flask

BODY_LIMIT = 1024 * 1024  # bytes: a command and an environment of 64 KiB each, percent-encoded, and some room


def init_app(app: Flask, served: Sequence[faces.Face]) -> None:
    """Set up what both faces share. The gate comes first: a request that it refuses reaches nothing else."""
    app.config.update(MAX_CONTENT_LENGTH=BODY_LIMIT, MAX_FORM_MEMORY_SIZE=BODY_LIMIT)
    faces.register(app, served)
    compression.init_app(app)
    headers.init_app(app)
    refusals.init_app(app)
    gate.init_app(app)
    static.init_app(app)
    errors.init_app(app)
    app.register_blueprint(health.pages)
