"""Refreshes without changes: answered from the ETag cache without reading jobs, and never stale after a write."""

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
    """The change mark of the database, set by the test."""
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
def test_a_second_refresh_without_changes_reads_no_jobs(viewer: Browser, mark: list[int], url: str) -> None:
    make_job("dead", id="job1")
    make_worker()
    etag = viewer.get(url, partial=True).headers["ETag"]
    assert poll(viewer, url, etag).status_code == 304
    with statements_about_jobs() as seen:
        again = poll(viewer, url, etag)
    assert (again.status_code, again.data, again.headers["ETag"]) == (304, b"", etag)
    assert seen == []


def test_a_write_is_shown_at_once(viewer: Browser, mark: list[int]) -> None:
    make_job("pending", id="job1")
    etag = viewer.get("/jobs", partial=True).headers["ETag"]
    poll(viewer, "/jobs", etag)
    make_job("pending", id="job2")
    mark[0] += 1
    changed = poll(viewer, "/jobs", etag)
    assert changed.status_code == 200
    assert b"job2" in changed.data
    assert poll(viewer, "/jobs", etag).status_code == 200  # for a tab that still shows the old page


def test_a_change_by_time_alone_is_shown_when_the_entry_expires(
    viewer: Browser, mark: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_job("pending", id="job1")
    etag = viewer.get("/jobs", partial=True).headers["ETag"]
    poll(viewer, "/jobs", etag)
    with writing() as session:
        session.execute(update(Job).values(command="another"))  # stands for a change by time: the mark stays the same
    assert poll(viewer, "/jobs", etag).status_code == 304
    monkeypatch.setattr(htmx, "ENTRY_LIFE_SECONDS", -1.0)
    assert poll(viewer, "/jobs", etag).status_code == 200


def test_roles_share_no_entry_and_a_client_without_session_gets_none(
    console: Flask, viewer: Browser, operator: Browser, anonymous: Browser, mark: list[int]
) -> None:
    make_job("dead", id="job1")
    etag = viewer.get("/jobs", partial=True).headers["ETag"]
    poll(viewer, "/jobs", etag)
    assert poll(operator, "/jobs", etag).status_code == 200
    assert poll(anonymous, "/jobs", etag).status_code == 401


def test_without_a_change_mark_every_refresh_reads_the_database(
    viewer: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "change_mark", lambda: None)
    make_job("dead", id="job1")
    etag = viewer.get("/jobs", partial=True).headers["ETag"]
    for _ in range(2):
        with statements_about_jobs() as seen:
            assert poll(viewer, "/jobs", etag).status_code == 304
        assert seen


@pytest.mark.parametrize("encoding", ["gzip", "br", "zstd", "identity"])
def test_responses_are_compressed_as_requested_and_keep_their_etag(viewer: Browser, encoding: str) -> None:
    for number in range(30):
        make_job("dead", id=f"job{number}")
    page = viewer.client.get("/jobs", headers={"Accept-Encoding": encoding})
    assert page.headers.get("Content-Encoding", "identity") == encoding
    assert "Accept-Encoding" in page.headers["Vary"]
    headers = {"Accept-Encoding": encoding, "HX-Request": "true", "HX-Request-Type": "partial"}
    first = viewer.client.get("/jobs", headers=headers)
    again = viewer.client.get("/jobs", headers={**headers, "If-None-Match": first.headers["ETag"]})
    assert again.status_code == 304


def test_a_first_load_and_a_refresh_stay_small(viewer: Browser) -> None:
    """At most 100,000 bytes for a page with its files, and 15,000 bytes for the largest region."""
    for number in range(60):
        make_job("failed", command=f"import-orders --since {number} " + "x" * 60, last_error=f"exit code {number}")
    accept = {"Accept-Encoding": "gzip, deflate"}  # what browsers accept without HTTPS
    page = viewer.client.get("/jobs", headers=accept)
    total = len(page.data)
    for name in ("app.css", "app.js", "htmx.min.js", "icons.svg", "icon.svg", "ansi.css"):
        total += len(viewer.client.get(f"/static/{name}", headers=accept).data)
    assert total < 100_000
    for url in ("/", "/jobs", "/jobs?state=failed", "/queues"):
        region = viewer.client.get(url, headers={**accept, "HX-Request": "true", "HX-Request-Type": "partial"})
        assert len(region.data) < 15_000, url
