"""The console as a child of the supervisor: a fresh process on a socket that this one has bound.

A fork would not do: the console has threads, and its own server forks again. While a service manager watches, the
console says through a pipe that it serves and lives, and the supervisor passes that on.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import time
from collections.abc import Sequence
from typing import Optional

from webapp.lib import process_group
from webapp.lib.sd_notify import ALIVE, BYTES, NOBODY, READY, Manager


class Console:
    """See the module. `arguments` are more options of the command `web`."""

    def __init__(self, listener: socket.socket, arguments: Sequence[str] = (), manager: Manager = NOBODY) -> None:
        self._listener = listener
        self._arguments = arguments
        # Half of what the manager grants: the supervisor must know of a silent console before it is late itself.
        self._longest_silence = manager.interval / 2
        self._heard_at = 0.0
        self._process: Optional[subprocess.Popen[bytes]] = None
        self.serves = False
        self.pipe, self._write_end = -1, -1
        if manager:
            self.pipe, self._write_end = os.pipe()
            os.set_blocking(self.pipe, False)

    def start(self) -> subprocess.Popen[bytes]:
        socket_number = self._listener.fileno()
        arguments, inherited = ["web", "--descriptor", str(socket_number), *self._arguments], [socket_number]
        if self._write_end >= 0:
            arguments += ["--report-to", str(self._write_end)]
            inherited.append(self._write_end)
        self._process = process_group.start(arguments, inherited=inherited)
        return self._process

    def ended(self, code: int) -> None:
        """The process has ended, and was waited for. Forget what it said."""
        if self._process is not None:
            self._process.returncode = code
        self.listen()
        self.serves = False

    def stop_listening(self) -> None:
        """Close this process's copy of the socket: nothing but the console may keep the port."""
        self._listener.close()

    def listen(self) -> None:
        """Take in what the console has said."""
        said = b""
        if self.pipe >= 0:
            with contextlib.suppress(BlockingIOError):
                said = os.read(self.pipe, 65536)
        if BYTES[READY] in said or BYTES[ALIVE] in said:
            self._heard_at = time.monotonic()
        self.serves = self.serves or BYTES[READY] in said

    @property
    def lives(self) -> bool:
        """False while it serves and is silent. A start may take as long as the manager lets it."""
        return not self.serves or not self._longest_silence or time.monotonic() < self._heard_at + self._longest_silence
