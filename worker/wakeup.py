"""How an idle worker learns that there is work: at once where the platform can tell, by a slow look behind it.

On SQLite under Linux an inotify watch on the `-wal` file tells of every commit within half a millisecond and costs no
CPU; elsewhere on SQLite a look at `PRAGMA data_version` every 50 ms. On PostgreSQL there is the slow look alone.
inotify fires before the commit can be seen, so whoever wakes must go straight to a write transaction, which waits for
it, and not to a read first.
"""

from __future__ import annotations

import contextlib
import os
import select
import sys
import time
from pathlib import Path
from typing import Any, Optional

from webapp.config import Config

SLOW_LOOK = 5.0  # seconds: behind the notification, should one be missed
BLIND_LOOK = 0.5  # where nothing notifies
VERSION_LOOK = 0.05  # between two looks at the data version


class Wakeup:
    """Waits for commits of others, for `notify()` from this process's other threads, or for a time to pass."""

    def __init__(self, config: Config) -> None:
        self._read_end, self._write_end = os.pipe()
        os.set_blocking(self._read_end, False)
        os.set_blocking(self._write_end, False)
        self._inotify: Any = None
        self._version: Any = None
        self.slow_look = BLIND_LOOK
        if config.is_sqlite:
            self.slow_look = SLOW_LOOK
            wal = config.sqlite_path.with_name(config.sqlite_path.name + "-wal")
            if not self._watch(wal):
                self._version = _DataVersion(config.sqlite_path)

    def notify(self) -> None:
        """End the wait, from any thread or signal handler."""
        with contextlib.suppress(BlockingIOError):  # the pipe is full: it will wake all the same
            os.write(self._write_end, b"x")

    def wait(self, timeout: float, *, for_commits: bool) -> None:
        """Return when notified, when somebody committed (if asked for), or after `timeout` seconds."""
        until = time.monotonic() + timeout
        descriptors = [self._read_end]
        if for_commits and self._inotify is not None:
            descriptors.append(self._inotify.fileno())
        while True:
            left = max(0.0, until - time.monotonic())
            looking = for_commits and self._version is not None
            ready = _select(descriptors, min(left, VERSION_LOOK) if looking else left)
            if ready or left == 0 or (looking and self._version.changed()):
                break
        with contextlib.suppress(BlockingIOError):
            os.read(self._read_end, 4096)
        if self._inotify is not None and for_commits:
            self._inotify.read(timeout=0)

    def close(self) -> None:
        os.close(self._read_end)
        os.close(self._write_end)
        for source in (self._inotify, self._version):
            if source is not None:
                source.close()

    def _watch(self, wal: Path) -> bool:
        if not sys.platform.startswith("linux"):
            return False
        from inotify_simple import INotify, flags

        try:
            self._inotify = INotify()
            self._inotify.add_watch(str(wal), flags.MODIFY)
        except OSError:  # no watches left for this user, or a file system without them
            if self._inotify is not None:
                self._inotify.close()
                self._inotify = None
            return False
        return True


class _DataVersion:
    def __init__(self, path: Path) -> None:
        from webapp.db import sqlite

        self._connection = sqlite.connect(f"file:{path}?mode=ro", uri=True)
        self._seen = self._look()

    def _look(self) -> Optional[int]:
        row = self._connection.execute("PRAGMA data_version").fetchone()
        return row[0] if row else None

    def changed(self) -> bool:
        before, self._seen = self._seen, self._look()
        return before != self._seen

    def close(self) -> None:
        self._connection.close()


def _select(descriptors: list[int], timeout: float) -> bool:
    return bool(select.select(descriptors, [], [], timeout)[0])
