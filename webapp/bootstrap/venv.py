"""The virtual environment on the disk: the lock file and the Python it was made for, and whether it is in use.

Standard library only, and little of it: every start imports this. `enter.py` enters the environment, `install.py` makes
it.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False  # like `typing.TYPE_CHECKING`, without its slow import
if TYPE_CHECKING:
    from collections.abc import Sequence

# Each has all packages of the previous one in the same versions, so a venv from a later file serves earlier ones too.
LOCKS = ("requirements.lock", "requirements-postgres.lock", "requirements-notify.lock", "requirements-dev.lock")
EXTRAS = "QUEUECTL_EXTRAS"
STAMP = "queuectl.stamp"
# A running `up` may import more from its venv at any time, so that is never replaced. After an upgrade, and for a
# command that needs more packages, another one is made beside it. The first install without the old `up` removes it.
BESIDE = ".next"
WINDOWS = os.name == "nt"


class BootstrapError(Exception):
    """The virtual environment cannot be made. The message says why and what to do, in one line."""


def setting(name: str, checkout: str) -> str:
    """The value of a variable in the environment, else in the checkout's .env, else the empty string.

    Raises BootstrapError if .env cannot be read.
    """
    if name in os.environ:
        return os.environ[name]
    path = os.path.join(checkout, ".env")
    if not os.path.exists(path):
        return ""
    from webapp.lib import dotenv  # only here: importing `re` takes longer than the rest of a start

    try:
        return dotenv.load(path).get(name, "")
    except OSError as error:
        raise BootstrapError(f"cannot read {path}: {error.strerror}. Make it readable, or remove it") from None


def wanted_locks(checkout: str, argv: Sequence[str]) -> tuple[str, ...]:
    """The lock files that serve this command, the smallest first."""
    if argv[:1] == ["test"] and not {"-h", "--help"}.intersection(argv):  # its help needs no packages
        return LOCKS[3:]
    extras = setting(EXTRAS, checkout)
    if extras == "notify":
        return LOCKS[2:]
    if extras:
        raise BootstrapError(f"{EXTRAS} is {extras!r}. Expected notify, or nothing")
    given = (part for word in argv for part in (word, word.partition("=")[2]))  # --to URL and --to=URL
    url = setting("QUEUECTL_DATABASE_URL", checkout)
    if url.startswith("file:"):  # the address is in this file, because it has a password
        return LOCKS[1:]
    postgresql = (one.startswith(("postgres:", "postgresql")) and "://" in one for one in (url, *given))
    return LOCKS[1:] if any(postgresql) else LOCKS


def is_current(stamp: tuple[str, str, bytes], venv: str, checkout: str, argv: Sequence[str]) -> bool:
    """Whether the venv is complete, has a Python that runs, and is from a suitable lock file that has not changed."""
    made_for, lock, text = stamp
    if lock not in wanted_locks(checkout, argv) or text != read(os.path.join(checkout, lock)):
        return False
    if not os.path.exists(python_of(venv)):  # its interpreter was uninstalled
        return False
    return made_for == this_python() or runs(python_of(venv), made_for.partition(" ")[0])


def runs(python: str, tag: str) -> bool:
    """Whether this Python starts and still is of this version, such as cpython-311.

    With another Python than that of the venv, `enter.py` hands over to the venv's. A crontab and a shell often have
    different ones; each would replace the venv of the other.
    """
    import subprocess  # only here: it is slow to import

    script = f"import sys; sys.exit(sys.implementation.cache_tag != {tag!r})"
    try:
        return subprocess.call([python, "-I", "-S", "-c", script], stderr=subprocess.DEVNULL) == 0
    except OSError:  # such as a program for another machine
        return False


def read_stamp(venv: str) -> tuple[str, str, bytes]:
    """(Python, name of the lock file, its text) of the venv. The whole text, as comparing is faster than hashing."""
    head, _, text = read(os.path.join(venv, STAMP)).partition(b"\n\n")
    python, _, lock = head.decode("utf-8", "replace").partition("\n")
    return python, lock, text


def write_stamp(venv: str, lock: str, text: bytes) -> None:
    """Mark the venv as complete."""
    with open(os.path.join(venv, STAMP), "wb") as stamp:
        stamp.write(f"{this_python()}\n{lock}\n\n".encode() + text)


def read(path: str) -> bytes:
    """The file's content; empty if it cannot be read."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b""


def base_python() -> str:
    """The interpreter that venvs are made from, also if this process runs in a venv."""
    # Before Python 3.11 sys._base_executable is the venv's link on POSIX, so resolve it.
    executable: str = getattr(sys, "_base_executable", "") or sys.executable
    return executable if WINDOWS else os.path.realpath(executable)


def this_python() -> str:
    return f"{sys.implementation.cache_tag} {base_python()}"


def python_of(venv: str) -> str:
    return os.path.join(venv, "Scripts", "python.exe") if WINDOWS else os.path.join(venv, "bin", "python")


def packages_of(venv: str) -> str:
    """The folder of the packages in a venv of this Python."""
    if WINDOWS:
        return os.path.join(venv, "Lib", "site-packages")
    return os.path.join(venv, "lib", f"python{sys.version_info[0]}.{sys.version_info[1]}", "site-packages")


def is_in_use(venv: str) -> bool:
    """Whether a process runs in this venv."""
    if sys.platform == "win32":
        return False
    import fcntl

    try:
        with open(os.path.join(venv, STAMP), "rb") as stamp:
            fcntl.flock(stamp, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return isinstance(error, BlockingIOError)
    return False


def say(text: str, *, passing: bool = False) -> None:
    """Write a line to stderr. On a terminal the next line overwrites a `passing` one; elsewhere it is omitted."""
    terminal = sys.stderr.isatty() and os.environ.get("TERM") != "dumb" and not WINDOWS
    if terminal or not passing:
        clear, end = ("\r\033[K", "" if passing else "\n") if terminal else ("", "\n")
        sys.stderr.write(f"{clear}manage.py: {text}{end}")
        sys.stderr.flush()
