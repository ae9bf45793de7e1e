"""What this machine has no room for: errors that are not a job's fault, and how many jobs its limits allow."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from typing import Optional

import psutil

from webapp.lib.text import plural

FILES_PER_JOB = 2  # the pipes of its output
FILES_FREE = 20  # open files that a worker keeps for itself: new connections, /proc, a start in progress
PROCESSES_PER_JOB = 2  # the shell and its command
PROCESSES_BESIDE = 6  # the maintenance process with its threads, and what it starts
PROCESSES_PER_WORKER = 5  # its threads, and one process for short work
AMPLE_PROCESSES = 10_000  # allowed beside what the jobs need; then nothing has to be counted
_NO_SPACE = "no space is left on the disk"


class Shortage(Exception):
    """The machine has no room for another command. The message says of what."""


def of(error: BaseException) -> Optional[Shortage]:
    """The shortage that an error means, or None if it means something else, such as a file that does not exist."""
    number = error.errno if isinstance(error, OSError) else None
    if isinstance(error, MemoryError):
        number = errno.ENOMEM
    elif isinstance(error, RuntimeError) and "can't start new thread" in str(error):
        number = errno.EAGAIN
    if number is None:
        return None
    texts = {
        errno.EMFILE: f"its process cannot open more files{_limit('NOFILE', 'n')}",
        errno.ENFILE: "the machine cannot open more files (sysctl fs.file-max)",
        errno.EAGAIN: f"no more processes or threads are allowed{_limit('NPROC', 'u')}",
        errno.ENOMEM: "no memory is left",
        errno.ENOSPC: _NO_SPACE,
        getattr(errno, "EDQUOT", errno.ENOSPC): _NO_SPACE,
    }
    return Shortage(texts[number]) if number in texts else None


def files_allow(slots: int) -> tuple[int, str]:
    """How many of a worker's jobs its limit of open files allows, at least 1, and why; '' if all.

    Call it in the worker, when its connections are open. The limit is the process's own, so this does not change.
    """
    limit, used = soft_limit("NOFILE"), _open_files()
    if limit is None:
        return slots, ""
    fit = max(1, (limit - used - FILES_FREE) // FILES_PER_JOB)
    if fit >= slots:
        return slots, ""
    enough = used + FILES_FREE + slots * FILES_PER_JOB
    return fit, f"`ulimit -n` is {limit}; {plural(slots, 'job')} at a time need {enough}"


def processes_allow(slots: int, workers: int, running: int = 0) -> tuple[int, str]:
    """How many jobs of each of these workers the limit of this user's processes seems to allow, at least 1, and why.

    `running`: jobs of this worker that run already. The user's other processes come and go, so this is an estimate.
    The text is '' if the limit allows all.
    """
    limit = soft_limit("NPROC")
    alone = PROCESSES_BESIDE + workers * PROCESSES_PER_WORKER
    needed = alone + workers * (slots - running) * PROCESSES_PER_JOB
    # The kernel does not hold root to this limit. Counting reads all processes of the machine.
    if limit is None or os.getuid() == 0 or limit > needed + AMPLE_PROCESSES:
        return slots, ""
    used = processes_of_this_user()
    if used + needed <= limit:
        return slots, ""
    more = max(0, limit - used - alone) // (workers * PROCESSES_PER_JOB)
    each = f"{plural(workers, 'worker')} with {plural(slots, 'job')} at a time"
    return max(1, running + more), f"`ulimit -u` is {limit}, {used} are in use, and {each} need {needed} more"


def processes_of_this_user() -> int:
    """Each thread counts, as for the kernel."""
    me, threads = os.getuid(), 0
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.uids().real == me:
                threads += process.num_threads()
    return threads


def soft_limit(name: str) -> Optional[int]:
    """This process's limit NOFILE or NPROC; None: no limit."""
    if sys.platform == "win32":
        return None
    import resource

    limit = resource.getrlimit(getattr(resource, f"RLIMIT_{name}"))[0]
    return None if limit == resource.RLIM_INFINITY else limit


def _limit(name: str, option: str) -> str:
    limit = soft_limit(name)
    return "" if limit is None else f" (ulimit -{option} is {limit})"


def _open_files() -> int:
    for folder in ("/proc/self/fd", "/dev/fd"):
        with contextlib.suppress(OSError):
            return len(os.listdir(folder))
    return 0
