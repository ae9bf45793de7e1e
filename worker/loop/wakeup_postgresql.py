"""How an idle worker on PostgreSQL learns about new work: LISTEN, on the connection and thread of its heartbeat.

Behind a pooler in transaction mode (PgBouncer) LISTEN succeeds, but no notification arrives. So each LISTEN is tested
with a notification through a second connection. Until that arrives, the worker checks for work twice a second.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import selectors
import socket
import threading
import time
from typing import Any, Optional

from webapp.core.storage.transaction import Connection
from webapp.core.storage.wakeup_signal import CHANNEL
from worker.loop.wakeup import CHECK_EVERY_WITHOUT_SIGNALS, READ_VERSION_EVERY, Wakeup

log = logging.getLogger("queuectl.worker")

RETRY = 0.5  # seconds before a failed connection is tried again
ECHO_WITHIN = 5.0  # seconds in which the test notification must arrive
TEST_AGAIN = 60.0  # seconds between two tests, if the first failed


class Notified(Wakeup):
    """See the module. Only the heartbeat's thread calls `listen`."""

    def __init__(self, *, selects: bool) -> None:
        self.poll_every = math.inf if selects else READ_VERSION_EVERY
        self._selects = selects
        self._read_end, self._write_end = socket.socketpair()
        self._read_end.setblocking(False)
        self._write_end.setblocking(False)
        self._driver: Any = None  # the driver's connection that listens
        self._hears = False
        self._echo = f"{CHANNEL}_{os.urandom(8).hex()}"  # the channel of the test notification
        self._echo_until = math.inf
        self._test_at = 0.0
        self._warned = False

    @property
    def check_every(self) -> float:
        return super().check_every if self._hears else CHECK_EVERY_WITHOUT_SIGNALS

    def descriptor(self) -> Optional[int]:
        return self._read_end.fileno() if self._selects else None

    def signalled(self) -> bool:
        try:
            return bool(self._read_end.recv(4096))
        except BlockingIOError:
            return False

    def close(self) -> None:
        self._read_end.close()
        self._write_end.close()

    def listen(self, connection: Connection, ended: threading.Event, seconds: float) -> bool:
        until = time.monotonic() + seconds
        try:
            if connection.driver is not self._driver:
                self._begin(connection.driver)
            with selectors.DefaultSelector() as selector:
                selector.register(self._driver.fileno(), selectors.EVENT_READ)
                while not ended.is_set() and time.monotonic() < until:
                    if not self._hears and time.monotonic() >= self._test_at:
                        self._test(connection)
                    selector.select(max(0.0, min(until, self._echo_until) - time.monotonic()))
                    self._driver.pgconn.consume_input()
                    while (notification := self._driver.pgconn.notifies()) is not None:
                        self._received(notification.relname.decode())
                    if time.monotonic() >= self._echo_until:
                        self._test_failed()
        except connection.errors as error:
            log.debug("cannot listen for work: %s", str(error).strip())
            self._driver, self._hears = None, False
            self._signal()  # the worker must now check more often
            ended.wait(RETRY)
            return False
        return True

    def _begin(self, driver: Any) -> None:
        # For notifications that arrive together with the answer to a statement.
        driver.add_notify_handler(lambda notification: self._received(notification.channel))
        driver.execute(f"LISTEN {CHANNEL}")
        driver.execute(f"LISTEN {self._echo}")
        self._driver, self._hears, self._test_at, self._echo_until = driver, False, 0.0, math.inf
        self._signal()  # for work that was stored before

    def _test(self, connection: Connection) -> None:
        """Send the test notification through another connection, which is closed again."""
        self._test_at = time.monotonic() + TEST_AGAIN
        try:
            with contextlib.closing(Connection(connection.database)) as other:
                other.driver.execute(f"NOTIFY {self._echo}")
        except connection.errors as error:  # for example, the server has no connection left: this one still works
            log.debug("cannot test whether notifications arrive: %s", str(error).strip())
        else:
            self._echo_until = time.monotonic() + ECHO_WITHIN

    def _received(self, channel: str) -> None:
        if channel == CHANNEL:
            self._signal()
        elif channel == self._echo:
            self._hears, self._echo_until = True, math.inf

    def _test_failed(self) -> None:
        self._echo_until = math.inf
        if not self._warned:
            self._warned = True
            log.warning(
                "no notifications arrive from the database, as behind a pooler in transaction mode (PgBouncer): "
                "checking for work every %g s. Connect to the server directly to be notified at once.",
                CHECK_EVERY_WITHOUT_SIGNALS,
            )

    def _signal(self) -> None:
        with contextlib.suppress(OSError):  # an earlier signal is unread, or the socket is closed
            self._write_end.send(b"\0")
