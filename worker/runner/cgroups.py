"""Control groups, of either version: those that this process is in, and those below which it may make others.

With version 2 a group that has groups below it may hold no process: ours move into one called HOUSE. That is done only
in a group that was handed over, by systemd (`Delegate=`) or with a container, for otherwise it belongs to others.
See the kernel's cgroup-v2.rst and cgroup-v1, and systemd's CGROUP_DELEGATION.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

log = logging.getLogger("queuectl.worker")

MEMORY, PROCESSES = "memory", "pids"  # as the kernel calls what controls them
HOUSE = "queuectl-house"


def bases() -> dict[str, Path]:
    """For each of the two, the group below which this process may make others, where there is one."""
    found: dict[str, Path] = {}
    for what, place in offered().items():
        base = _open(place) if place.unified else place.group
        if base is not None:
            found[what] = base
    return found


def offered() -> dict[str, _Place]:
    """For each of the two, a group of ours that may be used. Changes nothing."""
    with contextlib.suppress(OSError):
        return {
            what: place
            for place in _own_groups()
            for what in place.controllers & {MEMORY, PROCESSES}
            if os.access(place.base, os.W_OK) and (not place.unified or place.top or _delegated(place.base))
        }
    return {}


@dataclass(frozen=True)
class _Place:
    """A group that this process is in."""

    group: Path
    controllers: frozenset[str]
    unified: bool
    top: bool  # nothing above its base can be seen

    @property
    def base(self) -> Path:
        return self.group.parent if self.group.name == HOUSE else self.group


def _own_groups(proc: Path = Path("/proc/self")) -> list[_Place]:
    if not (proc / "cgroup").exists():
        return []
    paths: dict[frozenset[str], str] = {}  # by the controllers of a hierarchy; version 2 names none
    for line in (proc / "cgroup").read_text().splitlines():
        _, names, path = line.split(":", 2)
        paths[frozenset(names.split(",")) if names else frozenset()] = path
    places = []
    for line in (proc / "mountinfo").read_text().splitlines():
        # 30 24 0:26 / /sys/fs/cgroup/pids rw,relatime - cgroup cgroup rw,pids
        front, _, back = line.partition(" - ")
        kind, _, options = back.split(" ", 2)
        if kind not in ("cgroup", "cgroup2"):
            continue
        unified = kind == "cgroup2"
        root, mounted = front.split(" ")[3:5]
        named = frozenset(options.split(","))
        own = next((path for names, path in paths.items() if bool(names) != unified and names <= named), None)
        below = os.path.relpath(own, root) if own else ".."  # what is mounted may be a part of the hierarchy
        if below.startswith(".."):
            continue
        group = Path(mounted) / below
        controllers = named
        if unified:
            controllers = frozenset((group / "cgroup.controllers").read_text().split())
        places.append(_Place(group, controllers, unified, top=below in (".", HOUSE)))
    return places


def _open(place: _Place) -> Optional[Path]:
    """Make a group of version 2 ready to have groups below it. None where it cannot be."""
    wanted = " ".join(f"+{name}" for name in sorted(place.controllers & {MEMORY, PROCESSES}))
    house, error = place.base / HOUSE, None
    for _ in range(10):  # somebody may start another process while the others move
        try:
            write(place.base / "cgroup.subtree_control", wanted)
            return place.base
        except OSError as raised:
            error = raised
        if error.errno != errno.EBUSY:
            break
        house.mkdir(exist_ok=True)
        for pid in (place.base / "cgroup.procs").read_text().split():
            with contextlib.suppress(ProcessLookupError):
                write(house / "cgroup.procs", pid)
    log.warning("the control group %s cannot be used: %s", place.base, error)
    return None


def _delegated(group: Path) -> bool:
    for name in ("user.delegate", "trusted.delegate"):
        with contextlib.suppress(OSError, AttributeError):
            if os.getxattr(group, name) == b"1":
                return True
    return False


def write(file: Path, text: str) -> None:
    """Raises OSError: here the kernel answers by it."""
    with file.open("w") as opened:
        opened.write(text)
