"""`manage.py schedule`: add, edit, list, ledger, next fires, files and crontabs."""

from __future__ import annotations

import json
from pathlib import Path

from flask import Flask

from tests.commands.conftest import Cli


def test_a_schedule_is_added_changed_and_removed(app: Flask, cli: Cli) -> None:
    added = cli("schedule", "add", "nightly", "--cron", "30 2 * * *", "--tz", "Europe/Berlin", "--command", "true",
                "--max-retries", "0", "--overlap", "queue-one")  # fmt: skip
    assert (added.code, added.out.partition(";")[0]) == (0, "nightly: added. At 02:30 every day")
    shown = json.loads(cli("schedule", "show", "nightly", "--json").out)
    assert (shown["overlap"], shown["job"]) == ("queue_one", {"command": "true", "max_retries": 0})
    dry = cli("schedule", "edit", "nightly", "--cron", "0 5 * * *", "--dry-run")
    assert "fires that move" in dry.out
    assert json.loads(cli("schedule", "show", "nightly", "--json").out)["cron"] == "30 2 * * *"
    assert cli("schedule", "edit", "nightly", "--cron", "0 5 * * *").code == 0
    assert "At 05:00 every day" in cli("schedule", "list").out
    assert cli("schedule", "rm", "nightly").code == 0
    assert cli("schedule", "show", "nightly").code != 0


def test_a_schedule_as_json(app: Flask, cli: Cli) -> None:
    assert cli("schedule", "add", "poll", "--json", '{"every": "15m", "job": {"command": "true"}}').code == 0
    assert json.loads(cli("schedule", "list", "--json").out)[0]["every"] == 900
    both = cli("schedule", "add", "x", "--json", "{}", "--cron", "* * * * *")
    assert "either --json or the other options" in both.err


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
    assert "- other: removed" in cli("schedule", "apply", str(file), "--prune").out
    assert [one["name"] for one in json.loads(cli("schedule", "list", "--json").out)] == ["nightly"]
    file.write_text("schedules: {a: {cron: 61 * * * *, job: {command: x}}}")
    refused = cli("schedule", "apply", str(file))
    assert "schedule 1: cron: minute '61'" in refused.err


def test_a_crontab_is_imported_paused(app: Flask, cli: Cli) -> None:
    crontab = b"MAILTO=ops\n*/5 * * * * ./poll.sh\n@reboot ./warm.sh\n"
    dry = cli("schedule", "import", "-", "--dry-run", stdin=crontab)
    assert "1 schedule would be added, 1 left out" in dry.err
    assert cli("schedule", "import", "-", stdin=crontab).code == 0
    (shown,) = json.loads(cli("schedule", "list", "--json").out)
    assert (shown["name"], shown["enabled"], shown["job"]["max_retries"]) == ("poll.sh", False, 0)
