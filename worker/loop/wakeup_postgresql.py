"""How an idle worker on PostgreSQL learns that there is work: LISTEN, on the connection and thread of its heartbeat.

Behind a pooler that hands out connections by the transaction (PgBouncer) LISTEN succeeds and nothing is ever heard. So
each time it begins to listen it has itself notified through another connection. Until it has heard that, and for good
where it does not, a worker looks twice a second.
"""

from __future__ import annotations

import contextlib
import logging
import math
import secrets
import selectors
import socket
import threading
import time
from typing import Any, Optional

from webapp.core.transaction import Connection
from webapp.core.wakeup_signal import CHANNEL
from worker.loop.wakeup_base import BLIND_LOOK, SLOW_LOOK, VERSION_LOOK, Wakeup

log = logging.getLogger("queuectl.worker")

RETRY = 0.5  # seconds before a connection that does not work is tried again
ECHO_WITHIN = 5.0  # seconds in which its own notification must be heard
TEST_AGAIN = 60.0  # seconds between two tests, where the first was not heard


class Notified(Wakeup):
    """See the module. `listen` belongs to the heartbeat's thread, everything else to whoever waits."""

    def __init__(self, *, selects: bool) -> None:
        self.look_every = math.inf if selects else VERSION_LOOK
        self._selects = selects
        self._ear, self._mouth = socket.socketpair()
        self._ear.setblocking(False)
        self._mouth.setblocking(False)
        self._on: Any = None  # the driver's connection that listens
        self._hears = False
        self._echo = f"{CHANNEL}_{secrets.token_hex(8)}"  # the channel on which it is to hear itself, and until when
        self._echo_until = math.inf
        self._test_at = 0.0  # when it is to be tested whether it hears
        self._complained = False

    @property
    def slow_look(self) -> float:
        return SLOW_LOOK if self._hears else BLIND_LOOK

    def descriptor(self) -> Optional[int]:
        return self._ear.fileno() if self._selects else None

    def rang(self) -> bool:
        try:
            return bool(self._ear.recv(4096))
        except BlockingIOError:
            return False

    def close(self) -> None:
        self._ear.close()
        self._mouth.close()

    def listen(self, connection: Connection, ended: threading.Event, seconds: float) -> bool:
        until = time.monotonic() + seconds
        try:
            if connection.driver is not self._on:
                self._begin(connection.driver)
            with selectors.DefaultSelector() as selector:
                selector.register(self._on.fileno(), selectors.EVENT_READ)
                while not ended.is_set() and time.monotonic() < until:
                    if not self._hears and time.monotonic() >= self._test_at:
                        self._test(connection)
                    selector.select(max(0.0, min(until, self._echo_until) - time.monotonic()))
                    self._take_in(self._on)
                    if time.monotonic() >= self._echo_until:
                        self._is_deaf()
        except connection.errors as error:
            log.debug("cannot listen for work: %s", str(error).strip())
            self._on, self._hears = None, False
            self._ring()  # so that whoever waits need not wait as long as one that hears
            ended.wait(RETRY)
            return False
        return True

    def _begin(self, driver: Any) -> None:
        driver.add_notify_handler(lambda word: self._heard(word.channel))  # for what comes with an answer
        driver.execute(f"LISTEN {CHANNEL}")
        driver.execute(f"LISTEN {self._echo}")
        self._on, self._hears, self._test_at, self._echo_until = driver, False, 0.0, math.inf
        self._ring()  # for what was stored while nobody listened

    def _test(self, connection: Connection) -> None:
        """Have itself notified through another connection, which is not to stay."""
        self._test_at = time.monotonic() + TEST_AGAIN
        try:
            with contextlib.closing(connection.another()) as other:
                other.driver.execute(f"NOTIFY {self._echo}")
        except connection.errors as error:  # the server takes no more connections, say: this one is none the worse
            log.debug("cannot test whether notifications arrive: %s", str(error).strip())
        else:
            self._echo_until = time.monotonic() + ECHO_WITHIN

    def _take_in(self, driver: Any) -> None:
        driver.pgconn.consume_input()
        while (word := driver.pgconn.notifies()) is not None:
            self._heard(word.relname.decode())

    def _heard(self, channel: str) -> None:
        if channel == CHANNEL:
            self._ring()
        elif channel == self._echo:
            self._hears, self._echo_until = True, math.inf

    def _is_deaf(self) -> None:
        self._echo_until = math.inf
        if self._complained:
            return
        self._complained = True
        log.warning(
            "the database's address brings no notifications, as behind a pooler that hands out connections by the "
            "transaction (PgBouncer): looking for work every %g s. Name the server itself to be told at once.",
            BLIND_LOOK,
        )

    def _ring(self) -> None:
        with contextlib.suppress(OSError):  # it has not been heard yet, or nobody listens any more
            self._mouth.send(b"\0")
