"""Files that are made while somebody takes them, piece by piece, however slowly."""

from __future__ import annotations

from collections.abc import Iterator

from flask import Flask, current_app


def streamed(pieces: Iterator[str]) -> Iterator[str]:
    """The pieces, for a response. The request is over by then; between two pieces nothing of ours is held."""
    return _within(current_app._get_current_object(), pieces)  # type: ignore[attr-defined]


def _within(app: Flask, pieces: Iterator[str]) -> Iterator[str]:
    while True:
        with app.app_context():
            piece = next(pieces, None)
        if piece is None:
            return
        yield piece
