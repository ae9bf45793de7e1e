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
import threading
import time
from pathlib import Path
from typing import Any, Optional, Union

from webapp.config import Config

SLOW_LOOK = 5.0  # seconds: behind the notification, should one be missed
BLIND_LOOK = 0.5  # where nothing notifies
VERSION_LOOK = 0.05  # between two looks at the data version


class Wakeup:
    """Waits for commits of others, for `notify()` from this process's other threads, or for a time to pass."""

    def __init__(self, config: Config) -> None:
        self.slow_look = SLOW_LOOK if config.is_sqlite else BLIND_LOOK
        self._way: Union[_Watching, _Looking] = _way(config)

    def notify(self) -> None:
        """End the wait, from any thread."""
        self._way.notify()

    def wait(self, timeout: float, *, for_commits: bool) -> None:
        """Return when notified, when somebody committed (if asked for), or after `timeout` seconds."""
        self._way.wait(timeout, for_commits)

    def close(self) -> None:
        self._way.close()


def _way(config: Config) -> Union[_Watching, _Looking]:
    if not config.is_sqlite:
        return _Looking(None)
    path = config.sqlite_path
    wal = path.with_name(path.name + "-wal")
    inotify = _inotify(wal)
    return _Looking(_DataVersion(path)) if inotify is None else _Watching(inotify, wal)


class _Watching:
    """inotify, and a pipe for `notify`, in one select.

    The log is another file whenever the last connection to the database was closed and a new one opened: then the watch
    would wait for changes of one that is gone.
    """

    def __init__(self, inotify: Any, wal: Path) -> None:
        self._inotify = inotify
        self._wal = wal
        self._watched = _inode(wal)
        self._read_end, self._write_end = os.pipe()
        os.set_blocking(self._read_end, False)
        os.set_blocking(self._write_end, False)

    def notify(self) -> None:
        with contextlib.suppress(BlockingIOError):  # the pipe is full: it will wake all the same
            os.write(self._write_end, b"x")

    def wait(self, timeout: float, for_commits: bool) -> None:
        commits = [self._inotify.fileno()] if for_commits else []
        if for_commits and _inode(self._wal) != self._watched:
            self._watch_anew()
        select.select([self._read_end, *commits], [], [], timeout)
        with contextlib.suppress(BlockingIOError):
            os.read(self._read_end, 4096)
        if for_commits:
            self._inotify.read(timeout=0)

    def _watch_anew(self) -> None:
        with contextlib.suppress(OSError):  # it is gone for now: the slow look tries again
            found = _inode(self._wal)
            _add_watch(self._inotify, self._wal)
            self._watched = found

    def close(self) -> None:
        os.close(self._read_end)
        os.close(self._write_end)
        self._inotify.close()


class _Looking:
    """An event for `notify`, and where it helps a look at the data version now and then. Runs everywhere."""

    def __init__(self, version: Optional[_DataVersion]) -> None:
        self._version = version
        self._notified = threading.Event()

    def notify(self) -> None:
        self._notified.set()

    def wait(self, timeout: float, for_commits: bool) -> None:
        until = time.monotonic() + timeout
        while True:
            left = max(0.0, until - time.monotonic())
            if self._version is None or not for_commits:
                self._notified.wait(left)
                break
            if self._notified.wait(min(left, VERSION_LOOK)) or left == 0 or self._version.changed():
                break
        self._notified.clear()

    def close(self) -> None:
        if self._version is not None:
            self._version.close()


def _inotify(file: Path) -> Any:
    """A watch on a file's changes, or None where there can be none."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        from inotify_simple import INotify
    except ImportError:
        return None
    try:
        inotify = INotify()
    except OSError:  # no more of them for this user
        return None
    try:
        _add_watch(inotify, file)
    except OSError:  # no watches left, or a file system without them
        inotify.close()
        return None
    return inotify


def _add_watch(inotify: Any, file: Path) -> None:
    from inotify_simple import flags

    # ATTRIB: it was unlinked, which ends a wait so that the next one watches its successor.
    inotify.add_watch(str(file), flags.MODIFY | flags.ATTRIB)


def _inode(file: Path) -> int:
    try:
        return os.stat(file).st_ino
    except OSError:
        return 0


class _DataVersion:
    def __init__(self, path: Path) -> None:
        from webapp.db import sqlite

        self._connection = sqlite.connect(f"{path.as_uri()}?mode=ro", uri=True)
        self._seen = self._look()

    def _look(self) -> Optional[int]:
        row = self._connection.execute("PRAGMA data_version").fetchone()
        return row[0] if row else None

    def changed(self) -> bool:
        before, self._seen = self._seen, self._look()
        return before != self._seen

    def close(self) -> None:
        self._connection.close()
