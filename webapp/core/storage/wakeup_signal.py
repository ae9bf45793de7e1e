"""Wakes idle workers when a transaction stores work for them.

On SQLite workers watch a file with inotify. A writer opens this file before its commit; workers that wake then wait for
the write lock. Nothing is written to the file, so this works on a full disk. Workers do not watch the database's log:
it changes with each heartbeat and each commit of another worker.

On PostgreSQL this is NOTIFY.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Callable, Optional

from webapp.config import Config
from webapp.lib.system.private_files import open_private

CHANNEL = "queuectl"  # of the notifications, which stay within their database


class WakeupSignal:
    """The signal of one database. `path` is the watched file, None on PostgreSQL."""

    def __init__(self, path: Optional[Path]) -> None:
        self._path = None if path is None else os.fspath(path)

    def notify(self, execute: Callable[[str], object]) -> None:
        """Wake idle workers. `execute` runs a statement in the transaction; call this before its commit."""
        if self._path is None:
            execute(f"NOTIFY {CHANNEL}")
            return
        with contextlib.suppress(OSError):  # no worker has created the file yet
            os.close(os.open(self._path, os.O_RDONLY))


def path_of(config: Config) -> Path:
    """The watched file, next to the database."""
    return config.sqlite_path.with_name("queue.bell")


def install(config: Config) -> None:
    """Create the file if it does not exist. Raises OSError."""
    os.close(open_private(path_of(config), os.O_RDONLY))
