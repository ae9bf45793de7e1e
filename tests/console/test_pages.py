"""Every page, empty and full, whole and as the fragment that refreshes it."""

from __future__ import annotations

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
@pytest.mark.parametrize("url", LISTS + OTHERS + ADMINS_LISTS + ADMINS)
@pytest.mark.parametrize("role", ["viewer", "admin"])
def test_a_page_opens_on_an_empty_queue(sign_in, url: str, role: str) -> None:  # type: ignore[no-untyped-def]
    response = sign_in(role).get(url)
    refused = role == "viewer" and url in {"/submit", *ADMINS_LISTS, *ADMINS}
    assert response.status_code == (403 if refused else 200)


@pytest.mark.postgresql
@pytest.mark.parametrize("url", LISTS + OTHERS + ADMINS_LISTS + ADMINS + [f"/job/{state}1" for state in STATES])
def test_a_page_opens_on_a_full_queue(admin: Browser, url: str) -> None:
    fill()
    assert admin.get(url).status_code == 200


@pytest.mark.parametrize("url", [*LISTS, *ADMINS_LISTS, "/job/dead1", "/job/processing1"])
def test_a_fragment_is_no_page_and_an_unchanged_one_is_a_304(
    admin: Browser, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = clock.now()
    monkeypatch.setattr(clock, "now", lambda: now)  # what is told of lately changes by itself, if seldom
    fill()
    first = admin.get(url, partial=True)
    assert first.status_code == 200
    text = first.get_data(as_text=True)
    assert "<html" not in text
    assert "csrf_token" not in text
    again = admin.get(url, partial=True, headers={"If-None-Match": first.headers["ETag"]})
    assert (again.status_code, again.data) == (304, b"")
    make_job("dead")  # the badge in the nav changes with it, on every page
    assert admin.get(url, partial=True, headers={"If-None-Match": first.headers["ETag"]}).status_code == 200


def test_the_overview_says_what_each_worker_runs_and_links_only_to_lists_that_hold_something(admin: Browser) -> None:
    make_worker(id="w1")
    make_job("processing", id="job1", worker_id="w1", command="make-report")
    make_job("dead", id="job2")
    text = admin.get("/").get_data(as_text=True)
    assert "make-report" in text
    assert "All dead letters" in text
    assert "Retrying" not in text
