"""`list`, `show`, `cancel`, `run-now`: output and exit codes."""

from __future__ import annotations

import json
import re

import pytest
from flask import Flask

from tests.commands.conftest import Cli
from tests.factories import make_attempt, make_event, make_job, make_jobs
from webapp.db.engines import reading
from webapp.jobs import filters, job_detail
from webapp.lib import clock

pytestmark = pytest.mark.every_python

FIELDS = [
    "id",
    "command",
    "queue",
    "priority",
    "state",
    "attempts",
    "max_retries",
    "run_at",
    "timeout",
    "cwd",
    "env",
    "created_at",
    "started_at",
    "finished_at",
    "exit_code",
    "last_error",
    "requires",
    "limits",
    "batch",
    "unique",
    "retry",
]
ATTEMPT_FIELDS = {"number", "state", "started_at", "finished_at", "exit_code", "signal", "worker", "stdout", "stderr"}


def state_of(job_id: str) -> str:
    with reading() as session:
        job = job_detail.find(session, job_id)
    assert job is not None
    return job.state


# --- list ---


def test_a_list_is_a_table_with_the_newest_first(app: Flask, cli: Cli) -> None:
    make_job(id="old", command="echo 1")
    make_job("dead", id="new", command="echo 2", queue="mail", priority=3)
    result = cli("list")
    assert (result.code, result.err) == (0, "")
    header, first, second = result.lines
    assert header.split() == ["ID", "STATE", "QUEUE", "PRIORITY", "ATTEMPTS", "WHEN", "COMMAND"]
    assert first.split()[:5] == ["new", "dead", "mail", "3", "1"]
    assert re.fullmatch(r".*  (just now|.* ago) +echo 2", first)
    assert second.split()[:3] == ["old", "pending", "default"]


def test_json_is_an_array_of_jobs_with_the_documented_fields_in_order(app: Flask, cli: Cli) -> None:
    make_job("completed", id="a", env='{"A": "1"}', max_retries=None)
    (job,) = cli("list", "--json").json
    assert list(job) == FIELDS
    assert (job["id"], job["env"], job["max_retries"], job["exit_code"]) == ("a", {"A": "1"}, 3, 0)
    assert job["created_at"].endswith("Z")


def test_an_empty_list_is_an_empty_array_for_programs_and_a_message_for_users(app: Flask, cli: Cli) -> None:
    assert cli("list", "--json").json == []
    result = cli("list", "--state", "failed")
    assert (result.code, result.out, result.err) == (0, "", "No failed jobs.\n")


def test_state_queue_and_text_filter_the_list(app: Flask, cli: Cli) -> None:
    make_job(id="a", queue="mail", command="send letter")
    make_job(id="b", queue="mail", command="send parcel")
    make_job("dead", id="c", queue="mail", command="send letter")
    make_job(id="d", command="send letter")
    found = cli("list", "--state", "pending", "--queue", "mail", "--search", "LETTER", "--json").json
    assert [job["id"] for job in found] == ["a"]


def test_a_search_is_that_of_the_console_and_continues_past_its_cap(
    app: Flask, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(filters, "SEARCH_CAP", 2)
    monkeypatch.setattr(filters, "SEARCH_SECONDS", 0.0)
    make_jobs([{"state": "dead", "id": f"d{n}", "exit_code": 127 if n == 0 else 1} for n in range(7)])
    found = cli("list", "--search", "state:dead exit:127 since:2h", "--json").json
    assert [job["id"] for job in found] == ["d0"]
    assert cli("list", "--search", "exit:126 state:dead").err == "No dead jobs match.\n"
    result = cli("list", "--search", "redis:7")
    assert (result.code, result.out) == (2, "")
    assert "unknown search term redis:" in result.err
    result = cli("list", "--state", "failed", "--search", "state:dead")
    assert (result.code, "the list shows state failed" in result.err) == (2, True)
    assert "2026-11-24 (this machine's time zone)" in cli("list", "--search", "on:never").err.replace("\n", " ")


def test_pending_jobs_are_listed_in_claim_order(app: Flask, cli: Cli) -> None:
    make_job(id="first", run_at=1_000)
    make_job(id="second", run_at=2_000)
    make_job(id="urgent", priority=5, run_at=3_000)
    assert [job["id"] for job in cli("list", "--state", "pending", "--json").json] == ["urgent", "first", "second"]


def test_a_list_that_ends_at_its_limit_says_so_on_stderr(app: Flask, cli: Cli) -> None:
    for number in range(5):
        make_job(id=f"job-{number}")
    result = cli("list", "--limit", "3", "--json")
    assert [job["id"] for job in result.json] == ["job-4", "job-3", "job-2"]
    assert result.err == "Only the first 3 are shown, of 5. Use --limit to see more.\n"
    assert cli("list", "--limit", "5").err == ""


def test_programs_get_the_whole_list_and_users_the_first_page(app: Flask, cli: Cli) -> None:
    make_jobs([{"state": "dead", "id": f"job-{number:04}"} for number in range(620)])
    for command in (["list"], ["dlq", "list"]):
        result = cli(*command, "--json")
        assert (len(result.json), result.err) == (620, "")
        page = cli(*command)
        assert (len(page.lines), page.err) == (51, "Only the first 50 are shown, of 620. Use --limit to see more.\n")
    assert cli("list", "--json").out == json.dumps(cli("list", "--json").json, indent=2) + "\n"


def test_a_limit_beyond_one_page_is_exact(app: Flask, cli: Cli) -> None:
    cli("enqueue", "-", stdin=b'{"command":"true"}\n' * 1203)
    result = cli("list", "--limit", "1100", "--json")
    assert len({job["id"] for job in result.json}) == 1100
    assert len(cli("list", "--limit", "9999", "--json").json) == 1203


def test_an_unknown_state_is_a_usage_error_that_lists_them(cli: Cli) -> None:
    result = cli("list", "--state", "done")
    assert (result.code, result.out) == (2, "")
    assert "'completed'" in result.err


def test_a_command_cannot_control_the_terminal_through_a_list(app: Flask, cli: Cli) -> None:
    make_job(id="a", command="printf '\x1b]0;title\x07'\nsecond line")
    row = cli("list").lines[1]
    assert "\x1b" not in row
    assert "\x07" not in row
    assert "\\x1b]0;title\\x07' ↵ second line" in row


def test_brackets_in_a_command_are_text(app: Flask, cli: Cli) -> None:
    make_job(id="a", command="echo [red]x[/red] [/nope]")
    assert cli("list").lines[1].endswith("echo [red]x[/red] [/nope]")
    assert "echo [red]x[/red] [/nope]" in cli("show", "a").out


def test_nothing_is_cut_without_a_terminal(app: Flask, cli: Cli) -> None:
    make_job(id="a" * 128, command="echo " + "x" * 5000)
    row = cli("list").lines[1]
    assert row.startswith("a" * 128 + " ")
    assert row.endswith("x" * 5000)


# --- show ---


def test_show_prints_the_history_of_a_job(app: Flask, cli: Cli) -> None:
    job = make_job(
        "dead", id="job1", command="make\nreport", attempts=2, failures=2, last_error="exit code 2", cwd="/srv"
    )
    make_attempt(job, state="failed", exit_code=None, signal=9, error="killed by SIGKILL", worker_id="worker-a")
    make_attempt(job, state="failed", exit_code=2, error="exit code 2")
    make_event("run_now", "person:ben", "job:job1", job=job)
    text = cli("show", "job1").out
    for words in (
        "job1",
        "dead",
        "report",
        "/srv",
        "SIGKILL",
        "worker-a",
        "exit code 2",
        "set to run now",
        "person:ben",
    ):
        assert words in text, words


def test_show_json_adds_attempts_with_their_output_and_events(app: Flask, cli: Cli) -> None:
    job = make_job("completed", id="job1", attempts=1)
    make_attempt(
        job, state="completed", output=b"out\nerr\nout\xff", output_runs="4,4,4", output_dropped=3, output_cut=4
    )
    make_event("run_now", "person:ben", "job:job1", job=job)
    shown = cli("show", "job1", "--json").json
    assert list(shown)[: len(FIELDS) + 6] == [
        *FIELDS,
        "notify",
        "blocked_by",
        "report",
        "attempt_history",
        "events",
        "timeline",
    ]
    assert (shown["after"], shown["blocked_because"]) == ([], None)
    (attempt,) = shown["attempt_history"]
    assert set(attempt) >= ATTEMPT_FIELDS
    assert (attempt["stdout"], attempt["stderr"], attempt["truncated"]) == ("out\nout\ufffd", "err\n", True)
    assert [event["verb"] for event in shown["events"]] == ["run_now"]


def test_a_missing_job_is_one_line(app: Flask, cli: Cli) -> None:
    for command in ("show", "logs"):
        result = cli(command, "nope")
        assert (result.code, result.out) == (4, "")
        assert result.err.startswith("Error: no such job: 'nope'.")


# --- cancel, run-now ---


def test_cancel_cancels_waiting_jobs_and_requests_running_ones_to_stop(app: Flask, cli: Cli) -> None:
    make_job(id="waits")
    make_job("processing", id="runs")
    result = cli("cancel", "waits", "runs")
    assert (result.code, result.err) == (0, "Undo: manage.py activity undo 1\n")
    assert result.lines == ["waits: cancelled", "runs: cancel requested"]
    assert state_of("waits") == "cancelled"


def test_a_repeated_cancel_of_a_running_job_is_no_error(app: Flask, cli: Cli) -> None:
    make_job("processing", id="runs", cancel_requested_at=clock.now(), cancel_requested_by="person:ben")
    result = cli("cancel", "runs")
    assert (result.code, result.out, result.err) == (0, "", "runs: is already being cancelled.\n")


def test_jobs_that_cannot_be_cancelled_are_named_and_the_rest_is_done(app: Flask, cli: Cli) -> None:
    make_job("completed", id="done")
    make_job(id="waits")
    result = cli("cancel", "done", "nope", "waits")
    assert (result.code, result.lines) == (5, ["waits: cancelled"])
    assert result.err.splitlines() == [
        "done: is completed; only jobs that have not ended can be cancelled.",
        "nope: no such job.",
        "Undo: manage.py activity undo 1",
    ]


def test_run_now_makes_waiting_jobs_due_and_refuses_others(app: Flask, cli: Cli) -> None:
    make_job("scheduled", id="later")
    make_job("failed", id="flaky")
    make_job(id="due")
    result = cli("run-now", "later", "flaky", "due")
    assert (result.code, result.lines) == (5, ["later: pending", "flaky: pending"])
    assert result.err.splitlines()[0] == "due: is pending; only blocked, scheduled and failed jobs can be run now."
    assert state_of("later") == state_of("flaky") == "pending"


def test_edit_changes_what_is_named_and_retries(app: Flask, cli: Cli) -> None:
    make_job("dead", id="job1", command="a", timeout=5.0, env='{"A": "1", "B": "2"}')
    result = cli("edit", "job1", "--command", "b", "--env", "B=3", "--default", "timeout")
    assert (result.code, result.lines) == (0, ["job1: edited and requeued"])
    assert result.err == "Undo: manage.py activity undo 1\n"
    with reading() as session:
        job = job_detail.find(session, "job1")
    assert job is not None
    assert (job.state, job.command, job.timeout, job.env) == ("pending", "b", None, '{"A": "1", "B": "3"}')
    assert "edited and requeued" in cli("show", "job1").out


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [((), 2, "Give at least one change"), (("--timeout", "5", "--default", "timeout"), 2, "cannot be combined"),
     (("--priority", "900"), 1, "priority: 900 is not allowed"), (("--env", "x"), 2, "has no '='")],
)  # fmt: skip
def test_an_edit_names_what_is_wrong(app: Flask, cli: Cli, options: tuple[str, ...], code: int, said: str) -> None:
    make_job("dead", id="job1")
    result = cli("edit", "job1", *options)
    assert result.code == code
    assert said in result.err
    assert state_of("job1") == "dead"


def test_missing_ids_are_a_usage_error(cli: Cli) -> None:
    assert cli("cancel").code == cli("run-now").code == 2
