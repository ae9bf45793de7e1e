"""The overview: attention list, charts with text, percentiles, commands; and it does not change without a reason."""

from __future__ import annotations

import re
from html import unescape

import pytest

from tests.console.conftest import Browser
from tests.factories import make_attempt, make_event, make_job, make_queue, make_supervisor, make_worker
from webapp.core import db_errors
from webapp.core.events import SHORT
from webapp.db.engines import writing
from webapp.db.models import CommandHour, RetentionMark
from webapp.insight import rollups, size_limit, trends
from webapp.insight.rollups import HOUR, MINUTE
from webapp.jobs import settings
from webapp.lib import clock

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
    assert needs(viewer) == ["disk", "workers", "overdue-failed", "overdue-scheduled", "dead", "paused"]
    shown = text_of(viewer)
    assert "The disk is full Less than 100 MiB is free" in shown
    assert "No workers running Jobs start when a worker is started. python3 manage.py worker start" in shown
    assert "Queue mail is paused" in shown
    monkeypatch.setattr(db_errors, "NO_SPACE", 0)
    assert "The disk is nearly full" in text_of(viewer)


def test_a_queue_without_a_worker_is_shown_with_the_command_that_starts_one(viewer: Browser) -> None:
    make_worker(queues='["default"]')
    make_job("pending", queue="gpu")
    shown = text_of(viewer)
    assert "No worker serves queue gpu 1 pending." in shown
    assert "python3 manage.py worker start --queue gpu" in shown


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
    assert "No worker serves queues a, b, c \N{HORIZONTAL ELLIPSIS} 4 pending." in shown


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
    assert "1 worker runs fewer jobs than asked for" in shown
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
        r"slow : running for .*?; usually takes about 30 s late : running for .*?, past its timeout", shown
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
    shown = text_of(viewer)
    assert "The last hour: 6 completed, at most 6 per minute." in shown
    assert "The last hour: 1 failed, 1 job gave up, at most 1 per minute." in shown
    assert re.search(r"Run 100 ms 4\.?\d* s 4\.?\d* s", shown)
    assert re.search(r"send-invoice N 6 100 ms", shown)
    assert "charge-card N 1 100 %" in shown
    html = viewer.get("/?over=24h").get_data(as_text=True)
    assert 'aria-current="page">24 hours' in html
    assert "7 completed, at most 6 per 30 minutes" in text_of(viewer, "/?over=24h")
    assert '/jobs?q=%22send-invoice%22"' in html
    assert 'style="' not in html
    found = viewer.get("/jobs?q=%22report.sh%22").get_data(as_text=True)
    assert "/opt/x/report.sh" in found


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
    assert re.search(r"mail active 24 0 .*? 12 2 min 1 worker : web-1 3 of 3 slots free Pause", shown)
    operator.post("/queue/mail/pause")
    assert re.search(r"mail paused by the-operator, .*? 24 0 .*? 12 \N{EN DASH} 1 worker", text_of(operator, "/queues"))
