"""A PostgreSQL server for one test, which can stop, kill, copy and promote it, or use up its connections.

A test gets a copy of a prepared server with a current queue database.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import psutil
import psycopg

from tests.deadline import DEADLINE
from tests.postgresql import SUPERUSER, control, create_cluster, folder_of_servers, free_port, give, run_program

USER, DATABASE = SUPERUSER, "queue"
STANDBY = "standby"  # application name of the standby
_SETTINGS = """
shared_buffers = 16MB
max_connections = 60
"""

_TERMINATE_OTHERS = """
SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid()
"""


class Server:
    """One cluster on 127.0.0.1. `folder` has its data and belongs to the user that runs the server."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder
        self.port = port

    @staticmethod
    def made(folder: Path) -> Server:
        """Create a cluster, stopped."""
        create_cluster(folder, _SETTINGS)
        return Server(folder, free_port())

    @staticmethod
    def copied(stopped: Server, folder: Path) -> Server:
        """Copy this cluster to another port, stopped."""
        shutil.copytree(stopped.folder, folder)
        give(folder)
        return Server(folder, free_port())

    @staticmethod
    def standby_of(primary: Server, folder: Path) -> Server:
        """Start a synchronous standby of a running server: commits wait for it."""
        server = Server(folder, free_port())
        where = f"host=127.0.0.1 port={primary.port} user={USER} application_name={STANDBY}"
        run_program("pg_basebackup", "-D", folder, "-d", where, "-R", "--checkpoint=fast", "--no-sync", "-X", "stream")
        server.start()
        primary.say(f"ALTER SYSTEM SET synchronous_standby_names = '{STANDBY}'")  # on the primary only
        primary.say("SELECT pg_reload_conf()")
        return server

    @property
    def url(self) -> str:
        return f"postgresql://{USER}@127.0.0.1:{self.port}/{DATABASE}"

    # --- start and stop ---

    def start(self) -> None:
        control(self.folder, "start", port=self.port)

    def stop(self, mode: str = "fast") -> None:
        control(self.folder, "-m", mode, "stop")

    def restart(self, mode: str) -> None:
        """`fast` aborts running transactions and shuts down cleanly; `immediate` is a crash with recovery."""
        control(self.folder, "-m", mode, "restart", port=self.port)

    def kill(self) -> None:
        """KILL all of its processes at once."""
        postmaster = psutil.Process(self.pid)
        family = [postmaster, *postmaster.children(recursive=True)]
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(family, timeout=DEADLINE)

    def promote(self) -> None:
        control(self.folder, "promote")

    @property
    def pid(self) -> int:
        return int((self.folder / "postmaster.pid").read_text().split()[0])

    def end(self) -> None:
        """Stop and remove it in any state."""
        with contextlib.suppress(FileNotFoundError, psutil.NoSuchProcess):
            self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    # --- queries ---

    def connect(self, **options: Any) -> psycopg.Connection[Any]:
        """A foreign connection. Raises psycopg.OperationalError if none is available."""
        return psycopg.connect(
            host="127.0.0.1", port=self.port, user=USER, dbname=options.pop("dbname", DATABASE), **options
        )

    def say(self, statement: str, values: Sequence[object] = (), dbname: str = DATABASE) -> list[tuple[Any, ...]]:
        """Execute one statement outside of a transaction; return its rows, if any."""
        with closing(self.connect(autocommit=True, dbname=dbname)) as connection:
            cursor = connection.execute(statement, values)
            return cursor.fetchall() if cursor.description else []

    def terminate_all(self) -> int:
        """End all other sessions of the database; return how many."""
        return len(self.say(_TERMINATE_OTHERS))

    def take_all_connections(self, held: ExitStack) -> psycopg.Connection[Any]:
        """End all sessions, and take every possible connection, including the superuser's, into `held`.

        Returns one of them for queries.
        """
        self.terminate_all()
        first = held.enter_context(closing(self.connect(autocommit=True)))
        with contextlib.suppress(psycopg.OperationalError):
            while True:
                held.enter_context(closing(self.connect()))
        return first


@contextmanager
def new_servers(number: int) -> Iterator[list[Server]]:
    """Running servers with an empty database. All but the first are its standbys. They are removed afterwards."""
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
