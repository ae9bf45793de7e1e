"""A PostgreSQL server of a test's own, which it may stop, kill, starve of connections, copy and promote.

A test gets a copy of one that was made once, with the queue's database up to date.
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
STANDBY = "standby"  # the name under which the copy of a primary presents itself to it
_SETTINGS = """
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
        create_cluster(folder, _SETTINGS)
        return Server(folder, free_port())

    @staticmethod
    def copied(stopped: Server, folder: Path) -> Server:
        """The same again, at a port of its own, stopped."""
        shutil.copytree(stopped.folder, folder)
        give(folder)
        return Server(folder, free_port())

    @staticmethod
    def standby_of(primary: Server, folder: Path) -> Server:
        """One that follows a running server, which waits for it before it says that anything is stored. It runs."""
        server = Server(folder, free_port())
        where = f"host=127.0.0.1 port={primary.port} user={USER} application_name={STANDBY}"
        run_program("pg_basebackup", "-D", folder, "-d", where, "-R", "--checkpoint=fast", "--no-sync", "-X", "stream")
        server.start()
        primary.say(f"ALTER SYSTEM SET synchronous_standby_names = '{STANDBY}'")  # of the primary alone
        primary.say("SELECT pg_reload_conf()")
        return server

    @property
    def url(self) -> str:
        return f"postgresql://{USER}@127.0.0.1:{self.port}/{DATABASE}"

    # --- its life ---

    def start(self) -> None:
        control(self.folder, "start", port=self.port)

    def stop(self, mode: str = "fast") -> None:
        control(self.folder, "-m", mode, "stop")

    def restart(self, mode: str) -> None:
        """`fast` breaks off what is under way and ends in good order; `immediate` is a crash, it recovers from it."""
        control(self.folder, "-m", mode, "restart", port=self.port)

    def kill(self) -> None:
        """KILL all of its processes in the same moment."""
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
        """Leave nothing of it, whatever state it is in."""
        with contextlib.suppress(FileNotFoundError, psutil.NoSuchProcess):
            self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

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
