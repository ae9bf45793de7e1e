"""The heartbeat URL is pinged while workers take jobs, and never delays or betrays anything."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any, Callable

import pytest
from sqlalchemy import update

from tests.commands import conftest as commands
from tests.commands.conftest import Processes
from tests.deadline import DEADLINE
from tests.factories import make_worker
from tests.worker_connection import worker_database
from webapp.config import Config, ConfigError, load
from webapp.core.storage.transaction import Connection
from webapp.db.engines import writing
from webapp.db.models import Worker
from worker.maintenance import outgoing_heartbeat as module
from worker.maintenance import process as maintenance
from worker.maintenance.outgoing_heartbeat import OutgoingHeartbeat, last_ping

processes = commands.processes
SECRET = "/5b1d-secret?key=hush"


class Monitor:
    """A receiver of pings."""

    def __init__(self) -> None:
        self.paths: list[str] = []
        self.status = 200
        self.silent = threading.Event()  # it does not answer until this is cleared and `answers` set
        self.answers = threading.Event()
        monitor = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                monitor.paths.append(self.path)
                if monitor.silent.is_set():
                    monitor.answers.wait()
                self.send_response(monitor.status)
                self.send_header("Location", "ftp://elsewhere/hush")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}{SECRET}"

    def close(self) -> None:
        self.answers.set()
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def monitor(monkeypatch: pytest.MonkeyPatch) -> Iterator[Monitor]:
    monkeypatch.setenv("no_proxy", "*")
    made = Monitor()
    yield made
    made.close()


@pytest.fixture
def minute(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Let a minute pass for the heartbeat."""
    now = [1000.0]
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now[0], time_ns=time.time_ns))

    def passes() -> None:
        now[0] += module.PING_EVERY

    return passes


class Heart:
    """A heartbeat whose pings are awaited."""

    def __init__(self, url: str) -> None:
        database = worker_database()
        self.config = replace(database.config, heartbeat_url=url)
        self.heartbeat = OutgoingHeartbeat(self.config)
        self._connection = Connection(database)

    def beat(self) -> None:
        self.heartbeat.ping_if_due(self._connection)
        self.join()

    def look(self) -> None:
        self.heartbeat.ping_if_due(self._connection)

    def join(self) -> None:
        if self.heartbeat._thread is not None:
            self.heartbeat._thread.join()

    @property
    def error(self) -> Any:
        found = last_ping(self.config)
        return None if found is None else found.error


@pytest.mark.usefixtures("app")
def test_it_is_pinged_once_a_minute_while_a_worker_takes_jobs(monitor: Monitor, minute: Callable[[], None]) -> None:
    heart = Heart(monitor.url)
    heart.beat()
    assert monitor.paths == [], "nobody works"
    make_worker(id="w1")
    for number in (1, 2, 3):
        heart.beat()
        heart.beat()
        assert monitor.paths == [SECRET] * number
        minute()
    for change in ({"requested_state": "quiet"}, {"state": "expired"}):
        with writing() as session:
            session.execute(update(Worker).values(**change))
        heart.beat()
    assert len(monitor.paths) == 3
    found = last_ping(heart.config)
    assert found is not None
    assert (found.error, found.url) == (None, monitor.url.replace(SECRET, "/…"))


@pytest.mark.usefixtures("app")
def test_a_failure_is_logged_once_and_so_is_the_recovery_and_neither_has_the_secret(
    monitor: Monitor, minute: Callable[[], None], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    make_worker()
    heart = Heart(monitor.url)
    for status in (500, 404, 302, 200, 204):
        monitor.status = status
        heart.beat()
        minute()
        assert (heart.error is None) == (status < 300)
    first, last = [record.getMessage() for record in caplog.records]
    assert first.endswith("/… failed: HTTP status 500. It is retried every minute")
    assert last.endswith("/… works again")
    monitor.close()
    heart.beat()
    assert heart.error == "Connection refused"
    stored = module.path_of(heart.config)
    assert "hush" not in caplog.text + stored.read_text()
    assert stored.stat().st_mode & 0o777 == 0o600


@pytest.mark.usefixtures("app")
def test_a_monitor_that_does_not_answer_delays_nothing(monitor: Monitor, minute: Callable[[], None]) -> None:
    make_worker()
    heart = Heart(monitor.url)
    monitor.silent.set()
    heart.look()
    minute()
    heart.look()
    assert heart.error == "no answer within 60 s"
    monitor.silent.clear()
    monitor.answers.set()
    heart.join()
    assert (heart.error, len(monitor.paths)) == (None, 1)


@pytest.mark.usefixtures("app")
def test_a_tick_pings_after_the_database_has_answered(monitor: Monitor) -> None:
    make_worker()
    heart = Heart(monitor.url)
    one = maintenance._Maintenance(worker_database(), heartbeat=heart.heartbeat)
    one._connection.database.connect = _fails  # type: ignore[method-assign]
    one.attend(ends=False)
    assert monitor.paths == []
    one = maintenance._Maintenance(worker_database(), heartbeat=heart.heartbeat)
    one.tick()
    heart.join()
    assert monitor.paths == [SECRET]


@pytest.mark.full
def test_a_supervisor_pings_while_its_worker_runs(
    monitor: Monitor, sqlite_config: Config, processes: Processes, eventually: Callable[..., Any]
) -> None:
    supervisor = processes.start("worker", "start", "--count", "1", QUEUECTL_HEARTBEAT_URL=monitor.url)
    eventually(lambda: monitor.paths == [SECRET])
    eventually(lambda: last_ping(sqlite_config))
    assert "pinged http://127.0.0.1" in processes.run("doctor").out
    supervisor.send_signal(signal.SIGINT)
    supervisor.wait(DEADLINE)
    assert (monitor.paths, "hush" in processes.errors) == ([SECRET], False)


def _fails() -> Any:
    raise OSError("the database is away")


@pytest.mark.parametrize(
    "url", ["ftp://a.example/x", "https:///x", "hc-ping.com/x", "https://a:b@c.example/", "https://a b"]
)
def test_a_url_that_cannot_be_pinged_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(ConfigError, match="QUEUECTL_HEARTBEAT_URL is not a valid URL") as refused:
        load({"QUEUECTL_HOME": "/tmp/x", "QUEUECTL_HEARTBEAT_URL": url})
    assert url not in str(refused.value)
