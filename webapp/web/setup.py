"""Gives an application what both faces share."""

from __future__ import annotations

from collections.abc import Sequence

from flask import Flask
from flask_compress import Compress

from webapp.accounts import refusals
from webapp.web import errors, faces, gate, headers, health, path_prefix, proxy_hints, request_counts

BODY_LIMIT = 1024 * 1024  # bytes: a command and an environment of 64 KiB each, percent-encoded, and some room
# Compression is safe for secrets (BREACH): the CSRF token differs in each response, and SameSite cookies stop other
# sites from sending requests as the user, except for navigation.
COMPRESSED = [
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


def init_app(app: Flask, served: Sequence[faces.Face]) -> None:
    """Set up what both faces share. Compression is registered first, so that it sees a response last."""
    app.config.update(MAX_CONTENT_LENGTH=BODY_LIMIT, MAX_FORM_MEMORY_SIZE=BODY_LIMIT, COMPRESS_MIMETYPES=COMPRESSED)
    faces.register(app, served)
    Compress(app)
    headers.init_app(app)
    gate.init_app(app)
    refusals.init_app(app)
    errors.init_app(app)
    path_prefix.init_app(app)
    proxy_hints.init_app(app)
    request_counts.init_app(app)
    app.register_blueprint(health.pages)
