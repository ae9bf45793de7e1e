"""Enters the virtual environment: checks that it is current, and takes its packages.

Standard library only. If the environment is current, a start reads two files; `import subprocess` alone would take
longer. `install.py` makes a missing or outdated environment and is imported only then.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress

from webapp.bootstrap.venv import (
    BESIDE,
    STAMP,
    WINDOWS,
    BootstrapError,
    is_current,
    is_in_use,
    packages_of,
    python_of,
    read_stamp,
    say,
    setting,
    this_python,
)

TYPE_CHECKING = False  # like `typing.TYPE_CHECKING`, without its slow import
if TYPE_CHECKING:
    from collections.abc import MutableMapping, Sequence
    from typing import NoReturn

HANDED_OVER = "QUEUECTL_HANDED_OVER"
PYTHON_HOME = "QUEUECTL_PYTHONHOME"  # keeps PYTHONHOME for jobs


def enter_venv(checkout: str, argv: Sequence[str]) -> None:
    """Make the venv if necessary. Returns when this process uses its packages."""
    undo_locale_coercion()
    try:
        # Relative to the checkout, not to the current folder. With the real path, a venv behind a symlink is replaced
        # and the symlink stays.
        named = os.path.expanduser(setting("QUEUECTL_VENV", checkout) or ".venv")
        venv = os.path.realpath(os.path.join(checkout, named))
        stamp = read_stamp(venv)
        current = is_current(stamp, venv, checkout, argv)
        if not current and is_in_use(venv):
            venv += BESIDE
            stamp = read_stamp(venv)
            current = is_current(stamp, venv, checkout, argv)
        if not current:
            from webapp.bootstrap.install import install_alone

            install_alone(venv, checkout, argv)
            stamp = read_stamp(venv)
        if os.path.realpath(sys.prefix) != venv:
            if stamp[0] == this_python() and can_take_packages(venv):
                take_packages(venv)
            else:
                hand_over(venv, checkout, argv)
    except BootstrapError as error:
        say(str(error))
        sys.exit(1)
    except KeyboardInterrupt:
        say("stopped before the environment was complete; the next start makes it again")
        sys.exit(130)
    os.environ.pop(HANDED_OVER, None)
    mark_in_use(venv)
    prefer_locked_packages(checkout)


def mark_in_use(venv: str) -> None:
    """Hold a shared lock on the stamp until this process and its forks end."""
    if sys.platform == "win32":  # there a folder with open files cannot be renamed anyway
        return
    import fcntl

    with suppress(OSError):  # some network file systems have no locks
        # The descriptor stays open: closing it would release the lock.
        fcntl.flock(os.open(os.path.join(venv, STAMP), os.O_RDONLY), fcntl.LOCK_SH | fcntl.LOCK_NB)


def can_take_packages(venv: str) -> bool:
    """Whether this process can still use the venv's packages: it has not loaded another version of one of them."""
    packages = packages_of(venv)
    if not os.path.isdir(packages):  # a Python with another layout, such as PyPy
        return False
    others = tuple(os.path.join(path, "") for path in other_packages())
    for name, module in list(sys.modules.items()):  # a sitecustomize or a .pth file may have loaded some
        loaded = (getattr(module, "__file__", None) or "").startswith(others) and not name.startswith("_")
        if loaded and any(os.path.exists(os.path.join(packages, name + end)) for end in ("", ".py")):
            return False
    return True


def other_packages() -> list[str]:
    """What `site` added to `sys.path`: the packages of this Python and of the user, and what their .pth files name."""
    paths = [path for path in sys.path if os.path.abspath(path) not in python_path()]
    names = [os.path.basename(path) in {"site-packages", "dist-packages"} for path in paths]
    return paths[names.index(True) :] if True in names else []


def take_packages(venv: str) -> None:
    """Use the packages of a venv of this very Python, as if its own link had been started: a second start takes 20 ms.

    Processes that this one starts get the venv's link.
    """
    import site

    others = other_packages()
    sys.path[:] = [path for path in sys.path if path not in others]
    sys.prefix = sys.exec_prefix = venv
    sys.executable = python_of(venv)
    site.addsitedir(packages_of(venv))
    leave_this_python(os.environ)


def hand_over(venv: str, checkout: str, argv: Sequence[str]) -> NoReturn:
    """Replace this process by the venv's Python, with the same arguments in the same folder."""
    if os.environ.get(HANDED_OVER) == venv:
        raise BootstrapError(f"{python_of(venv)} does not run in its own environment. Remove {venv} and start again")
    environment = {**os.environ, HANDED_OVER: venv}
    leave_this_python(environment)
    command = [python_of(venv), os.path.join(checkout, "manage.py"), *argv]
    if not WINDOWS:
        os.execve(command[0], command, environment)  # noqa: S606
    # On Windows exec returns to the shell at once and leaves the new process in the background.
    import signal
    import subprocess

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the child gets Ctrl-C too and handles it
    sys.exit(subprocess.call(command, env=environment))


def leave_this_python(environment: MutableMapping[str, str]) -> None:
    """Remove the variables that a process in the venv must not get."""
    environment.pop("__PYVENV_LAUNCHER__", None)
    home = environment.pop("PYTHONHOME", None)
    if home is not None:
        environment[PYTHON_HOME] = home


def undo_locale_coercion() -> None:
    """Restore LC_CTYPE for child processes. In the C locale, Python itself sets it to C.UTF-8 (PEP 538).

    Only Linux shows the environment that the process was started with.
    """
    if not os.environ.get("LC_CTYPE", "").upper().endswith(("UTF-8", "UTF8")):
        return
    with suppress(OSError), open("/proc/self/environ", "rb") as file:
        given = dict(pair.partition(b"=")[::2] for pair in reversed(file.read().split(b"\0")))
        if b"LC_CTYPE" in given:
            os.environ["LC_CTYPE"] = os.fsdecode(given[b"LC_CTYPE"])
        else:
            del os.environ["LC_CTYPE"]


def prefer_locked_packages(checkout: str) -> None:
    """Put the checkout first and PYTHONPATH last in `sys.path`, so the locked packages are used."""
    added = python_path()
    sys.path[:] = [checkout, *sorted((path for path in sys.path if path != checkout), key=added.__contains__)]


def python_path() -> set[str]:
    """The folders in PYTHONPATH."""
    return {os.path.abspath(path) for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path}
