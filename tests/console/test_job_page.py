"""The page of one job: why it waits, its timeline, its attempts, and the card of the newest output."""

from __future__ import annotations

import html
import json
import re
from typing import Any, Optional

import pytest
from sqlalchemy import select

from tests.console.conftest import Browser
from tests.factories import change_job, make_attempt, make_chunk, make_event, make_job, make_queue, make_worker
from webapp.console.display import env_values
from webapp.console.display.times import exact
from webapp.console.display.wait_reason import about
from webapp.db import audit
from webapp.db.engines import reading
from webapp.db.models import Job
from webapp.insight import usual_time
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
    lines = history(text)
    assert lines[0].startswith("Next retry ")
    assert [line for line in lines[1:] if " \N{MIDDLE DOT} " not in line] == [
        "End left behind: ended 2 processes",
        "backs off 6 min",
        "Attempt 1 failed, exit 1 after 20 s",
        "waited 10 s",
        "not due for 10 s",
        "Submitted by ana",
        exact(job.created_at),
    ]
    assert 'aria-label="Total: not due for 10 s, waited 10 s, ran 20 s, backed off 6 min"' in text


def history(text: str) -> list[str]:
    """The lines of attempts and history, without markup."""
    part = text[text.index('<ol class="timeline"') : text.index("</ol>")]
    lines = re.findall(r"<p[^>]*>(.*?)</p>", part, re.DOTALL)
    return [" ".join(re.sub(r"<[^>]+>", "", line).split()) for line in lines]


def test_an_attempt_shows_its_result_duration_and_usage(viewer: Browser) -> None:
    now = clock.now()
    job = make_job("dead", id="job1", attempts=2)
    make_attempt(job, 1, started_at=seconds(-65, now), finished_at=now, cpu_time=clock.seconds(1.5), exit_code=75,
                 peak_memory=3 * 1024 * 1024, worker_id="w-one")  # fmt: skip
    make_attempt(job, 2, signal=9, exit_code=None, cpu_time=None, peak_memory=None)
    text = viewer.get("/job/job1").get_data(as_text=True)
    lines = history(text)
    assert "Attempt 1 failed, exit 75 after 1 min 5 s" in lines
    assert any("CPU 1.5 s · 3.0 MiB · w-one" in line for line in lines)
    assert "Attempt 2 failed, signal 9 after 2 s" in lines
    assert 'href="/job/job1/download?attempt=1"' in text


def test_each_error_stands_once_on_the_page(viewer: Browser) -> None:
    said = "exit code 1: card declined"
    job = make_job("dead", id="job1", attempts=4, last_error=said, error_key="declined")
    for number, (error, key) in enumerate([("timed out", "timeout"), (said, "declined"), ("timed out", "timeout")], 1):
        make_attempt(job, number, error=error, error_key=key)
    make_attempt(job, 4, error=said, error_key="declined", output=b"card declined\n\n")
    page = re.sub(r'(?s)<div class="pane".*?</section>', "", viewer.get("/job/job1").get_data(as_text=True))
    assert page.count("declined</a>") == 1
    assert page.count("card declined") == 1
    assert page.count("timed out") == 1
    at = viewer.get("/job/job1?attempt=4&line=end").get_data(as_text=True)
    assert re.search(r'<div id="L1" class="marked">.*?card declined', at)


def test_the_history_says_nothing_twice(viewer: Browser) -> None:
    job = make_job("pending", id="job1", attempts=2)
    make_attempt(job, 1, "released", error="interrupted: worker shut down", exit_code=None)
    make_attempt(job, 2, "cancelled", error="cancelled while running", exit_code=None)
    lines = history(viewer.get("/job/job1").get_data(as_text=True))
    assert "Attempt 1 interrupted (worker shut down) after 2 s" in lines
    assert "Attempt 2 cancelled after 2 s" in lines
    assert not any("interrupted: worker" in line or "while running" in line for line in lines)


def test_only_the_newest_of_many_attempts_are_shown_at_first(viewer: Browser) -> None:
    job = make_job("dead", id="job1", attempts=60)
    for number in range(1, 61):
        make_attempt(job, number)
    text = viewer.get("/job/job1").get_data(as_text=True)
    assert text.count('id="attempt-') == 50
    assert "and 10 earlier entries." in text
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
    hint = "No output yet. Many programs buffer their output"
    assert hint in viewer.get("/job/job1").get_data(as_text=True)
    make_chunk(make_job("processing", id="job2", attempts=1), b"first\n")
    make_attempt(make_job("completed", id="job3"), 1, output=b"")
    for job_id in ("job2", "job3"):
        assert hint not in viewer.get(f"/job/{job_id}").get_data(as_text=True)


def test_an_invalid_attempt_in_the_url_is_ignored(viewer: Browser) -> None:
    make_attempt(make_job("dead", id="job1"), 1, output=b"one\n" * 5)
    assert viewer.get("/job/job1?attempt=99").status_code == 200
    assert viewer.get("/job/job1?attempt=%D9%A1").status_code == 200  # a digit of another script


# --- head, command, crumb --------------------------------------------------------------------------------------------


def test_the_title_the_heading_and_the_icon_name_command_and_state(viewer: Browser) -> None:
    make_job("dead", id="job1", command="#!/bin/bash\n\n  charge-card order-10421\necho more")
    text = viewer.get("/job/job1").get_data(as_text=True)
    assert "<title>\N{BALLOT X} charge-card order-10421</title>" in text
    assert '<h1 class="mono">charge-card order-10421</h1>' in text
    assert re.search(r'<link rel="icon" href="/static/icon-dead\.svg', text)
    make_job("pending", id="job2")
    assert re.search(r'<link rel="icon" href="/static/icon\.svg', viewer.get("/job/job2").get_data(as_text=True))


def test_a_long_command_says_how_many_lines_are_hidden(viewer: Browser) -> None:
    make_job("pending", id="job1", command="\n".join(f"echo {number}" for number in range(13)))
    assert "more line" not in viewer.get("/job/job1").get_data(as_text=True)
    make_job("pending", id="job2", command="\n".join(f"echo {number}" for number in range(40)))
    text = viewer.get("/job/job2").get_data(as_text=True)
    assert "28 more lines" in text
    assert "echo 39</span></pre>" in text


def crumb(browser: Browser, path: str = "/job/job1", **headers: str) -> str:
    text = browser.get(path, headers=headers).get_data(as_text=True)
    found = re.search(r'<p class="crumb small"><a href="([^"]*)">', text)
    assert found is not None
    return found[1].replace("&amp;", "&")


def test_the_crumb_leads_back_to_the_list(viewer: Browser) -> None:
    make_job("pending", id="job1")
    here = "http://localhost"
    assert crumb(viewer) == "/jobs"
    assert crumb(viewer, Referer=f"{here}/jobs?state=dead&q=exit%3A1") == "/jobs?state=dead&q=exit%3A1"
    assert crumb(viewer, Referer=f"{here}/dead/abc") == "/dead/abc"
    assert crumb(viewer, Referer=f"{here}/job/other") == "/jobs"  # no list
    assert crumb(viewer, Referer="http://evil.example/jobs?q=1") == "/jobs"
    assert crumb(viewer, "/job/job1?back=/jobs?state=failed", Referer=f"{here}/job/job1") == "/jobs?state=failed"
    for evil in (
        "//evil.example/jobs",
        "https://evil.example/jobs",
        "/\\evil.example/jobs",
        "javascript:alert(1)",
        "/login",
    ):
        assert crumb(viewer, f"/job/job1?back={evil}") == "/jobs", evil
    text = viewer.get("/job/job1", headers={"Referer": f"{here}/jobs?state=dead"}).get_data(as_text=True)
    assert 'hx-get="/job/job1?back=%2Fjobs%3Fstate%3Ddead"' in text  # a refresh has another Referer


def test_a_dead_job_leads_to_its_group_and_to_the_last_success(operator: Browser, viewer: Browser) -> None:
    job = make_job("dead", id="job1", command="charge 1", error_key="declined")
    make_attempt(job, 1, output=b"begin\ndeclined\n")
    assert "failed this way" not in wait_reason(operator)  # alone
    make_job("dead", error_key="declined")
    assert "2 jobs failed this way" in wait_reason(operator)
    assert buttons(operator) == ["/dead/declined/canary"]
    assert buttons(viewer) == []
    asked = operator.post("/dead/declined/canary", {"id": "job1"}).get_data(as_text=True)
    assert '<input type="hidden" name="id" value="job1">' in asked
    none = operator.get("/job/job1?against=success&digits=1").get_data(as_text=True)
    assert "No successful run of this command was found" in none
    make_attempt(make_job("completed", id="good", command="charge 2"), 1, "completed", output=b"begin\nend\n")
    compared = operator.get("/job/job1?against=success&digits=1").get_data(as_text=True)
    assert "only in the last success (good): 1 line" in compared


def test_a_running_job_shows_how_long_its_command_usually_takes(viewer: Browser) -> None:
    make_job("processing", id="job1", command="charge 9", worker_id="w1")
    usual_time._kept.clear()
    assert "time-to-go" not in viewer.get("/job/job1").get_data(as_text=True)
    for number in (10, 20, 60):
        make_job("completed", command=f"charge {number}", started_at=seconds(-100 - number), finished_at=seconds(-100))
    assert "time-to-go" not in viewer.get("/job/job1").get_data(as_text=True)  # the answer is kept for a minute
    usual_time._kept.clear()
    text = viewer.get("/job/job1").get_data(as_text=True)
    assert 'data-usual="20.0' in text
    assert "Usually 20 s, p95 1 min (3 runs)." in text


def test_a_time_that_counts_reads_right_without_javascript(viewer: Browser) -> None:
    make_job("processing", id="job1", worker_id="w1")
    text = re.sub(r"<[^>]+>", "", viewer.get("/job/job1").get_data(as_text=True))
    assert re.search(r"Running since \d+ \w+ \d\d:\d\d UTC on worker w1\.", text)


def test_a_failed_job_reads_retrying(viewer: Browser) -> None:
    make_job("failed", id="job1")
    text = viewer.get("/job/job1").get_data(as_text=True)
    assert re.search(r'<span class="badge failed">.*?<span>retrying <time', text)


# --- masked variables ------------------------------------------------------------------------------------------------


def test_secrets_are_masked_until_an_operator_asks_which_is_audited(operator: Browser, viewer: Browser) -> None:
    make_job("dead", id="job1", env='{"REGION": "eu", "API_TOKEN": "t0psecret", "URL": "https://u:pw1234@host/"}')
    for browser in (operator, viewer):
        text = browser.get("/job/job1").get_data(as_text=True)
        assert "t0psecret" not in text
        assert "pw1234" not in text
    assert "REGION=eu" in operator.get("/job/job1").get_data(as_text=True)
    assert viewer.post("/job/job1/env").status_code == 403
    assert operator.get("/job/job1/env").status_code == 405
    page = operator.post("/job/job1/env").get_data(as_text=True)
    assert "t0psecret" in page
    assert "REGION" not in page
    with reading() as session:
        line = audit.page(session, audit.AuditFilter(verb="reveal"), limit=1)[0]
    assert (line.actor, line.subject) == ("person:the-operator", "job:job1")
    assert "t0psecret" not in (line.detail or "")
    assert "API_TOKEN, URL" in (line.detail or "")
    assert operator.post("/job/none/env").status_code == 404


@pytest.mark.parametrize(
    ("name", "value", "secret"),
    [("DB_PASSWORD", "x", True), ("apikey", "x", True), ("AUTHOR", "ana", False), ("TOKEN", "", False),
     ("DATABASE", "postgres://u:p@h/d", True), ("X", "ghp_abcdefgh", True), ("PAGE", "https://example.org/a@b", False)],
)  # fmt: skip
def test_what_looks_like_a_secret(name: str, value: str, secret: bool) -> None:
    assert env_values.looks_secret(name, value) is secret


# --- edit and retry --------------------------------------------------------------------------------------------------


def edited(browser: Browser, **changes: str) -> dict[str, str]:
    """The values of the edit form, with changes."""
    text = browser.get("/job/job1/edit").get_data(as_text=True)
    fields = dict(re.findall(r'<input id="(\w+)"[^>]*? value="([^"]*)"', text))
    fields.update(re.findall(r'name="(seen)" value="(\d+)"', text))
    fields.update(
        (n, html.unescape(v)) for n, v in re.findall(r'<textarea id="(\w+)".*?>\n(.*?)</textarea>', text, re.DOTALL)
    )
    return {**fields, **changes}


def test_the_edit_form_changes_the_job_and_keeps_masked_values(operator: Browser, viewer: Browser) -> None:
    make_job("dead", id="job1", command="a", timeout=60.0, env='{"REGION": "eu", "API_TOKEN": "t0psecret"}')
    form = edited(operator, command="b\r\nc", timeout="")
    assert "API_TOKEN=\N{BULLET}" in form["env"]
    form["env"] = form["env"].replace("eu", "us")
    answer = operator.post("/job/job1/edit", form)
    assert (answer.status_code, answer.headers["Location"]) == (303, "/job/job1")
    with reading() as session:
        job = session.scalars(select(Job).where(Job.id == "job1")).one()
    assert (job.state, job.command, job.timeout) == ("pending", "b\nc", None)
    assert json.loads(job.env or "") == {"REGION": "us", "API_TOKEN": "t0psecret"}
    text = viewer.get("/job/job1").get_data(as_text=True)
    assert any(line.startswith("command: a → b") for line in history(text))
    assert "REGION changed" in text
    assert viewer.get("/job/job1/edit").status_code == 403


def test_the_edit_form_reports_errors_and_keeps_what_was_typed(operator: Browser) -> None:
    make_job("failed", id="job1", command="a", env='{"API_TOKEN": "t0psecret"}')
    answer = operator.post("/job/job1/edit", edited(operator, command=" ", queue="a b", priority="7"))
    text = answer.get_data(as_text=True)
    assert answer.status_code == 422
    assert "Fix these 2 fields:" in text
    assert 'value="a b"' in text
    assert 'value="7"' in text
    assert "t0psecret" not in text


def test_a_job_that_changed_meanwhile_is_not_edited(operator: Browser) -> None:
    make_job("dead", id="job1")
    form = edited(operator, command="b")
    change_job("job1", changed_at=clock.now() + 1)
    assert operator.post("/job/job1/edit", form).status_code == 409
    change_job("job1", state="pending", finished_at=None)
    assert operator.get("/job/job1/edit").status_code == 409
    assert operator.post("/job/job1/edit", form).status_code == 409
    assert operator.post("/job/none/edit", form).status_code == 404
