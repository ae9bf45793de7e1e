"""What a supervisor waits for: signals, threads and pipes. Uses sockets, because Windows can select only these."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
from collections.abc import Sequence
from typing import Optional


class SignalPipe:
    """See the module."""

    def __init__(self) -> None:
        self._read_end, self._write_end = socket.socketpair()
        self._read_end.setblocking(False)
        self._write_end.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._read_end, selectors.EVENT_READ)
        self._received: list[int] = []
        self._numbers: list[int] = []

    def listen(self, names: Sequence[str]) -> None:
        """Let these signals, if the platform has them, end the wait."""
        signal.set_wakeup_fd(self._write_end.fileno(), warn_on_full_buffer=False)
        self._numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
        hang_up = getattr(signal, "SIGHUP", None)
        if hang_up in self._numbers and signal.getsignal(hang_up) == signal.SIG_IGN:
            self._numbers.remove(hang_up)  # under nohup it stays ignored
        for number in self._numbers:
            signal.signal(number, lambda received, _frame: self._received.append(received))

    def watch(self, descriptor: int) -> None:
        """Let a readable descriptor end the wait. On Windows it must be a socket."""
        self._selector.register(descriptor, selectors.EVENT_READ)

    def wake(self) -> None:
        """End the wait, from any thread."""
        with contextlib.suppress(BlockingIOError):
            self._write_end.send(b"\0")

    def wait(self, timeout: Optional[float]) -> None:
        self._selector.select(timeout)
        with contextlib.suppress(BlockingIOError):
            self._read_end.recv(4096)

    def signals(self) -> list[int]:
        """The signals since the last call."""
        return [self._received.pop(0) for _ in range(len(self._received))]

    def detach(self) -> None:
        """Close this in a forked child: it belongs to the supervisor."""
        signal.set_wakeup_fd(-1)
        for number in self._numbers:
            signal.signal(number, signal.SIG_DFL)
        self._selector.close()
        self._read_end.close()
        self._write_end.close()


def is_in_foreground() -> bool:
    """Whether this process runs in the foreground of a terminal, where a shell waits for it."""
    try:
        with open("/dev/tty", "rb", buffering=0) as terminal:
            return os.tcgetpgrp(terminal.fileno()) == os.getpgrp()
    except OSError:  # it has no terminal
        return False
