"""The console on a fresh database of either kind, and browsers of signed-in users."""

from __future__ import annotations

import contextvars
import re
from collections.abc import Iterator
from typing import Any, Callable, Optional

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from tests.conftest import opened
from tests.factories import make_user
from webapp import create_app
from webapp.accounts import sessions
from webapp.config import Config

COOKIE = "queuectl_80"
PARTIAL = {"HX-Request": "true", "HX-Request-Type": "partial"}


@pytest.fixture
def console(config: Config) -> Iterator[Flask]:
    """The whole application. Its context is pushed so that a test can read the database."""
    yield from opened(make_app(config))


def make_app(config: Config) -> Flask:
    app = create_app(config)
    app.testing = True
    app.test_client_class = Client
    return app


class Client(FlaskClient):
    """A test client whose requests do not see the application context of the test.

    Inside a pushed context Flask shares `g` between all requests, and with it who is signed in.
    """

    def open(self, *arguments: Any, **options: Any) -> TestResponse:
        return contextvars.Context().run(super().open, *arguments, **options)


class Browser:
    """A test client that sends the CSRF token of the last page, as a form on that page would."""

    def __init__(self, client: FlaskClient) -> None:
        self.client = client
        self.token: Optional[str] = None

    def get(self, url: str, *, partial: bool = False, **options: Any) -> TestResponse:
        headers = {**(PARTIAL if partial else {}), **options.pop("headers", {})}
        response = self.client.get(url, headers=headers, **options)
        found = re.search(r'name="csrf_token" value="([^"]+)"', response.get_data().decode(errors="replace"))
        self.token = found[1] if found else self.token
        return response

    def post(
        self, url: str, data: Optional[dict[str, Any]] = None, *, partial: bool = False, **options: Any
    ) -> TestResponse:
        """POST a form. Fetch a CSRF token first if no page was opened before."""
        if self.token is None:
            self.get("/account")
        headers = {**(PARTIAL if partial else {}), **options.pop("headers", {})}
        return self.client.post(url, data={"csrf_token": self.token, **(data or {})}, headers=headers, **options)


@pytest.fixture
def anonymous(console: Flask) -> Browser:
    """A browser without a session."""
    return Browser(console.test_client())


@pytest.fixture
def sign_in(console: Flask) -> Callable[[str], Browser]:
    """Create a user with a role, and a browser that is signed in as that user."""

    def signed_in_as(role: str) -> Browser:
        user = make_user(f"the-{role}", role)
        client = console.test_client()
        session_id = sessions.begin(user, "127.0.0.1", "a test")
        with client.session_transaction() as session:
            session["_user_id"] = session_id
        return Browser(client)

    return signed_in_as


@pytest.fixture
def admin(sign_in: Callable[[str], Browser]) -> Browser:
    return sign_in("admin")


@pytest.fixture
def operator(sign_in: Callable[[str], Browser]) -> Browser:
    return sign_in("operator")


@pytest.fixture
def viewer(sign_in: Callable[[str], Browser]) -> Browser:
    return sign_in("viewer")
