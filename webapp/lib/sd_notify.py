"""Tells the service manager that this process serves, that it lives, and that it stops: systemd's protocol.

A message is one datagram to the socket that NOTIFY_SOCKET names, see sd_notify(3) and sd_watchdog_enabled(3).

No library does it: sdnotify, systemd-watchdog and gunicorn's own function leave the variables in the environment, from
which every job would have them, or raise when the manager is away.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import MutableMapping
from contextlib import suppress

SOCKET, WATCHDOG, WATCHDOG_PID = "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"
VARIABLES = frozenset({SOCKET, WATCHDOG, WATCHDOG_PID})
READY, ALIVE, STOPPING, STATUS = "READY=1", "WATCHDOG=1", "STOPPING=1", "STATUS="
BYTES = {READY: b"R", ALIVE: b"A"}  # what a supervisor reads from its child's pipe
SLOWNESS = 1.0  # seconds that a full queue at the other end may hold this process


class Manager:
    """Who started this process and wants to hear of it; nobody, where there is no address.

    Attributes:
        interval: seconds without a tick after which it takes this process for dead; 0 where it does not watch.
    """

    def __init__(self, address: str = "", interval: float = 0.0) -> None:
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self.interval = interval
        self._ready = False
        self._status = ""
        self._ticked_at = -interval

    def __bool__(self) -> bool:
        return bool(self._address)

    @property
    def knows_ready(self) -> bool:
        return self._ready

    def ready(self) -> None:
        """This process does now what it is for. Said until it could be said."""
        self._ready = self._ready or self._send(READY)

    def stopping(self) -> None:
        """A stop that has an end was begun. The manager kills what is left after its own time for that, so this is not
        for a stop in which jobs may take as long as they like."""
        self._send(STOPPING)

    def status(self, text: str) -> None:
        """A line for people. Said when it changes."""
        if text != self._status and self._send(STATUS + text):
            self._status = text

    def tick(self) -> None:
        """This process lives: to be called from the loop whose life is meant, at least every `due_in()` seconds."""
        if self and self.due_in() <= 0:
            self._ticked_at = time.monotonic()
            self._send(ALIVE)

    def due_in(self) -> float:
        """Seconds until the next tick, at half of the interval; infinity where nobody watches."""
        if not self.interval:
            return float("inf")
        return max(0.0, self._ticked_at + self.interval / 2 - time.monotonic())

    def _send(self, text: str) -> bool:
        """Whether it was taken: a manager that is away, or busy for long, is no reason for a queue to stop."""
        if not self._address:
            return False
        # Each message has its own socket: no descriptor crosses a fork, and a manager that was renewed is found.
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.settimeout(SLOWNESS)
            sender.connect(self._address)
            sender.send(text.encode())
            return True
        return False


NOBODY = Manager()


def take(environment: MutableMapping[str, str] = os.environ) -> Manager:
    """The manager that the environment names; its variables are gone from there, so that no child speaks for us.

    To be called by what runs on, before it starts anything.
    """
    address, interval, pid = (environment.pop(name, "") for name in (SOCKET, WATCHDOG, WATCHDOG_PID))
    if not address.startswith(("/", "@")) or not hasattr(socket, "AF_UNIX"):
        return Manager()
    watches = interval.isdecimal() and pid in ("", str(os.getpid()))
    return Manager(address, int(interval) / 1_000_000 if watches else 0.0)


class Parent(Manager):
    """The supervisor that started this process and reads the other end of a pipe: one byte for each message.

    For a child whose parent speaks for it to the service manager.
    """

    def __init__(self, pipe: int) -> None:
        super().__init__(interval=1.0)
        self._pipe = pipe
        os.set_inheritable(pipe, False)
        os.set_blocking(pipe, False)

    def __bool__(self) -> bool:
        return True

    def _send(self, text: str) -> bool:
        with suppress(OSError):
            return os.write(self._pipe, BYTES[text]) == 1 if text in BYTES else True
        return False
