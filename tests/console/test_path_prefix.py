"""A public URL with a path, such as https://example.org/queue: every URL of a response begins with it."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from flask import Flask
from werkzeug.test import TestResponse

from tests.api.conftest import make_program
from tests.conftest import opened
from tests.console.conftest import Browser, make_app
from tests.console.test_gate import routes
from tests.factories import make_job, make_jobs, make_queue, make_worker
from webapp.accounts import users
from webapp.config import CHECKOUT, Config

HOST = {"Host": "example.org:8443"}
PASSWORD = "a horse, a battery"
URLS = re.compile(r'\s(?:href|src|action|formaction|hx-get|hx-post|data-newest)="([^"]*)"')


@pytest.fixture
def below(config: Config) -> Iterator[Flask]:
    yield from opened(make_app(replace(config, public_url="https://example.org:8443/queue")))


class PrefixBrowser(Browser):
    """A browser behind a proxy that passes the path unchanged."""

    def get(self, url: str, **options: Any) -> TestResponse:
        return super().get(url, headers={**HOST, **options.pop("headers", {})}, **options)

    def post(self, url: str, data: Any = None, **options: Any) -> TestResponse:
        headers = {**HOST, "Origin": "https://example.org:8443", **options.pop("headers", {})}
        return super().post(url, data, headers=headers, **options)


@pytest.fixture
def browser(below: Flask) -> PrefixBrowser:
    users.add("ana", PASSWORD, "admin", "rule:test")
    browser = PrefixBrowser(below.test_client())
    sent_away = browser.get("/queue/jobs?state=dead")
    assert sent_away.headers["Location"] == "/queue/login?next=/queue/jobs?state%3Ddead"
    browser.get(sent_away.headers["Location"])
    signed_in = browser.post("/queue/login", {"name": "ana", "password": PASSWORD, "next": "/queue/jobs?state=dead"})
    assert signed_in.headers["Location"] == "/queue/jobs?state=dead"
    return browser


def test_every_url_in_a_page_begins_with_the_path(below: Flask, browser: PrefixBrowser) -> None:
    make_job("dead", id="job1")
    make_jobs([{"state": "completed", "id": f"done{number}"} for number in range(120)])
    make_worker(id="w1")
    make_queue("mail")
    seen = 0
    for _, method, url in routes(below):
        if method != "GET":
            continue
        for partial in (False, True):
            page = browser.get("/queue" + url, partial=partial)
            location = page.headers.get("Location", "/queue/")
            assert location.startswith("/queue/"), (url, location)
            if page.mimetype != "text/html":
                continue
            urls = [html.unescape(found) for found in URLS.findall(page.text)]
            assert [one for one in urls if not re.match(r"(/queue/|#|\?|$)", one)] == [], url
            seen += len(urls)
    assert seen > 500
    assert 'data-root="/queue"' in browser.get("/queue/").text


@pytest.mark.parametrize("proxy", ["keeps", "removes"])
def test_a_write_redirects_below_the_path(browser: PrefixBrowser, proxy: str) -> None:
    def post(path: str, data: Any = None, **headers: str) -> TestResponse:
        return browser.post(path if proxy == "removes" else f"/queue{path}", data, headers=headers)

    make_job("dead", id="job1")
    make_queue("mail")
    browser.get("/queue/account")
    if proxy == "removes":  # the browser sends its cookie, because it asked for a path below /queue
        for cookie in list((browser.client._cookies or {}).values()):
            browser.client.set_cookie(cookie.key, cookie.value, domain="example.org", path="/")
    paused = post("/queue/mail/pause", Referer="https://example.org:8443/queue/queues?like=m")
    assert paused.headers["Location"] == "/queue/queues?like=m"
    resumed = post("/queue/mail/resume", {"back": "/other-application"})
    assert resumed.headers["Location"] == "/queue/queues"
    assert 'action="/queue/job/job1/discard"' in post("/job/job1/discard").text
    discarded = post("/job/job1/discard", {"confirmed": "1", "back": "/queue/../other"})
    assert discarded.headers["Location"] == "/queue/jobs"


def test_cookies_are_limited_to_the_path(browser: PrefixBrowser) -> None:
    browser.get("/queue/account")
    chosen = browser.post("/queue/account", {"theme": "dark"}).headers.getlist("Set-Cookie")
    assert any(cookie.startswith("theme=dark;") for cookie in chosen)
    out = browser.post("/queue/logout")
    assert out.headers["Location"] == "/queue/login"
    assert out.headers["Clear-Site-Data"] == '"cache"'
    assert "Strict-Transport-Security" not in out.headers
    signed_in = browser.get("/queue/login").headers.getlist("Set-Cookie")
    for cookie in chosen + out.headers.getlist("Set-Cookie") + signed_in:
        assert "; Path=/queue" in cookie
        assert "; Secure" in cookie
        assert re.match(r"__Secure-queuectl\w*_8443=|theme=", cookie)


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/queue", 200),
        ("/queue/account", 200),
        ("/account", 303),
        ("/login", 200),  # from a proxy that removes the path, or on this machine
        ("/queue/queue/login", 404),
        ("/queueevil/login", 303),
        ("/QUEUE/login", 303),
        ("/queue/healthz", 200),
        ("/healthz", 200),
        ("/queue//evil.example", 404),
        ("/queue/jobs//evil.example", 404),
    ],
)
def test_the_path_is_removed_only_once_and_only_as_a_whole(browser: PrefixBrowser, path: str, status: int) -> None:
    answer = browser.get(path)
    assert answer.status_code == status
    assert answer.headers.get("Location", "/queue/login").startswith("/queue/login")  # the cookie is for /queue
    assert "//evil.example" not in str(answer.headers)


def test_headers_cannot_change_the_path(browser: PrefixBrowser) -> None:
    lies = {"X-Forwarded-Prefix": "/evil", "X-Script-Name": "/evil", "SCRIPT_NAME": "/evil", "X-Forwarded-Host": "evil"}
    answer = browser.get("/queue/", headers=lies)
    assert answer.status_code == 200
    assert "evil" not in answer.text + str(answer.headers)


def test_the_api_returns_urls_below_the_path(below: Flask) -> None:
    program = make_program(below, "submit")
    program.headers.update(HOST)
    client = below.test_client()
    for _ in range(2):
        made = client.post("/queue/api/v1/jobs", json={"command": "true"}, headers=program.headers)
        assert made.headers["Location"].startswith("/queue/api/v1/jobs/")
    page = client.get("/queue/api/v1/jobs?limit=1", headers=program.headers)
    assert page.headers["Link"].startswith("</queue/api/v1/jobs?limit=1&cursor=")
    document = client.get("/queue/api/v1/openapi.json", headers=program.headers).get_json()
    assert document["servers"] == [{"url": "/queue"}]
    assert client.get("/queue/api/v1/jobs", headers=HOST).get_json()["type"] == "/queue/api-docs#no-token"


def test_the_api_docs_show_requests_to_the_public_url(browser: PrefixBrowser) -> None:
    assert "https://example.org:8443/queue/api/v1/jobs" in browser.get("/queue/api-docs").text


def test_scripts_and_styles_contain_no_absolute_path() -> None:
    for file in (CHECKOUT / "static").glob("app.*"):
        text = file.read_text()
        assert not re.search(r"""url\(["']?/|href=["']/|path=/|fetch\(["'`]/""", text), file
