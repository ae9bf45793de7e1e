"""Makes the virtual environment from a lock file with hashes: one process at a time, completely or not at all.

Standard library only. `enter.py` decides whether it is necessary.
"""

from __future__ import annotations

import ast
import glob
import os
import re
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from webapp.bootstrap.venv import (
    BESIDE,
    BootstrapError,
    base_python,
    is_current,
    is_in_use,
    python_of,
    read,
    read_stamp,
    say,
    wanted_locks,
    write_stamp,
)
from webapp.lib.system.private_files import denial, open_private

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

# The options for reaching an index or a mirror. All other options in PIP_* and pip.conf are meant for other installs:
# user, target, prefix, root, no-deps, dry-run, constraint, python … A list of allowed options also holds for future
# options of pip.
REACHING_A_MIRROR = {
    *("index-url", "extra-index-url", "find-links", "no-index", "trusted-host", "proxy", "cert", "client-cert"),
    *("timeout", "default-timeout", "retries", "resume-retries", "cache-dir", "no-cache-dir", "keyring-provider"),
    *("use-feature", "use-deprecated"),
}

BROKEN = "connection broken by "
# For a command whose whole output comes through one pipe.
PIPED: dict[str, Any] = {
    "stdin": subprocess.DEVNULL,
    "stdout": subprocess.PIPE,
    "stderr": subprocess.STDOUT,
    "text": True,
    "errors": "replace",
}


def install_alone(venv: str, checkout: str, argv: Sequence[str]) -> None:
    """Make the venv. If another process is making it, wait and check again."""
    # Other users must be able to read the venv, as with `git clone` under the usual umask, and must not change it.
    umask = os.umask(0o022)
    try:
        os.makedirs(os.path.dirname(venv), exist_ok=True)
        with locked(venv + ".lock"):
            if not is_current(read_stamp(venv), venv, checkout, argv):
                install(venv, checkout, wanted_locks(checkout, argv)[0])
    except OSError as error:
        owner = denial([Path(error.filename)]) if error.filename else None
        raise BootstrapError(
            f"cannot make the virtual environment {venv}: {owner or f'{error.strerror or error} ({error.filename})'}. "
            "Set another place for it, for example QUEUECTL_VENV=~/.queuectl-venv"
        ) from error
    finally:
        os.umask(umask)


@contextmanager
def locked(path: str) -> Iterator[None]:
    """Hold the file's lock. The system releases it when the process ends. The file stays: removing it would race."""
    with os.fdopen(open_private(Path(path), os.O_RDWR), "r+b") as file:
        if not try_lock(file):
            say("waiting for another start to finish the install")
            while not try_lock(file):
                time.sleep(0.1)
        yield


def try_lock(file: IO[bytes]) -> bool:
    """Take the file's lock; False if another process has it."""
    try:
        if sys.platform == "win32":
            import msvcrt

            file.seek(0)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True


def install(venv: str, checkout: str, lock: str) -> None:
    """Make a new venv next to the old one, mark it as complete, and rename it.

    The result is always that of a fresh install, the old venv works until the new one is complete, and a kill leaves
    no partial venv. A venv can be renamed; only the scripts in bin/ have its path, so they get the final one.
    """
    started = time.monotonic()
    refuse_what_is_not_a_venv(venv)
    for left_over in [
        *glob.glob(glob.escape(venv) + ".new-*"),
        *glob.glob(glob.escape(venv) + ".old-*"),
        venv + BESIDE,
    ]:
        if not is_in_use(left_over):
            shutil.rmtree(left_over, ignore_errors=True)
    what = f"replacing {venv}" if os.path.exists(venv) else f"first use: making {venv}"
    say(f"{what} for Python {version()} from {lock}")
    # A new name for each process: pip of a killed start may still be writing to the last one.
    new, old = f"{venv}.new-{os.getpid()}", f"{venv}.old-{os.getpid()}"
    try:
        create(new)
        text = read(os.path.join(checkout, lock))
        count = pip_install(new, os.path.join(checkout, lock))
        point_scripts_to(venv, new)
        if sys.platform != "win32":
            os.sync()  # else a power cut could keep the stamp and lose the packages
        write_stamp(new, lock, text)
        give_to_owner_of(os.path.dirname(venv), new)
        if is_in_use(venv):
            raise BootstrapError(f"a command was started in {venv} while its replacement was made. Start again")
        if os.path.exists(venv):
            os.rename(venv, old)
        os.rename(new, venv)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)
    say(f"installed {count} packages in {time.monotonic() - started:.1f} s")


def refuse_what_is_not_a_venv(venv: str) -> None:
    """Refuse a wrong QUEUECTL_VENV: the folder would be replaced with all its content."""
    if os.path.lexists(venv) and not os.path.isdir(venv):
        raise BootstrapError(f"the virtual environment cannot be made: {venv} is a file. Move it away")
    if os.path.isdir(venv) and os.listdir(venv) and not os.path.exists(os.path.join(venv, "pyvenv.cfg")):
        free = os.path.join(venv, "queuectl-venv")
        raise BootstrapError(
            f"{venv} is not a virtual environment and not empty. Set another place, such as QUEUECTL_VENV={free}"
        )


def create(venv: str) -> None:
    """Make a venv that has only pip."""
    if not (find_spec("venv") and find_spec("ensurepip")):
        raise BootstrapError(
            f"{base_python()} has no ensurepip, which virtual environments need. "
            f"On Debian and Ubuntu: apt install python{version()}-venv"
        )
    made = run([base_python(), "-I", "-m", "venv", venv], clean_environment())
    if made.returncode:
        raise BootstrapError(f"{base_python()} -m venv failed: {' '.join(made.stdout.split()[-40:])}")


def pip_install(venv: str, lock: str) -> int:
    """Install the packages of a lock file; return their number."""
    pip = [python_of(venv), "-I", "-m", "pip", "--disable-pip-version-check", "--no-input"]
    environment = clean_environment()
    environment.update(mirror_settings(run([*pip, "config", "list"], environment).stdout))
    environment["PIP_CONFIG_FILE"] = os.devnull  # pip then reads no configuration file
    with subprocess.Popen(
        [*pip, "install", "--require-hashes", "--no-deps", "--only-binary", ":all:", "--requirement", lock],
        env=environment,
        **PIPED,
    ) as process:
        try:
            assert process.stdout is not None  # noqa: S101 - for the type checker
            count, lines = follow(process.stdout, pinned=len(re.findall(rb"^\S+==", read(lock), re.MULTILINE)))
        except BaseException:
            process.terminate()
            raise
    if process.returncode:
        raise BootstrapError(f"the packages could not be installed: {reason(lines)}")
    return count


def run(command: Sequence[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, env=environment, check=False, **PIPED)


def mirror_settings(listing: str) -> dict[str, str]:
    """The options for reaching an index in the output of `pip config list`, as PIP_* variables."""
    found: dict[str, str] = {}
    for section in ("global.", "install.", ":env:."):  # the later wins, as in pip
        for line in listing.splitlines():
            key, _, value = line.partition("=")
            if key.startswith(section) and key[len(section) :] in REACHING_A_MIRROR:
                found[pip_variable(key[len(section) :])] = str(ast.literal_eval(value))
    return found


def pip_variable(option: str) -> str:
    return "PIP_" + option.upper().replace("-", "_")


def clean_environment() -> dict[str, str]:
    """The environment without variables that change what or where Python or pip installs."""
    passes = {"PIP_CONFIG_FILE", *map(pip_variable, REACHING_A_MIRROR)}
    return {
        name: value
        for name, value in os.environ.items()
        if name in passes or not name.startswith(("PIP_", "PYTHON", "__PYVENV_LAUNCHER__"))
    }


def follow(output: IO[str], pinned: int) -> tuple[int, list[str]]:
    """Show progress from pip's lines; return the number of packages and the lines."""
    collected = 0
    lines: list[str] = []
    for line in output:
        lines.append(line.rstrip())
        if line.startswith("Ignoring "):  # pinned for another Python or platform
            pinned -= 1
        elif line.startswith(("Collecting ", "Processing ")):
            if collected == 0:
                say(f"downloading {pinned} packages")
            collected += 1
            name = re.split("==|-[0-9]", os.path.basename(line.split()[1]))[0]
            say(f"downloading {collected} of {pinned}: {name}", passing=True)
        elif line.startswith("Installing collected packages"):
            say(f"installing {collected} packages")
        elif BROKEN in line:
            say("the package index does not respond; trying again", passing=BROKEN in "".join(lines[:-1]))
    return collected, lines


def reason(lines: Sequence[str]) -> str:
    """The first error in pip's lines. Later ones are often consequences."""
    for line in reversed(lines):
        if BROKEN in line:  # followed by 'no matching distribution'
            cause = re.sub(r"<[^>]* object at [^>]*>:? ?", "", line.partition(BROKEN)[2])
            return f"no connection to the package index: {cause}. Check the network, the proxy and pip config list"
    for line, below in zip(lines, [*lines[1:], ""]):
        if line.startswith("ERROR: "):
            detail = f" {below.strip()}" if below.startswith("  ") else ""
            hint = " (pip config list shows the index)" if "from versions: none" in line else ""
            return line[len("ERROR: ") :] + detail + hint
    return "pip gave no reason"


def point_scripts_to(venv: str, new: str) -> None:
    """Write the final path into the scripts in bin/, for people who use the venv directly."""
    if sys.platform == "win32":  # launchers there are executables; `python -m` works
        return
    folder = os.path.join(new, "bin")
    for name in os.listdir(folder):
        path = os.path.join(folder, name)
        content = b"" if os.path.islink(path) else read(path)
        if new.encode() in content and b"\0" not in content:
            with open(path, "wb") as script:
                script.write(content.replace(new.encode(), venv.encode()))


def give_to_owner_of(folder: str, venv: str) -> None:
    """If this is root, give a new venv to the owner of the folder that it will be in, who can then replace it."""
    if sys.platform == "win32" or os.geteuid() != 0:
        return
    owner = os.stat(folder)
    # By descriptors and from the inside out, so the owner of the folder cannot put a link in between.
    for _, folders, files, descriptor in os.fwalk(venv, topdown=False):
        for name in [*folders, *files]:
            os.chown(name, owner.st_uid, owner.st_gid, dir_fd=descriptor, follow_symlinks=False)
    os.chown(venv, owner.st_uid, owner.st_gid, follow_symlinks=False)


def version() -> str:
    return f"{sys.version_info[0]}.{sys.version_info[1]}"
