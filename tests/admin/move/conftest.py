"""A queue and an empty database to move it to, on the databases of this run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy.engine import URL

from tests.conftest import configuration
from tests.databases import postgresql_database
from webapp.config import Config


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """On SQLite a queue moves to another file, on PostgreSQL from a file to the server and back."""
    if "source" in metafunc.fixturenames:
        on_sqlite = metafunc.config.getoption("--db") == "sqlite"
        metafunc.parametrize("source", ["sqlite"] if on_sqlite else ["sqlite", "postgresql"])


@pytest.fixture
def source(request: pytest.FixtureRequest) -> str:
    """On which database the queue is: overridden by the parameter above."""
    raise AssertionError(request)


@pytest.fixture
def config(request: pytest.FixtureRequest, source: str) -> Config:
    """The configuration of the queue that is to move."""
    made: Config = request.getfixturevalue(f"{source}_config")
    return made


@pytest.fixture
def target(request: pytest.FixtureRequest, home: Path, tmp_path: Path, source: str) -> Iterator[Config]:
    """An empty database to move to: a SQLite file that is not there yet, or PostgreSQL."""
    if source == "postgresql" or request.config.getoption("--db") == "sqlite":
        folder = tmp_path / "there"
        folder.mkdir()
        yield Config(home, f"sqlite:///{folder}/queue.db", None)
        return
    with postgresql_database(request.getfixturevalue("postgresql_server")) as url:
        yield configuration(home, url)


@pytest.fixture
def postgresql_target(postgresql_server: URL, home: Path) -> Iterator[Config]:
    with postgresql_database(postgresql_server) as url:
        yield configuration(home, url)
