"""A refresh that brings nothing new: answered before anything is read, and never when something was written."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import event, update

from tests.console.conftest import Browser
from tests.factories import make_job, make_worker
from webapp.console.frame import htmx
from webapp.db import engines
from webapp.db.engines import writing
from webapp.db.models import Job


@pytest.fixture
def mark(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """What stands for the database's state, in the test's hand."""
    mark = [1]
    monkeypatch.setattr(engines, "change_mark", lambda: (mark[0],))
    return mark


@contextmanager
def statements_about_jobs() -> Iterator[list[str]]:
    seen: list[str] = []

    def see(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if "jobs" in statement:
            seen.append(statement)

    engine = engines.read_engine()
    event.listen(engine, "before_cursor_execute", see)
    try:
        yield seen
    finally:
        event.remove(engine, "before_cursor_execute", see)


def poll(browser: Browser, url: str, etag: str) -> Any:
    return browser.get(url, partial=True, headers={"If-None-Match": etag})


@pytest.mark.parametrize("url", ["/", "/jobs", "/jobs?state=dead&q=echo", "/dead", "/job/job1", "/workers", "/queues"])
def test_the_second_look_at_what_has_not_changed_reads_no_jobs(viewer: Browser, mark: list[int], url: str) -> None:
    make_job("dead", id="job1")
    make_worker()
    etag = viewer.get(url, partial=True).headers["ETag"]
    assert poll(viewer, url, etag).status_code == 304
    with statements_about_jobs() as seen:
        again = poll(viewer, url, etag)
    assert (again.status_code, again.data, again.headers["ETag"]) == (304, b"", etag)
    assert seen == []


def test_what_was_written_is_shown_at_once(viewer: Browser, mark: list[int]) -> None:
    make_job("pending", id="job1")
    etag = viewer.get("/jobs", partial=True).headers["ETag"]
    poll(viewer, "/jobs", etag)
    make_job("pending", id="job2")
    mark[0] += 1
    changed = poll(viewer, "/jobs", etag)
    assert changed.status_code == 200
    assert b"job2" in changed.data
    assert poll(viewer, "/jobs", etag).status_code == 200  # a tab that still shows the old one


def test_what_only_time_brings_about_is_shown_after_a_while(
    viewer: Browser, mark: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_job("pending", id="job1")
    etag = viewer.get("/jobs", partial=True).headers["ETag"]
    poll(viewer, "/jobs", etag)
    with writing() as session:
        session.execute(update(Job).values(command="another"))  # in the place of time: the mark says nothing of it
    assert poll(viewer, "/jobs", etag).status_code == 304
    monkeypatch.setattr(htmx, "ENTRY_LIFE_SECONDS", -1.0)
    assert poll(viewer, "/jobs", etag).status_code == 200


def test_a_role_shares_nothing_with_another_and_a_stranger_is_told_nothing(
    console: Flask, viewer: Browser, operator: Browser, stranger: Browser, mark: list[int]
) -> None:
    make_job("dead", id="job1")
    etag = viewer.get("/jobs", partial=True).headers["ETag"]
    poll(viewer, "/jobs", etag)
    assert poll(operator, "/jobs", etag).status_code == 200
    assert poll(stranger, "/jobs", etag).status_code == 401


def test_without_a_mark_each_look_is_a_look(viewer: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "change_mark", lambda: None)
    make_job("dead", id="job1")
    etag = viewer.get("/jobs", partial=True).headers["ETag"]
    for _ in range(2):
        with statements_about_jobs() as seen:
            assert poll(viewer, "/jobs", etag).status_code == 304
        assert seen


@pytest.mark.parametrize("encoding", ["gzip", "br", "zstd", "identity"])
def test_text_is_compressed_as_the_browser_wishes_and_its_etag_holds(viewer: Browser, encoding: str) -> None:
    for number in range(30):
        make_job("dead", id=f"job{number}")
    page = viewer.client.get("/jobs", headers={"Accept-Encoding": encoding})
    assert page.headers.get("Content-Encoding", "identity") == encoding
    assert "Accept-Encoding" in page.headers["Vary"]
    headers = {"Accept-Encoding": encoding, "HX-Request": "true", "HX-Request-Type": "partial"}
    first = viewer.client.get("/jobs", headers=headers)
    again = viewer.client.get("/jobs", headers={**headers, "If-None-Match": first.headers["ETag"]})
    assert again.status_code == 304


def test_a_first_load_and_a_refresh_are_light(viewer: Browser) -> None:
    """A hundred thousand bytes for all that a page needs, fifteen thousand for the fullest region."""
    for number in range(60):
        make_job("failed", command=f"import-orders --since {number} " + "x" * 60, last_error=f"exit code {number}")
    accept = {"Accept-Encoding": "gzip, deflate"}  # all that a browser offers without HTTPS
    page = viewer.client.get("/jobs", headers=accept)
    total = len(page.data)
    for name in ("app.css", "app.js", "htmx.min.js", "icons.svg", "icon.svg", "ansi.css"):
        total += len(viewer.client.get(f"/static/{name}", headers=accept).data)
    assert total < 100_000
    for url in ("/", "/jobs", "/jobs?state=failed", "/queues"):
        region = viewer.client.get(url, headers={**accept, "HX-Request": "true", "HX-Request-Type": "partial"})
        assert len(region.data) < 15_000, url
