"""Compresses text responses with Flask-Compress.

This is safe for secrets (BREACH): the CSRF token differs in each response, and SameSite cookies stop other sites from
sending requests as the user, except for navigation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from flask_compress import Compress

if TYPE_CHECKING:
    from flask import Flask

TEXTS = [
    "application/json",
    "application/jsonl",
    "application/problem+json",
    "image/svg+xml",
    "text/css",
    "text/csv",
    "text/html",
    "text/javascript",
    "text/plain",
]


def init_app(app: Flask) -> None:
    """Register first, so that it sees a response last."""
    app.config.update(COMPRESS_MIMETYPES=TEXTS)
    Compress(app)
