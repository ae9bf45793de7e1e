"""Streamed responses."""

from __future__ import annotations

from collections.abc import Iterator

from flask import Flask, current_app


def streamed(pieces: Iterator[str]) -> Iterator[str]:
    """The pieces in an application context. No database connection is held between two pieces."""
    return _within(current_app._get_current_object(), pieces)  # type: ignore[attr-defined]


def _within(app: Flask, pieces: Iterator[str]) -> Iterator[str]:
    while True:
        with app.app_context():
            piece = next(pieces, None)
        if piece is None:
            return
        yield piece
