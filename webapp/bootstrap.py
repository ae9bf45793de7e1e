"""Moves the process into the virtual environment: is the one that is there the one that is wanted, and the exec.

Standard library only. A start that finds everything in place reads two files and execs: 'import subprocess' alone
would take longer. How a missing or stale environment is made stands in `install.py`, imported when it is needed.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress

TYPE_CHECKING = False  # as in `typing`, which is not worth its import here
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn

# Each is a superset of the one before, with the same pins: a venv made from a later one serves an earlier one as well.
LOCKS = ("requirements.lock", "requirements-postgres.lock", "requirements-dev.lock")
STAMP = "queuectl.stamp"
HANDED_OVER = "QUEUECTL_HANDED_OVER"
WINDOWS = os.name == "nt"


class BootstrapError(Exception):
    """There can be no virtual environment; the message says in one line why, and what to do."""


def enter_venv(checkout: str, argv: Sequence[str]) -> None:
    """Return in a process that runs in the right venv. Until then: have it made, and exec into it."""
    # Relative to the checkout, whatever folder a command is typed in. The real path, so that a venv that is a symlink
    # (to a larger disk, say) is renewed behind the link.
    named = os.path.expanduser(setting("QUEUECTL_VENV", checkout) or ".venv")
    venv = os.path.realpath(os.path.join(checkout, named))
    try:
        if not is_current(venv, checkout, argv):
            from webapp.install import install_alone

            install_alone(venv, checkout, argv)
        if os.path.realpath(sys.prefix) != venv:
            hand_over(venv, checkout, argv)
    except BootstrapError as error:
        fail(str(error), 1)
    except KeyboardInterrupt:
        fail("stopped before the environment was complete; the next start makes it anew", 130)
    os.environ.pop(HANDED_OVER, None)
    mark_in_use(venv)
    prefer_locked_packages(checkout)


def setting(name: str, checkout: str) -> str:
    """Return what the environment or else the checkout's .env says; the empty string if neither does."""
    if name in os.environ:
        return os.environ[name]
    for line in read(os.path.join(checkout, ".env")).decode("utf-8", "replace").splitlines():
        key, _, value = line.partition("=")
        if key.replace("export ", "").strip() == name:
            return value.strip().strip("'\"")
    return ""


def wanted_locks(checkout: str, argv: Sequence[str]) -> tuple[str, ...]:
    """Return the locks that serve this command, the smallest first."""
    if argv[:1] == ["test"]:
        return LOCKS[2:]
    urls = [setting("QUEUECTL_DATABASE_URL", checkout), *(word.rpartition("=")[2] for word in argv)]
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


def mark_in_use(venv: str) -> None:
    """Hold a shared lock on the stamp for the life of this process and its forks."""
    if sys.platform == "win32":  # where a folder with open files cannot be renamed anyway
        return
    import fcntl

    with suppress(OSError):  # some network file systems have no locks
        # The descriptor stays open on purpose: closing it is what ends the lock.
        fcntl.flock(os.open(os.path.join(venv, STAMP), os.O_RDONLY), fcntl.LOCK_SH | fcntl.LOCK_NB)


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


def hand_over(venv: str, checkout: str, argv: Sequence[str]) -> NoReturn:
    """Become the venv's Python, running manage.py with the same arguments in the same folder."""
    if os.environ.get(HANDED_OVER) == venv:
        raise BootstrapError(f"{python_of(venv)} does not run in its own environment. Remove {venv} and start again")
    environment = {**os.environ, HANDED_OVER: venv}
    for name in ("PYTHONHOME", "__PYVENV_LAUNCHER__"):  # both are about the Python that this process came from
        environment.pop(name, None)
    command = [python_of(venv), os.path.join(checkout, "manage.py"), *argv]
    if not WINDOWS:
        os.execve(command[0], command, environment)  # noqa: S606
    # Windows' exec returns to the shell at once and leaves the new process in the background.
    import signal
    import subprocess

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the child as well, and is its affair
    sys.exit(subprocess.call(command, env=environment))


def prefer_locked_packages(checkout: str) -> None:
    """Put the checkout first and what PYTHONPATH added last: the packages that were locked are those that run."""
    theirs = {os.path.abspath(path) for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path}
    sys.path[:] = [checkout, *sorted((path for path in sys.path if path != checkout), key=theirs.__contains__)]


def say(text: str, *, passing: bool = False) -> None:
    """Report on stderr. A passing line is overwritten by the next on a terminal, and left out elsewhere."""
    terminal = sys.stderr.isatty() and os.environ.get("TERM") != "dumb" and not WINDOWS
    if terminal or not passing:
        clear, end = ("\r\033[K", "" if passing else "\n") if terminal else ("", "\n")
        sys.stderr.write(f"{clear}manage.py: {text}{end}")
        sys.stderr.flush()


def fail(text: str, code: int) -> NoReturn:
    """End the process with one line."""
    say(text)
    sys.exit(code)
