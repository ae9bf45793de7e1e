"""The two faces of the application: the console answers people in HTML, the API answers programs in JSON.

Both share the gate and the error handler; a face defines what differs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Optional, Protocol, cast

from flask import Flask, Response, current_app, request
from werkzeug.exceptions import HTTPException
from werkzeug.routing import Rule
from werkzeug.wrappers import Response as AnyResponse

_KEY = "queuectl_faces"


class Face(Protocol):
    """What the gate and the error handler need from a face."""

    name: str  # in the audit trail
    prefix: str  # of its addresses

    def check_route(self, app: Flask, rule: Rule) -> None:
        """Raise RuntimeError if a route names no role or scope."""

    def admit(self) -> Optional[AnyResponse]:
        """Let the request in (None), answer it, or raise an error."""

    def refuse(self, error: Exception) -> Optional[Response]:
        """Answer an exception that only this face knows, else None."""

    def explain(
        self,
        status: int,
        title: Optional[str] = None,
        text: Optional[str] = None,
        error: Optional[HTTPException] = None,
    ) -> Response:
        """Answer with an error. Without title or text, the face uses its own for the status."""


def register(app: Flask, faces: Sequence[Face]) -> None:
    """Set the faces of an application; of several prefixes that match, the first one wins."""
    app.extensions[_KEY] = faces


def face_of(app: Flask, path: str) -> Face:
    faces = cast("Sequence[Face]", app.extensions[_KEY])
    return next(face for face in faces if path.startswith(face.prefix))


def current_face() -> Face:
    """The face that this request is for."""
    return face_of(current_app, request.path)
