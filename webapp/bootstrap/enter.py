"""Moves the process into the virtual environment: is the one that is there the one that is wanted, and the exec.

Standard library only. A start that finds everything in place reads two files and execs: 'import subprocess' alone
would take longer. How a missing or stale environment is made stands in `bootstrap/install.py`, imported when it is needed.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress

from webapp.bootstrap.venv import STAMP, WINDOWS, BootstrapError, is_current, python_of, say, setting

TYPE_CHECKING = False  # as in `typing`, which is not worth its import here
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn

HANDED_OVER = "QUEUECTL_HANDED_OVER"


def enter_venv(checkout: str, argv: Sequence[str]) -> None:
    """Return in a process that runs in the right venv. Until then: have it made, and exec into it."""
    try:
        # Relative to the checkout, whatever folder a command is typed in. The real path, so that a venv that is a
        # symlink (to a larger disk, say) is renewed behind the link.
        named = os.path.expanduser(setting("QUEUECTL_VENV", checkout) or ".venv")
        venv = os.path.realpath(os.path.join(checkout, named))
        if not is_current(venv, checkout, argv):
            from webapp.bootstrap.install import install_alone

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


def mark_in_use(venv: str) -> None:
    """Hold a shared lock on the stamp for the life of this process and its forks."""
    if sys.platform == "win32":  # where a folder with open files cannot be renamed anyway
        return
    import fcntl

    with suppress(OSError):  # some network file systems have no locks
        # The descriptor stays open on purpose: closing it is what ends the lock.
        fcntl.flock(os.open(os.path.join(venv, STAMP), os.O_RDONLY), fcntl.LOCK_SH | fcntl.LOCK_NB)


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


def fail(text: str, code: int) -> NoReturn:
    """End the process with one line."""
    say(text)
    sys.exit(code)
