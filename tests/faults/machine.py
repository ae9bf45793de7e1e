"""Changes to the machine under the product: small disks, read-only disks, preloaded libraries.

Most of them need root.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Impossible(Exception):
    """This machine does not allow it; the message says what. The fault is skipped."""


def _run(*command: str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise Impossible(f"{command[0]}: {error.strerror}") from None
    if done.returncode != 0:
        raise Impossible(f"{' '.join(command)}: {done.stderr.strip()}")


@contextmanager
def small_disk(place: Path, megabytes: int) -> Iterator[Path]:
    """A small file system in memory that can be filled."""
    place.mkdir()
    _run("mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=0700", "tmpfs", str(place))
    try:
        yield place
    finally:
        _run("umount", "--lazy", str(place))


@contextmanager
def read_only(place: Path) -> Iterator[None]:
    """A folder or file that not even root can write."""
    _run("mount", "--bind", str(place), str(place))
    try:
        _run("mount", "-o", "remount,bind,ro", str(place))
        yield
    finally:
        _run("umount", "--lazy", str(place))


def fill(disk: Path) -> Path:
    """Fill the disk; delete the returned file to free it."""
    ballast = disk / "ballast"
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
        while file.write(bytes(4096)) == 4096:
            pass
    return ballast


def build(source: Path, folder: Path) -> Path:
    """Compile a C library for LD_PRELOAD."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        raise Impossible(f"there is no C compiler for {source.name}")
    library = folder / source.with_suffix(".so").name
    _run(compiler, "-shared", "-fPIC", "-O2", "-o", str(library), str(source), "-ldl")
    return library
