"""What a request is told that no page can answer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.console.conftest import Browser, Client
from webapp import create_app
from webapp.config import Config
from webapp.db import db


@pytest.fixture(params=["sqlite", "postgresql"])
def anybody(request: pytest.FixtureRequest, home: Path) -> Iterator[Browser]:
    """Somebody who is not signed in, at a console on either database."""
    url = request.getfixturevalue("postgresql_url") if request.param == "postgresql" else None
    app = create_app(Config(home=home, database_url=url, public_url=None))
    app.test_client_class = Client
    with app.app_context():
        yield Browser(app.test_client())
        for engine in db.engines.values():
            engine.dispose()


def test_a_nul_is_the_askers_fault_and_not_the_databases(anybody: Browser) -> None:
    anybody.get("/login")
    assert anybody.post("/login", {"name": "a\0b", "password": "x"}).status_code in {400, 422}
