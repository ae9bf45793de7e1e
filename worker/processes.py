"""Processes of this machine: how to identify them, find those of a claim, and end them.

Pids are reused. A pid with its start time and boot is unique. A command's processes are found by their parents and by
the claim's token in their environment. Windows has no signal that asks a process to end, so they are killed at once.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Optional

import psutil

# Without fork (Windows), workers are programs of their own that get messages through pipes, and threads wait for their
# commands. Tests remove fork to run this on Linux.
FORKS: bool = hasattr(os, "fork")
_LINUX: bool = sys.platform.startswith("linux")
_TICKS: int = os.sysconf("SC_CLK_TCK") if _LINUX else 1
_FIRST_PIDS = "pid:[4026531836]"  # the initial pid namespace of every Linux machine
TOKEN_VARIABLE = "QUEUECTL_TOKEN"  # noqa: S105  a variable's name, not a token


@lru_cache(maxsize=1)
def host_name() -> str:
    return socket.gethostname()


@lru_cache(maxsize=1)
def boot_id() -> str:
    """Identifies this boot of this machine, and in a container also its pid namespace. 'unknown' if there is no id.

    The time of the boot does not identify it: on Windows and macOS it changes when the clock is set.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        pids = os.readlink("/proc/self/ns/pid")
    except OSError:
        return "unknown"
    return boot if pids == _FIRST_PIDS else f"{boot}/{pids}"


def is_here(host: str, boot: str) -> bool:
    """Whether a pid of this host and boot means a process that can be found here."""
    return host == host_name() and boot == boot_id()


def was_restarted(host: str, boot: str) -> bool:
    """Whether the host has this machine's name, but another boot: it was restarted, or has the same name."""
    return host == host_name() and boot.partition("/")[0] != boot_id().partition("/")[0]


def started(pid: int) -> Optional[float]:
    """When a process started, or None if there is none. In seconds since the boot on Linux, since 1970 elsewhere.

    Not psutil's start time on Linux: it is calculated from the wall clock and changes when that is set.
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
    """The fields of /proc/PID/stat from the state on; None if there is no process. psutil takes ten times as long.

    Raises OSError if no more files can be opened: a process must not count as dead for that.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()  # the name before it may contain brackets
    except OSError as error:
        _require_files(error)
        return None


def _require_files(error: OSError) -> None:
    """Raise an error that says nothing about the process whose file was opened."""
    if error.errno in {errno.EMFILE, errno.ENFILE, errno.ENOMEM}:
        raise error


def is_alive(pid: int, pid_started: Optional[float]) -> bool:
    """Whether this process still runs; a zombie does not. Start times may differ a little by clock adjustment."""
    now = started(pid)
    return now is not None and (pid_started is None or abs(now - pid_started) < 2)


def is_stopped(pid: int) -> bool:
    """Whether this process was suspended (STOP, Ctrl-Z)."""
    if _LINUX:
        fields = _stat(pid)
        return fields is not None and fields[0] == b"T"
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_STOPPED)
    except psutil.Error:
        return False


def usage() -> tuple[int, int]:
    """This process's CPU time (microseconds), with that of ended commands, and memory (bytes)."""
    if _LINUX:
        import resource

        with open("/proc/self/statm", "rb") as file:
            resident = int(file.read().split()[1]) * resource.getpagesize()
        both = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return round(sum(one.ru_utime + one.ru_stime for one in both) * 1_000_000), resident
    me = psutil.Process()
    times = me.cpu_times()
    # The children's times are 0 on Windows. Elsewhere they include children that ended and were waited for.
    cpu = times.user + times.system + getattr(times, "children_user", 0.0) + getattr(times, "children_system", 0.0)
    return round(cpu * 1_000_000), int(me.memory_info().rss)


def resume_process(pid: int) -> None:
    with contextlib.suppress(psutil.Error):
        psutil.Process(pid).resume()


def become_subreaper() -> bool:
    """Adopt orphaned descendants in place of init. False if the platform has no subreapers."""
    if not _LINUX:
        return False
    import ctypes

    pr_set_child_subreaper = 36  # <linux/prctl.h>
    libc = ctypes.CDLL(None, use_errno=True)
    return bool(libc.prctl(pr_set_child_subreaper, 1, 0, 0, 0) == 0)


@contextmanager
def signals_blocked() -> Iterator[None]:
    """Threads that start in this block never receive a signal.

    Else the end of a command wakes one of them while the main thread starts another command, and this thread then takes
    the interpreter from the main thread only to wait again.
    """
    if not FORKS:
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def descendants(pid: int) -> list[int]:
    """All descendants of a process."""
    try:
        return [child.pid for child in psutil.Process(pid).children(recursive=True)]
    except (psutil.Error, OSError):
        return []


def token_of(pid: int) -> Optional[str]:
    """The claim's token in a process's environment, if that is readable. Raises OSError if no files can be opened."""
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
    except OSError as error:
        _require_files(error)
        return None
    name = TOKEN_VARIABLE.encode() + b"="
    # Compare whole names: a job may have a variable whose name or value contains this one.
    values = [one[len(name) :] for one in environment.split(b"\0") if one.startswith(name)]
    return values[0].decode(errors="replace") if values else None


def with_tokens(tokens: Iterable[str]) -> list[int]:
    """All other processes of this machine with one of these tokens in their environment."""
    wanted, me = set(tokens), os.getpid()
    return [pid for pid in psutil.pids() if pid != me and token_of(pid) in wanted]


def terminate(pids: Iterable[int]) -> None:
    """Send TERM. A negative pid is a process group."""
    for pid in pids:
        with contextlib.suppress(psutil.Error, OSError):
            if FORKS:
                os.kill(pid, signal.SIGTERM)
                os.kill(pid, signal.SIGCONT)  # a suspended process does not receive the TERM
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
    """Kill all processes with one of these tokens, until two scans in a row find none.

    False if some are left after `deadline` seconds: they belong to another user, or hang in the kernel.
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
    """Kill this process if it still runs; wait until it is gone, at most 5 s."""
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        if is_alive(pid, pid_started):
            process.kill()  # psutil checks the start time again, in case the pid was reused
            process.wait(timeout=5)


def new_id() -> str:
    """A random id of 48 bits for a worker or supervisor."""
    return os.urandom(6).hex()
