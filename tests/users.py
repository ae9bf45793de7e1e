"""Run a function of a test as another user of this machine. Only root can do that; other users skip such a test."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Callable

import pytest

NO_MANAGER = "nobody"  # every Unix has this user

needs_root = pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can be other users")


def uid_of(name: str) -> int:
    import pwd

    return pwd.getpwnam(name).pw_uid


def as_user(name: str, function: Callable[[], str]) -> str:
    """The answer of a function in a fork that has become this user.

    This user may be unable to read the Python's folder, so the function must not import anything for the first time.
    """
    import pwd

    user = pwd.getpwnam(name)
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups([])
            os.setgid(user.pw_gid)
            os.setuid(user.pw_uid)
            text = function()
        except BaseException as error:
            text = f"{type(error).__name__}: {error}"
        os.write(write_end, text.encode())
        os._exit(0)
    os.close(write_end)
    with os.fdopen(read_end, "rb") as answer:
        text = answer.read().decode()
    os.waitpid(pid, 0)
    return text


@contextmanager
def folder_of(name: str) -> Iterator[Path]:
    """A folder of this user, who cannot reach those of pytest."""
    place = Path(tempfile.mkdtemp(prefix="queuectl-"))
    try:
        place.chmod(0o755)
        (place / "own").mkdir(0o700)
        os.chown(place / "own", uid_of(name), 0)
        yield place / "own"
    finally:
        shutil.rmtree(place)
