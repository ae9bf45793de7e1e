"""The console as a child of the supervisor: a new process on a socket that the supervisor has bound.

Not a fork, because the console has threads and its server forks again. If a service manager watches, the console
reports through a pipe that it serves and is alive, and the supervisor passes that on.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import time
from collections.abc import Sequence
from typing import Optional

from webapp.lib.system import process_group
from webapp.lib.system.sd_notify import ALIVE, BYTES, NO_MANAGER, READY, Manager


class Console:
    """See the module. `arguments`: further options of the command `web`."""

    def __init__(self, listener: socket.socket, arguments: Sequence[str] = (), manager: Manager = NO_MANAGER) -> None:
        self._listener = listener
        self._arguments = arguments
        # Half of the manager's interval, so that the supervisor notices a silent console in time.
        self._longest_silence = manager.interval / 2
        self._reported_at = 0.0
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
        """The process has ended and was waited for."""
        if self._process is not None:
            self._process.returncode = code
        self.read_reports()
        self.serves = False

    def stop_listening(self) -> None:
        """Close this process's copy of the socket: only the console may keep the port."""
        self._listener.close()

    def read_reports(self) -> None:
        """Read what the console reported."""
        reported = b""
        if self.pipe >= 0:
            with contextlib.suppress(BlockingIOError):
                reported = os.read(self.pipe, 65536)
        if BYTES[READY] in reported or BYTES[ALIVE] in reported:
            self._reported_at = time.monotonic()
        self.serves = self.serves or BYTES[READY] in reported

    @property
    def lives(self) -> bool:
        """False if it serves but is silent. The manager itself limits the time of a start."""
        silent_at = self._reported_at + self._longest_silence
        return not self.serves or not self._longest_silence or time.monotonic() < silent_at
