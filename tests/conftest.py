"""Fixtures of every test: a new home, the application on a real SQLite or PostgreSQL database, a deadline."""

from __future__ import annotations

import gc
import itertools
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Optional

import pytest
from argon2 import PasswordHasher
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from jinja2.bccache import Bucket, BytecodeCache
from sqlalchemy.engine import URL, Dialect, make_url
from sqlalchemy.engine.default import DefaultDialect
from werkzeug.routing import Rule

from tests.databases import DATABASES, MigratedDatabase, postgresql_database
from tests.deadline import DEADLINE, LIMIT
from tests.seconds import SecondsByFolder
from webapp.accounts import users
from webapp.config import CHECKOUT, Config
from webapp.core import audit_lines
from webapp.core.storage import postgresql
from webapp.db import engines
from webapp.db.application import create_core
from webapp.lib import clock

if TYPE_CHECKING:
    from playwright.sync_api import Browser

CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
LONGEST = {"browser", "faults"}  # folders whose tests run first
SERVER = "TEST_DATABASE_URL"  # of the PostgreSQL server of this run; a server of one's own where it is set already


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--db", choices=DATABASES, default="sqlite", help="the database that the tests of this run use")


def pytest_configure(config: pytest.Config) -> None:
    listen_to_signals()
    config.pluginmanager.register(SecondsByFolder(), "seconds-by-folder")
    in_charge = not hasattr(config, "workerinput")  # not one of the processes that xdist starts
    if in_charge and config.getoption("--db") == "postgresql" and SERVER not in os.environ:
        start_server(config)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Keep the garbage collector from looking at all tests again and again: that was a quarter of the run."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def listen_to_signals() -> None:
    """Under nohup and behind a shell's `&` these are ignored, and would be in every process that a test starts."""
    for name in ("SIGINT", "SIGHUP", "SIGQUIT"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) == signal.SIG_IGN:
            # A handler, unlike ignoring, ends with an exec.
            signal.signal(number, signal.default_int_handler if name == "SIGINT" else lambda *_: None)


def start_server(config: pytest.Config) -> None:
    """Start the one PostgreSQL server of this run, before the processes that use it. It ends when its input does."""
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    process = subprocess.Popen([sys.executable, "-m", "tests.postgresql"], cwd=CHECKOUT, **pipes)
    assert process.stdout is not None
    os.environ[SERVER] = process.stdout.readline().strip()
    if not os.environ[SERVER]:
        pytest.exit("PostgreSQL did not start", 3)

    def stop() -> None:
        del os.environ[SERVER]
        process.communicate()

    config.add_cleanup(stop)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> Optional[bool]:
    """Skip files without the mark that the run selects: each process needs many seconds to import all of them."""
    if not collection_path.match("test_*.py"):
        return None
    selected = {"every_python", "postgresql"}.intersection(str(config.getoption("markexpr")).split())
    return any(mark not in collection_path.read_text(encoding="utf-8") for mark in selected) or None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the tests that are not for this run's database, and order the others.

    A test has minutes before it counts as hung.
    """
    database = config.getoption("--db")
    others = [item for item in items if database not in databases_of(item)]
    config.hook.pytest_deselected(items=others)
    items[:] = [item for item in items if database in databases_of(item)]
    for item in items:
        if item.get_closest_marker("only") is not None and database == "postgresql":
            item.add_marker(pytest.mark.postgresql)
        item.add_marker(pytest.mark.timeout(LIMIT))
    # Else one of them would run alone at the end.
    items.sort(key=lambda item: not LONGEST.intersection(item.path.parts))


def databases_of(item: pytest.Item) -> tuple[str, ...]:
    """On which databases a test runs: its fixtures tell, or its mark."""
    only = item.get_closest_marker("only")
    if only is not None:
        return only.args
    names = set(getattr(item, "fixturenames", ()))
    if names & {"postgresql_server", "postgresql_config"}:
        return ("postgresql",)
    return DATABASES if names & {"config", "fresh_config"} else ("sqlite",)


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


@pytest.fixture(autouse=True)
def _patient_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine a test may rest in a transaction for longer than PostgreSQL lets us by default."""
    monkeypatch.setattr(postgresql, "IDLE_TRANSACTION_SECONDS", int(LIMIT))


@pytest.fixture
def own_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests that travel in time: only this process does, and not the server whose clock it would go by."""
    monkeypatch.setattr(clock, "follow", lambda *_: None)
    monkeypatch.setattr(clock, "_ahead", None)


# Each test makes its own application, so that no state leaks into the next test. What is the same in all of them, the
# templates, the routes and the statements, is compiled once a process: that was most of what a page cost.


class CompiledTemplates(BytecodeCache):
    """Keeps templates in memory, by name and text."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, str], Any] = {}

    def load_bytecode(self, bucket: Bucket) -> None:
        bucket.code = self._found.get((bucket.key, bucket.checksum))

    def dump_bytecode(self, bucket: Bucket) -> None:
        self._found[bucket.key, bucket.checksum] = bucket.code


@pytest.fixture(autouse=True, scope="session")
def _templates_compiled_once() -> None:
    Flask.jinja_options = {**Flask.jinja_options, "bytecode_cache": CompiledTemplates()}


@pytest.fixture(autouse=True, scope="session")
def _routes_compiled_once() -> None:
    compiled: dict[tuple[Any, ...], tuple[Any, ...]] = {}
    compile_rule = Rule.compile

    def compile_once(self: Any) -> None:
        key = (self.rule, tuple((self.defaults or {}).items()), self.host, self.subdomain, self.merge_slashes)
        if key not in compiled:
            compile_rule(self)
            builders = self._build.__func__, self._build_unknown.__func__
            compiled[key] = (self._parts, self._trace, self._converters, self.arguments, *builders)
        self._parts, self._trace, self._converters, self.arguments, build, build_unknown = compiled[key]
        self._build, self._build_unknown = build.__get__(self, None), build_unknown.__get__(self, None)

    Rule.compile = compile_once  # type: ignore[method-assign]


@pytest.fixture(autouse=True, scope="session")
def _statements_compiled_once() -> None:
    """Two engines of one kind take each other's compiled statements: they have one cache, and equal dialects."""
    shared: dict[type[Dialect], Any] = {}
    make_engine = SQLAlchemy._make_engine

    def make_with_shared_cache(self: Any, *arguments: Any) -> Any:
        engine: Any = make_engine(self, *arguments)
        engine._compiled_cache = shared.setdefault(type(engine.dialect), engine._compiled_cache)
        return engine

    SQLAlchemy._make_engine = make_with_shared_cache  # type: ignore[assignment,method-assign]
    DefaultDialect.__eq__ = lambda self, other: type(self) is type(other)  # type: ignore[method-assign]
    DefaultDialect.__hash__ = lambda self: hash(type(self))  # type: ignore[method-assign]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh home, also for the processes that the test starts."""
    folder = tmp_path / "home"
    monkeypatch.setenv("QUEUECTL_HOME", str(folder))
    return folder


@pytest.fixture(scope="session")
def postgresql_server() -> URL:
    """The URL of the PostgreSQL server of this run."""
    return make_url(os.environ[SERVER]).set(drivername="postgresql+psycopg")


# To bring an empty database up to date costs more than most tests do. So it is done once a process: a test gets a copy
# of a SQLite file, or a PostgreSQL database that is emptied for it. What makes a database of its own, such as the
# commands that are started as processes, begins with none.


@pytest.fixture(scope="session")
def migrated_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file that is up to date, to be copied."""
    config = Config(home=tmp_path_factory.mktemp("migrated"), database_url=None, public_url=None)
    for _ in opened(create_core(config)):
        pass
    assert not Path(f"{config.sqlite_path}-wal").exists(), "the file alone is not the whole database"
    return config.sqlite_path


@pytest.fixture(scope="session")
def postgresql_of_process(
    postgresql_server: URL, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[MigratedDatabase]:
    """The PostgreSQL database of this process, which is up to date."""

    def migrate(url: URL) -> None:
        for _ in opened(create_core(configuration(tmp_path_factory.mktemp("migrated"), url))):
            pass

    database = MigratedDatabase(postgresql_server, migrate)
    yield database
    database.drop()


@pytest.fixture(scope="session")
def migrated_postgresql(postgresql_of_process: MigratedDatabase) -> str:
    """The name of a PostgreSQL database that is up to date and never used, to be copied."""
    return postgresql_of_process.template


@pytest.fixture
def migrated() -> bool:
    """Whether a test's database is up to date from the start; for tests of just that, their module says no."""
    return True


@pytest.fixture
def sqlite_config(request: pytest.FixtureRequest, home: Path, migrated: bool) -> Config:
    """A configuration on a fresh home with a SQLite database."""
    return with_copy(request.getfixturevalue("migrated_sqlite"), home) if migrated else configuration(home)


def with_copy(database: Path, home: Path) -> Config:
    """Make a home with a copy of a SQLite file as its database."""
    config = configuration(home)
    home.mkdir(mode=0o700)
    shutil.copyfile(database, config.sqlite_path)
    config.sqlite_path.chmod(0o600)
    return config


@pytest.fixture
def postgresql_config(
    request: pytest.FixtureRequest, home: Path, migrated: bool, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Config]:
    """A configuration on a fresh home with a PostgreSQL database, also for the processes that the test starts."""
    if migrated:
        url = request.getfixturevalue("postgresql_of_process").emptied()
        yield from _told(configuration(home, url), monkeypatch)
    else:
        with postgresql_database(request.getfixturevalue("postgresql_server")) as url:
            yield from _told(configuration(home, url), monkeypatch)


def _told(config: Config, monkeypatch: pytest.MonkeyPatch) -> Iterator[Config]:
    monkeypatch.setenv("QUEUECTL_DATABASE_URL", str(config.database_url))
    yield config


def configuration(home: Path, url: Optional[URL] = None) -> Config:
    shown = url.render_as_string(hide_password=False) if url else None
    return Config(home=home, database_url=shown, public_url=None)


@pytest.fixture
def config(request: pytest.FixtureRequest) -> Config:
    """A configuration on a fresh home with the database of this run."""
    made: Config = request.getfixturevalue(f"{request.config.getoption('--db')}_config")
    return made


@pytest.fixture
def fresh_config(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Config]:
    """Make configurations, one after the other, each with an empty database of this run that is up to date."""
    numbers = itertools.count()

    def make() -> Config:
        home = tmp_path / f"home-{next(numbers)}"
        if request.config.getoption("--db") == "sqlite":
            return with_copy(request.getfixturevalue("migrated_sqlite"), home)
        return configuration(home, request.getfixturevalue("postgresql_of_process").emptied())

    return make


def opened(app: Flask) -> Iterator[Flask]:
    """Push the application's context until the test is over, and leave its database then."""
    with app.app_context():
        yield app
        engines.disconnect()


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
    """Wait until a condition gives something true, and return it; fail when it seems to hang."""

    def wait(condition: Callable[[], Any], within: float = 0.0) -> Any:
        deadline = time.monotonic() + max(within, DEADLINE)
        while True:
            result = condition()
            if result:
                return result
            if time.monotonic() > deadline:
                pytest.fail(f"not within {DEADLINE:.0f} s: {getattr(condition, '__name__', condition)}")
            time.sleep(0.02)

    return wait
