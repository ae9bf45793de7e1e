"""What a request is told that no page can answer."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conftest import opened
from tests.console.conftest import Browser, make_app
from webapp.config import Config


@pytest.fixture
def anybody(config: Config) -> Iterator[Browser]:
    """Somebody who is not signed in, at a console on either database."""
    for app in opened(make_app(config)):
        yield Browser(app.test_client())


def test_a_nul_is_the_askers_fault_and_not_the_databases(anybody: Browser) -> None:
    anybody.get("/login")
    assert anybody.post("/login", {"name": "a\0b", "password": "x"}).status_code in {400, 422}
