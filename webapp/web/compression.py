"""Text is compressed on its way to the browser, so that a phone has the first page soon. By Flask-Compress.

A page's secrets are safe with it: its token differs each time, and no other site's page can have a browser ask for one
with its cookie but by leading it here.
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
    """The first to be registered is the last to see an answer: the others see it as it is."""
    app.config.update(COMPRESS_MIMETYPES=TEXTS)
    Compress(app)
