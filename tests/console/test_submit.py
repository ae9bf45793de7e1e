"""The submit form: fields, errors at their fields, many lines, live checks, and repeated forms."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from sqlalchemy import select

from tests.console.conftest import Browser
from tests.factories import change_job, make_job
from webapp.console.display.env_values import MASK
from webapp.db.engines import reading
from webapp.db.models import Job
from webapp.jobs import actions
from webapp.lib import clock


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
        max_retries="7", timeout="10min", cwd="/srv", env="A=1\r\nB=x=y\r\n",
    )  # fmt: skip
    assert (response.status_code, response.headers["Location"]) == (303, "/job/job1")
    job = only_job()
    assert (job.command, job.queue, job.priority, job.max_retries) == ("echo a\necho b", "mail", -5, 7)
    assert (job.timeout, job.cwd, job.state, job.created_by) == (600.0, "/srv", "scheduled", "person:the-operator")
    assert json.loads(job.env or "") == {"A": "1", "B": "x=y"}
    assert abs(job.run_at - clock.now() - clock.seconds(7200)) < clock.seconds(30)


def test_a_time_is_read_in_the_users_time_zone(operator: Browser) -> None:
    operator.client.set_cookie("tz", "Europe/Berlin")
    assert submit(operator, start="run_at", run_at="2030-07-01T14:00").status_code == 303
    assert only_job().run_at == clock.parse_iso("2030-07-01T12:00:00Z")


def test_a_start_long_ago_gets_a_warning(operator: Browser) -> None:
    place = submit(operator, start="run_at", run_at="2020-07-01T14:00").headers["Location"]
    text = operator.get(place).get_data(as_text=True)
    assert re.search(r"toast warn.*submitted\. Warning: run_at 2020-07-01T14:00:00Z is [\d,]+ days in the past", text)


def test_a_resubmitted_job_loses_old_line_ends(operator: Browser) -> None:
    make_job("dead", id="old", command="mkdir a\r\nmkdir b\r")
    text = operator.get("/submit?from=old").get_data(as_text=True)
    found = re.search(r"<textarea[^>]*>\n(mkdir.*?)</textarea>", text, re.DOTALL)
    assert found is not None
    submit(operator, command=found[1], id="new")
    with reading() as session:
        assert session.query(Job).filter(Job.id == "new").one().command == "mkdir a\nmkdir b\n"


def test_empty_fields_use_the_settings(operator: Browser) -> None:
    assert submit(operator).status_code == 303
    job = only_job()
    assert (job.max_retries, job.timeout, job.cwd, job.env, job.queue) == (None, None, None, None, "default")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("priority", "high", "&#39;high&#39; is not allowed"),
        ("timeout", "soon", "is not a duration; expected seconds, or a number with"),
        ("env", "novalue", "has no &#39;=&#39;"),
        ("delay", "", "Is missing"),
        ("run_at", "tomorrow", "is not a time"),
    ],
)
def test_an_error_is_reported_at_its_field_and_all_input_is_kept(
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


def test_a_form_sent_twice_creates_one_job(operator: Browser) -> None:
    key = form_of(operator)
    answers = [operator.post("/submit", {"form_key": key, "command": "true"}) for _ in range(2)]
    assert answers[0].headers["Location"] == answers[1].headers["Location"] == f"/job/{only_job().id}"
    assert operator.post("/submit", {"command": "true"}).status_code == 400


def test_a_changed_form_creates_another_job(operator: Browser) -> None:
    key = form_of(operator)
    places = [operator.post("/submit", {"form_key": key, "command": one}).headers["Location"] for one in ("true", "ls")]
    with reading() as session:
        assert [job.command for job in session.query(Job).order_by(Job.seq)] == ["true", "ls"]
        assert places == [f"/job/{job.id}" for job in session.query(Job).order_by(Job.seq)]


# --- many lines ------------------------------------------------------------------------------------------------------


def jobs() -> list[Job]:
    with reading() as session:
        return session.query(Job).order_by(Job.seq).all()


LINES = "echo one\r\n\r\n  echo two  \r\necho three"


def test_each_line_becomes_a_job_with_the_shared_fields(operator: Browser) -> None:
    response = submit(operator, many="on", command=LINES, queue="mail", priority="3", env="A=1", cwd="/srv",
                      max_retries="7", timeout="5m", start="delay", delay="1h")  # fmt: skip
    assert re.fullmatch(r"/batch/form-[0-9a-f]{12}", response.headers["Location"])
    assert [job.command for job in jobs()] == ["echo one", "echo two", "echo three"]
    assert {(job.queue, job.priority, job.env, job.cwd, job.max_retries, job.timeout, job.state) for job in jobs()} == {
        ("mail", 3, '{"A": "1"}', "/srv", 7, 300.0, "scheduled")
    }
    text = operator.get(response.headers["Location"]).get_data(as_text=True)
    assert "3 jobs submitted." in text
    assert re.findall(r"echo (one|two|three)</code>", text) == ["one", "two", "three"]


def test_without_the_option_all_lines_are_one_script(operator: Browser) -> None:
    submit(operator, command=LINES)
    assert only_job().command == "echo one\n\n  echo two  \necho three"


def test_a_single_line_becomes_an_ordinary_job(operator: Browser) -> None:
    assert submit(operator, many="on", command="\n true \n", id="job1").headers["Location"] == "/job/job1"
    assert only_job().command == "true"


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("echo a\r\necho b \\\r\necho c", "Line 2 ends with a backslash"),
        ("true\n\n" + "x" * 70_000, "Line 3: is 70,000 bytes long; at most 65,536 are allowed."),
        ("\n".join(["a\\"] * 7), "Line 5 ends with a backslash. Each line must be a complete command. And 2 more."),
        (" \n\t\n", "Is empty. Expected one command per line."),
        ("true\n" * 5001, "Has 5,001 lines. At most 5,000 are allowed."),
    ],
)  # fmt: skip
def test_an_invalid_line_is_named_and_nothing_is_stored(operator: Browser, command: str, message: str) -> None:
    response = submit(operator, many="on", command=command)
    text = response.get_data(as_text=True)
    assert response.status_code == 422
    problem = re.search(r'id="command-problem">(.*?)</p>', text, re.DOTALL)
    assert problem is not None
    assert message in problem[1]
    assert re.search(r'name="many" value="on" checked', text)
    assert jobs() == []


def test_several_jobs_cannot_share_an_id(operator: Browser) -> None:
    response = submit(operator, many="on", command="true\nfalse", id="job1", priority="900")
    text = response.get_data(as_text=True)
    assert "An id applies to one job, but there are 2 jobs. Leave it empty." in text
    assert "from -100 to 100" in text
    assert jobs() == []


def test_many_lines_sent_twice_create_their_jobs_once(operator: Browser) -> None:
    key = form_of(operator)
    form = {"form_key": key, "command": "a\nb", "many": "on"}
    places = {operator.post("/submit", form).headers["Location"] for _ in range(2)}
    assert len(places) == 1
    assert len(jobs()) == 2
    operator.post("/submit", {**form, "many": ""})
    assert [job.command for job in jobs()] == ["a", "b", "a\nb"]


@pytest.mark.parametrize(
    ("many", "said"),
    [("on", "3 jobs: from <code>echo one</code> to <code>echo three</code>"), ("", "One job: a script of 3 lines.")],
)
def test_the_form_shows_how_many_jobs_it_will_create(operator: Browser, many: str, said: str) -> None:
    form = {"command": LINES, "many": many}
    assert said in operator.post("/submit/check?field=command", form, partial=True).get_data(as_text=True)


def test_watching_opens_the_output_or_the_batch(operator: Browser) -> None:
    one = submit(operator, id="job1", then="watch").headers["Location"]
    assert one == "/job/job1?watch=1#output"
    assert "data-fast" in operator.get(one).get_data(as_text=True)
    many = submit(operator, command="a\nb", many="on", then="watch").headers["Location"]
    assert re.fullmatch(r"/batch/form-[0-9a-f]{12}\?watch=1", many)
    assert "data-fast" in operator.get(many).get_data(as_text=True)


def test_lines_make_a_batch_that_shows_its_progress(operator: Browser, viewer: Browser) -> None:
    place = submit(operator, many="on", command="\n".join(f"echo {number}" for number in range(120))).headers[
        "Location"
    ]
    made = jobs()
    change_job(made[0].id, state="completed", finished_at=clock.now())
    change_job(made[1].id, state="cancelled", finished_at=clock.now())
    actions.apply("discard", [made[2].id], "person:ana")
    text = viewer.get(place).get_data(as_text=True)
    assert "2 of 119</b> ended" in text
    assert text.count('<tr role="row" id="job-') == 50
    last = viewer.get(f"{place}?after={made[99].seq}").get_data(as_text=True)
    assert "echo 119" in last
    assert "echo 99<" not in last
    assert f'href="{place}"' in viewer.get(f"/job/{made[5].id}").get_data(as_text=True)
    assert 'href="/batch' not in viewer.get(f"/job/{make_job().id}").get_data(as_text=True)
    assert viewer.get(f"{place}?after=99999").status_code == 200
    for wrong in (f"{place}.1", "/batch/x", place[:-1], "/batch/a%00b"):
        assert viewer.get(wrong).status_code == 404


def test_options_are_open_when_one_has_a_value_or_an_error(operator: Browser) -> None:
    is_open = '<details class="more options" open>'
    assert is_open not in operator.get("/submit").text
    assert is_open not in submit(operator, command="", queue="mail").text
    assert is_open in submit(operator, priority="x").text
    assert is_open in operator.get(f"/submit?from={make_job('dead', priority=3).id}").text


def test_a_taken_id_is_reported_with_its_state_while_typing_and_on_submit(operator: Browser) -> None:
    make_job("dead", id="job1")
    checked = operator.post("/submit/check?field=id", {"command": "true", "id": "job1"}, partial=True)
    assert "already used by a dead job" in checked.get_data(as_text=True)
    response = submit(operator, id="job1")
    assert response.status_code == 422
    assert "already used by a dead job" in response.get_data(as_text=True)


def test_each_field_is_checked_separately(operator: Browser) -> None:
    form = {"command": "", "priority": "5", "timeout": "never"}
    assert operator.post("/submit/check?field=priority", form, partial=True).data == b""
    assert b"expected seconds" in operator.post("/submit/check?field=timeout", form, partial=True).data
    assert operator.post("/submit/check?field=nothing", form, partial=True).status_code == 404


@pytest.mark.parametrize(("retries", "waits"), [("0", []), ("3", ["2 s", "4 s", "8 s"]), ("", ["2 s", "4 s", "8 s"])])
def test_the_form_shows_the_retry_schedule(operator: Browser, retries: str, waits: list[str]) -> None:
    answer = operator.post("/submit/check?field=max_retries", {"command": "x", "max_retries": retries}, partial=True)
    rows = re.findall(r'<td>\d+</td><td class="number">([^<]+)</td>', answer.get_data(as_text=True))
    assert rows == waits


def test_a_form_can_be_prefilled_from_another_job(operator: Browser) -> None:
    make_job("dead", id="job1", command="echo one\necho two", max_retries=9, queue="mail", env='{"A": "1"}')
    text = operator.get("/submit?from=job1").get_data(as_text=True)
    assert "echo one\necho two</textarea>" in text
    assert 'value="9"' in text
    assert 'value="mail"' in text
    assert "A=1</textarea>" in text
    assert 'value="job1"' not in text
    assert operator.get("/submit?from=none").status_code == 404


def test_a_form_from_another_job_shows_no_secrets_and_copies_them(operator: Browser) -> None:
    make_job("dead", id="job1", env=json.dumps({"A": "1", "API_TOKEN": "t0psecret", "PEM": "two\nlines"}))
    text = operator.get("/submit?from=job1").get_data(as_text=True)
    assert "t0psecret" not in text
    masked = f"A=2\nAPI_TOKEN={MASK}\nPEM={MASK}"
    check = {"command": "x", "env": masked, "env_of": "job:job1"}
    assert operator.post("/submit/check?field=env", check, partial=True).get_data(as_text=True).strip() == ""
    submit(operator, id="job2", env=masked, env_of="job:job1")
    with reading() as session:
        job = session.scalars(select(Job).where(Job.id == "job2")).one()
    assert json.loads(job.env or "") == {"A": "2", "API_TOKEN": "t0psecret", "PEM": "two\nlines"}


@pytest.mark.parametrize("env_of", ["", "job:job1", "job:none", "schedule:none"])
def test_a_mask_without_a_stored_value_is_refused(operator: Browser, env_of: str) -> None:
    make_job("dead", id="job1", env='{"API_TOKEN": "t0psecret"}')
    answer = submit(operator, env=f"OTHER_TOKEN={MASK}", env_of=env_of)
    assert answer.status_code == 422
    assert "OTHER_TOKEN has only the mask" in answer.get_data(as_text=True)


def test_a_leading_empty_line_of_a_command_is_kept(operator: Browser) -> None:
    submit(operator, command="\n\necho x", id="job1")
    text = operator.get("/submit?from=job1").get_data(as_text=True)
    assert re.search(r"<textarea[^>]*>\n\n\necho x</textarea>", text)  # a browser drops the first newline


def test_recent_commands_are_those_of_the_user(operator: Browser) -> None:
    make_job("completed", command="by ana")
    submit(operator, command="by me")
    text = operator.get("/submit").get_data(as_text=True)
    assert "by me" in text
    assert "by ana" not in text
