"""`manage.py schedule`: add, edit, list, ledger, next fires, files and crontabs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from flask import Flask

from tests.commands.conftest import Cli
from webapp.db.engines import writing
from webapp.db.models import Fire
from webapp.lib import clock
from webapp.schedules import views


def test_a_schedule_is_added_changed_and_removed(app: Flask, cli: Cli) -> None:
    added = cli("schedule", "add", "nightly", "--cron", "30 2 * * *", "--tz", "Europe/Berlin", "--command", "true",
                "--max-retries", "0", "--overlap", "queue-one")  # fmt: skip
    assert (added.code, added.out.partition(";")[0]) == (0, "nightly: added. At 02:30 every day")
    shown = json.loads(cli("schedule", "show", "nightly", "--json").out)
    assert (shown["overlap"], shown["job"]) == ("queue_one", {"command": "true", "max_retries": 0})
    dry = cli("schedule", "edit", "nightly", "--cron", "0 5 * * *", "--dry-run")
    assert "Nothing was changed" in dry.out
    assert "fires" in dry.out  # new ones or moved ones: that depends on the time of day
    assert json.loads(cli("schedule", "show", "nightly", "--json").out)["cron"] == "30 2 * * *"
    assert cli("schedule", "edit", "nightly", "--cron", "0 5 * * *").code == 0
    assert "At 05:00 every day" in cli("schedule", "list").out
    assert cli("schedule", "rm", "nightly").code == 0
    assert cli("schedule", "show", "nightly").code != 0


def test_a_schedule_as_json(app: Flask, cli: Cli) -> None:
    assert cli("schedule", "add", "poll", "--json", '{"every": "15m", "job": {"command": "true"}}').code == 0
    assert json.loads(cli("schedule", "list", "--json").out)[0]["every"] == 900
    both = cli("schedule", "add", "x", "--json", "{}", "--cron", "* * * * *")
    assert "either --json OBJECT or the other options" in both.err


def test_an_invalid_option_names_the_field(app: Flask, cli: Cli) -> None:
    refused = cli("schedule", "add", "x", "--cron", "61 * * * *", "--command", "true")
    assert refused.code != 0
    assert "cron: minute '61'" in refused.err


def test_run_pause_and_the_ledger(app: Flask, cli: Cli) -> None:
    cli("schedule", "add", "nightly", "--cron", "30 2 * * *", "--command", "true")
    job_id = cli("schedule", "run", "nightly").out.strip()
    assert cli("schedule", "run", "nightly").code != 0
    assert json.loads(cli("schedule", "fires", "nightly", "--json").out)[0]["job_id"] == job_id
    assert cli("schedule", "pause", "nightly").out == "nightly: paused\n"
    assert cli("schedule", "pause", "nightly").out == "nightly: already paused\n"
    assert "paused" in cli("schedule", "list").out
    assert cli("schedule", "resume", "nightly").out == "nightly: resumed\n"


def test_each_verb_prints_json(app: Flask, cli: Cli) -> None:
    """With an object, --json of add and edit also reads it."""
    fields = ("--cron", "30 2 * * *", "--command", "true")
    assert cli("schedule", "add", "nightly", *fields, "--json").json["cron"] == "30 2 * * *"
    assert cli("schedule", "add", "poll", "--json", '{"every": "15m", "job": {"command": "true"}}').json["every"] == 900
    dry = cli("schedule", "edit", "nightly", "--cron", "0 5 * * *", "--dry-run", "--json").json
    assert (dry["cron"], dry["dry_run"]) == ("30 2 * * *", True)
    assert dry["preview"]["move"] or dry["preview"]["appear"]  # that depends on the time of day
    edited = cli("schedule", "edit", "nightly", "--json", '{"cron": "0 5 * * *"}').json
    assert (edited["cron"], edited["dry_run"]) == ("0 5 * * *", False)
    assert edited["preview"]["move"] or edited["preview"]["appear"]
    paused = [cli("schedule", "pause", "nightly", "--json").json for _ in range(2)]
    assert [(one["enabled"], one["changed"]) for one in paused] == [(False, True), (False, False)]
    assert cli("schedule", "resume", "nightly", "--json").json["enabled"]
    assert cli("schedule", "run", "nightly", "--json").json["schedule"] == "nightly"
    assert cli("schedule", "rm", "nightly", "--json").json == {"name": "nightly", "removed": True}
    (job,) = [one["job"] for one in cli("schedule", "export", "--json").json]
    assert job == {"command": "true"}
    wrong = cli("schedule", "add", "--json", "nightly", *fields)
    assert (wrong.code, "put --json at the end" in wrong.err) == (2, True)
    wrong = cli("schedule", "add", "a", "--json", '{"name": "b", "every": 60, "job": {"command": "true"}}')
    assert (wrong.code, "name: differs from the argument a" in wrong.err) == (1, True)


def test_an_edit_needs_a_field(app: Flask, cli: Cli) -> None:
    cli("schedule", "add", "nightly", "--cron", "30 2 * * *", "--command", "true")
    for options in ((), ("--json",), ("--dry-run",)):
        refused = cli("schedule", "edit", "nightly", *options)
        assert (refused.code, "Nothing to change" in refused.err) == (2, True)


def test_an_edit_mends_a_broken_schedule(app: Flask, cli: Cli) -> None:
    cli("schedule", "add", "nightly", "--cron", "30 2 * * *", "--tz", "Europe/Berlin", "--command", "true")
    with writing() as session:
        row = views.find(session, "nightly")
        row.spec = row.spec.replace("Europe/Berlin", "Mars/X")
    assert "Mars/X" in cli("schedule", "show", "nightly").out
    refused = cli("schedule", "run", "nightly")
    assert (refused.code, "is broken: tz: 'Mars/X'" in refused.err) == (5, True)
    assert "Left out" in cli("schedule", "export").err
    assert cli("schedule", "edit", "nightly", "--tz", "Europe/Paris", "--json").json["cron"] == "30 2 * * *"
    assert cli("schedule", "show", "nightly", "--json").json["broken"] is None


def test_a_skipped_fire_runs_by_the_time_that_the_ledger_shows(app: Flask, cli: Cli) -> None:
    cli("schedule", "add", "nightly", "--cron", "30 2 * * *", "--command", "true")
    due = clock.parse_iso("2026-11-01T02:30:00Z")
    with writing() as session:
        fire = {"due_at": due, "decided_at": due, "outcome": "skipped", "reason": "paused"}
        session.add(Fire(schedule_id=views.find(session, "nightly").id, **fire))
    cli("schedule", "pause", "nightly")
    assert "1 fire was skipped while it was paused" in cli("schedule", "resume", "nightly").err
    shown = cli("schedule", "fires", "nightly").lines[1][:25]
    ran = cli("schedule", "run", "nightly", "--due", shown, "--json")
    assert (ran.code, ran.json["due_at"]) == (0, "2026-11-01T02:30:00.000000Z")
    (fire,) = cli("schedule", "fires", "nightly", "--json").json
    assert (fire["outcome"], fire["job_id"]) == ("caught_up", ran.json["job_id"])
    again = cli("schedule", "run", "nightly", "--due", "2026-11-01T02:30:00Z")
    assert (again.code, "has run already" in again.err) == (5, True)
    assert cli("schedule", "run", "nightly", "--due", "2026-11-01T02:31:00Z").code == 4
    assert cli("schedule", "run", "nightly", "--due", "soon").code == 2


def test_next_fires_name_clock_changes(app: Flask, cli: Cli) -> None:
    cli("schedule", "add", "nightly", "--cron", "30 2 * * *", "--tz", "Europe/Berlin", "--command", "true")
    told = cli("schedule", "next", "nightly", "-n", "400")
    assert len(told.out.splitlines()) == 401
    assert "02:30 does not exist: runs at 03:00 instead" in told.err
    assert len(json.loads(cli("schedule", "next", "nightly", "--json").out)) == 10


def test_export_and_apply(app: Flask, cli: Cli, tmp_path: Path) -> None:
    cli("schedule", "add", "nightly", "--cron", "30 2 * * *", "--command", "true")
    file = tmp_path / "schedules.yaml"
    file.write_text(cli("schedule", "export").out)
    assert "0 changes, 1 unchanged" in cli("schedule", "apply", str(file)).err
    file.write_text(file.read_text().replace("30 2", "0 5"))
    assert "~ nightly: cron" in cli("schedule", "apply", str(file), "--dry-run").out
    cli("schedule", "add", "other", "--every", "1h", "--command", "true")
    planned = cli("schedule", "apply", str(file), "--prune", "--dry-run", "--json").json
    assert (planned["applied"], [one["kind"] for one in planned["changes"]]) == (False, ["change", "remove"])
    assert "- other: removed" in cli("schedule", "apply", str(file), "--prune").out
    assert [one["name"] for one in json.loads(cli("schedule", "list", "--json").out)] == ["nightly"]
    file.write_text("schedules: {a: {cron: 61 * * * *, job: {command: x}}}")
    refused = cli("schedule", "apply", str(file))
    assert "schedule 1: cron: minute '61'" in refused.err


def test_a_crontab_is_imported_paused(app: Flask, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    crontab = b"MAILTO=ops\n*/5 * * * * ./poll.sh\n@reboot ./warm.sh\n"
    dry = cli("schedule", "import", "-", "--dry-run", stdin=crontab)
    assert "1 schedule would be added, 1 left out" in dry.err
    assert dry.lines[0] == "time zone: Asia/Tokyo (from TZ=Asia/Tokyo)"
    assert cli("schedule", "import", "-", stdin=crontab).code == 0
    (shown,) = json.loads(cli("schedule", "list", "--json").out)
    assert (shown["name"], shown["enabled"], shown["job"]["max_retries"]) == ("poll.sh", False, 0)
    again = cli("schedule", "import", "-", stdin=crontab)
    assert (again.code, "names of other schedules: poll.sh" in again.err) == (3, True)
    other = cli("schedule", "import", "-", "--prefix", "b-", "--json", stdin=crontab).json
    assert (other["tz"], other["applied"], len(other["entries"][0]["next"])) == ("Asia/Tokyo", True, 3)
