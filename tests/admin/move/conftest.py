"""An empty database to move to, of either kind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import configuration, postgresql_database
from webapp.config import Config


@pytest.fixture(params=["sqlite", "postgresql"])
def target(request: pytest.FixtureRequest, home: Path, tmp_path: Path) -> Iterator[Config]:
    """An empty database to move to, once a SQLite file that is not there yet, once PostgreSQL."""
    if request.param == "sqlite":
        folder = tmp_path / "there"
        folder.mkdir()
        yield Config(home, f"sqlite:///{folder}/queue.db", None)
        return
    with postgresql_database(request.getfixturevalue("postgresql_server")) as url:
        yield configuration(home, url)


@pytest.fixture
def postgresql_target(request: pytest.FixtureRequest, home: Path) -> Iterator[Config]:
    with postgresql_database(request.getfixturevalue("postgresql_server")) as url:
        yield configuration(home, url)
