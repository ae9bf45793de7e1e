"""LISTEN on PostgreSQL: an idle worker is notified, detects missing notifications, and logs that."""

from __future__ import annotations

import logging
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

import pytest
from flask import Flask
from sqlalchemy import text
from sqlalchemy.engine import URL, make_url

from tests.databases import execute
from tests.deadline import DEADLINE
from tests.worker.conftest import Fleet, Queue
from tests.worker_connection import worker_connection
from webapp.config import Config
from webapp.core.storage.database import Database
from webapp.core.storage.transaction import Connection
from webapp.db import engines as db
from webapp.lib import clock
from worker.loop import wakeup_postgresql
from worker.loop.wakeup import CHECK_EVERY, CHECK_EVERY_WITHOUT_SIGNALS
from worker.loop.wakeup_postgresql import Notified

pytestmark = [pytest.mark.only("postgresql"), pytest.mark.postgresql]
Start = Callable[..., Fleet]


class Listening:
    """A heartbeat thread that only listens."""

    def __init__(self, app: Flask, connected: Callable[[], None] = lambda: None) -> None:
        self.wakeup = Notified(selects=True)
        self.connection = worker_connection()
        connected()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._ended.is_set():
            if not self.wakeup.listen(self.connection, self._ended, 0.1):
                try:
                    self.connection.reconnect()
                except self.connection.errors:
                    continue

    @property
    def hears(self) -> bool:
        return self.wakeup.check_every == CHECK_EVERY

    def end(self) -> None:
        self._ended.set()
        self._thread.join(DEADLINE)
        self.wakeup.close()
        self.connection.close()


@pytest.fixture
def listening(app: Flask, eventually: Callable[..., Any]) -> Iterator[Listening]:
    one = Listening(app)
    assert one.wakeup.check_every == CHECK_EVERY_WITHOUT_SIGNALS, "it does not trust what it has not heard"
    eventually(lambda: one.hears)
    one.wakeup.signalled()
    yield one
    one.end()


def test_each_stored_job_sends_a_notification(
    listening: Listening, queue: Queue, eventually: Callable[..., Any]
) -> None:
    for _ in range(2):
        assert not listening.wakeup.signalled()
        queue.enqueue("true")
        eventually(listening.wakeup.signalled)


def test_changes_of_queues_and_workers_send_a_notification(
    listening: Listening, queue: Queue, eventually: Callable[..., Any]
) -> None:
    queue.set(max_retries=1)
    eventually(listening.wakeup.signalled)


def test_a_rollback_sends_no_notification(listening: Listening, queue: Queue, eventually: Callable[..., Any]) -> None:
    with pytest.raises(ZeroDivisionError), db.writing():
        raise ZeroDivisionError
    with db.writing(wakes_workers=False):
        pass
    assert not listening.wakeup.signalled()
    queue.enqueue("true")  # notifications arrive in order, so earlier ones would come first
    eventually(listening.wakeup.signalled)


def test_after_its_connection_ends_it_polls_more_often_and_listens_again(
    listening: Listening, queue: Queue, eventually: Callable[..., Any], postgresql_server: URL
) -> None:
    before = listening.connection.driver
    pid = before.info.backend_pid
    execute(postgresql_server, f"SELECT pg_terminate_backend({pid})")
    eventually(listening.wakeup.signalled)
    eventually(lambda: listening.hears and listening.connection.driver is not before)
    listening.wakeup.signalled()
    queue.enqueue("true")
    eventually(listening.wakeup.signalled)


def test_if_its_own_notification_is_missing_it_logs_that_and_polls_twice_a_second(
    app: Flask,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    eventually: Callable[..., Any],
) -> None:
    monkeypatch.setattr(wakeup_postgresql, "ECHO_WITHIN", 0.2)
    monkeypatch.setattr(Notified, "_received", lambda *_: None)
    caplog.set_level(logging.WARNING)
    one = Listening(app)
    eventually(lambda: "no notifications arrive" in caplog.text)
    assert one.wakeup.check_every == CHECK_EVERY_WITHOUT_SIGNALS
    one.end()


def number(condition: str) -> int:
    """The number of other connections to this database that match."""
    others = "FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    with db.reading() as session:
        return int(session.execute(text(f"SELECT count(*) {others} AND {condition}")).scalar_one())


def test_without_a_second_connection_it_still_listens(
    app: Flask, queue: Queue, monkeypatch: pytest.MonkeyPatch, eventually: Callable[..., Any]
) -> None:
    """As on a full server: it cannot test its notifications, and polls twice a second."""

    take = Database.take

    def refuse(database: Database) -> Any:
        if database.role == "worker":
            raise OSError("no more connections")
        return take(database)

    one = Listening(app, lambda: monkeypatch.setattr(Database, "take", refuse))
    eventually(one.wakeup.signalled)
    assert not one.hears
    queue.enqueue("true")
    eventually(one.wakeup.signalled)
    one.end()


def test_no_transaction_is_open_while_a_command_runs(
    queue: Queue, fleet: Start, eventually: Callable[..., Any]
) -> None:
    fleet(count=1)
    job = queue.enqueue("echo begun; sleep 60", id="long")
    eventually(lambda: queue.job(job).state == "processing")
    begun = queue.job(job).started_at or 0
    eventually(lambda: clock.now() - begun > clock.seconds(3))  # by then its output is stored live
    assert number("state LIKE 'idle in transaction%' AND xact_start < now() - interval '1 second'") == 0


def test_a_worker_uses_two_connections(queue: Queue, fleet: Start, eventually: Callable[..., Any]) -> None:
    """PostgreSQL allows a hundred by default."""
    queue.enqueue("true")
    maintenance = 2  # it reads and writes
    number("true")  # opens this test's own connections
    with db.reading() as session:
        begun = session.execute(text("SELECT clock_timestamp()")).scalar_one()
    fleet(count=3)
    done = [queue.enqueue("true") for _ in range(8)]
    eventually(lambda: all(queue.job(job).state == "completed" for job in done))
    eventually(lambda: number(f"backend_start > '{begun}'") == 3 * 2 + maintenance)


# --- behind a transaction pooler ---


@pytest.fixture
def pooled(config: Config, tmp_path: Path, eventually: Callable[..., Any]) -> Iterator[str]:
    """The address of the test's database behind PgBouncer."""
    program = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin") or ""
    if not program:
        message = "no PgBouncer on this machine: install it (Debian: apt install pgbouncer)"
        pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)
    folder = Path(tempfile.mkdtemp(prefix="queuectl-bouncer-"))
    server = make_url(config.database_url or "")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    host = str(server.host or server.query.get("host"))
    password = f" password={server.password}" if server.password else ""
    (folder / "pgbouncer.ini").write_text(
        f"[databases]\n* = host={host} port={server.port or 5432} user={server.username}{password}\n"
        f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nauth_type = any\npool_mode = transaction\n"
        "default_pool_size = 5\nunix_socket_dir =\nmax_client_conn = 100\n"
    )
    as_whom: list[str] = []
    if os.geteuid() == 0:  # which it refuses to be; the server's socket may be its user's alone
        somebody = pwd.getpwuid(os.stat(host).st_uid) if os.path.isabs(host) else pwd.getpwnam("nobody")
        for path in (folder, folder / "pgbouncer.ini"):
            os.chown(path, somebody.pw_uid, somebody.pw_gid)
        as_whom = ["-u", somebody.pw_name]
    with (tmp_path / "pgbouncer.log").open("wb") as log:
        process = subprocess.Popen([program, *as_whom, str(folder / "pgbouncer.ini")], stdout=log, stderr=log)
    try:
        eventually(lambda: _answers(port))
        yield f"postgresql://anybody@127.0.0.1:{port}/{server.database}"
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(folder)


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_behind_pgbouncer_jobs_run_and_the_worker_reports_missing_notifications(
    queue: Queue,
    pooled: str,
    fleet: Start,
    monkeypatch: pytest.MonkeyPatch,
    eventually: Callable[..., Any],
    home: Path,
) -> None:
    monkeypatch.setenv("QUEUECTL_DATABASE_URL", pooled)
    workers = fleet(count=2)
    jobs = [queue.enqueue("echo hello") for _ in range(60)]  # enough for statements to be prepared, were they
    eventually(lambda: all(queue.job(job).state == "completed" for job in jobs))
    eventually(lambda: "no notifications arrive" in workers.text())
    last = queue.enqueue("true")
    eventually(lambda: queue.job(last).state == "completed")


def test_settings_of_a_session_behind_pgbouncer_reach_no_other_session(app: Flask, pooled: str, tmp_path: Path) -> None:
    """A reader's transactions are read-only and a worker's not durable; the connections are the same."""
    from webapp.db.application import create_core

    own = create_core(Config(home=tmp_path / "pooled", database_url=pooled.replace("://", "+psycopg://", 1),
                             public_url=None), migrate=False)  # fmt: skip
    with own.app_context():
        worker: Connection = worker_connection()
        for _ in range(12):  # more often than there are connections
            with db.reading() as session:
                assert session.execute(text("SHOW transaction_read_only")).scalar_one() == "on"
            with worker.transaction() as transaction:
                transaction.execute("UPDATE control SET pulse = pulse + 1")
            with db.writing() as session:
                assert session.execute(text("SHOW synchronous_commit")).scalar_one() == "on"
                assert session.execute(text("SHOW transaction_read_only")).scalar_one() == "off"
        worker.close()
        db.disconnect()
