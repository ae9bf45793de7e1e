"""Refusals in the audit trail: each kind at most once a minute, with a count of those left out.

A program with too small a scope may send 50 requests per second, and each line is a write that waits for the disk. So
the same refusal (who, what, why) is written once a minute; the next line says how many were left out.

The counts are in the memory of this process. With several processes there are as many times more lines, and a restart
loses the count of the current minute. Neither hides that something was refused.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping
from typing import Optional, cast

from flask import Flask, current_app

from webapp.db import audit
from webapp.db.engines import writing

INTERVAL_SECONDS = 60.0  # between two lines of the same refusal
MAX_REMEMBERED = 2000  # refusals; only hundreds of tokens on all routes reach this
_KEY = "queuectl_refusals"  # in an application's extensions
_NEVER = (float("-inf"), 0)


class Refusals:
    """Refusals that were written recently, and how many were left out since. Thread-safe."""

    def __init__(self) -> None:
        self._seen: dict[tuple[str, ...], tuple[float, int]] = {}  # when written, left out since; in order of writing
        self._lock = threading.Lock()

    def admit(self, *what: str, now: Optional[float] = None) -> Optional[int]:
        """The number left out since the last line of this kind, or None if this one must not be written."""
        now = time.monotonic() if now is None else now
        with self._lock:
            written_at, left_out = self._seen.get(what, _NEVER)
            if now - written_at < INTERVAL_SECONDS:
                self._seen[what] = (written_at, left_out + 1)
                return None
            self._seen.pop(what, None)
            if len(self._seen) >= MAX_REMEMBERED:
                del self._seen[next(iter(self._seen))]
            self._seen[what] = (now, 0)
            return left_out

    def put_back(self, *what: str, left_out: int) -> None:
        """The line could not be written: the next one counts it, too."""
        with self._lock:
            _, later = self._seen.get(what, _NEVER)
            self._seen[what] = (_NEVER[0], left_out + 1 + later)


def init_app(app: Flask) -> None:
    app.extensions[_KEY] = Refusals()


def note(actor: str, verb: str, route: Optional[str], detail: Mapping[str, Optional[str]]) -> None:
    """Write that a route was refused, unless the same was written within the last minute."""
    refusals = cast(Refusals, current_app.extensions[_KEY])
    subject = f"route:{route}"
    what = (actor, verb, subject, json.dumps(detail))
    left_out = refusals.admit(*what)
    if left_out is None:
        return
    details = {**detail, **({"left_out": left_out} if left_out else {})}
    try:
        with writing() as session:
            audit.note(session, verb, [subject], actor, outcome="refused", details=[details])
    except BaseException:
        refusals.put_back(*what, left_out=left_out)
        raise
