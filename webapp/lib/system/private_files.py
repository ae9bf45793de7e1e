"""Files that only their owner can read, also when root makes them for another user; and why a file cannot be opened.

The queue of a service belongs to the service's user. When root runs a command on it, new files belong to the owner of
their folder, so the service can still open them.
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Optional


def open_private(path: Path, flags: int) -> int:
    """Open a file and return its descriptor. A missing file is created with mode 0600, see `give`. Raises OSError."""
    with suppress(FileNotFoundError):
        return os.open(path, flags)
    with suppress(FileExistsError):  # another process was first
        return create_private(path, flags)
    return os.open(path, flags)


def create_private(path: Path, flags: int = os.O_WRONLY) -> int:
    """Create a file with mode 0600, see `give`, and return its descriptor. Raises FileExistsError, OSError."""
    # O_EXCL follows no symbolic link. Otherwise the owner of the folder could get any file of the system.
    descriptor = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o600)
    give(descriptor, path.parent)
    return descriptor


def give(descriptor: int, like: Path) -> None:
    """If this is root, give a new file to the owner of another file or folder."""
    if sys.platform != "win32" and os.geteuid() == 0:
        owner = like.stat()
        with suppress(OSError):  # some network file systems refuse that
            os.fchown(descriptor, owner.st_uid, owner.st_gid)


def make_folder(path: Path, mode: int = 0o700) -> None:
    """Create a folder, and missing parents with the mode that the umask gives; see `give`. Raises OSError."""
    if path.is_dir():
        return
    make_folder(path.parent, 0o777)
    try:
        path.mkdir(mode)
    except FileExistsError:  # another process was first, or this is a file
        if not path.is_dir():
            raise
        return
    if sys.platform != "win32":
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        give(descriptor, path.parent)
        os.close(descriptor)


def denial(paths: Sequence[Path]) -> Optional[str]:
    """Why this process may not use one of these files and folders, and what to do: sentences; None if it may.

    Files must be readable and writable, folders writable. For a missing file, its folder must be.
    """
    if sys.platform == "win32":
        return None
    denied: list[Path] = []
    for path in paths:
        for folder in reversed(path.parents):
            if os.path.isdir(folder) and _is_denied(folder, os.X_OK):
                return _explain_folder(folder)
        folder = path if os.path.isdir(path) else path.parent
        if folder is path or not os.path.exists(path):
            if os.path.isdir(folder) and _is_denied(folder, os.W_OK | os.X_OK):
                return _explain_folder(folder)
        elif _is_denied(path, os.R_OK | os.W_OK):
            denied.append(path)
    return _explain_files(denied) if denied else None


def _is_denied(path: Path, access: int) -> bool:
    """Whether the permissions forbid this. A read-only disk or an immutable file has another reason."""
    try:
        found = path.stat()
        if os.statvfs(path).f_flag & os.ST_RDONLY:
            access &= ~os.W_OK
    except OSError:  # it does not exist
        return False
    is_mine = found.st_uid == os.geteuid()
    return not os.access(path, access) and not (is_mine and found.st_mode >> 6 & access == access)


def _explain_folder(folder: Path) -> str:
    found = folder.stat()
    if found.st_uid == os.geteuid():
        return f"{_permissions(folder)}. Run `chmod 700 {folder}`"
    return f"{_permissions(folder)}. Run this command as {_name(found.st_uid)}, or use another folder"


def _explain_files(paths: Sequence[Path]) -> str:
    folder, me = paths[0].parent.stat(), os.geteuid()
    names = " ".join(map(str, paths))
    if folder.st_uid != me:
        remedy = f"Run this command as {_name(folder.st_uid)}"
    elif paths[0].stat().st_uid == me:
        remedy = f"Run `chmod 600 {names}`"
    else:
        remedy = f"Run as root: `chown {_name(me)}: {names}`"
    return f"{_permissions(paths[0])}. {remedy}"


def _permissions(path: Path) -> str:
    found = path.stat()
    mode = f"mode {stat.S_IMODE(found.st_mode):04o}"
    return f"{path} belongs to {_name(found.st_uid)} ({mode}), and this process runs as {_name(os.geteuid())}"


def _name(uid: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:  # in a container a user may have no name
        return str(uid)
