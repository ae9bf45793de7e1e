"""The virtual environment as it lies on the disk: which locks it was made from, for which Python, who is in it.

Standard library only, and little of it: every start reads this. Who moves into it stands in `bootstrap/enter.py`, who makes
it in `bootstrap/install.py`.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False  # as in `typing`, which is not worth its import here
if TYPE_CHECKING:
    from collections.abc import Sequence

# Each is a superset of the one before, with the same pins: a venv made from a later one serves an earlier one as well.
LOCKS = ("requirements.lock", "requirements-postgres.lock", "requirements-dev.lock")
STAMP = "queuectl.stamp"
WINDOWS = os.name == "nt"


class BootstrapError(Exception):
    """There can be no virtual environment; the message says in one line why, and what to do."""


def setting(name: str, checkout: str) -> str:
    """Return what the environment or else the checkout's .env says; the empty string if neither does.

    Raises BootstrapError where .env cannot be read.
    """
    if name in os.environ:
        return os.environ[name]
    path = os.path.join(checkout, ".env")
    if not os.path.exists(path):
        return ""
    from webapp.lib import dotenv  # here only: `re` takes longer than everything else of a start without the file

    try:
        return dotenv.load(path).get(name, "")
    except OSError as error:
        raise BootstrapError(f"cannot read {path}: {error.strerror}. Let this user read it, or remove it") from None


def wanted_locks(checkout: str, argv: Sequence[str]) -> tuple[str, ...]:
    """Return the locks that serve this command, the smallest first."""
    if argv[:1] == ["test"] and not {"-h", "--help"}.intersection(argv):  # to ask what it does needs nothing
        return LOCKS[2:]
    given = (part for word in argv for part in (word, word.partition("=")[2]))  # --to URL and --to=URL
    urls = [setting("QUEUECTL_DATABASE_URL", checkout), *given]
    return LOCKS[1:] if any(url.startswith(("postgres:", "postgresql")) and "://" in url for url in urls) else LOCKS


def is_current(venv: str, checkout: str, argv: Sequence[str]) -> bool:
    """Tell whether the venv was finished, from a lock that serves and has not changed since, for this Python."""
    made_for, lock, text = read_stamp(venv)
    if lock not in wanted_locks(checkout, argv) or text != read(os.path.join(checkout, lock)):
        return False
    if not os.path.exists(python_of(venv)):  # a link whose interpreter was uninstalled
        return False
    # Another Python has the venv made anew, but not under a running product: its next import would find nothing.
    return made_for == this_python() or is_in_use(venv)


def read_stamp(venv: str) -> tuple[str, str, bytes]:
    """Return (Python, name of the lock, its text) as installed. The whole text: to compare is quicker than to hash."""
    head, _, text = read(os.path.join(venv, STAMP)).partition(b"\n\n")
    python, _, lock = head.decode("utf-8", "replace").partition("\n")
    return python, lock, text


def write_stamp(venv: str, lock: str, text: bytes) -> None:
    """Declare the venv finished."""
    with open(os.path.join(venv, STAMP), "wb") as stamp:
        stamp.write(f"{this_python()}\n{lock}\n\n".encode() + text)


def read(path: str) -> bytes:
    """Return the file's content, or nothing where it cannot be read."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b""


def base_python() -> str:
    """Return the interpreter that venvs are made from, also when this process runs in one of them."""
    # Before 3.11 sys._base_executable names the venv's own link on POSIX, hence the real path.
    executable: str = getattr(sys, "_base_executable", "") or sys.executable
    return executable if WINDOWS else os.path.realpath(executable)


def this_python() -> str:
    return f"{sys.implementation.cache_tag} {base_python()}"


def python_of(venv: str) -> str:
    return os.path.join(venv, "Scripts", "python.exe") if WINDOWS else os.path.join(venv, "bin", "python")


def is_in_use(venv: str) -> bool:
    """Tell whether some process runs in this venv."""
    if sys.platform == "win32":
        return False
    import fcntl

    with open(os.path.join(venv, STAMP), "rb") as stamp:
        try:
            fcntl.flock(stamp, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


def say(text: str, *, passing: bool = False) -> None:
    """Report on stderr. A passing line is overwritten by the next on a terminal, and left out elsewhere."""
    terminal = sys.stderr.isatty() and os.environ.get("TERM") != "dumb" and not WINDOWS
    if terminal or not passing:
        clear, end = ("\r\033[K", "" if passing else "\n") if terminal else ("", "\n")
        sys.stderr.write(f"{clear}manage.py: {text}{end}")
        sys.stderr.flush()
