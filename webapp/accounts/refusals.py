"""Refusals in the audit trail, for the console and the API: each kind at most once a minute, then with a count.

A program with too small a scope may ask 50 times a second, for ever, and each line is a write that waits for the disk.
So of the same refusal (who, what, why) one line a minute is written. The next line says how many it leaves out.

The counts live in the memory of this process. More processes write as many more lines, and a restart forgets the count
of the minute that runs; neither hides that something was refused.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Optional, cast

from flask import current_app

from webapp.db import audit
from webapp.db.engines import writing

if TYPE_CHECKING:
    from flask import Flask

EVERY = 60.0  # seconds between two lines of the same refusal
# Refusals remembered. People, tokens and routes are few: only hundreds of tokens on all routes reach this.
MOST = 2000
_KEY = "queuectl_refusals"  # in an application's extensions


@dataclass
class _Seen:
    written_at: float
    left_out: int = 0


class Refusals:
    """Which refusals were written lately, and how many were left out since. Safe for several threads."""

    def __init__(self) -> None:
        self._seen: dict[tuple[str, ...], _Seen] = {}  # the last written stand last
        self._lock = threading.Lock()

    def admit(self, *what: str, now: Optional[float] = None) -> Optional[int]:
        """Whether to write this one: the number left out since the last line of its kind, or None not to write it."""
        now = time.monotonic() if now is None else now
        with self._lock:
            seen = self._seen.get(what)
            if seen is not None and now - seen.written_at < EVERY:
                seen.left_out += 1
                return None
            self._seen.pop(what, None)
            if len(self._seen) >= MOST:
                del self._seen[next(iter(self._seen))]
            self._seen[what] = _Seen(now)
            return seen.left_out if seen is not None else 0

    def put_back(self, *what: str, left_out: int) -> None:
        """The line could not be written after all: the next one counts this one, too."""
        with self._lock:
            seen = self._seen.get(what)
            self._seen[what] = _Seen(float("-inf"), left_out + 1 + (seen.left_out if seen is not None else 0))


def init_app(app: Flask) -> None:
    app.extensions[_KEY] = Refusals()


def note(actor: str, verb: str, route: Optional[str], detail: Mapping[str, Optional[str]]) -> None:
    """Write that a route was refused to somebody, unless the same was written less than EVERY seconds ago."""
    refusals = cast(Refusals, current_app.extensions[_KEY])
    subject = f"route:{route}"
    what = (actor, verb, subject, json.dumps(detail))
    left_out = refusals.admit(*what)
    if left_out is None:
        return
    told = {**detail, **({"left_out": left_out} if left_out else {})}
    try:
        with writing() as session:
            audit.note(session, verb, [subject], actor, outcome="refused", details=[told])
    except BaseException:
        refusals.put_back(*what, left_out=left_out)
        raise
