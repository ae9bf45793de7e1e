"""Answers refreshes with 304 before the page is rendered, while the database has not changed.

The cache holds the last ETag of each live region with the database's change mark (`engines.change_mark`). While the mark is the
same, a request with that ETag gets a 304. Some facts change without a write (a worker stops responding, a retry is
overdue, the disk fills), so entries expire after LONGEST.

Users with the same role share entries. This reveals nothing: a 304 only confirms what the user already has.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Optional

from flask import Response, g, request

from webapp.console.frame.htmx import is_partial
from webapp.console.sessions import current_person
from webapp.db import engines

if TYPE_CHECKING:
    from flask import Flask

LONGEST = 10.0  # seconds
MOST = 500  # cached regions

Key = tuple[str, str, str]


@dataclass(frozen=True)
class _Answered:
    etag: str
    mark: engines.ChangeMark
    at: float


class _Memory:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._answered: dict[Key, _Answered] = {}

    def holds(self, key: Key, mark: engines.ChangeMark) -> Optional[str]:
        """The current ETag of a region, if known."""
        known = self._answered.get(key)
        if known is None or known.mark != mark or time.monotonic() - known.at > LONGEST:
            return None
        return known.etag

    def keep(self, key: Key, etag: str, mark: engines.ChangeMark) -> None:
        with self._lock:
            if len(self._answered) >= MOST and key not in self._answered:
                self._answered.clear()
            self._answered[key] = _Answered(etag, mark, time.monotonic())


def init_app(app: Flask) -> None:
    """Register after the gate, which refuses users without access."""
    memory = _Memory()

    def look() -> Optional[Response]:
        if request.method != "GET" or not is_partial() or not request.if_none_match:
            return None
        mark, key = engines.change_mark(), _key()
        if mark is None or key is None:
            return None
        known = memory.holds(key, mark)
        if known is None or not request.if_none_match.contains_weak(known):
            g.unchanged = (key, mark)
            return None
        response = Response("", 304)
        response.set_etag(known, weak=True)
        response.vary.add("HX-Request-Type")
        return response

    def remember(response: Response) -> Response:
        asked: Any = g.pop("unchanged", None)
        etag, _ = response.get_etag()
        if asked is not None and etag is not None and response.status_code in {200, 304}:
            memory.keep(asked[0], etag, asked[1])
        return response

    app.before_request(look)
    app.after_request(remember)


def _key() -> Optional[Key]:
    """What a response depends on besides the database: role, URL, time zone."""
    person = current_person()
    return (person.role, request.full_path, request.cookies.get("tz", "")) if person is not None else None
