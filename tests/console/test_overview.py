"""The overview: attention list, charts with text, percentiles, commands; and it does not change without a reason."""

from __future__ import annotations

import re
from html import unescape
from typing import Any
from urllib.parse import quote_plus

import pytest
from sqlalchemy import update

from tests.console.conftest import Browser
from tests.factories import make_attempt, make_event, make_job, make_queue, make_supervisor, make_worker
from webapp.core.events import SHORT
from webapp.core.storage import db_errors
from webapp.db.engines import writing
from webapp.db.models import CommandHour, Event, RetentionMark
from webapp.insight import failure_groups, rollups, size_limit, trends
from webapp.jobs import settings
from webapp.lib import clock
from webapp.lib.clock import HOUR, MINUTE

SECOND = clock.SECOND


@pytest.fixture
def frozen_clock(monkeypatch: pytest.MonkeyPatch) -> int:
    """Stop the clock 50 seconds into a minute."""
    now = clock.now() // MINUTE * MINUTE + 50 * SECOND
    monkeypatch.setattr(clock, "now", lambda: now)
    return now


def text_of(browser: Browser, url: str = "/") -> str:
    html = browser.get(url, partial=True).get_data(as_text=True)
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", html)).split())


def ended(command: str, state: str, ago: int, took: int = SECOND, queue: str = "default") -> None:
    at = clock.now() - ago
    job = make_job("completed" if state == "completed" else "dead", command=command, queue=queue, finished_at=at)
    make_attempt(job, 1, state, started_at=at - took, finished_at=at, due_at=at - 2 * took)


def needs(browser: Browser) -> list[str]:
    return re.findall(r'id="need-([a-z-]+)"', browser.get("/", partial=True).get_data(as_text=True))


def test_an_idle_queue_with_a_worker_needs_no_attention(viewer: Browser) -> None:
    make_worker()
    make_queue("default")
    assert needs(viewer) == []


def test_problems_are_sorted_by_severity_and_show_a_remedy(viewer: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    make_job("dead")
    make_job("failed", run_at=clock.now() - HOUR)
    make_job("scheduled", run_at=clock.now() - HOUR)
    make_queue("mail", paused_by="person:ana")
    monkeypatch.setattr(db_errors, "LITTLE_SPACE", 2**62)
    monkeypatch.setattr(db_errors, "NO_SPACE", 2**61)
    assert needs(viewer) == ["disk", "workers", "overdue-failed", "overdue-scheduled", "paused"]
    shown = text_of(viewer)
    assert "The disk is full Less than 100 MiB is free" in shown
    assert "No workers running python3 manage.py worker start Jobs start when a worker is started." in shown
    assert "Queue mail is paused" in shown
    monkeypatch.setattr(db_errors, "NO_SPACE", 0)
    assert "The disk is nearly full" in text_of(viewer)


def test_a_queue_without_a_worker_is_shown_with_the_command_that_starts_one(viewer: Browser) -> None:
    make_worker(queues='["default"]')
    make_job("pending", queue="gpu")
    shown = text_of(viewer)
    assert "No worker serves queue gpu python3 manage.py worker start --queue gpu 1 pending." in shown


def test_silent_workers_a_large_log_and_many_unserved_queues_are_shown(
    viewer: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(db_errors, "large_log", lambda _: 300 * 1024**2)
    make_worker(queues='["default"]')
    make_worker(id="gone", seen_at=clock.now() - HOUR)
    for name in ("a", "b", "c", "d"):
        make_job("pending", queue=name)
    assert needs(viewer) == ["log", "silent", "unserved"]
    shown = text_of(viewer)
    assert "The database log has grown to 300 MiB" in shown
    assert "1 worker is not responding" in shown
    assert "No worker serves queues a, b, c \N{HORIZONTAL ELLIPSIS} " in shown
    assert "4 pending." in shown


def test_a_database_that_cannot_shrink_to_its_limit_is_shown(viewer: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(size_limit, "used", lambda _: 5 * 1024**2)
    settings.set_setting("max_database_size", 4, "person:ana")
    make_worker()
    make_job("dead")
    assert "size" not in needs(viewer)  # retention may have something to delete
    with writing() as session:
        session.add(RetentionMark(name=size_limit.STUCK, finished_at=1))
    shown = text_of(viewer)
    assert "The database is larger than its limit" in shown
    assert "1 dead letter, 0 unfinished jobs and the records of the queue" in shown


def test_workers_short_of_resources_are_shown_with_the_reason(viewer: Browser) -> None:
    make_supervisor(id="s1", slots=40)
    make_worker(id="w1", supervisor_id="s1", slots=12)
    make_worker(id="w2", supervisor_id="s1", slots=40)
    make_event(SHORT, "worker:w1", "worker:w1", text="runs at most 12 of 40 jobs at a time: no memory is left")
    assert needs(viewer) == ["short"]
    shown = text_of(viewer)
    assert "1 worker runs fewer jobs than configured" in shown
    assert "Worker w1 on a-host runs at most 12 of 40 jobs at a time: no memory is left" in shown
    assert "no memory is left" in viewer.get("/workers").get_data(as_text=True)


def test_stuck_jobs_are_shown_with_the_reason(viewer: Browser) -> None:
    now = clock.now()
    with writing() as session:
        hour = now // HOUR * HOUR
        session.add(CommandHour(at=hour, shape="sync N", runs=9, failures=0, run_time=9 * 30 * SECOND))
        session.add(CommandHour(at=hour, shape="rare", runs=2, failures=0, run_time=2))
    make_worker(id="w1", slots=9)
    make_worker(id="gone", seen_at=now - HOUR)

    def runs(id_: str, command: str, minutes: int, worker: str = "w1", **values: object) -> None:
        make_job("processing", id=id_, command=command, started_at=now - minutes * MINUTE, worker_id=worker, **values)

    runs("usual", "sync 1", 4)
    runs("unknown", "never seen", 600)
    runs("seldom", "rare", 600)
    assert "stuck" not in needs(viewer)
    runs("slow", "sync 2", 30)
    runs("late", "true", 10, timeout=30)
    runs("deaf", "true", 8, cancel_requested_at=now - 5 * MINUTE, cancel_requested_by="person:ana")
    shown = text_of(viewer)
    assert "3 jobs seem stuck" in shown
    assert re.search(
        r"slow : running since .*?; usually takes about 30 s late : running since .*?, past its timeout", shown
    )
    assert re.search(r"deaf : cancel requested .*?, but still running", shown)
    runs("orphan", "true", 1, worker="gone")
    assert "4 jobs seem stuck" in text_of(viewer)


@pytest.mark.usefixtures("frozen_clock")
@pytest.mark.parametrize("fold", [False, True])
def test_charts_figures_and_commands_show_finished_attempts(viewer: Browser, fold: bool) -> None:
    make_worker()
    for number in range(6):
        ended(f"send-invoice {number}", "completed", 10 * MINUTE, 100_000)
    ended("charge-card 1", "failed", 5 * MINUTE, 4 * SECOND)
    ended("/opt/x/report.sh", "completed", 20 * HOUR)
    while fold and rollups.fold():
        pass
    html, shown = viewer.get("/").get_data(as_text=True), text_of(viewer)
    assert "6 runs completed, 1 failed, 1 job gave up, at most 6 runs per minute." in html
    assert re.search(r"Run p50 100 ms p95 4\.?\d* s p99 4\.?\d* s", shown)
    assert "send-invoice N 6 0 100 ms" in shown
    assert "charge-card N 1 100 % 4 s" in shown
    html = viewer.get("/?over=24h").get_data(as_text=True)
    assert 'aria-current="true">24 hours' in html
    assert re.search("7 runs completed, 1 failed, 1 job gave up, at most [67] runs per 30 min", html)
    assert '/command/send-invoice%20N"' in html
    assert 'style="' not in html


@pytest.mark.usefixtures("frozen_clock")
def test_a_bar_says_what_it_shows_and_leads_to_its_jobs(viewer: Browser) -> None:
    ended("true", "completed", 5 * MINUTE)
    start = (clock.now() - 5 * MINUTE) // MINUTE * MINUTE
    moment = f"{clock.to_datetime(start):%Y-%m-%dT%H:%M:%SZ}"
    [(url, said)] = re.findall(
        r'<a class="step" href="([^"]*)"[^>]*><title>([^<]*)', viewer.get("/").get_data(as_text=True)
    )
    assert unescape(url).startswith("/jobs?q=" + quote_plus(f"since:{moment}"))
    assert said == f"{clock.to_datetime(start):%H:%M}: 1 completed, 0 failed, 0 gave up"
    assert viewer.get(unescape(url)).status_code == 200


@pytest.mark.usefixtures("frozen_clock")
def test_the_chart_shows_waits_and_runs_in_total_and_by_queue(viewer: Browser) -> None:
    for number in range(3):
        ended("slow", "completed", 5 * MINUTE, 10 * SECOND, queue="mail")
        ended("fast", "completed", 5 * MINUTE, SECOND, queue=f"other-{number}")
    assert "Wait: p50 1 s, p95 9.9 s, p99 9.9 s." in viewer.get("/?metric=wait").get_data(as_text=True)
    assert "Run: p50 1 s, p95 9.9 s, p99 9.9 s." in viewer.get("/?metric=run").get_data(as_text=True)
    html = viewer.get("/?split=1").get_data(as_text=True)
    assert "mail 3 runs, other-0 1 run, other-1 1 run, other-2 1 run." in html
    html = viewer.get("/?metric=run&split=1").get_data(as_text=True)
    assert "Run, p95: mail 9.9 s, other-0 1 s, other-1 1 s, other-2 1 s." in html
    assert viewer.get("/?metric=speed").status_code == 404


@pytest.mark.usefixtures("frozen_clock")
def test_a_window_holds_for_the_whole_page_and_marks_what_people_changed(viewer: Browser) -> None:
    now = clock.now()
    ended("true", "completed", 5 * MINUTE)
    for number, ago in enumerate((5 * HOUR, 10 * MINUTE)):
        job = make_job("dead", finished_at=now - ago, error_key=f"e{number}", last_error=f"cause {number}")
        make_attempt(job, 1, "failed", started_at=now - ago, finished_at=now - ago)
    ended("old-command", "completed", 5 * HOUR)
    make_event("pause", "person:ana", "queue:mail")
    detail: dict[str, Any] = {"from": 2, "to": 3}
    make_event("config", "token:deploy", "setting:backoff_base", **detail)
    make_event("start", "worker:w1", "worker:w1")
    with writing() as session:
        session.execute(update(Event).values(at=now - 5 * HOUR))
    start, end = (clock.to_iso(now - ago) for ago in (6 * HOUR, 4 * HOUR))
    response = viewer.get(f"/?from={start}&to={end}")
    assert response.status_code == 200
    html = response.get_data(as_text=True)
    shown = " ".join(unescape(re.sub(r"<[^>]*>", " ", html)).split())
    assert "1 run completed, 1 failed" in html
    assert "cause 0" in shown
    assert "cause 1" not in shown
    assert "old-command 1" in shown
    assert "ana paused queue mail" in shown
    assert "token deploy set backoff_base from 2 to 3" in shown
    assert html.count('class="marker"') == 2
    # The links keep the window, the ranges leave it.
    assert re.search(r'href="/\?from=[^"]*&amp;to=[^"]*&amp;metric=wait"', html)
    assert 'href="/?over=24h"' in html
    shown = text_of(viewer)
    assert "paused queue mail" not in shown
    assert "cause 1" in shown


@pytest.mark.parametrize(
    ("query", "problem"),
    [
        ("from=never", "From: 'never' is not a time"),
        ("from=2026-11-24T05:00Z&to=2026-11-24T04:00Z", "To: must be later than from."),
        ("from=2020-01-01T00:00Z", "From: statistics are kept for 8 days."),
        ("from=2090-01-01T00:00Z&to=2090-01-02T00:00Z", "From: is in the future."),
    ],
)
def test_a_wrong_window_is_explained_at_the_form(viewer: Browser, query: str, problem: str) -> None:
    response = viewer.get(f"/?{query}")
    assert response.status_code == 422
    assert problem in unescape(response.get_data(as_text=True))


def test_the_top_failures_are_open_groups_with_the_most_deaths(viewer: Browser) -> None:
    for key, number in (("few", 1), ("many", 3), ("known", 5)):
        for _ in range(number):
            make_job("dead", error_key=key, last_error=f"the {key} error", finished_at=clock.now())
    failure_groups.update("known", "person:ana", acknowledged=True)
    shown = text_of(viewer)
    assert re.search(r"the many error echo hello \+3 3 the few error echo hello \+1 1", shown)
    assert "the known error" not in shown


def test_an_unknown_range_is_refused(viewer: Browser) -> None:
    assert viewer.get("/?over=9y").status_code == 404


def test_a_command_is_escaped(viewer: Browser) -> None:
    ended("<img src=x> '\"\u202e 1", "failed", MINUTE)
    html = viewer.get("/").get_data(as_text=True)
    assert "<img" not in html
    assert "\u202e" not in html


def test_delayed_charts_show_how_far_they_count(viewer: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trends, "MAX_UNFOLDED", 1)
    for minutes in (20, 18, 16):
        ended("true", "completed", minutes * MINUTE)
    assert "Counted up to" in text_of(viewer)


@pytest.mark.parametrize("url", ["/", "/?over=7d", "/queues"])
def test_without_finished_attempts_the_page_changes_only_with_the_minute(
    viewer: Browser, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = clock.now() // MINUTE * MINUTE + 5 * SECOND
    monkeypatch.setattr(clock, "now", lambda: start)
    make_worker(seen_at=start)
    make_job("pending", queue="mail")
    ended("true", "completed", 2 * MINUTE, queue="mail")
    first = viewer.get(url, partial=True)
    for later in (1, 3):
        monkeypatch.setattr(clock, "now", lambda later=later: start + later * SECOND)
        rollups.fold()
        again = viewer.get(url, partial=True, headers={"If-None-Match": first.headers["ETag"]})
        assert again.status_code == 304


def test_the_page_of_an_empty_queue_does_not_change_for_hours(viewer: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    first = viewer.get("/", partial=True)
    later = clock.now() + 3 * HOUR
    monkeypatch.setattr(clock, "now", lambda: later)
    again = viewer.get("/", partial=True, headers={"If-None-Match": first.headers["ETag"]})
    assert again.status_code == 304


@pytest.mark.usefixtures("frozen_clock")
def test_a_queue_shows_its_rate_drain_time_and_workers(operator: Browser) -> None:
    make_worker(id="web-1", queues='["mail"]', slots=3)
    for number in range(12):
        ended("true", "completed", 30 * SECOND + number, queue="mail")
    for _ in range(24):
        make_job("pending", queue="mail")
    make_job("pending", queue="gpu")
    shown = text_of(operator, "/queues")
    assert "gpu Start a worker: python3 manage.py worker start --queue gpu active 1 0" in shown
    assert re.search(
        r"mail active 24 0 .*? 12 runs/min 2 min 0 under 1 % 1 worker : web-1 3 of 3 slots free Pause", shown
    )
    operator.post("/queue/mail/pause")
    shown = text_of(operator, "/queues")
    assert re.search(
        r"mail paused by the-operator, .*? paused 24 0 .*? 12 runs/min \N{EN DASH} 0 under 1 % 1 worker", shown
    )
