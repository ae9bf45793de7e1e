"""gunicorn's master, which tells whoever started it when the console answers, that it lives, and that it stops."""

from __future__ import annotations

import http.client
from typing import Any

from gunicorn import arbiter

from webapp.lib.sd_notify import Manager

PROBE = 1.0  # seconds that the master may wait for an answer, before it looks after its processes again


class NotifyingArbiter(arbiter.Arbiter):  # type: ignore[misc]
    def __init__(self, app: Any, manager: Manager, host: str, port: int) -> None:
        self._manager = manager
        self._host, self._port = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host), port  # noqa: S104
        super().__init__(app)

    def murder_workers(self) -> None:
        """What the master does about once a second: its loop's own sign of life."""
        super().murder_workers()
        if not self._manager.knows_ready and self._answers():
            self._manager.status("answers")
            self._manager.ready()
        self._manager.tick()

    def stop(self, graceful: bool = True) -> None:
        self._manager.stopping()
        super().stop(graceful)

    def _answers(self) -> bool:
        """The first process may not be up yet: then the question waits in the socket's queue, and is asked again."""
        connection = http.client.HTTPConnection(self._host, self._port, timeout=PROBE)
        try:
            connection.request("GET", "/healthz")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()
