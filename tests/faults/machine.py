"""What is done to the machine under the product: small disks, disks that cannot be written, libraries loaded before it.

Most of it only root can do.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Impossible(Exception):
    """This machine does not let us do that; the message says what. The fault is skipped, not held."""


def _run(*command: str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise Impossible(f"{command[0]}: {error.strerror}") from None
    if done.returncode != 0:
        raise Impossible(f"{' '.join(command)}: {done.stderr.strip()}")


@contextmanager
def small_disk(place: Path, megabytes: int) -> Iterator[Path]:
    """A file system of its own in memory, that can be filled."""
    place.mkdir()
    _run("mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=0700", "tmpfs", str(place))
    try:
        yield place
    finally:
        _run("umount", "--lazy", str(place))


@contextmanager
def read_only(place: Path) -> Iterator[None]:
    """A folder or file that nobody can write, root included."""
    _run("mount", "--bind", str(place), str(place))
    try:
        _run("mount", "-o", "remount,bind,ro", str(place))
        yield
    finally:
        _run("umount", "--lazy", str(place))


def fill(disk: Path) -> Path:
    """Take all that is left; delete the file that is returned to give it back."""
    ballast = disk / "ballast"
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
        while file.write(bytes(4096)) == 4096:
            pass
    return ballast


def build(source: Path, folder: Path) -> Path:
    """Make a library of C, to be named in LD_PRELOAD."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        raise Impossible(f"there is no C compiler for {source.name}")
    library = folder / source.with_suffix(".so").name
    _run(compiler, "-shared", "-fPIC", "-O2", "-o", str(library), str(source), "-ldl")
    return library
