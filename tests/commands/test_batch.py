"""`enqueue --batch`, `enqueue --after` and `batch`: one case of each rule; the rules are tested where they live."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from flask import Flask

from tests.commands.conftest import Cli
from tests.factories import change_job
from webapp.lib import clock

pytestmark = pytest.mark.usefixtures("app")


def test_a_file_becomes_a_batch_with_callbacks(cli: Cli, tmp_path: Path, app: Flask) -> None:
    jobs, done = tmp_path / "jobs.jsonl", tmp_path / "done.json"
    jobs.write_text('{"command": "true", "id": "b", "after": ["a"]}\n{"command": "true", "id": "a"}\n')
    done.write_text('{"command": "echo done"}')
    options = ["--file", str(jobs), "--batch", "nightly", "--on-done", str(done)]
    assert cli("enqueue", *options, "--open").lines == ["b", "a"]
    assert cli("enqueue", "--command", "true", "--id", "c", "--batch", "nightly").code == 0
    [listed] = cli("batch", "list", "--json").json
    assert (listed["name"], listed["state"], listed["jobs"]) == ("nightly", "open", {"blocked": 1, "pending": 2})
    assert cli("batch", "close", "nightly").out == "nightly: closed\n"
    assert cli("batch", "close", "nightly").code == 5
    refused = cli("enqueue", "--command", "true", "--batch", "nightly")
    assert (refused.code, "batch: the batch 'nightly' was closed at" in refused.err) == (1, True)
    change_job("a", state="dead", finished_at=clock.now(), last_error="exit code 3", error_key="3")
    shown = cli("batch", "show", "nightly")
    assert "1 of 3 ended, 1 failed, 2 left" in shown.out
    assert "exit code 3" in shown.out
    assert cli("batch", "show", "nightly", "--json").json["on_done"] == {"command": "echo done"}
    assert "1 job requeued" in cli("batch", "retry", "nightly").err
    assert "3 jobs cancelled" in cli("batch", "cancel", "nightly").err
    assert cli("batch", "wait", "nightly").code == 1
    assert cli("batch", "show", "none").code == 4


def test_a_callback_with_a_fault_names_the_field(cli: Cli, tmp_path: Path) -> None:
    wrong = tmp_path / "done.json"
    wrong.write_text(json.dumps({"command": "true", "queue": "no name"}))
    told = cli("enqueue", "--command", "true", "--batch", "b", "--on-done", str(wrong))
    assert (told.code, "on_done.queue: 'no name' is not allowed" in told.err) == (1, True)
    assert cli("enqueue", "--command", "true", "--open").code == 2
    assert "cannot read" in cli("enqueue", "--command", "true", "--batch", "b", "--on-death", "/none").err


def test_show_says_why_a_job_is_blocked_and_cancel_ends_what_is_below(cli: Cli) -> None:
    cli("enqueue", "--command", "true", "--id", "a")
    cli("enqueue", "--command", "true", "--id", "b", "--after", "a")
    cli("enqueue", "--command", "true", "--id", "c", "--after", "b:finish", "--after", "a")
    assert "Waits for 1 job: a is pending." in cli("show", "b").out
    change_job("a", state="dead", finished_at=clock.now())
    shown = cli("show", "c").out
    assert "a, b:finish" in shown
    assert "Blocked: a is dead. Requeue it, run this job now, or cancel it." in shown
    whole = cli("show", "b", "--json").json
    assert whole["after"] == [{"job": "a", "on": "success", "state": "dead"}]
    assert whole["blocked_because"].startswith("Blocked: a is dead")
    assert cli("list", "--search", "after:a", "--json").json[0]["state"] == "blocked"
    assert cli("cancel", "--below", "a").lines == ["c: cancelled", "b: cancelled"]
    assert cli("cancel", "--below", "a").code == 5
    assert cli("enqueue", "--command", "true", "--after", "none").err.startswith("Error: after: no such job: 'none'")
