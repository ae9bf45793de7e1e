"""File locks in front of SQLite: the one that every writer takes, and the one that tells whether anybody is there.

Neither touches the database's own files: closing a descriptor of those would drop SQLite's locks in this process.
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

from webapp.config import Config, ConfigError

try:
    import fcntl
except ImportError:  # Windows: SQLite's own busy handler has to do
    fcntl = None  # type: ignore[assignment]

_HAS_FLOCK: bool = fcntl is not None
BUSY_TIMEOUT = 30.0  # seconds that a caller waits for another writer before it is told 'busy'
BUSY = "the database is busy: another process has held its write lock for too long. Try again"


class Busy(Exception):
    """Another process holds the database's write lock for longer than a caller should wait. Try again."""


class Gone(OSError):
    """The database's folder was taken away, or another one stands in its place; the message says so."""


class WriteLock:
    """A blocking file lock in front of SQLite's own write lock.

    SQLite's busy handler sleeps a millisecond and more between tries while a transaction takes a tenth of one;
    a blocking flock wakes at once. A thread lock stands before it, because threads share the descriptor.
    """

    def __init__(self, path: Optional[Path]) -> None:
        """`path` None makes a lock that is always free: PostgreSQL needs none, Windows has no flock."""
        self._path = path if _HAS_FLOCK else None
        self._thread_lock = threading.Lock()
        self._descriptor = -1
        if self._path is not None and hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._forget)

    def __enter__(self) -> None:
        self.acquire()

    def acquire(self, timeout: float = -1) -> None:
        """Take the lock; with a timeout in seconds, raise Busy when it cannot be had in that time."""
        if self._path is None:
            return
        until = time.monotonic() + timeout
        if not self._thread_lock.acquire(timeout=timeout):
            raise Busy(BUSY)
        try:
            if self._descriptor < 0:
                self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            if timeout < 0:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX)
            else:
                self._wait_until(until)
            self._check_place()
        except BaseException:
            self._thread_lock.release()
            raise

    def _wait_until(self, until: float) -> None:
        try:
            _flock_until(self._descriptor, until)
        except Busy:
            # Who waits in vain goes on to wait, and lets go of the lock when it comes: the next is to have another one.
            os.close(self._descriptor)
            self._descriptor = -1
            raise

    def __exit__(self, *_: object) -> None:
        self.release()

    def release(self) -> None:
        if self._path is None:
            return
        fcntl.flock(self._descriptor, fcntl.LOCK_UN)
        self._thread_lock.release()

    def holder(self) -> Optional[int]:
        """The process that holds the lock, where the system tells (Linux); None where nobody does."""
        if self._path is None:
            return None
        with contextlib.suppress(OSError):
            return _holder(os.stat(self._path).st_ino)
        return None

    def _check_place(self) -> None:
        """A folder that is taken away takes along what is open in it: whatever is written there, nobody would find."""
        ours = os.fstat(self._descriptor)
        path = self._path or Path()
        try:
            there = os.stat(path)
        except FileNotFoundError:
            there = None
        if there is None or (there.st_ino, there.st_dev) != (ours.st_ino, ours.st_dev):
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)
            raise Gone(
                f"{path.parent} is gone, or its files were replaced while this process used them. Put it back, "
                "or start the workers and the console again"
            )

    def _forget(self) -> None:
        # A child shares its parent's open file, and with it the lock: it must open the file anew.
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor = -1
        self._thread_lock = threading.Lock()


def _holder(inode: int) -> Optional[int]:
    # 3: FLOCK  ADVISORY  WRITE 19797 fe:00:2336231 0 EOF, and those that wait with '->' behind the number
    for line in Path("/proc/locks").read_text().splitlines():
        words = line.split()
        if words[1:4] == ["FLOCK", "ADVISORY", "WRITE"] and words[5].rpartition(":")[2] == str(inode):
            return int(words[4])
    return None


def _flock_until(descriptor: int, until: float) -> None:
    """A blocking flock that gives up. It waits in a thread: tries with sleeps between them would starve behind others
    that block, and no signal interrupts a thread."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return
    except BlockingIOError:
        pass
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


@contextmanager
def hold_alone(config: Config) -> Iterator[bool]:
    """Be the only process of this SQLite queue for as long as the block lasts; False where others are there.

    Every process that has called `init_app` shares the lock that this takes for itself.
    """
    if not _HAS_FLOCK:
        yield True  # Windows lets nobody rename a file that is open, which answers the question in its own way
        return
    descriptor = _open_use(config)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield True
    except BlockingIOError:
        yield False
    finally:
        os.close(descriptor)


def share_use(config: Config) -> int:
    """Say that this process, and what it forks, uses the database, until it ends. Raises ConfigError.

    Returns the descriptor that says so; -1 where the platform has no such locks.
    """
    if not _HAS_FLOCK:
        return -1
    descriptor = _open_use(config)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise ConfigError("the database is being restored from a backup. Try again in a moment.") from None
    return descriptor


def try_alone(descriptor: int) -> bool:
    """Take the lock of an open file for this process, until it is closed; False where another one has it."""
    if not _HAS_FLOCK:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _open_use(config: Config) -> int:
    path = config.lock_path.with_name("queue.use")
    try:
        try:
            return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            if error.errno != errno.EROFS:
                raise
            return os.open(path, os.O_RDONLY | os.O_CLOEXEC)  # enough for the lock, and for those who only look
    except OSError as error:
        raise ConfigError(f"cannot open {path}: {error.strerror}.") from None
