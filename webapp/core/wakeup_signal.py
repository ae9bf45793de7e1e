"""How whoever stores work wakes the workers that wait for it.

On SQLite by opening a file that they watch, inside the transaction: who wakes must wait for the write lock first.
Nothing is written to it, so that it rings on a full disk, too. The log of the database would tell of every commit,
those of other workers and of their heartbeats among them, and each would cost every idle worker a look.

On PostgreSQL by a notification.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Callable, Optional

from webapp.config import Config

CHANNEL = "queuectl"  # of the notifications, which do not leave their database


class WakeupSignal:
    """Ring it before the commit."""

    def __init__(self, path: Optional[Path]) -> None:
        """`path` None: notifications."""
        self._path = path

    def ring(self, execute: Callable[[str], object]) -> None:
        """`execute` takes a statement, inside the transaction that stores something."""
        if self._path is None:
            execute(f"NOTIFY {CHANNEL}")
            return
        with contextlib.suppress(OSError):  # nobody is there who watches it
            os.close(os.open(self._path, os.O_RDONLY))


def path_of(config: Config) -> Path:
    """The file, beside the database."""
    return config.sqlite_path.with_name("queue.bell")


def install(config: Config) -> None:
    """See that the file is there, for those who watch it. Raises OSError."""
    os.close(os.open(path_of(config), os.O_RDONLY | os.O_CREAT, 0o600))
