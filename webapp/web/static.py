"""Static file URLs with a content hash, so that browsers can cache them forever."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flask import current_app, request

if TYPE_CHECKING:
    from flask import Flask, Response

FOR_GOOD = "public, max-age=31536000, immutable"


def init_app(app: Flask) -> None:
    app.url_defaults(_add_version)
    app.after_request(_keep)


def _add_version(endpoint: str, values: dict[str, Any]) -> None:
    if endpoint == "static" and "filename" in values:
        path = Path(current_app.static_folder or "") / values["filename"]
        if path.is_file():
            values["v"] = _version(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=64)
def _version(path: Path, _changed: int) -> str:
    return hashlib.blake2b(path.read_bytes(), digest_size=6).hexdigest()


def _keep(response: Response) -> Response:
    if request.endpoint == "static" and response.status_code in {200, 304} and "v" in request.args:
        response.headers["Cache-Control"] = FOR_GOOD
    return response
