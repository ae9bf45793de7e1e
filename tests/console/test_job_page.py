"""The page of one job: why it waits, its timeline, its attempts, and the card of the newest output."""

from __future__ import annotations

import re
from typing import Any, Optional

import pytest

from tests.console.conftest import Browser
from tests.factories import make_attempt, make_chunk, make_event, make_job, make_queue, make_worker
from webapp.console.display.wait_reason import about
from webapp.lib import clock


def seconds(number: float, since: Optional[int] = None) -> int:
    """A time that lies `number` seconds after now or after `since`, in microseconds."""
    return (clock.now() if since is None else since) + clock.seconds(number)


def wait_reason(browser: Browser, job_id: str = "job1") -> str:
    """The explanation on the job page, without markup."""
    text = browser.get(f"/job/{job_id}").get_data(as_text=True)
    found = re.search(r'<div class="why-box \w+">(.*?)</div>', text, re.DOTALL)
    assert found is not None
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", found[1])).strip()


def buttons(browser: Browser, job_id: str = "job1") -> list[str]:
    text = browser.get(f"/job/{job_id}").get_data(as_text=True)
    box = re.search(r'<div class="why-box \w+">(.*?)</div>', text, re.DOTALL)
    assert box is not None
    return re.findall(r'formaction="([^"]+)"', box[1])


def busy(**values: Any) -> None:
    make_worker(id="w1", seen_at=seconds(600), **values)


# --- why it waits ----------------------------------------------------------------------------------------------------


def test_without_workers_the_page_shows_the_command_that_starts_one(operator: Browser) -> None:
    make_job("pending", id="job1")
    assert "No workers running. python3 manage.py worker start" in wait_reason(operator)
    make_worker(id="w1", seen_at=seconds(600), queues='["mail"]')
    assert "1 worker running, but none serves queue default." in wait_reason(operator)
    assert "worker start --queue default" in wait_reason(operator)


def test_a_paused_queue_can_be_resumed_from_the_job_page_by_operators(operator: Browser, viewer: Browser) -> None:
    busy()
    make_queue("mail", paused_by="person:ben")
    make_job("pending", id="job1", queue="mail")
    assert wait_reason(operator).startswith("Queue mail was paused by ben")
    assert buttons(operator) == ["/queue/mail/resume"]
    assert buttons(viewer) == []


def test_draining_workers_can_be_resumed_by_admins(admin: Browser, operator: Browser) -> None:
    busy(requested_state="quiet")
    make_job("pending", id="job1")
    assert "All workers that serve default are draining" in wait_reason(operator)
    assert buttons(operator) == []
    assert buttons(admin) == ["/worker/w1/resume"]
    for number in range(2, 6):
        make_worker(id=f"w{number}", requested_state="quiet", seen_at=seconds(600))
    assert buttons(admin) == []  # with many workers, the workers page has their buttons
    assert "View workers" in wait_reason(admin)


def test_stopping_workers_cannot_be_resumed(admin: Browser) -> None:
    busy(requested_state="stop")
    make_job("pending", id="job1")
    assert "All workers that serve default are stopping." in wait_reason(admin)
    assert buttons(admin) == []


def test_the_page_shows_how_many_jobs_are_ahead_and_for_how_long(operator: Browser) -> None:
    busy()
    for _ in range(3):
        make_job("pending", queue="mail", run_at=seconds(-100))
    make_job("pending", id="job1", queue="mail")
    assert wait_reason(operator) == "3 jobs ahead in queue mail."  # no job has finished, so there is no estimate
    for _ in range(2):
        make_attempt(make_job("completed", queue="mail"), 1, "completed", finished_at=seconds(-30))
    assert re.fullmatch(r"3 jobs ahead in queue mail, about [123] min at the current rate\.", wait_reason(operator))


@pytest.mark.parametrize(
    ("time", "words"),
    [(3, "under a minute"), (59, "about 1 min"), (5399, "about 90 min"), (5401, "about 2 h"), (3600 * 30, "about 30 h"),
     (86400 * 5, "about 5 days"), (86400 * 365 * 30, "about 30 years")],
)  # fmt: skip
def test_an_estimate_is_shown_in_one_unit(time: float, words: str) -> None:
    assert about(time) == words


def test_the_next_job_in_line_is_marked_and_busy_workers_are_mentioned(operator: Browser) -> None:
    busy()
    make_job("pending", id="job1")
    assert wait_reason(operator) == "Next in line."
    make_job("processing", worker_id="w1")
    assert wait_reason(operator) == "Next in line; all its workers are busy."


def test_a_job_that_crashed_a_worker_waits_for_an_idle_one(operator: Browser) -> None:
    busy()
    make_job("pending", id="job1", losses=1)
    assert "it now waits for an idle one" in wait_reason(operator)


def test_a_retry_can_be_run_now_and_further_obstacles_are_shown(operator: Browser, viewer: Browser) -> None:
    busy()
    make_job("failed", id="job1", queue="mail", failures=2, max_retries=3)
    assert re.match(r"2 of 4 attempts failed; next retry .*\. After that, 1 retry left\.", wait_reason(operator))
    assert buttons(operator) == ["/job/job1/run-now"]
    assert buttons(viewer) == []
    text = operator.get("/job/job1").get_data(as_text=True)
    assert text.count('formaction="/job/job1/run-now"') == 1  # not repeated in the header
    make_queue("mail", paused_by="person:ben")
    assert "Queue mail was paused by ben" in wait_reason(operator)
    assert buttons(operator) == ["/job/job1/run-now", "/queue/mail/resume"]


@pytest.mark.parametrize(("state", "said"), [("failed", "its next retry is due."), ("scheduled", "Due now.")])
def test_an_overdue_job_is_shown_as_due(operator: Browser, state: str, said: str) -> None:
    make_job(state, id="job1", run_at=seconds(-30))
    assert said in wait_reason(operator)
    assert "No workers running." in wait_reason(operator)
    text = operator.get("/job/job1").get_data(as_text=True)
    assert '<div class="why-box alarm">' in text


def test_a_poison_job_is_explained(operator: Browser) -> None:
    make_attempt(make_job("dead", id="job1", failures=0), 1, "lost", exit_code=None)
    assert "Workers crashed on this job repeatedly" in wait_reason(operator)


# --- timeline and attempts -------------------------------------------------------------------------------------------


def test_the_timeline_shows_events_and_the_phases_between_them(viewer: Browser) -> None:
    now = clock.now()
    job = make_job("failed", id="job1", attempts=1, created_at=seconds(-100, now), run_at=seconds(300, now))
    make_attempt(
        job,
        1,
        due_at=seconds(-90, now),
        started_at=seconds(-80, now),
        finished_at=seconds(-60, now),
        error="exit code 3",
    )
    make_event("end_left_behind", "worker:w1", "job:job1", job=job, text="ended 2 processes")
    text = viewer.get("/job/job1").get_data(as_text=True)
    timeline = text[text.index('<ol class="timeline"') : text.index("</ol>")]
    lines = [re.sub(r"<[^>]+>", "", line) for line in re.findall(r"<p[^>]*>(.*?)</p>", timeline)]
    assert lines[0].startswith("Next retry ")
    assert [line for line in lines[1:] if " \N{MIDDLE DOT} " not in line] == [
        "End left behind: ended 2 processes",
        "backs off 6 min",
        "Attempt 1 failed: exit code 3",
        "ran 20 s",
        "Attempt 1 started",
        "waited 10 s",
        "not due for 10 s",
        "Submitted",
    ]
    assert 'aria-label="Total: not due for 10 s, waited 10 s, ran 20 s, backed off 6 min"' in text


def test_an_attempt_shows_its_result_duration_and_usage(viewer: Browser) -> None:
    now = clock.now()
    job = make_job("dead", id="job1", attempts=2)
    make_attempt(job, 1, started_at=seconds(-65, now), finished_at=now, cpu_time=clock.seconds(1.5), exit_code=75,
                 peak_memory=3 * 1024 * 1024, worker_id="w-one")  # fmt: skip
    make_attempt(job, 2, signal=9, exit_code=None, cpu_time=None, peak_memory=None)
    text = viewer.get("/job/job1").get_data(as_text=True)
    cells = re.findall(r'<td role="cell" class="([\w ]+)">(.*?)</td>', text[text.index('id="attempt-1"') :])
    found = {name: re.sub(r"<[^>]+>", "", value) for name, value in cells}
    assert found["number meta mono exit"] == "75"
    assert found["number meta"] == "1 min 5 s"
    assert found["number cpu meta"] == "1.5 s"
    assert found["number memory meta"] == "3.0 MiB"
    assert found["worker meta mono"] == "w-one"
    assert "signal 9" in text
    assert 'href="/job/job1/download?attempt=1"' in text


def test_only_the_newest_of_many_attempts_are_shown_at_first(viewer: Browser) -> None:
    job = make_job("dead", id="job1", attempts=60)
    for number in range(1, 61):
        make_attempt(job, number)
    text = viewer.get("/job/job1").get_data(as_text=True)
    assert text.count('id="attempt-') == 50
    assert "and 10 earlier attempts." in text
    assert viewer.get("/job/job1?all=1").get_data(as_text=True).count('id="attempt-') == 60
    assert "Output of attempt 3<" in viewer.get("/job/job1?attempt=3").get_data(as_text=True)


# --- the newest attempt ----------------------------------------------------------------------------------------------


def test_a_page_without_a_chosen_attempt_follows_the_newest_one(viewer: Browser) -> None:
    job = make_job("processing", id="job1", attempts=2)
    make_attempt(job, 1, output=b"first\n")
    make_chunk(job, b"second\n")
    assert 'data-newest="/job/job1/newest"' in viewer.get("/job/job1").get_data(as_text=True)
    for chosen in ("attempt=1", "find=second", "line=1", "against=1"):
        assert "data-newest" not in viewer.get(f"/job/job1?{chosen}").get_data(as_text=True), chosen
    card = viewer.get("/job/job1/newest", partial=True).get_data(as_text=True)
    assert card.startswith("<section")
    assert "Output of attempt 2" in card
    assert "second" in card
    make_job("pending", id="job2")
    assert "No output yet" in viewer.get("/job/job2/newest", partial=True).get_data(as_text=True)
    assert viewer.get("/job/none/newest").status_code == 404


def test_a_running_command_without_output_gets_a_hint_about_buffering(viewer: Browser) -> None:
    make_job("processing", id="job1", attempts=1)
    hint = "No output yet. Many programs hold output back"
    assert hint in viewer.get("/job/job1").get_data(as_text=True)
    make_chunk(make_job("processing", id="job2", attempts=1), b"first\n")
    make_attempt(make_job("completed", id="job3"), 1, output=b"")
    for job_id in ("job2", "job3"):
        assert hint not in viewer.get(f"/job/{job_id}").get_data(as_text=True)


def test_an_invalid_attempt_in_the_url_is_ignored(viewer: Browser) -> None:
    make_attempt(make_job("dead", id="job1"), 1, output=b"one\n" * 5)
    assert viewer.get("/job/job1?attempt=99").status_code == 200
    assert viewer.get("/job/job1?attempt=%D9%A1").status_code == 200  # a digit of another script
