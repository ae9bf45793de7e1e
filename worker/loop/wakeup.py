"""How an idle worker learns that there is work: at once where the platform can tell, by a slow look behind it.

On SQLite under Linux an inotify watch on the doorbell (see `webapp/core/wakeup_signal.py`) tells within a few tenths of a
millisecond and costs no CPU; elsewhere on SQLite a look at `PRAGMA data_version` every 50 ms. The doorbell rings before
the commit can be seen, so whoever wakes must go straight to a write transaction, which waits for it, and not to a read
first. PostgreSQL notifies (`worker/loop/wakeup_postgresql.py`).
"""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import Any, Optional

from webapp.config import Config
from webapp.core import wakeup_signal
from worker.loop.wakeup_base import VERSION_LOOK, Wakeup
from worker.loop.wakeup_postgresql import Notified


def of(config: Config, *, selects: bool) -> Wakeup:
    """The best that there is; `selects`: whether the worker can wait for a descriptor."""
    if not config.is_sqlite:
        return Notified(selects=selects)
    if selects and sys.platform.startswith("linux"):
        try:
            return _Watching(config)
        except (ImportError, OSError):  # no more watches for this user, or a file system that has none
            pass
    return _Looking(config.sqlite_path)


class _Watching(Wakeup):
    """inotify. The bell is another file whenever somebody took it away: then the watch would wait for nothing."""

    def __init__(self, config: Config) -> None:
        from inotify_simple import INotify

        self._config = config
        self._bell = wakeup_signal.path_of(config)
        self._watched = 0
        self._inotify = INotify(nonblocking=True)
        try:
            self._watch()
        except OSError:
            self._inotify.close()
            raise

    def descriptor(self) -> Optional[int]:
        if _inode(self._bell) != self._watched:
            with contextlib.suppress(OSError):  # its folder is gone for now: tried again before the next wait
                self._watch()
        return int(self._inotify.fileno())

    def rang(self) -> bool:
        try:
            return bool(os.read(self._inotify.fileno(), 4096))  # what exactly happened does not matter
        except BlockingIOError:
            return False

    def _watch(self) -> None:
        from inotify_simple import flags

        wakeup_signal.install(self._config)
        found = _inode(self._bell)
        # ATTRIB: it was unlinked, which ends a wait so that the next one watches its successor.
        self._inotify.add_watch(str(self._bell), flags.OPEN | flags.ATTRIB)
        self._watched = found

    def close(self) -> None:
        self._inotify.close()


class _Looking(Wakeup):
    """A look at the data version now and then. Runs everywhere."""

    look_every = VERSION_LOOK

    def __init__(self, database: Path) -> None:
        from webapp.db.engines import sqlite

        self._errors = sqlite.Error
        self._connection: Any = sqlite.connect(f"{database.as_uri()}?mode=ro", uri=True)
        self._seen = self._look()

    def _look(self) -> Optional[int]:
        row = self._connection.execute("PRAGMA data_version").fetchone()
        return row[0] if row else None

    def rang(self) -> bool:
        before = self._seen
        try:
            self._seen = self._look()
        except self._errors:  # what is wrong, the claim that follows tells
            return True
        return before != self._seen

    def close(self) -> None:
        self._connection.close()


def _inode(file: Path) -> int:
    try:
        return os.stat(file).st_ino
    except OSError:
        return 0
