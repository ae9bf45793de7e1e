"""The pages of a command and of a queue, and the list of queues: what they show, and what they refuse."""

from __future__ import annotations

import re
from html import unescape
from typing import Optional

import pytest
from sqlalchemy import insert

from tests.console.conftest import Browser
from tests.factories import make_attempt, make_job, make_queue, make_worker
from webapp.db.engines import writing
from webapp.db.models import Queue
from webapp.jobs import queue_actions
from webapp.jobs.flow import limits
from webapp.lib import clock
from webapp.lib.clock import HOUR, MINUTE

SECOND = clock.SECOND


def text_of(browser: Browser, url: str) -> str:
    html = browser.get(url).get_data(as_text=True)
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", html)).split())


def ended(command: str, state: str = "completed", ago: int = 5 * MINUTE, took: int = SECOND, **values: object) -> None:
    at = clock.now() - ago
    job = make_job("dead" if state == "failed" else "completed", command=command, finished_at=at, **values)
    make_attempt(job, 1, state, started_at=at - took, finished_at=at, due_at=at - 2 * took, error="exit code 1: boom")


# --- commands ---


@pytest.mark.parametrize("command", ["curl https://api.example.com//v1/7?a=b", "printf 'ü %s' 7", "a/b/c --x 9"])
def test_the_overview_leads_to_the_page_of_a_command(viewer: Browser, command: str) -> None:
    ended(command)
    found = re.search(r'href="(/command/[^"]*)"', viewer.get("/").get_data(as_text=True))
    assert found is not None
    response = viewer.get(unescape(found[1]))
    assert response.status_code == 200
    assert "1 run completed, 0 failed" in response.get_data(as_text=True)


def test_a_command_shows_its_usual_time_failure_rate_scatter_and_last_failures(viewer: Browser) -> None:
    for number in range(3):
        ended(f"make-report {number}", took=2 * SECOND, ago=(number + 1) * HOUR)
    ended("make-report 9", "failed", took=9 * SECOND, id="job9")
    html, shown = (
        viewer.get("/command/make-report%20N").get_data(as_text=True),
        text_of(viewer, "/command/make-report%20N"),
    )
    assert re.search(r"4 runs 25 % failed 2 s usual time, p50 9 s p95", shown)
    assert html.count('class="dot-of"') == 4
    assert '<circle class="failed"' in html
    assert "exit code 1: boom job9" in shown
    assert 'style="' not in html


def test_a_command_without_runs_has_a_page_and_a_wrong_window_is_explained(viewer: Browser) -> None:
    assert "No runs ended in this time." in text_of(viewer, "/command/never-seen")
    assert viewer.get("/command/%E2%80%A6").status_code == 404
    assert viewer.get(f"/command/{'x' * 500}").status_code == 404
    response = viewer.get("/command/true?from=never")
    assert response.status_code == 422
    assert "From: 'never' is not a time" in unescape(response.get_data(as_text=True))
    assert viewer.get("/command/true?over=1h").status_code == 404


# --- queues ---


def test_the_list_has_problems_first_and_sorts_by_its_headers(viewer: Browser) -> None:
    make_worker()
    make_job(queue="a")
    make_queue("z", paused_by="person:ana")
    for url, order in (
        ("/queues", ["z", "a", "default"]),
        ("/queues?sort=name", ["a", "default", "z"]),
        ("/queues?sort=pending", ["a", "default", "z"]),
    ):
        html = viewer.get(url).get_data(as_text=True)
        assert re.findall(r'id="queue-(\w+)"', html) == order
    assert 'aria-sort="descending"><a class="sort-by" href="/queues">Pending' in html
    for wrong in ("sort=size", "show=all"):
        assert viewer.get(f"/queues?{wrong}").status_code == 404
    assert viewer.get("/queues?page=x").status_code == 400
    assert "past the end" in text_of(viewer, "/queues?page=9")


def test_very_many_queues_are_shown_in_pages_in_each_order(viewer: Browser) -> None:
    make_worker()
    with writing() as session:
        session.execute(insert(Queue), [{"name": f"q{number:04}"} for number in range(120)])
    for url in ("/queues", "/queues?sort=name"):
        seen: list[str] = []
        following: Optional[str] = url
        while following:
            html = viewer.get(following).get_data(as_text=True)
            seen += re.findall(r'id="queue-(\w+)"', html)
            found = re.search(r'rel="next" href="([^"]*)"', html)
            following = unescape(found[1]) if found else None
        assert seen == ["default"] + [f"q{number:04}" for number in range(120)]


def test_a_queue_has_a_page_with_figures_chart_causes_and_workers(operator: Browser) -> None:
    make_worker(id="web-1", queues='["mail"]')
    make_worker(id="web-2", queues='["other"]')
    ended("send 1", queue="mail")
    ended("send 2", "failed", queue="mail", last_error="declined")
    ended("unlike", "failed", queue="other", last_error="another cause")
    make_job(queue="mail", run_at=clock.now() - HOUR)
    shown = text_of(operator, "/queue/mail")
    assert re.search(r"1 pending oldest .* 0 running .* 1 failed in 24 h", shown)
    assert re.search(r"1 completed 1 failed .*Wait p50 1 s", shown)
    assert "declined send 2" in shown
    assert "another cause" not in shown
    assert "web-1" in shown
    assert "web-2" not in shown
    operator.post("/queue/mail/pause")
    shown = text_of(operator, "/queue/mail?over=24h&metric=run")
    assert "paused by the-operator" in shown
    assert "the-operator paused queue mail" in shown
    assert operator.get("/queue/gone").status_code == 404
    assert operator.get("/queue/mail?from=never").status_code == 422


def test_a_queue_that_is_removed_on_its_page_leads_to_the_list(operator: Browser) -> None:
    make_queue("empty")
    data = {"confirmed": "1", "back": "/queue/empty"}
    response = operator.post("/queue/empty/remove", data)
    assert response.status_code == 303
    assert response.headers["Location"] == "/queues"


def test_the_page_of_a_queue_leads_to_its_limit_and_retry_rules_also_without_any(
    admin: Browser, viewer: Browser
) -> None:
    make_job("pending", queue="mail")
    page = admin.get("/queue/mail").get_data(as_text=True)
    assert 'href="/limits/new?queue=mail">Set limit</a>' in page
    assert 'from settings <a href="/queue/mail/retry">Retry rules</a>' in page
    assert "Set limit" not in viewer.get("/queue/mail").get_data(as_text=True)
    limits.set_limit("queue:*", 5, None, None, "person:ana")
    page = admin.get("/queue/mail").get_data(as_text=True)
    assert 'at most 5 at a time by <span class="mono">queue:*</span> <a href="/limits/new?queue=mail">' in page
    limits.set_limit("queue:mail", 2, "10/min", None, "person:ana")
    queue_actions.set_retry_rules("mail", queue_actions.read_rules("exit 75: wait\nany: bury"), "person:ana")
    page = admin.get("/queue/mail").get_data(as_text=True)
    assert 'at most 2 at a time, 10 starts per minute <a href="/limits/queue:mail/edit">Edit limit</a>' in page
    assert '<span class="mono">exit 75: wait</span> and 1 more' in page
