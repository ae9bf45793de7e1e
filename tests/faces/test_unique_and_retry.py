"""Unique keys, retry rules and reports in the console, the API and on the command line."""

from __future__ import annotations

import json
from typing import Any

import pytest
from flask import Flask

from tests.api.conftest import Program, make_program
from tests.commands.conftest import Cli
from tests.console.conftest import Browser
from tests.factories import make_attempt, make_job, make_user
from webapp.accounts import sessions
from webapp.db.engines import reading, writing
from webapp.db.models import Job, Report
from webapp.insight import retry_preview
from webapp.jobs import actions, job_detail, queue_actions
from webapp.lib import clock

pytestmark = pytest.mark.usefixtures("whole")
ANA = "person:ana"


def keyed(state: str = "pending", **values: Any) -> Job:
    return make_job(state, **{"id": "holder", "unique_key": "k", "unique_while": "unfinished", **values})


def job(job_id: str) -> Job:
    with reading() as session:
        found = job_detail.find(session, job_id)
    assert found is not None
    return found


@pytest.fixture
def program(whole: Flask) -> Program:
    return make_program(whole, "admin")


@pytest.fixture
def browser(whole: Flask) -> Browser:
    client = whole.test_client()
    session_id = sessions.begin(make_user("ben", "admin"), "127.0.0.1", "a test")
    with client.session_transaction() as session:
        session["_user_id"] = session_id
        session["_fresh"] = True
    return Browser(client)


# --- the command line ------------------------------------------------------------------------------------------------


def test_a_taken_key_ends_enqueue_with_1_and_the_holder(cli: Cli) -> None:
    first = cli("enqueue", "--command", "true", "--unique", "k", "--unique-while", "1h").out.strip()
    done = cli("enqueue", "--command", "true", "--unique", "k")
    assert (done.code, done.out) == (1, "")
    assert f"unique: 'k' is held by {first} (pending)." in done.err
    done = cli("enqueue", "--command", "true", "--unique", "k", "--on-conflict", "return")
    assert (done.code, done.out.strip()) == (0, first)
    assert f"Not stored: its unique key 'k' is held by {first} (pending)." in done.err
    second = cli("enqueue", "--command", "true", "--unique", "k", "--on-conflict", "replace")
    assert second.code == 0
    assert job(first).state == "cancelled"
    assert "work only with --unique" in cli("enqueue", "--command", "true", "--unique-while", "1h").err


def test_lines_with_the_same_key_are_named(cli: Cli, tmp_path: Any) -> None:
    file = tmp_path / "jobs.jsonl"
    file.write_text('{"command": "true", "unique": "k"}\n\n{"command": "true", "unique": "k"}\n')
    done = cli("enqueue", "--file", str(file))
    assert done.code == 1
    assert "line 3: unique: 'k' is held by line 1." in done.err


def test_requeue_of_a_taken_key_ends_with_5_and_the_holder(cli: Cli) -> None:
    keyed()
    keyed("dead", id="dead", error_key="e")
    done = cli("dlq", "retry", "dead")
    assert (done.code, done.err.strip()) == (5, "dead: its unique key 'k' is held by holder (pending).")
    assert "dead: its key 'k' is held by holder (pending)." in cli("dlq", "retry", "--all").err
    assert cli("dlq", "retry", "--all", "--canary").code == 5


def test_show_tells_key_rules_and_report(cli: Cli) -> None:
    seq = keyed("completed", retry='{"rules": [{"do": "bury"}]}', attempts=1).seq
    with writing() as session:
        session.add(Report(job_seq=seq, attempt=1, progress=1.0, note="done", result='{"n": 5}', updated_at=1))
    shown = cli("show", "holder", "--json").json
    assert shown["unique"] == {"key": "k", "while": "unfinished", "until": None, "held": False}
    assert shown["retry"] == {"rules": [{"do": "bury"}]}
    assert (shown["report"]["progress"], shown["report"]["result"]) == (1.0, {"n": 5})
    text = cli("show", "holder").out
    assert "any: bury" in text
    assert "100%" in text
    assert [one["id"] for one in cli("list", "--json", "--search", "unique:k").json] == ["holder"]


def test_retry_rules_of_a_queue_are_tried_set_and_removed(cli: Cli) -> None:
    failed_attempts()
    done = cli("queue", "retry", "default", "exit 75: retry", "output no such host: bury", "--dry-run", "--json")
    assert done.json["failed"] == 4
    assert [(one["number"], one["ended"], one["then"], one["now"]) for one in done.json["lines"]] == [
        (1, "exit code 1", "retried", "dead"),
        (2, "exit code 75", "dead", "dead"),
        (1, "killed by KILL", "dead", "dead"),
    ]
    assert "1 of the last 4 failed attempts" in cli("queue", "retry", "default", "exit 1: bury", "--dry-run").err
    assert cli("queue", "retry", "default", "exit 64-78: bury").out == "exit 64-78: bury\n"
    assert cli("queue", "retry", "default", "--json").json == {"rules": [{"exit": ["64-78"], "do": "bury"}]}
    assert "Saved" in cli("queue", "retry", "default", "--clear").err
    assert cli("queue", "retry", "default").err.strip() == "No retry rules: the settings apply."
    assert cli("queue", "retry", "none").code == 4
    assert cli("queue", "retry", "default", "often").code == 1


def failed_attempts() -> None:
    for name in ("a", "b"):
        dead = make_job("dead", id=name, attempts=1, exit_code=75, error_key="e")
        make_attempt(dead, exit_code=75, reason="exit", output=b"x" * 20_000)
    make_attempt(make_job("dead", id="c", attempts=1, error_key="e"), reason="signal", signal=9, exit_code=None)
    again = make_job("completed", id="d", attempts=2)
    make_attempt(again, exit_code=1, reason="exit", output=b"x" * 20_000 + b"\nno such host\n")
    make_attempt(again, 2, "completed", exit_code=0, reason="exit")
    make_attempt(make_job("dead", id="own", attempts=1, retry="{}", error_key="e"), exit_code=1, reason="exit")


# --- the API ---------------------------------------------------------------------------------------------------------


def test_a_taken_key_is_a_409_with_the_holder_and_return_a_200(program: Program) -> None:
    made = program("POST", "/jobs", {"command": "true", "unique": {"key": "k", "while": 60}, "retry": "any: bury"})
    assert made.status_code == 201
    first = made.get_json()
    assert first["unique"]["held"]
    assert first["retry"] == {"rules": [{"do": "bury"}]}
    refused = program("POST", "/jobs", {"command": "true", "unique": "k"})
    assert refused.status_code == 409
    assert refused.get_json()["holder"] == {"id": first["id"], "state": "pending"}
    again = {"command": "true", "unique": {"key": "k", "on_conflict": "return"}}
    returned = program("POST", "/jobs", again)
    assert (returned.status_code, returned.get_json()["id"]) == (200, first["id"])
    many = program("POST", "/jobs/batch", [{"command": "true"}, again]).get_json()
    assert (many["ids"][1], many["held"]) == (first["id"], [1])
    assert program("POST", "/jobs/batch", [{"command": "true"}, {"command": "true", "unique": "k"}]).status_code == 409
    twice = program("POST", "/jobs/batch", [{"command": "true", "unique": "z"}] * 2)
    assert twice.status_code == 422
    assert twice.get_json()["errors"][0]["place"] == 1


def test_requeue_of_a_taken_key_is_a_409_with_the_holder(program: Program) -> None:
    keyed()
    keyed("dead", id="dead", error_key="e")
    refused = program("POST", "/jobs/dead/requeue")
    assert (refused.status_code, refused.get_json()["holder"]) == (409, {"id": "holder", "state": "pending"})
    [one] = program("POST", "/jobs/requeue", {"ids": ["dead"]}).get_json()["refused"]
    assert one == {"id": "dead", "state": "dead", "holder": "holder"}
    assert program("POST", "/dead-letters/canary", {"all": True}).status_code == 409


def test_retry_rules_of_a_queue_in_the_api(program: Program) -> None:
    failed_attempts()
    preview = program("POST", "/queues/default/retry/preview", {"retry": ["exit 1: success"]}).get_json()
    assert (preview["failed"], preview["changed"], preview["lines"][0]["now"]) == (4, 1, "completed")
    rules = {"rules": [{"exit": [1], "do": "success"}], "backoff": {"kind": "fixed", "base": 5.0}}
    assert program("PUT", "/queues/default/retry", {"retry": rules}).get_json() == {
        "retry": rules,
        "lines": ["exit 1: success", "backoff fixed 5s"],
    }
    assert program("GET", "/queues/default/retry").get_json()["retry"] == rules
    wrong = program("PUT", "/queues/default/retry", {"retry": "often"})
    assert (wrong.status_code, wrong.get_json()["errors"][0]["field"]) == (422, "retry")
    assert program("PUT", "/queues/default/retry", {"retry": None}).get_json()["lines"] == []
    assert program("PUT", "/queues/none/retry", {"retry": None}).status_code == 404


def test_a_preview_leaves_out_old_attempts_when_the_time_is_over(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed_attempts()
    monkeypatch.setattr(retry_preview, "SEARCH_SECONDS", -1.0)
    assert program("POST", "/queues/default/retry/preview", {"retry": ["output x: bury"]}).get_json()["failed"] == 1


# --- the console -----------------------------------------------------------------------------------------------------


def submit(browser: Browser, **fields: str) -> Any:
    page = browser.get("/submit").get_data(as_text=True)
    key = page.partition('name="form_key" value="')[2].partition('"')[0]
    return browser.post("/submit", {"form_key": key, "command": "true", "start": "now", **fields})


def test_the_form_takes_a_key_and_rules_and_says_who_holds_the_key(browser: Browser) -> None:
    rules = "exit 75: wait\r\nbackoff fixed 5s"
    made = submit(browser, id="first", unique="k", unique_while="1h", retry=rules)
    assert made.status_code == 303
    first = job("first")
    assert (first.unique_key, first.unique_while) == ("k", "period")
    assert first.unique_until == first.created_at + clock.seconds(3600)
    page = browser.get("/job/first").get_data(as_text=True)
    assert "exit 75: wait" in page
    assert "q=unique:k" in page
    refused = submit(browser, unique="k")
    assert refused.status_code == 422
    assert "is held by first (pending)." in refused.get_data(as_text=True)
    same = submit(browser, unique="k", on_conflict="return")
    assert (same.status_code, same.headers["Location"]) == (303, "/job/first")
    again = browser.get("/submit?from=first").get_data(as_text=True)
    assert 'value="1h"' in again
    assert "backoff fixed 5s</textarea>" in again


def test_a_requeue_in_the_console_says_who_holds_the_key(browser: Browser) -> None:
    keyed()
    keyed("dead", id="dead", error_key="e")
    said = browser.post("/job/dead/requeue", {}, partial=True)
    assert said.status_code == 409
    assert "is held by holder (pending)" in said.get_data(as_text=True)
    many = browser.post("/jobs/requeue", {"id": ["dead"], "confirmed": "1"}, partial=True)
    assert "dead, whose unique key is held by holder (pending)" in many.get_data(as_text=True)
    group = browser.post("/dead/e/canary", {"confirmed": "1"}, partial=True)
    assert (group.status_code, "is held by holder" in group.get_data(as_text=True)) == (409, True)


def test_rules_of_a_queue_are_saved_only_after_their_preview(browser: Browser) -> None:
    failed_attempts()
    url = "/queue/default/retry"
    wrong = browser.post(url, {"retry": "often"})
    assert (wrong.status_code, "is not a rule" in wrong.get_data(as_text=True)) == (422, True)
    preview = browser.post(url, {"retry": "exit 1: bury"})
    assert preview.status_code == 200
    assert "<b>1</b> of the last 4 failed attempts" in preview.get_data(as_text=True)
    with reading() as session:
        assert queue_actions.retry_rules_of(session, "default").lines == []
    sent = "exit 1: bury\r\nany: retry"  # as browsers send lines
    assert browser.post(url, {"retry": sent, "seen": sent}).status_code == 303
    assert "exit 1: bury\nany: retry</textarea>" in browser.get(url).get_data(as_text=True)
    assert "of the queue" in browser.get("/job/a").get_data(as_text=True)


def test_a_report_is_on_the_page_of_its_job_and_in_the_list(browser: Browser) -> None:
    running = make_job("processing", id="run", attempts=2)
    with writing() as session:
        report = {"attempt": 2, "progress": 0.42, "note": "<b>page 4</b>", "result": json.dumps({"a": "\ud800"})}
        session.add(Report(job_seq=running.seq, fault="it is not a file.", updated_at=1, **report))
    page = browser.get("/job/run").get_data(as_text=True)
    assert '<progress max="1" value="0.42"' in page
    assert "&lt;b&gt;page 4&lt;/b&gt;" in page
    assert "Part of the report was left out: it is not a file." in page
    for url in ("/jobs", "/jobs?state=processing"):
        assert "42 %" in browser.get(url).get_data(as_text=True)
    with writing() as session:
        session.query(Report).update({"attempt": 1})
    assert "<progress" not in browser.get("/job/run").get_data(as_text=True)


def test_a_schedule_keeps_key_and_rules_through_its_form_and_skips_a_taken_key(browser: Browser, cli: Cli) -> None:
    cli("schedule", "add", "s", "--every", "1h", "--command", "true", "--unique", "k", "--unique-while", "waiting",
        "--retry", "any: bury")  # fmt: skip
    page = browser.get("/schedule/s/edit").get_data(as_text=True)
    assert "any: bury</textarea>" in page
    assert 'value="waiting"' in page
    keyed(unique_while="waiting")
    said = browser.post("/schedule/s/run", {}, partial=True)
    assert (said.status_code, "is held by holder (pending)" in said.get_data(as_text=True)) == (409, True)
    actions.apply("cancel", ["holder"], ANA)
    assert browser.post("/schedule/s/run", {}, partial=True).status_code == 200


def test_the_form_of_an_edit_changes_limits_key_and_rules_and_names_the_holder(browser: Browser) -> None:
    keyed()
    make_job("dead", id="job1", unique_key="mine", unique_while="unfinished", retry='{"rules": [{"do": "bury"}]}')
    page = browser.get("/job/job1/edit").get_data(as_text=True)
    assert 'value="mine"' in page
    assert "any: bury</textarea>" in page
    assert "on_conflict" not in page
    form = {"command": "true", "limits": "none", "unique": "k", "unique_while": "", "retry": "exit 75: wait"}
    assert "There is no limit for the key &#39;none&#39;" in browser.post("/job/job1/edit", form).get_data(as_text=True)
    refused = browser.post("/job/job1/edit", {**form, "limits": ""})
    assert (refused.status_code, "is held by holder (pending)" in refused.get_data(as_text=True)) == (422, True)
    assert browser.post("/job/job1/edit", {**form, "limits": "", "unique": ""}).status_code == 303
    assert (job("job1").unique_key, job("job1").retry) == (None, '{"rules": [{"exit": [75], "do": "wait"}]}')


def test_the_command_edit_changes_limits_key_and_rules_and_names_the_holder(cli: Cli) -> None:
    keyed()
    make_job("dead", id="job1", retry='{"rules": [{"do": "bury"}]}')
    refused = cli("edit", "job1", "--unique", "k")
    assert (refused.code, "is held by holder (pending)" in refused.err) == (5, True)
    assert cli("edit", "job1", "--unique-while", "1h").code == 2
    assert "--default limits and --limit cannot" in cli("edit", "job1", "--limit", "a", "--default", "limits").err
    assert cli("edit", "job1", "--unique", "k2", "--unique-while", "waiting", "--default", "retry").code == 0
    assert (job("job1").unique_key, job("job1").unique_while, job("job1").retry) == ("k2", "waiting", None)


def test_an_edit_by_the_api_that_takes_a_held_key_is_a_409_with_the_holder(program: Program) -> None:
    keyed()
    make_job("dead", id="job1")
    refused = program("POST", "/jobs/job1/edit", {"unique": "k"})
    assert (refused.status_code, refused.get_json()["holder"]) == (409, {"id": "holder", "state": "pending"})
    told = program("POST", "/jobs/job1/edit", {"unique": {"key": "k2"}, "retry": ["any: bury"]}).get_json()
    assert told["unique"]["key"] == "k2"
