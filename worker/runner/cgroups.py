"""Control groups, version 1 and 2: those of this process, and those in which it may create child groups.

In version 2 a group with child groups may not hold processes: ours move into a child group called HOUSE. This happens
only in a group that systemd (`Delegate=`) or a container delegated to us.
See the kernel's cgroup-v2.rst and cgroup-v1, and systemd's CGROUP_DELEGATION.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
from pathlib import Path
from typing import NamedTuple, Optional

log = logging.getLogger("queuectl.worker")

MEMORY, PROCESSES = "memory", "pids"  # the kernel's names of the controllers
HOUSE = "queuectl-house"


def bases() -> dict[str, Path]:
    """For each controller, the group in which this process may create child groups, if there is one."""
    found: dict[str, Path] = {}
    for what, place in offered().items():
        base = _open(place) if place.unified else place.group
        if base is not None:
            found[what] = base
    return found


def offered() -> dict[str, _Place]:
    """For each controller, a usable group of ours. Changes nothing."""
    with contextlib.suppress(OSError):
        return {
            what: place
            for place in _own_groups()
            for what in place.controllers & {MEMORY, PROCESSES}
            if os.access(place.base, os.W_OK) and (not place.unified or place.top or _delegated(place.base))
        }
    return {}


class _Place(NamedTuple):
    """A group that this process is in."""

    group: Path
    controllers: frozenset[str]
    unified: bool
    top: bool  # its base has no visible parent

    @property
    def base(self) -> Path:
        return self.group.parent if self.group.name == HOUSE else self.group


def _own_groups(proc: Path = Path("/proc/self")) -> list[_Place]:
    if not (proc / "cgroup").exists():
        return []
    paths: dict[frozenset[str], str] = {}  # by the controllers of a hierarchy; version 2 lists none
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
        below = os.path.relpath(own, root) if own else ".."  # the mount may show a part of the hierarchy
        if below.startswith(".."):
            continue
        group = Path(mounted) / below
        controllers = named
        if unified:
            controllers = frozenset((group / "cgroup.controllers").read_text().split())
        places.append(_Place(group, controllers, unified, top=below in (".", HOUSE)))
    return places


def _open(place: _Place) -> Optional[Path]:
    """Prepare a group of version 2 for child groups. None if that fails."""
    wanted = " ".join(f"+{name}" for name in sorted(place.controllers & {MEMORY, PROCESSES}))
    house, error = place.base / HOUSE, None
    for _ in range(10):  # another process may start while these move
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
    """Raises OSError if the kernel refuses the value."""
    with file.open("w") as opened:
        opened.write(text)
