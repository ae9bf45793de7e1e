"""Counts requests by the class of their status, without health checks, over all processes of the server.

The counts are in memory that the server's forks share, with a row for each process. They begin at 0 when the server
starts. A process that is replaced leaves its row to the next one, so nothing is lost then.
"""

from __future__ import annotations

import mmap
import threading
from typing import cast

from flask import Flask, Response, request

CLASSES = ("2xx", "3xx", "4xx", "5xx")
MOST_PROCESSES = 80  # `web --workers` allows 64; one that ends may overlap with the next
_BYTES = 8  # of a number
_KEY = "queuectl_request_counts"


class RequestCounts:
    """Numbers of requests. Made before the server forks."""

    def __init__(self) -> None:
        # Kept while the numbers are used. On POSIX an anonymous map is shared with forks.
        self._numbers = memoryview(mmap.mmap(-1, MOST_PROCESSES * len(CLASSES) * _BYTES)).cast("Q")
        self._row = 0
        self._lock = threading.Lock()

    def use_row(self, row: int) -> None:
        """Count in this row from now on. No other process may write to it."""
        self._row = row

    def add(self, status: int) -> None:
        """Count a request. An unknown status counts as the nearest class."""
        place = self._row * len(CLASSES) + min(max(status // 100 - 2, 0), len(CLASSES) - 1)
        with self._lock:
            self._numbers[place] += 1

    def totals(self) -> dict[str, int]:
        """The requests of all processes by class."""
        return {name: sum(self._numbers[place :: len(CLASSES)]) for place, name in enumerate(CLASSES)}


def init_app(app: Flask) -> None:
    app.extensions[_KEY] = counts = RequestCounts()

    def count(response: Response) -> Response:
        if request.blueprint != "health":  # a probe gets 503 where no worker runs, which is no error of the console
            counts.add(response.status_code)
        return response

    app.after_request(count)


def of(app: Flask) -> RequestCounts:
    return cast(RequestCounts, app.extensions[_KEY])
