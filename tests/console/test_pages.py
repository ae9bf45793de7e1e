"""Every page, empty and full, as a whole page and as the fragment that refreshes it."""

from __future__ import annotations

from typing import Callable

import pytest

from tests.console.conftest import Browser
from tests.factories import make_attempt, make_job, make_worker
from webapp.core.states import STATES
from webapp.lib import clock

LISTS = ["/", "/jobs", *[f"/jobs?state={state}" for state in STATES], "/dead", "/workers", "/queues", "/config"]
ADMINS_LISTS = ["/people", "/tokens", "/tokens?ended=1"]
ADMINS = ["/people/new", "/person/the-admin", "/tokens/new", "/audit", "/audit?actor=nobody"]
OTHERS = ["/submit", "/account", "/config/backoff_base", "/config/keep_dead", "/config/lease"]


def fill() -> None:
    make_worker()
    for state in STATES:
        job = make_job(state, id=f"{state}1", command=f"echo {state}")
        if state in {"failed", "dead", "completed"}:
            make_attempt(job, 1, "completed" if state == "completed" else "failed", output=b"hello\n")


@pytest.mark.every_python
@pytest.mark.parametrize("role", ["viewer", "admin"])
def test_every_page_opens_on_an_empty_queue(sign_in: Callable[[str], Browser], role: str) -> None:
    browser = sign_in(role)
    refused = {"/submit", *ADMINS_LISTS, *ADMINS} if role == "viewer" else set()
    for url in LISTS + OTHERS + ADMINS_LISTS + ADMINS:
        assert (url, browser.get(url).status_code) == (url, 403 if url in refused else 200)


@pytest.mark.postgresql
def test_every_page_opens_on_a_full_queue(admin: Browser) -> None:
    fill()
    for url in LISTS + OTHERS + ADMINS_LISTS + ADMINS + [f"/job/{state}1" for state in STATES]:
        assert (url, admin.get(url).status_code) == (url, 200)


def test_a_fragment_is_not_a_whole_page_and_an_unchanged_one_is_a_304(
    admin: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = clock.now()
    monkeypatch.setattr(clock, "now", lambda: now)  # recent figures change with time
    fill()
    for url in [*LISTS, *ADMINS_LISTS, "/job/dead1", "/job/processing1"]:
        first = admin.get(url, partial=True)
        assert (url, first.status_code) == (url, 200)
        text = first.get_data(as_text=True)
        assert "<html" not in text, url
        assert "csrf_token" not in text, url
        again = admin.get(url, partial=True, headers={"If-None-Match": first.headers["ETag"]})
        assert (url, again.status_code, again.data) == (url, 304, b"")
        make_job("dead")  # this changes the badge in the navigation of every page
        changed = admin.get(url, partial=True, headers={"If-None-Match": first.headers["ETag"]})
        assert (url, changed.status_code) == (url, 200)


def test_the_overview_shows_what_workers_run_and_links_to_lists_with_jobs_only(admin: Browser) -> None:
    make_worker(id="w1")
    make_job("processing", id="job1", worker_id="w1", command="make-report")
    make_job("dead", id="job2")
    text = admin.get("/").get_data(as_text=True)
    assert "make-report" in text
    assert "All dead letters" in text
    assert "Retrying" not in text
