"""Answers refreshes with 304 before the page is rendered, while the database has not changed.

The cache holds the last ETag of each live region with the database's change mark (`engines.change_mark`). While the
mark is the same, a request with that ETag gets a 304. Some facts change without a write (a worker stops responding, a
retry is overdue, the disk fills), so entries expire after ENTRY_LIFE_SECONDS.

Users with the same role share entries. This reveals nothing: a 304 only confirms what the user already has.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, NamedTuple, Optional

from flask import Response, g, request

from webapp.console.frame.htmx import is_partial
from webapp.console.sessions import current_person
from webapp.db import engines

if TYPE_CHECKING:
    from flask import Flask

ENTRY_LIFE_SECONDS = 10.0
MOST_ENTRIES = 500

Key = tuple[str, str, str]  # what a response depends on besides the database: role, URL, time zone


class Entry(NamedTuple):
    etag: str
    mark: engines.ChangeMark
    at: float


def init_app(app: Flask) -> None:
    """Register after the gate, which refuses users without access."""
    lock = threading.Lock()
    entries: dict[Key, Entry] = {}

    def answer_unchanged() -> Optional[Response]:
        if request.method != "GET" or not is_partial() or not request.if_none_match:
            return None
        mark, person = engines.change_mark(), current_person()
        if mark is None or person is None:
            return None
        key = (person.role, request.full_path, request.cookies.get("tz", ""))
        known = entries.get(key)
        fresh = known is not None and known.mark == mark and time.monotonic() - known.at <= ENTRY_LIFE_SECONDS
        if known is None or not fresh or not request.if_none_match.contains_weak(known.etag):
            g.unchanged = (key, mark)
            return None
        response = Response("", 304)
        response.set_etag(known.etag, weak=True)
        response.vary.add("HX-Request-Type")
        return response

    def remember(response: Response) -> Response:
        asked: Optional[tuple[Key, engines.ChangeMark]] = g.pop("unchanged", None)
        etag, _ = response.get_etag()
        if asked is not None and etag is not None and response.status_code in {200, 304}:
            key, mark = asked
            with lock:
                if len(entries) >= MOST_ENTRIES and key not in entries:
                    entries.clear()
                entries[key] = Entry(etag, mark, time.monotonic())
        return response

    app.before_request(answer_unchanged)
    app.after_request(remember)
