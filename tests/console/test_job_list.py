"""The list of jobs: tabs, filters, pages, wait reasons, times, escaping."""

from __future__ import annotations

import re

import pytest

from tests.console.conftest import Browser
from tests.factories import change_job, make_job, make_queue, make_worker
from webapp.core import job_spec
from webapp.jobs import actions
from webapp.jobs.flow import limits
from webapp.lib import clock


def ids(browser: Browser, url: str) -> list[str]:
    return re.findall(r'<span class="id">([^<]+)</span>', browser.get(url).get_data(as_text=True).split("<main")[1])


def test_pages_cover_all_jobs_in_both_directions_without_a_gap(operator: Browser) -> None:
    for number in range(120):
        make_job("completed", id=f"job{number:03}", finished_at=clock.now() + number)
    wanted = [f"job{number:03}" for number in reversed(range(120))]
    url, seen, pages = "/jobs?state=completed", [], []
    while url:
        pages.append(ids(operator, url))
        seen += pages[-1]
        text = operator.get(url).get_data(as_text=True)
        older = re.search(r'rel="next" href="([^"]+)"', text)
        newer = re.search(r'rel="prev" href="([^"]+)"', text)
        if len(pages) > 1:
            assert newer is not None
            assert ids(operator, newer[1].replace("&amp;", "&")) == pages[-2]
        url = older[1].replace("&amp;", "&") if older else ""
    assert seen == wanted
    assert [len(page) for page in pages] == [50, 50, 20]


def test_a_search_finds_ids_and_commands_and_stays_in_the_links(operator: Browser) -> None:
    make_job("dead", id="alpha", command="true")
    make_job("dead", id="beta", command="echo ALPHA", queue="mail")
    make_job("dead", id="gamma", command="true")
    assert ids(operator, "/jobs?q=alpha") == ["beta", "alpha"]
    assert ids(operator, "/jobs?q=alpha&queue=mail") == ["beta"]
    text = operator.get("/jobs?q=alpha&queue=mail").get_data(as_text=True)
    assert 'href="/jobs?state=dead&amp;queue=mail&amp;q=alpha"' in text
    assert b"No matches" in operator.get("/jobs?q=nothing").data


@pytest.mark.parametrize(
    "url",
    ["/jobs?state=gone", "/jobs?after=x", "/jobs?after=1,2,3", "/dead?page=0", "/dead?page=1e9", "/dead?sort=x",
     "/dead/exit:1?after=x"],
)  # fmt: skip
def test_an_invalid_url_is_refused(operator: Browser, url: str) -> None:
    assert operator.get(url).status_code in {400, 404}


def why(browser: Browser, job_id: str) -> str:
    text = browser.get(f"/job/{job_id}").get_data(as_text=True)
    found = re.search(r'<div class="why-box.*?<p>(.*?)</p>', text, re.DOTALL)
    assert found is not None
    return re.sub(r"<[^>]+>", "", found[1])


def test_a_pending_job_shows_why_it_waits(operator: Browser) -> None:
    make_job("pending", id="job1", queue="mail")
    assert "No workers running" in why(operator, "job1")
    make_worker(id="w1", queues='["other"]', slots=2)
    assert "1 worker running, but none serves queue mail" in why(operator, "job1")
    make_worker(id="w2", requested_state="quiet", queues='["mail"]')
    assert "All workers that serve mail are draining" in why(operator, "job1")
    make_worker(id="w3")
    assert why(operator, "job1") == "Next in line."
    make_job("pending", id="urgent", queue="mail", priority=5)
    make_job("pending", id="older", queue="mail", run_at=clock.now() - clock.seconds(60))
    make_job("pending", id="later", queue="mail", run_at=clock.now() + 1)
    assert why(operator, "job1") == "2 jobs ahead in queue mail."
    make_queue("mail", paused_by="person:ana")
    assert "Queue mail was paused by ana" in why(operator, "job1")
    assert b'formaction="/queue/mail/resume"' in operator.get("/job/job1").data


def test_the_list_shows_the_limit_or_the_parent_that_a_job_waits_for(operator: Browser) -> None:
    make_worker(id="w1")
    limits.set_limit("db", 1, None, None, "person:ana")
    for job in ({"id": "holder"}, {"id": "held", "limits": "db"}, {"id": "child", "after": ["holder"]}):
        actions.enqueue([job_spec.parse({"command": "true", **job})], "person:ana")
    change_job("holder", state="processing", limits="db", worker_id="w1", token="t", started_at=clock.now())
    assert "waits: </span>limit db full</span>" in operator.get("/jobs?state=pending").get_data(as_text=True)
    assert "waits: </span>after holder</span>" in operator.get("/jobs?state=blocked").get_data(as_text=True)
    assert operator.get("/jobs").get_data(as_text=True).count("waits: ") == 2


def test_a_failed_job_shows_its_next_retry_and_what_follows(operator: Browser) -> None:
    make_job("failed", id="first", failures=1, max_retries=2)
    make_job("failed", id="last", failures=2, max_retries=2)
    assert "1 of 3 attempts failed; next retry" in why(operator, "first")
    assert "After that, 1 retry left." in why(operator, "first")
    assert "If it fails again, it becomes a dead letter." in why(operator, "last")


def test_a_time_in_another_year_shows_the_year(operator: Browser) -> None:
    make_job("scheduled", id="job1", run_at=clock.parse_iso("2099-03-01T06:00:00Z"))
    assert b">1 Mar 2099 06:00 UTC<" in operator.get("/jobs?state=scheduled").data


def test_times_are_shown_in_the_users_time_zone_with_its_name(operator: Browser) -> None:
    at = clock.parse_iso("2026-07-01T12:00:00Z")
    make_job("pending", id="job1", created_at=at)
    operator.client.set_cookie("tz", "Europe/Berlin")
    assert b"1 Jul 2026, 14:00:00 CEST" in operator.get("/job/job1").data
    for nonsense in ("../../etc/passwd", "Europe", "x" * 500):
        operator.client.set_cookie("tz", nonsense)
        assert b"1 Jul 2026, 12:00:00 UTC" in operator.get("/job/job1").data


def test_user_text_is_escaped(operator: Browser) -> None:
    hostile = "<img src=x onerror=alert(1)>\u202egpj.exe\x1b[31m{{ 7*7 }}' hx-get=/x \""
    make_job("dead", id="job1", command=hostile, last_error=hostile, cwd="/" + hostile, env='{"A": "<b>"}')
    for url in ("/", "/jobs", "/dead", "/dead/exit:1", "/jobs?q=img", "/job/job1", "/submit?from=job1"):
        text = operator.get(url).get_data(as_text=True)
        assert "<img src=x" not in text
        assert "{{ 7*7 }}" in text
        if "submit" not in url:
            assert "\u202e" not in text
            assert "\u2039U+202E\u203a" in text
            assert "\u241b[31m" in text
