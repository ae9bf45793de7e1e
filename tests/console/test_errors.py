"""Requests that no page can answer."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conftest import opened
from tests.console.conftest import Browser, make_app
from webapp.config import Config


@pytest.fixture
def anonymous(config: Config) -> Iterator[Browser]:
    """A browser without a session, on either database."""
    for app in opened(make_app(config)):
        yield Browser(app.test_client())


def test_a_nul_character_is_a_client_error(anonymous: Browser) -> None:
    anonymous.get("/login")
    assert anonymous.post("/login", {"name": "a\0b", "password": "x"}).status_code in {400, 422}
