"""gunicorn's threads, with an end to their patience: a client that does not send its request gives its thread back.
What is no request at all gets an answer with the headers of every other.

gunicorn itself waits for the rest of a request for ever. Its threads are few, so as many connections that stop in the
middle of a header would be the end of the console, and nobody needs to be signed in for that.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Mapping
from typing import Any

from gunicorn import util
from gunicorn.workers.gthread import ThreadWorker

PATIENCE = 15.0  # seconds in which a request, a form of 1 MiB included, must have come


class PatientWorker(ThreadWorker):  # type: ignore[misc]
    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._until: dict[Any, float] = {}  # by the connection that a thread is busy with

    def handle(self, conn: Any) -> Any:
        self._until[conn] = time.monotonic() + PATIENCE
        try:
            return super().handle(conn)
        finally:
            del self._until[conn]

    def murder_keepalived(self, *arguments: Any, **options: Any) -> None:
        """What gunicorn does about once a second; here also for those that are still being read."""
        now = time.monotonic()
        for conn, until in self._until.copy().items():
            if now > until:
                # The reader sees the end of the stream. An answer that is on its way is not touched.
                with contextlib.suppress(OSError):
                    conn.sock.shutdown(socket.SHUT_RD)
        super().murder_keepalived(*arguments, **options)


def answer_plainly(headers: Mapping[str, str]) -> None:
    """Give these headers to what gunicorn answers by itself, to what it cannot read; and leave out the page in which
    it repeats what came."""

    def write_error(sock: Any, status: int, reason: str, _message: str) -> None:
        body = f"{reason}\n"
        told = {**headers, "Connection": "close", "Content-Type": "text/plain; charset=utf-8",
                "Content-Length": str(len(body))}  # fmt: skip
        lines = [f"HTTP/1.1 {status} {reason}", *(f"{name}: {value}" for name, value in told.items()), "", body]
        util.write_nonblock(sock, "\r\n".join(lines).encode("latin-1"))

    util.write_error = write_error  # workers call it by its module
