"""Tells whoever started this process that it serves, that it lives, and that it stops: systemd's protocol, both ends.

A message is one datagram to the socket that NOTIFY_SOCKET names, see sd_notify(3) and sd_watchdog_enabled(3). `up`
has the other end, too: its children tell it, and it speaks for all of them.

No library does it: sdnotify, systemd-watchdog and gunicorn's own function leave the variables in the environment, from
which every job would have them, or raise when the manager is away; none has the other end.
"""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
import time
from collections.abc import Iterable, Mapping, MutableMapping
from contextlib import suppress
from pathlib import Path

SOCKET, WATCHDOG, WATCHDOG_PID = "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"
VARIABLES = frozenset({SOCKET, WATCHDOG, WATCHDOG_PID})
READY, ALIVE, STOPPING, STATUS = "READY=1", "WATCHDOG=1", "STOPPING=1", "STATUS="
LOOK = 0.1  # seconds
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
        if self._address and self.due_in() <= 0:
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


class _Ear:
    """What one child tells its parent."""

    def __init__(self, path: Path, interval: float) -> None:
        self.ready = False
        self.status = ""
        self.environment = {SOCKET: str(path)}
        if interval:
            self.environment[WATCHDOG] = str(round(interval * 1_000_000))
        self._interval = interval
        self._heard_at = 0.0
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.setblocking(False)
        self.socket.bind(str(path))

    def listen(self) -> None:
        with suppress(BlockingIOError):
            while True:
                for line in self.socket.recv(4096).decode(errors="replace").splitlines():
                    self.ready = self.ready or line == READY
                    if line.startswith(STATUS):
                        self.status = line[len(STATUS) :]
                self._heard_at = time.monotonic()

    def forget(self) -> None:
        self.listen()
        self.ready, self.status = False, ""

    @property
    def lives(self) -> bool:
        """Until it is ready there is nothing to say against it: a start takes as long as the manager lets it."""
        return not self.ready or not self._interval or time.monotonic() < self._heard_at + self._interval


class Relay:
    """A parent's word for all of its children: ready when all are, alive while all are. Without a manager, nothing."""

    def __init__(self, manager: Manager, names: Iterable[str]) -> None:
        self._manager = manager
        self._ears: dict[str, _Ear] = {}
        # Where paths are short: that of a socket has a hundred characters at the most.
        short = "/tmp" if os.path.isdir("/tmp") else None  # noqa: S108  a folder of its own is made in it
        self._folder = Path(tempfile.mkdtemp(prefix="queuectl-", dir=short)) if manager else None
        if self._folder is not None:
            # Half of what the manager gives us: theirs must have been missed before our own is late.
            self._ears = {
                name: _Ear(self._folder / str(number), manager.interval / 2) for number, name in enumerate(names)
            }

    def close(self) -> None:
        for ear in self._ears.values():
            ear.socket.close()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def descriptors(self) -> list[int]:
        """There is something to read here when a child has spoken."""
        return [ear.socket.fileno() for ear in self._ears.values()]

    def begin(self, name: str) -> Mapping[str, str]:
        """A child is about to start, perhaps in the place of one that died; returns what its environment needs."""
        if name not in self._ears:
            return {}
        self._ears[name].forget()
        return self._ears[name].environment

    def look(self, wanted: Iterable[str], running: Iterable[str]) -> None:
        """Hear the children, and pass on what is true of all that are to run. One that died and will be started again
        is nothing to stop this process for."""
        for ear in self._ears.values():
            ear.listen()
        names = [name for name in wanted if name in self._ears]
        said = [f"{name}: {self._ears[name].status}" for name in names if self._ears[name].status]
        if said:
            self._manager.status("; ".join(said))
        if names and all(self._ears[name].ready for name in names):
            self._manager.ready()
        if all(self._ears[name].lives for name in running if name in self._ears):
            self._manager.tick()

    def stopping(self) -> None:
        self._manager.stopping()

    def due_in(self) -> float:
        """Seconds until the next look; never none at all, for while a child is silent the tick stays due."""
        return max(LOOK, self._manager.due_in())
