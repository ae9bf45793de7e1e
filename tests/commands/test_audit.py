"""`audit`: the audit trail in a terminal and as a file, with the same filters."""

from __future__ import annotations

import json
import stat
import sys
from pathlib import Path

import pytest
from flask import Flask

from tests.commands.conftest import Cli, Processes
from webapp.db import audit
from webapp.db.engines import writing


@pytest.fixture
def trail(app: Flask, cli: Cli) -> None:
    for value in range(3):
        cli("config", "set", "max_retries", str(value + 4))
    cli("queue", "pause", "mail")
    with writing() as session:
        audit.note(session, "post", ["route:queues.pause"], "person:eve\x1b[2J", outcome="refused")


@pytest.mark.usefixtures("trail")
def test_the_newest_entry_is_first_and_a_message_says_that_there_are_more(cli: Cli) -> None:
    result = cli("audit", "--limit", "2")
    assert result.code == 0
    assert result.lines[1].split()[3:7] == [r"person:eve\x1b[2J", "post", "route:queues.pause", "refused"]
    assert "the newest 2 are shown, of 4" in result.err
    assert len(cli("audit", "--json").json) == 4
    assert len(cli("audit", "--limit", "2", "--json").json) == 2
    assert cli("audit").err == ""


@pytest.mark.usefixtures("trail")
@pytest.mark.parametrize(
    ("argv", "number"),
    [
        (["--actor", "ana"], 3),
        (["--actor", "person:ana", "--verb", "config"], 3),
        (["--subject", "setting:"], 3),
        (["--outcome", "refused"], 1),
        (["--since", "1w"], 4),
        (["--since", "2020-01-01"], 4),
        (["--since", "2990-01-01T00:00:00Z"], 0),
        (["--actor", "nobody"], 0),
    ],
)
def test_table_and_file_have_the_same_filters(cli: Cli, argv: list[str], number: int) -> None:
    assert len(cli("audit", *argv, "--json").json) == number
    assert len(cli("audit", "export", *argv).lines) == number
    if not number:
        assert "No matching entries." in cli("audit", *argv).err


@pytest.mark.usefixtures("trail")
def test_an_export_is_a_private_file_of_json_lines_oldest_first(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "EXPORT_BATCH", 2)
    file = tmp_path / "audit.jsonl"
    result = cli("audit", "export", str(file))
    assert (result.code, result.out, result.err) == (0, "", f"{file}: 4 lines\n")
    told = [json.loads(line) for line in file.read_text().splitlines()]
    assert [one["id"] for one in told] == sorted(one["id"] for one in told)
    assert told == [json.loads(line) for line in cli("audit", "export", "-").lines]
    if sys.platform != "win32":
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    again = cli("audit", "export", str(file))
    assert (again.code, again.err) == (3, f"Error: {file} exists. Choose another name, or use --replace.\n")
    assert cli("audit", "export", str(file), "--replace", "--verb", "config").code == 0
    assert len(file.read_text().splitlines()) == 3
    assert [path.name for path in tmp_path.glob("*.jsonl*")] == ["audit.jsonl"]
    assert "No such file" in cli("audit", "export", str(tmp_path / "none" / "x")).err


def test_an_invalid_time_is_a_usage_error_in_one_line(app: Flask, cli: Cli) -> None:
    result = cli("audit", "--since", "morning")
    assert (result.code, result.out) == (2, "")
    assert "'--since': 'morning' is not a time" in result.err
    assert result.err.count("\n") == 1


def test_options_before_export_are_not_ignored(app: Flask, cli: Cli) -> None:
    result = cli("audit", "--actor", "ana", "export")
    assert result.code == 2
    assert "after `export`" in result.err


@pytest.mark.full
def test_a_restored_audit_trail_records_the_restore_and_its_user(processes: Processes, tmp_path: Path) -> None:
    copy = str(tmp_path / "copy.db")
    assert processes.run("config", "set", "lease", "40").code == 0
    assert processes.run("db", "backup", copy).code == 0
    assert processes.run("db", "restore", copy).code == 0
    last = json.loads(processes.run("audit", "--json").out)[0]
    restored = {"after": {"file": copy, "paused_queues": 1}}
    assert (last["verb"], last["subject"], last["detail"]) == ("restore", "database", restored)
    assert last["actor"].startswith("person:")
