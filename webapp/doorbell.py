"""How whoever stores work wakes the workers that wait for it, on SQLite: by opening a file that they watch.

Nothing is written to it, so that it rings on a full disk, too. The log of the database would tell of every commit,
those of other workers and of their heartbeats among them, and each would cost every idle worker a look.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Optional

from webapp.config import Config


class Doorbell:
    """Ring it inside the transaction, before the commit: who wakes must wait for the write lock first."""

    def __init__(self, path: Optional[Path]) -> None:
        """`path` None makes one that is never heard: PostgreSQL has a notification of its own."""
        self._path = path

    def ring(self) -> None:
        if self._path is not None:
            with contextlib.suppress(OSError):  # nobody is there who watches it
                os.close(os.open(self._path, os.O_RDONLY))


def path_of(config: Config) -> Path:
    """The file, beside the database."""
    return config.sqlite_path.with_name("queue.bell")


def install(config: Config) -> None:
    """See that the file is there, for those who watch it. Raises OSError."""
    os.close(os.open(path_of(config), os.O_RDONLY | os.O_CREAT, 0o600))
