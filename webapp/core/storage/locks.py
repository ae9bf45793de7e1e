"""File locks in front of SQLite: the write lock, and the lock that shows whether a process uses the queue.

Neither touches the database's own files: closing a descriptor of those would release SQLite's locks in this process.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Optional

from webapp.config import Config, Unavailable, denial
from webapp.lib.system.private_files import open_private

try:
    import fcntl
except ImportError:  # Windows: only SQLite's own busy handler
    fcntl = None  # type: ignore[assignment]

_HAS_FLOCK: bool = fcntl is not None
BUSY_TIMEOUT = 30.0  # seconds that a caller waits for another writer
BUSY = "the database is busy: another process has held its write lock for too long. Try again"


class Busy(TimeoutError):
    """Another process held the write lock for longer than the caller waits. Try again."""


class Gone(OSError):
    """The database's folder was removed or replaced; the message says so."""


class WriteLock:
    """A blocking file lock in front of SQLite's own write lock.

    SQLite's busy handler sleeps for a millisecond or more between tries, but a transaction takes a tenth of one. A
    blocking flock wakes at once. Threads share the descriptor, so a thread lock comes first.
    """

    def __init__(self, path: Optional[Path]) -> None:
        """With `path` None the lock is always free: PostgreSQL needs none, Windows has no flock."""
        self._path = os.fspath(path) if path is not None and _HAS_FLOCK else None
        self._thread_lock = threading.Lock()
        self._descriptor = -1
        self._place = (0, 0)  # inode and device of the open file
        if self._path is not None and hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._forget)

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()

    def acquire(self, timeout: float = -1) -> None:
        """Take the lock. Raises Busy after `timeout` seconds (negative: no limit), and Gone."""
        if self._path is None:
            return
        until = time.monotonic() + timeout
        if not self._thread_lock.acquire(timeout=timeout):
            raise Busy(BUSY)
        try:
            if self._descriptor < 0:
                self._descriptor = open_private(Path(self._path), os.O_RDWR | os.O_CLOEXEC)
                self._place = _place(os.fstat(self._descriptor))
            if timeout < 0:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX)
            else:
                _flock_until(self._descriptor, until)
            self._check_place(self._path)
        except BaseException as error:
            if isinstance(error, Busy):
                # The helper thread may still take the lock on this open file and release it: open a new one next time.
                self._forget_descriptor()
            self._thread_lock.release()
            raise

    def release(self) -> None:
        if self._path is None:
            return
        fcntl.flock(self._descriptor, fcntl.LOCK_UN)
        self._thread_lock.release()

    def holder(self) -> Optional[int]:
        """The process that holds the lock, if the system tells (Linux); None if no process holds it."""
        if self._path is None:
            return None
        with contextlib.suppress(OSError):
            inode = str(os.stat(self._path).st_ino)
            # 3: FLOCK  ADVISORY  WRITE 19797 fe:00:2336231 0 EOF; waiting processes have '->' after the number
            for line in Path("/proc/locks").read_text().splitlines():
                words = line.split()
                if words[1:4] == ["FLOCK", "ADVISORY", "WRITE"] and words[5].rpartition(":")[2] == inode:
                    return int(words[4])
        return None

    def _check_place(self, path: str) -> None:
        """Raise Gone if the folder was removed or replaced: data written to its open files would be lost."""
        try:
            place = _place(os.stat(path))
        except FileNotFoundError:
            place = None
        if place == self._place:
            return
        fcntl.flock(self._descriptor, fcntl.LOCK_UN)
        raise Gone(
            f"the folder {os.path.dirname(path)} was removed, or its files were replaced while this process used them. "
            "Restore it, or restart the workers and the console"
        )

    def _forget_descriptor(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor = -1

    def _forget(self) -> None:
        # A child shares its parent's open file, and with it the lock. So it must open the file again.
        self._forget_descriptor()
        self._thread_lock = threading.Lock()


def _place(status: os.stat_result) -> tuple[int, int]:
    return status.st_ino, status.st_dev


def _flock_until(descriptor: int, until: float) -> None:
    """A blocking flock with a deadline. Raises Busy.

    It waits in a thread: no signal interrupts a thread, and tries with sleeps between them would starve behind
    processes that block.
    """
    if try_alone(descriptor):
        return
    own = os.dup(descriptor)  # the same open file, and so the same lock
    settled, state = threading.Lock(), {"abandoned": False, "locked": False}
    locked = threading.Event()

    def wait() -> None:
        fcntl.flock(own, fcntl.LOCK_EX)
        with settled:
            if state["abandoned"]:
                fcntl.flock(own, fcntl.LOCK_UN)
            state["locked"] = True
        os.close(own)
        locked.set()

    threading.Thread(target=wait, name="flock", daemon=True).start()
    locked.wait(max(0.0, until - time.monotonic()))
    with settled:
        if not state["locked"]:
            state["abandoned"] = True
            raise Busy(BUSY)


def try_alone(descriptor: int) -> bool:
    """Take the exclusive lock of an open file without waiting; False if another process holds it."""
    if _HAS_FLOCK:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


@contextmanager
def hold_alone(config: Config) -> Iterator[bool]:
    """Be the only process that uses this SQLite queue during the block; False if another process uses it."""
    if not _HAS_FLOCK:
        yield True  # Windows refuses to rename an open file, which protects the database too
        return
    descriptor = _open_use(config)
    try:
        yield try_alone(descriptor)
    finally:
        os.close(descriptor)


def share_use(config: Config) -> int:
    """Mark the queue as used by this process and its forks until they end. Raises ConfigError during a restore.

    Returns the descriptor that holds the mark; -1 if the platform has no such locks.
    """
    if not _HAS_FLOCK:
        return -1
    descriptor = _open_use(config)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise Unavailable("the database is being restored from a backup. Try again in a moment.") from None
    return descriptor


def _open_use(config: Config) -> int:
    path = config.lock_path.with_name("queue.use")
    try:
        try:
            return open_private(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            if error.errno != errno.EROFS:
                raise
            return os.open(path, os.O_RDONLY | os.O_CLOEXEC)  # enough for the lock, and for readers
    except OSError as error:
        raise Unavailable(f"cannot open {path}: {denial(config) or error.strerror}.") from None
