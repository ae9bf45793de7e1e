"""Limits for the memory and the number of processes of one attempt's process tree.

Each attempt gets a control group, if this process may create one. Without control groups, Linux has resource limits:
for each process (memory), or for all processes of the user, with those that already ran (processes; not for root).
Other platforms have no limits.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import sys
from collections.abc import Container
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple, Optional

import psutil

from webapp.core.settings import Settings
from worker.runner import cgroups
from worker.shortage import processes_of_this_user

log = logging.getLogger("queuectl.worker")

_PREFIX = "queuectl-job-"
_numbers = itertools.count(1)
_leaving: list[Path] = []


class Limits(NamedTuple):
    """Of one attempt: memory in bytes; processes, each thread counts. 0: no limit."""

    memory: int
    processes: int

    @classmethod
    def of(cls, settings: Settings) -> Limits:
        return cls(settings.job_memory_limit * 1024**2, settings.job_process_limit)

    def describe(self, which: str) -> str:
        """The setting of a limit and its value. `which`: memory or processes."""
        if which == "memory":
            return f"job_memory_limit ({self.memory / 1024**2:g} MiB)"
        return f"job_process_limit ({self.processes} processes)"

    def __bool__(self) -> bool:
        return bool(self.memory or self.processes)


NO_LIMITS = Limits(0, 0)


class ResourceLimits:
    """The limits around one attempt."""

    def __init__(self, limits: Limits) -> None:
        """Raises OSError."""
        bases = _bases()
        _remove_later()
        self._rest = Limits(
            0 if cgroups.MEMORY in bases else limits.memory,
            0 if cgroups.PROCESSES in bases else limits.processes,
        )
        name = f"{_PREFIX}{os.getpid()}-{next(_numbers)}"
        self._groups: dict[str, Path] = {}
        try:
            for what, limit in ((cgroups.MEMORY, limits.memory), (cgroups.PROCESSES, limits.processes)):
                if limit and what in bases:
                    group = bases[what] / name
                    group.mkdir(exist_ok=True)  # both limits may use the same group
                    self._groups[what] = group
                    if what == cgroups.MEMORY:
                        _limit_memory(group, limit)
                    else:
                        cgroups.write(group / "pids.max", str(limit))
        except OSError:
            self.remove()
            raise

    def enclose(self, pid: int) -> None:
        """Add a process that has not begun yet; its children are then inside too. Raises OSError."""
        for group in set(self._groups.values()):
            cgroups.write(group / "cgroup.procs", str(pid))
        if self._rest:
            _limit_each(pid, self._rest)

    def pids(self) -> set[int]:
        """The processes inside, as far as known."""
        group = next(iter(self._groups.values()), None)  # all groups have the same processes
        with contextlib.suppress(OSError):
            return {int(pid) for pid in (group / "cgroup.procs").read_text().split()} if group else set()
        return set()

    def reached(self) -> str:
        """The limit that was reached: 'memory' (a process was killed), 'processes', or '' if none or unknown."""
        memory, processes = self._groups.get(cgroups.MEMORY), self._groups.get(cgroups.PROCESSES)
        if memory and any(_count(memory / file, "oom_kill") for file in ("memory.events", "memory.oom_control")):
            return "memory"
        return "processes" if processes and _count(processes / "pids.events", "max") else ""

    def remove(self) -> None:
        """Remove the groups once they are empty."""
        _leaving.extend(set(self._groups.values()))
        _remove_later()


def describe(usable: Optional[Container[str]] = None) -> str:
    """How limits work on this machine: 'memory by control groups, processes by nothing'."""
    usable = cgroups.offered() if usable is None else usable
    fallback = "resource limits" if sys.platform.startswith("linux") else "nothing"
    kinds = (cgroups.MEMORY, cgroups.PROCESSES)
    return "memory by {}, processes by {}".format(*("control groups" if kind in usable else fallback for kind in kinds))


# --- control groups ---


@lru_cache(maxsize=1)
def _bases() -> dict[str, Path]:
    """By controller, the groups in which attempts get theirs."""
    found = cgroups.bases()
    for base in set(found.values()):
        for group in base.glob(f"{_PREFIX}*"):
            # Groups of dead workers. The kernel refuses to remove a group that is in use.
            with contextlib.suppress(OSError, ValueError):
                if not psutil.pid_exists(int(group.name[len(_PREFIX) :].partition("-")[0])):
                    group.rmdir()
    log.info("limits of jobs: %s", describe(found))
    return found


def _remove_later() -> None:
    """Remove groups of ended attempts. A process that cannot be killed keeps its group for a while."""
    for group in list(_leaving):
        with contextlib.suppress(OSError):
            group.rmdir()
        if not group.exists():
            _leaving.remove(group)


def _limit_memory(group: Path, limit: int) -> None:
    if (group / "memory.max").exists():
        cgroups.write(group / "memory.max", str(limit))
        cgroups.write(group / "memory.oom.group", "1")  # the whole attempt, not just its largest process
        swap, swap_limit = group / "memory.swap.max", "0"
    else:
        cgroups.write(group / "memory.limit_in_bytes", str(limit))
        swap, swap_limit = group / "memory.memsw.limit_in_bytes", str(limit)
    if swap.exists():
        cgroups.write(swap, swap_limit)


def _count(file: Path, name: str) -> int:
    with contextlib.suppress(OSError, ValueError):
        for line in file.read_text().splitlines():
            if line.startswith(f"{name} "):
                return int(line.split()[1])
    return 0


# --- resource limits ---


def _limit_each(pid: int, limits: Limits) -> None:
    if not sys.platform.startswith("linux"):
        return
    import resource  # Windows has none, and imports this module

    if limits.memory:
        resource.prlimit(pid, resource.RLIMIT_AS, (limits.memory, limits.memory))
    if limits.processes:
        most = processes_of_this_user() + limits.processes
        resource.prlimit(pid, resource.RLIMIT_NPROC, (most, most))
