"""A page that refreshes while nothing is written costs next to nothing: it is told so before it is made.

What was answered last to a region is remembered as its ETag, with a mark of what the database had when that was made
(`db.mark`). While the mark is the same, whoever shows that very ETag gets a 304 at once. A region also tells what no
write brings about (a worker falls silent, a retry is overdue, the disk fills): so it is made anew after LONGEST.

Everybody of a role who reads the same address shares what is remembered. That lets nobody see anything: a 304 says
that what one has on the screen already is what would be sent.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Optional

from flask import Response, g, request

from webapp.console.htmx import is_partial
from webapp.console.sessions import current_person
from webapp.db import engines

if TYPE_CHECKING:
    from flask import Flask

LONGEST = 10.0  # seconds
MOST = 500  # regions of which something is remembered

Key = tuple[str, str, str]


@dataclass(frozen=True)
class _Answered:
    etag: str
    mark: engines.Mark
    at: float


class _Memory:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._answered: dict[Key, _Answered] = {}

    def holds(self, key: Key, mark: engines.Mark) -> Optional[str]:
        """The ETag that stands for this region now, if that is known."""
        known = self._answered.get(key)
        if known is None or known.mark != mark or time.monotonic() - known.at > LONGEST:
            return None
        return known.etag

    def keep(self, key: Key, etag: str, mark: engines.Mark) -> None:
        with self._lock:
            if len(self._answered) >= MOST and key not in self._answered:
                self._answered.clear()
            self._answered[key] = _Answered(etag, mark, time.monotonic())


def init_app(app: Flask) -> None:
    """Register it behind the gate: who may not see a page is told nothing of it."""
    memory = _Memory()

    def look() -> Optional[Response]:
        if request.method != "GET" or not is_partial() or not request.if_none_match:
            return None
        mark, key = engines.mark(), _key()
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
    """What an answer depends on beside the database and the hour: role, address, the reader's zone."""
    person = current_person()
    return (person.role, request.full_path, request.cookies.get("tz", "")) if person is not None else None
