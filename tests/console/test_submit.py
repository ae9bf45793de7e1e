"""Submitting from the form: what is read, what is refused and where the message stands, and once for each form."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from tests.console.conftest import Browser
from tests.factories import make_job
from webapp import clock
from webapp.db import reading
from webapp.models import Job


def form_of(browser: Browser, url: str = "/submit") -> str:
    found = re.search(r'name="form_key" value="([^"]+)"', browser.get(url).get_data(as_text=True))
    assert found is not None
    return found[1]


def submit(browser: Browser, **fields: str) -> Any:
    return browser.post("/submit", {"form_key": form_of(browser), "command": "true", **fields})


def only_job() -> Job:
    with reading() as session:
        return session.query(Job).one()


def test_every_field_reaches_the_job(operator: Browser) -> None:
    response = submit(
        operator, command="echo a\r\necho b", id="job1", queue="mail", priority="-5", start="delay", delay="2h",
        max_retries="7", timeout="10m", cwd="/srv", env="A=1\r\nB=x=y\r\n",
    )  # fmt: skip
    assert (response.status_code, response.headers["Location"]) == (303, "/job/job1")
    job = only_job()
    assert (job.command, job.queue, job.priority, job.max_retries) == ("echo a\necho b", "mail", -5, 7)
    assert (job.timeout, job.cwd, job.state, job.created_by) == (600.0, "/srv", "scheduled", "person:the-operator")
    assert json.loads(job.env or "") == {"A": "1", "B": "x=y"}
    assert abs(job.run_at - clock.now() - clock.seconds(7200)) < clock.seconds(30)


def test_a_time_is_taken_in_the_readers_zone(operator: Browser) -> None:
    operator.client.set_cookie("tz", "Europe/Berlin")
    assert submit(operator, start="run_at", run_at="2030-07-01T14:00").status_code == 303
    assert only_job().run_at == clock.parse_iso("2030-07-01T12:00:00Z")


def test_empty_fields_are_left_to_the_settings(operator: Browser) -> None:
    assert submit(operator).status_code == 303
    job = only_job()
    assert (job.max_retries, job.timeout, job.cwd, job.env, job.queue) == (None, None, None, None, "default")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("command", "  ", "Is empty"),
        ("id", "no spaces", "expected 1 to 128 characters"),
        ("queue", "-x", "the first a letter or digit"),
        ("priority", "101", "from -100 to 100"),
        ("priority", "high", "&#39;high&#39; is not allowed"),
        ("max_retries", "-1", "from 0 to 1000"),
        ("timeout", "soon", "no duration. Expected seconds, or a number with s, m, h or d"),
        ("cwd", "srv", "absolute path"),
        ("env", "novalue", "has no &#39;=&#39;"),
        ("env", "QUEUECTL_X=1", "set by queuectl itself"),
        ("delay", "", "Is missing"),
        ("run_at", "tomorrow", "is no time"),
    ],
)
def test_a_fault_is_named_at_its_field_and_everything_typed_is_kept(
    operator: Browser, field: str, value: str, message: str
) -> None:
    fields = {"command": "echo kept", "env": "KEPT=1", field: value}
    if field in {"delay", "run_at"}:
        fields["start"] = field
    response = submit(operator, **fields)
    text = response.get_data(as_text=True)
    assert response.status_code == 422
    assert f'<a href="#{field}">' in text
    problem = re.search(rf'id="{field}-problem">(.*?)</p>', text, re.DOTALL)
    assert problem is not None
    assert message in problem[1]
    assert re.search(rf'id="{field}"[^>]*aria-invalid="true"[^>]*autofocus', text, re.DOTALL)
    assert "echo kept" in text or field == "command"
    assert "KEPT=1" in text or field == "env"
    with reading() as session:
        assert session.query(Job).count() == 0


def test_the_same_form_sent_twice_makes_one_job(operator: Browser) -> None:
    key = form_of(operator)
    answers = [operator.post("/submit", {"form_key": key, "command": "true"}) for _ in range(2)]
    assert answers[0].headers["Location"] == answers[1].headers["Location"] == f"/job/{only_job().id}"
    assert operator.post("/submit", {"command": "true"}).status_code == 400


def test_a_form_that_came_back_and_was_changed_makes_another_job(operator: Browser) -> None:
    key = form_of(operator)
    places = [operator.post("/submit", {"form_key": key, "command": one}).headers["Location"] for one in ("true", "ls")]
    with reading() as session:
        assert [job.command for job in session.query(Job).order_by(Job.seq)] == ["true", "ls"]
        assert places == [f"/job/{job.id}" for job in session.query(Job).order_by(Job.seq)]


def test_a_taken_id_is_told_with_its_state_while_typing_and_on_sending(operator: Browser) -> None:
    make_job("dead", id="job1")
    checked = operator.post("/submit/check?field=id", {"command": "true", "id": "job1"}, partial=True)
    assert "taken by a job that is dead" in checked.get_data(as_text=True)
    response = submit(operator, id="job1")
    assert response.status_code == 422
    assert "taken by a job that is dead" in response.get_data(as_text=True)


def test_a_field_is_checked_alone(operator: Browser) -> None:
    form = {"command": "", "priority": "5", "timeout": "never"}
    assert operator.post("/submit/check?field=priority", form, partial=True).data == b""
    assert b"Expected seconds" in operator.post("/submit/check?field=timeout", form, partial=True).data
    assert operator.post("/submit/check?field=nothing", form, partial=True).status_code == 404


@pytest.mark.parametrize(("retries", "waits"), [("0", []), ("3", ["2 s", "4 s", "8 s"]), ("", ["2 s", "4 s", "8 s"])])
def test_the_retries_are_shown_before_they_happen(operator: Browser, retries: str, waits: list[str]) -> None:
    answer = operator.post("/submit/check?field=max_retries", {"command": "x", "max_retries": retries}, partial=True)
    rows = re.findall(r'<td>\d+</td><td class="number">([^<]+)</td>', answer.get_data(as_text=True))
    assert rows == waits


def test_a_form_starts_from_another_job(operator: Browser) -> None:
    make_job("dead", id="job1", command="echo one\necho two", max_retries=9, queue="mail", env='{"A": "1"}')
    text = operator.get("/submit?from=job1").get_data(as_text=True)
    assert "echo one\necho two</textarea>" in text
    assert 'value="9"' in text
    assert 'value="mail"' in text
    assert "A=1</textarea>" in text
    assert 'value="job1"' not in text
    assert operator.get("/submit?from=none").status_code == 404


def test_a_command_that_begins_with_an_empty_line_keeps_it(operator: Browser) -> None:
    submit(operator, command="\n\necho x", id="job1")
    text = operator.get("/submit?from=job1").get_data(as_text=True)
    assert re.search(r"<textarea[^>]*>\n\n\necho x</textarea>", text)  # a browser drops the first newline


def test_recent_commands_are_this_persons_own(operator: Browser) -> None:
    make_job("completed", command="by ana")
    submit(operator, command="by me")
    text = operator.get("/submit").get_data(as_text=True)
    assert "by me" in text
    assert "by ana" not in text
