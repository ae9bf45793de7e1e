"""Processes of this machine: who they are, which belong to a claim, and how they are ended.

A pid alone names nobody, for it is used again: with the start time and the boot it does. A command's processes are
found by their parentage and by the claim's token in their environment.

Processes are ended by signals where there are any, and through psutil elsewhere: Windows has no request to end that
a process could heed, so there it is killed at once.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import time
import uuid
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Optional

import psutil

# Which of two ways everything about processes goes. Without fork (Windows) workers are fresh programs, spoken to
# through pipes, and what they run is waited for in threads. Tests take fork away to have that on Linux, too.
FORKS: bool = hasattr(os, "fork")
_LINUX: bool = sys.platform.startswith("linux")
_TICKS: int = os.sysconf("SC_CLK_TCK") if _LINUX else 1
_FIRST_PIDS = "pid:[4026531836]"  # the namespace that Linux begins with has this number on every machine
TOKEN_VARIABLE = "QUEUECTL_TOKEN"  # noqa: S105  the variable's name, not a token


@lru_cache(maxsize=1)
def host_name() -> str:
    return socket.gethostname()


@lru_cache(maxsize=1)
def boot_id() -> str:
    """What names this boot of this machine: after a restart it is another. 'unknown' where the platform has no name.

    In a container it says which one, too: there a pid is another process, although the machine may have the same name.

    The time of the boot is no name: on Windows and macOS it moves when the clock is set, and a second more or less
    would make every worker look like one of before a restart. A pid's start time tells those apart as well.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        pids = os.readlink("/proc/self/ns/pid")
    except OSError:
        return "unknown"
    return boot if pids == _FIRST_PIDS else f"{boot}/{pids}"


def is_here(host: str, boot: str) -> bool:
    """Whether what ran on this host in this boot can be found by its pid."""
    return host == host_name() and boot == boot_id()


def was_restarted(host: str, boot: str) -> bool:
    """Whether a machine of this one's name was in another boot: the same machine, or one of the same name."""
    return host == host_name() and boot.partition("/")[0] != boot_id().partition("/")[0]


def started(pid: int) -> Optional[float]:
    """When a process started, None when there is none: in seconds since the boot on Linux, since 1970 elsewhere.

    Linux reckons backwards from the wall clock what psutil calls a start time: set the clock, and all have changed.
    """
    if _LINUX:
        fields = _stat(pid)
        return None if fields is None or fields[0] in (b"Z", b"X") else int(fields[19]) / _TICKS
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        return float(process.create_time())
    except psutil.Error:
        return None


def _stat(pid: int) -> Optional[list[bytes]]:
    """What Linux tells of a process, from its state on; None when there is none. psutil takes ten times as long."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()  # a name may hold anything, a bracket too
    except OSError:
        return None


def is_alive(pid: int, pid_started: Optional[float]) -> bool:
    """Whether that very process still runs; a zombie does not. The start time may differ by clock adjustment."""
    now = started(pid)
    return now is not None and (pid_started is None or abs(now - pid_started) < 2)


def is_stopped(pid: int) -> bool:
    """Whether somebody stopped this process (STOP, Ctrl-Z), so that it does nothing until it is told to go on."""
    if _LINUX:
        fields = _stat(pid)
        return fields is not None and fields[0] == b"T"
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_STOPPED)
    except psutil.Error:
        return False


def usage() -> tuple[int, int]:
    """What this process has used: CPU time (microseconds) with that of the commands that ended, and memory (bytes)."""
    if _LINUX:
        import resource

        with open("/proc/self/statm", "rb") as file:
            resident = int(file.read().split()[1]) * resource.getpagesize()
        both = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return round(sum(one.ru_utime + one.ru_stime for one in both) * 1_000_000), resident
    me = psutil.Process()
    times = me.cpu_times()
    # Those of children are 0 on Windows; only those that ended and were waited for count elsewhere.
    cpu = times.user + times.system + getattr(times, "children_user", 0.0) + getattr(times, "children_system", 0.0)
    return round(cpu * 1_000_000), int(me.memory_info().rss)


def resume_process(pid: int) -> None:
    with contextlib.suppress(psutil.Error):
        psutil.Process(pid).resume()


def become_subreaper() -> bool:
    """Have orphaned grandchildren given to this process instead of to init. False where the platform cannot."""
    if not _LINUX:
        return False
    import ctypes

    pr_set_child_subreaper = 36  # <linux/prctl.h>
    libc = ctypes.CDLL(None, use_errno=True)
    return bool(libc.prctl(pr_set_child_subreaper, 1, 0, 0, 0) == 0)


def descendants(pid: int) -> list[int]:
    """All processes below one, itself not among them."""
    try:
        return [child.pid for child in psutil.Process(pid).children(recursive=True)]
    except psutil.Error:
        return []


def token_of(pid: int) -> Optional[str]:
    """The claim's token in a process's environment, where it may be read."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            environment = file.read()
    except FileNotFoundError:
        if _LINUX:
            return None
        try:
            return str(psutil.Process(pid).environ()[TOKEN_VARIABLE])
        except (psutil.Error, OSError, KeyError):
            return None
    except OSError:
        return None
    name = TOKEN_VARIABLE.encode() + b"="
    # A whole one: a job may have a variable of its own that ends so, or says so.
    values = [one[len(name) :] for one in environment.split(b"\0") if one.startswith(name)]
    return values[0].decode(errors="replace") if values else None


def with_tokens(tokens: Iterable[str]) -> list[int]:
    """All processes of this machine whose environment carries one of these tokens, this process left out."""
    wanted, me = set(tokens), os.getpid()
    return [pid for pid in psutil.pids() if pid != me and token_of(pid) in wanted]


def ask_to_end(pids: Iterable[int]) -> None:
    """TERM, for those that can hear it; a negative pid is a process group."""
    for pid in pids:
        with contextlib.suppress(psutil.Error, OSError):
            if FORKS:
                os.kill(pid, signal.SIGTERM)
                os.kill(pid, signal.SIGCONT)  # a stopped process does not hear the TERM
            else:
                process = psutil.Process(pid)
                process.terminate()
                process.resume()


def kill(pids: Iterable[int]) -> None:
    for pid in pids:
        with contextlib.suppress(psutil.Error, OSError):
            if FORKS:
                os.kill(pid, signal.SIGKILL)
            else:
                psutil.Process(pid).kill()


def end_tokens(tokens: Iterable[str], deadline: float = 10.0) -> bool:
    """Kill all that carries one of these tokens, until two looks in a row find nothing.

    False when something is still there after `deadline` seconds: it belongs to somebody else, or hangs in the kernel.
    """
    wanted = list(tokens)
    until, quiet = time.monotonic() + deadline, 0
    while quiet < 2:
        found = [pid for pid in with_tokens(wanted) if started(pid) is not None]
        quiet = 0 if found else quiet + 1
        if found:
            kill(found)
            time.sleep(0.01)
        if time.monotonic() > until:
            return False
    return True


def kill_exactly(pid: int, pid_started: Optional[float]) -> None:
    """KILL one process, if it still is the one that started then; wait until it is gone (5 s at the most)."""
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        if is_alive(pid, pid_started):
            process.kill()  # psutil checks the start time once more, against a pid that was used again
            process.wait(timeout=5)


def new_id() -> str:
    """A random id for a worker or supervisor, short enough to read: 48 bits."""
    return uuid.uuid4().hex[:12]
