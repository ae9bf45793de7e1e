"""systemd's protocol: tells the service manager that this process is ready, alive or stopping.

A message is one datagram to the socket in NOTIFY_SOCKET, see sd_notify(3) and sd_watchdog_enabled(3). No library fits:
sdnotify, systemd-watchdog and gunicorn's own function keep the variables in the environment, which jobs would inherit,
or raise when the manager does not answer.
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
BYTES = {READY: b"R", ALIVE: b"A"}  # on the pipe from a child to its supervisor
SEND_TIMEOUT = 1.0  # seconds, if the manager's queue is full


class Manager:
    """The service manager of this process. Without an address, messages are ignored."""

    def __init__(self, address: str = "", interval: float = 0.0) -> None:
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self.interval = interval  # seconds without a tick until the manager presumes this process dead; 0: no watchdog
        self.knows_ready = False
        self._status = ""
        self._ticked_at = -interval

    def __bool__(self) -> bool:
        return bool(self._address)

    def ready(self) -> None:
        """Report that this process is ready. Repeated calls send it until it was sent."""
        self.knows_ready = self.knows_ready or self._send(READY)

    def stopping(self) -> None:
        """Report a stop that ends soon. The manager kills the process after its own timeout, so do not call this for a
        stop that waits for jobs without limit."""
        self._send(STOPPING)

    def status(self, text: str) -> None:
        """Set the status line for people. Sent when it changes."""
        if text != self._status and self._send(STATUS + text):
            self._status = text

    def tick(self) -> None:
        """Report that this process is alive. Call it from the main loop at least every `due_in()` seconds."""
        if self and self.due_in() <= 0:
            self._ticked_at = time.monotonic()
            self._send(ALIVE)

    def due_in(self) -> float:
        """Seconds until the next tick, at half of the interval; infinity without a watchdog."""
        if not self.interval:
            return float("inf")
        return max(0.0, self._ticked_at + self.interval / 2 - time.monotonic())

    def _send(self, text: str) -> bool:
        """Whether the message was sent. The queue also works if the manager is absent or busy."""
        if not self._address:
            return False
        # A new socket for each message: no descriptor is inherited by a fork, and a restarted manager is found.
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.settimeout(SEND_TIMEOUT)
            sender.connect(self._address)
            sender.send(text.encode())
            return True
        return False


NO_MANAGER = Manager()


def take(environment: MutableMapping[str, str] = os.environ) -> Manager:
    """The manager of this environment. Removes its variables, so children cannot report for this process.

    Long-running processes call this before they start others.
    """
    address, interval, pid = (environment.pop(name, "") for name in (SOCKET, WATCHDOG, WATCHDOG_PID))
    if not address.startswith(("/", "@")) or not hasattr(socket, "AF_UNIX"):
        return Manager()
    watches = interval.isdecimal() and pid in ("", str(os.getpid()))
    return Manager(address, int(interval) / 1_000_000 if watches else 0.0)


class Parent(Manager):
    """The supervisor of this child process, which reports to the service manager for it.

    It reads one byte for each message from a pipe.
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
