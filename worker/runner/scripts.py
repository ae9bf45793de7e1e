"""The files of the commands of one worker: scripts, and where a command may write its report.

A command with a shebang line becomes a file, and the interpreter that it names gets the file as its argument.

Not the kernel starts the file: that would need a file system that allows it, and a line without a carriage return.
The file must have a name, because some interpreters (Node.js) cannot run an open file without one. Each worker has a
folder of its own for them, with a lock on it, so that the next worker removes what a killed one left.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Optional

from worker.processes import new_id
from worker.runner.report import delete

# Blank lines may precede it, because people write the command's quote on a line of its own. Without an absolute path it
# is a comment: it does not say which file it means.
_SHEBANG = re.compile(r"(?:[ \t\r]*\n)*#![ \t]*(?P<interpreter>/\S+)(?P<argument>[^\n]*)")


class Shebang:
    """The first line of a script: the interpreter and, as the kernel passes it, at most one argument."""

    def __init__(self, match: re.Match[str]) -> None:
        self.interpreter = match["interpreter"]
        self.argument = match["argument"].strip()
        self.script = f"#!{self.interpreter} {self.argument}".rstrip() + match.string[match.end() :]

    def argv(self, file: str) -> list[str]:
        return [self.interpreter, *([self.argument] if self.argument else []), file]

    def fault(self) -> str:
        """Why the interpreter cannot run; empty if it can."""
        if not os.path.isfile(self.interpreter):
            missing = "is not a file" if os.path.exists(self.interpreter) else "does not exist"
            return f"interpreter {self.interpreter} {missing}"
        if not os.access(self.interpreter, os.X_OK):
            return f"the worker has no permission to run interpreter {self.interpreter}"
        return ""


def shebang_of(command: str) -> Optional[Shebang]:
    match = _SHEBANG.match(command) if "#!" in command else None
    return Shebang(match) if match is not None else None


class Scripts:
    """The files of one worker, in a folder below `base`."""

    def __init__(self, base: Path) -> None:
        self._base = base
        self._folder = ""  # a text, because each job's path costs less so
        self._lock = -1
        for left in base.glob("[!.]*"):
            with suppress(OSError):  # it is in use, or another worker was first
                lock = _lock(left)
                _remove(left)
                os.close(lock)

    def path(self, name: str) -> str:
        """Where a file of this name may be made: in a folder for its owner only. Raises OSError."""
        if not os.path.isdir(self._folder):
            self._folder = str(self._new_folder())
        return f"{self._folder}/{name}"

    def write(self, name: str, text: str) -> str:
        """A new file, for its owner only. Raises OSError."""
        path = self.path(name)
        # Executable, because a script may start itself again.
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o700), "wb") as file:
            file.write(os.fsencode(text))  # bytes as they came, whatever the locale is
        return path

    def close(self) -> None:
        if self._folder:
            with suppress(OSError):
                _remove(Path(self._folder))

    def _new_folder(self) -> Path:
        self._base.mkdir(mode=0o700, exist_ok=True)
        folder = self._base / new_id()
        new = folder.with_name(f".{folder.name}")  # nobody removes it before it has its lock
        new.mkdir(mode=0o700)
        with suppress(OSError):  # some network file systems have no locks; there nobody removes it
            self._lock = _lock(new)
        return new.rename(folder)


def _lock(folder: Path) -> int:
    """Lock a folder until this process ends or closes the descriptor. Raises OSError if it is locked."""
    try:
        import fcntl
    except ImportError:  # Windows
        raise OSError("no locks") from None

    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _remove(folder: Path) -> None:
    for file in folder.iterdir():
        delete(str(file))
    folder.rmdir()
