"""How an idle worker learns about new work. A periodic check covers missed signals.

- SQLite on Linux: an inotify watch on the wake-up file (`webapp/core/storage/wakeup_signal.py`). It takes a few tenths
  of a millisecond and no CPU. The signal comes before the commit is visible, so a woken worker must begin a write
  transaction, which waits for that commit, and not a read.
- SQLite elsewhere: read `PRAGMA data_version` every 50 ms.
- PostgreSQL: `worker/loop/wakeup_postgresql.py`.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import sys
import threading
from typing import Any, Optional

from webapp.config import Config
from webapp.core.storage import wakeup_signal
from webapp.core.storage.transaction import Connection

CHECK_EVERY = 10.0  # seconds between checks for work while signals arrive
CHECK_EVERY_WITHOUT_SIGNALS = 0.5  # the same while no signals arrive
READ_VERSION_EVERY = 0.05  # seconds between reads of the data version
IN_ATTRIB, IN_OPEN = 0x4, 0x20  # <sys/inotify.h>


class Wakeup:
    """Tells a worker that there may be new work.

    Attributes:
        poll_every: seconds between calls of `signalled`, if there is no descriptor.
    """

    poll_every = math.inf

    @property
    def check_every(self) -> float:
        """Seconds between checks for work without a signal."""
        return CHECK_EVERY

    def descriptor(self) -> Optional[int]:
        """A descriptor that becomes readable when there is a signal; None if there is none."""
        return None

    def signalled(self) -> bool:
        """Whether there was a signal since the last call."""
        return False

    def listen(self, connection: Connection, ended: threading.Event, seconds: float) -> bool:
        """Wait for so many seconds or until `ended`, and receive signals on this connection.

        Returns False, and earlier, if the connection fails.
        """
        del connection
        ended.wait(seconds)
        return True

    def close(self) -> None:
        """Stop listening."""


def for_sqlite(config: Config, *, selects: bool) -> Wakeup:
    """The best way on this platform. `selects`: whether the caller can wait for a descriptor."""
    if selects and sys.platform.startswith("linux"):
        # This user has no more watches, or the file system has none.
        with contextlib.suppress(OSError):
            return _FileWatch(config)
    return _VersionCheck(config)


class _FileWatch(Wakeup):
    """inotify, whose two calls need no library. If the wake-up file is deleted, a new one is made and watched."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._file = wakeup_signal.path_of(config)
        self._watched = 0
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._inotify = self._checked(self._libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK))
        try:
            self._watch()
        except OSError:
            self.close()
            raise

    def descriptor(self) -> Optional[int]:
        if self._inode() != self._watched:
            with contextlib.suppress(OSError):  # its folder is missing: tried again before the next wait
                self._watch()
        return self._inotify

    def signalled(self) -> bool:
        try:
            return bool(os.read(self._inotify, 4096))
        except BlockingIOError:
            return False

    def _watch(self) -> None:
        wakeup_signal.install(self._config)
        found = self._inode()
        # ATTRIB: a deletion ends the wait, and the next wait watches the new file.
        self._checked(self._libc.inotify_add_watch(self._inotify, os.fsencode(self._file), IN_OPEN | IN_ATTRIB))
        self._watched = found

    @staticmethod
    def _checked(result: int) -> int:
        if result < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        return result

    def _inode(self) -> int:
        try:
            return os.stat(self._file).st_ino
        except OSError:
            return 0

    def close(self) -> None:
        os.close(self._inotify)


class _VersionCheck(Wakeup):
    """Reads the data version. Works on every platform."""

    poll_every = READ_VERSION_EVERY

    def __init__(self, config: Config) -> None:
        from webapp.core.storage.sqlite import library as sqlite

        self._errors = sqlite.Error
        self._connection: Any = sqlite.connect(f"{config.sqlite_path.as_uri()}?mode=ro", uri=True)
        self._seen = self._version()

    def _version(self) -> Optional[int]:
        row = self._connection.execute("PRAGMA data_version").fetchone()
        return row[0] if row else None

    def signalled(self) -> bool:
        before = self._seen
        try:
            self._seen = self._version()
        except self._errors:  # the claim that follows reports what is wrong
            return True
        return before != self._seen

    def close(self) -> None:
        self._connection.close()
