"""The rig puts it on PYTHONPATH: it simulates faults of the machine. The product does not know it.

In the folder FAULTS_SHIM names,
- a file `offset` has the seconds by which the wall clock is wrong; `offset-PID` takes precedence for one process;
- a file `stop-at-spawn` stops the first process that is about to start a command: its claim is committed by then;
- a file `stop-in-lock` stops the first process that has taken the write lock;
- a file `unlucky` names processes (pids) that always come last to a lock that others wait for.
"""

import os
import signal
import threading
import time
from functools import partial

_folder = os.environ.get("FAULTS_SHIM", "")


def _mine(name: str) -> bool:
    """Whether this process is the first to take the order; each file is for one process."""
    try:
        os.rename(os.path.join(_folder, name), os.path.join(_folder, f"{name}.{os.getpid()}"))
    except OSError:
        return False
    return True


def _stand_still() -> None:
    # To this thread: with a signal to the process, this thread would continue until another one takes it.
    signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)


def _order(name: str) -> str:
    try:
        with open(os.path.join(_folder, name)) as file:
            return file.read()
    except OSError:
        return ""


def _offset() -> int:
    return int(float(_order(f"offset-{os.getpid()}") or _order("offset") or 0) * 1_000_000_000)


def _wait_unluckily(try_lock) -> None:  # type: ignore[no-untyped-def]
    while not try_lock():
        time.sleep(0.5)


def _bend() -> None:
    import fcntl

    real_time_ns, real_spawn, real_flock = time.time_ns, os.posix_spawn, fcntl.flock

    def spawn(*arguments, **options):  # type: ignore[no-untyped-def]
        if _mine("stop-at-spawn"):
            _stand_still()
        return real_spawn(*arguments, **options)

    def try_flock(descriptor, operation):  # type: ignore[no-untyped-def]
        try:
            real_flock(descriptor, operation | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def flock(descriptor, operation):  # type: ignore[no-untyped-def]
        if operation == fcntl.LOCK_EX and str(os.getpid()) in _order("unlucky").split():
            _wait_unluckily(partial(try_flock, descriptor, operation))
        else:
            real_flock(descriptor, operation)
        if operation & fcntl.LOCK_EX and _mine("stop-in-lock"):
            _stand_still()

    time.time_ns = lambda: real_time_ns() + _offset()
    time.time = lambda: time.time_ns() / 1e9
    os.posix_spawn = spawn
    fcntl.flock = flock


if _folder:
    _bend()
