"""Streamed responses."""

from __future__ import annotations

from collections.abc import Iterator

from flask import current_app


def streamed(pieces: Iterator[str]) -> Iterator[str]:
    """The pieces in an application context. No database connection is held between two pieces."""
    app = current_app._get_current_object()  # type: ignore[attr-defined]

    def within() -> Iterator[str]:
        while True:
            with app.app_context():
                piece = next(pieces, None)
            if piece is None:
                return
            yield piece

    return within()
