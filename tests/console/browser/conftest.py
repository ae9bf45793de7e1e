"""A real console server and a real Chromium. A script error or a CSP report on an opened page fails the test."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Callable, Optional

import pytest
from flask import Flask
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, expect
from werkzeug.serving import make_server

from tests.conftest import opened
from tests.console.conftest import make_app
from tests.deadline import DEADLINE
from tests.factories import make_user
from webapp.config import Config

expect.set_options(timeout=DEADLINE * 1000)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Both databases give a browser the same pages."""
    for item in items:
        if "/browser/" in str(item.path):
            item.add_marker(pytest.mark.browser)
            item.add_marker(pytest.mark.only("sqlite"))


@pytest.fixture
def console(config: Config) -> Iterator[Flask]:
    """The whole application."""
    yield from opened(make_app(config))


@pytest.fixture
def server(console: Flask) -> Iterator[str]:
    """The URL of a console that serves the home folder of the test."""
    console.testing = False
    live = make_server("127.0.0.1", 0, console, threaded=True)
    thread = threading.Thread(target=live.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{live.server_port}"
    live.shutdown()
    thread.join(DEADLINE)


@dataclass
class Watched:
    """Messages of the browser console. `expect` allows a message that the test provokes."""

    complaints: list[str] = field(default_factory=list)
    expected: list[str] = field(default_factory=list)

    def expect(self, part: str) -> None:
        self.expected.append(part)

    def unexpected(self) -> list[str]:
        return [one for one in self.complaints if not any(part in one for part in self.expected)]


@pytest.fixture
def watched() -> Iterator[Watched]:
    watch = Watched()
    yield watch
    assert watch.unexpected() == []


@pytest.fixture
def open_browser(chromium: Browser, server: str, console: Flask, watched: Watched) -> Iterator[Callable[..., Page]]:
    """Open a new browser, signed in with a role (None: without a session). The server is its base URL."""
    contexts: list[BrowserContext] = []

    def opened(role: Optional[str] = "admin", *, name: Optional[str] = None, **options: Any) -> Page:
        context = chromium.new_context(base_url=server, **{"viewport": {"width": 1280, "height": 900}, **options})
        context.set_default_timeout(DEADLINE * 1000)
        contexts.append(context)
        if role is not None:
            context.add_cookies([session_cookie(console, server, name or f"a-{role}", role)])
        page = context.new_page()
        page.on("console", lambda message: _note(watched, message))
        page.on("pageerror", lambda error: watched.complaints.append(f"page error: {error}"))
        return page

    yield opened
    for context in contexts:
        context.close()


def press(page: Page, *keys: str) -> None:
    """Press keys that app.js handles, after the page has loaded: text appears before the scripts have run."""
    page.wait_for_load_state("load")
    for key in keys:
        page.keyboard.press(key)


def _note(watched: Watched, message: ConsoleMessage) -> None:
    if message.type in {"error", "warning"}:
        watched.complaints.append(f"{message.type}: {message.text}")


def session_cookie(console: Flask, server: str, name: str, role: str) -> Any:
    """The session cookie that a sign-in would set. Sign-in has its own test."""
    from webapp.accounts import sessions

    serializer = console.session_interface.get_signing_serializer(console)  # type: ignore[attr-defined]
    user = make_user(name, role)
    value = serializer.dumps({"_user_id": sessions.begin(user, "127.0.0.1", "a test")})
    return {"name": f"queuectl_{server.rsplit(':', 1)[1]}", "value": value, "url": server, "httpOnly": True}


@pytest.fixture
def page(open_browser: Callable[..., Page]) -> Page:
    """The browser of an admin."""
    return open_browser("admin")
