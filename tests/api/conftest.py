"""The whole application on a fresh database, and programs with a token of each scope."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Callable

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from tests.conftest import opened
from tests.console.conftest import Browser, make_app
from tests.factories import make_user
from webapp.accounts import sessions, tokens
from webapp.config import Config

API = "/api/v1"


class Program:
    """A client that sends a token and JSON."""

    def __init__(self, client: FlaskClient, secret: str) -> None:
        self.client = client
        self.secret = secret
        self.headers = {"Authorization": f"Bearer {secret}"}

    def __call__(self, method: str, path: str, data: Any = None, **headers: str) -> TestResponse:
        """`Idempotency_Key="…"` is sent as a header of that name. What is no bytes becomes JSON."""
        sent = {**self.headers, **{name.replace("_", "-"): value for name, value in headers.items()}}
        body = data if isinstance(data, bytes) or data is None else json.dumps(data).encode()
        if body is not None:
            sent.setdefault("Content-Type", "application/json")
        url = path if path.startswith("/api/") else API + path
        return self.client.open(url, method=method, data=body, headers=sent)


@pytest.fixture
def whole(config: Config) -> Iterator[Flask]:
    """On SQLite and on PostgreSQL."""
    yield from opened(make_app(config))


@pytest.fixture
def program(whole: Flask) -> Callable[[str], Program]:
    """Create a token with a scope, and a program that uses it."""
    return lambda scope: make_program(whole, scope)


def make_program(app: Flask, scope: str, name: str = "") -> Program:
    secret, _ = tokens.make(name or f"the-{scope}", scope, 30, "person:ana")
    return Program(app.test_client(), secret)


@pytest.fixture
def reader(program: Callable[[str], Program]) -> Program:
    return program("read")


@pytest.fixture
def submitter(program: Callable[[str], Program]) -> Program:
    return program("submit")


@pytest.fixture
def operator(program: Callable[[str], Program]) -> Program:
    return program("operate")


@pytest.fixture
def admin(program: Callable[[str], Program]) -> Program:
    return program("admin")


@pytest.fixture
def sign_in_to() -> Callable[[Flask, str], Browser]:
    """A browser that is signed in to an application with a role."""

    def signed_in(app: Flask, role: str) -> Browser:
        client = app.test_client()
        session_id = sessions.begin(make_user(f"the-{role}", role), "127.0.0.1", "a test")
        with client.session_transaction() as session:
            session["_user_id"] = session_id
        return Browser(client)

    return signed_in
