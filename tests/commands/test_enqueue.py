"""`enqueue`: from JSON, options and lines; all or none; errors with place and reason."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from tests.commands.conftest import Cli, Processes
from tests.factories import make_job
from webapp.db.engines import reading
from webapp.db.models import Job
from webapp.jobs import job_detail
from webapp.lib import clock

pytestmark = pytest.mark.every_python

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def stored(job_id: str) -> Job:
    with reading() as session:
        job = job_detail.find(session, job_id)
    assert job is not None
    return job


def number_of_jobs() -> int:
    with reading() as session:
        return session.query(Job).count()


def lines(*jobs: dict[str, Any]) -> bytes:
    return "".join(json.dumps(job) + "\n" for job in jobs).encode()


def test_it_stores_the_job_and_prints_only_its_id(app: Flask, cli: Cli) -> None:
    result = cli("enqueue", '{"id":"job1","command":"echo hello","max_retries":2}')
    assert (result.code, result.out, result.err) == (0, "job1\n", "")
    job = stored("job1")
    assert (job.command, job.max_retries, job.state, job.created_by) == ("echo hello", 2, "pending", "person:ana")


def test_it_creates_a_missing_id(app: Flask, cli: Cli) -> None:
    result = cli("enqueue", '{"command":"true"}')
    assert stored(result.out.strip()).command == "true"


def test_all_ways_to_enqueue_pass_the_trace_of_their_caller_on(
    app: Flask, cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "jobs").write_bytes(
        lines({"command": "true", "id": "c"}, {"command": "true", "env": {"TRACEPARENT": "own"}})
    )
    monkeypatch.setenv("TRACEPARENT", TRACE)
    cli("enqueue", '{"command": "true", "id": "a"}')
    cli("enqueue", "--command", "true", "--id", "b", "--env", "A=1")
    *_, own = cli("enqueue", "--file", str(tmp_path / "jobs")).lines
    cli("enqueue", "-", stdin=lines({"command": "true", "id": "d"}))
    assert [json.loads(stored(one).env or "{}").get("TRACEPARENT") for one in "abcd"] == [TRACE] * 4
    assert json.loads(stored(own).env or "") == {"TRACEPARENT": "own"}
    monkeypatch.setenv("TRACEPARENT", "nonsense")
    cli("enqueue", "--command", "true", "--id", "e")
    assert stored("e").env is None


def test_options_cover_all_json_fields(app: Flask, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = cli(
        *("enqueue", "--command", "make report", "--id", "r1", "--queue", "slow", "--priority", "-5"),
        *("--max-retries", "7", "--timeout", "10m", "--cwd", ".", "--env", "A=1", "--env", "B=x=y"),
        *("--run-at", "2199-01-01T00:00:00Z"),
    )
    assert (result.code, result.out, result.err) == (0, "r1\n", "")
    job = stored("r1")
    assert (job.queue, job.priority, job.max_retries, job.timeout, job.state) == ("slow", -5, 7, 600, "scheduled")
    assert job.cwd == str(tmp_path)
    assert json.loads(job.env or "") == {"A": "1", "B": "x=y"}


def test_a_delay_can_have_a_unit(app: Flask, cli: Cli) -> None:
    job = stored(cli("enqueue", "--command", "true", "--delay", "120min").out.strip())
    assert job.run_at - job.created_at == 7200 * 1_000_000


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ([], "Give one of"),
        (["{}", "--file", "x"], "Give one of"),
        (["{}", "--queue", "x"], "work only with --command"),
        (["--command", "true", "--delay", "soon"], "'--delay': 'soon' is not a duration"),
        (["--command", "true", "--env", "A"], "'A' has no '='"),
        (["--command", "true", "--env", "A=1", "--env", "A=2"], "'A' is set twice"),
        (["--command", "true", "--run-at", "soon"], "--run-at: 'soon' is not a time; expected a time such as 08:00"),
        (["--command", "true", "--priority", "high"], "'high' is not a valid integer"),
        (["{id:job1,command:echo", "hello}"], "seems to have removed the quotes"),
    ],
)
def test_contradictory_options_are_a_usage_error(cli: Cli, argv: list[str], words: str) -> None:
    result = cli("enqueue", *argv)
    assert (result.code, result.out) == (2, "")
    assert words in result.err


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("'{id:job1,command:echo}'", "seems to have removed the quotes"),
        ("{id:job1,command:echo}", "seems to have removed the quotes"),
        ("echo hello", "--command 'echo hi'"),
        ('{"command":', "invalid JSON"),
    ],
)
def test_invalid_input_is_refused_with_a_hint_and_nothing_is_stored(
    app: Flask, cli: Cli, text: str, words: str
) -> None:
    result = cli("enqueue", text)
    assert (result.code, result.out) == (1, "")
    assert words in result.err
    assert "Traceback" not in result.err
    assert number_of_jobs() == 0


def test_well_quoted_json_with_an_error_gets_no_hint_about_quotes(cli: Cli) -> None:
    assert "removed the quotes" not in cli("enqueue", '{"command":"true",}').err


def test_a_taken_id_is_refused_with_the_state_of_its_job(app: Flask, cli: Cli) -> None:
    make_job("dead", id="job1")
    result = cli("enqueue", '{"id":"job1","command":"true"}')
    assert (result.code, result.out) == (3, "")
    assert "'job1' is already used by a dead job" in result.err


def test_with_exists_ok_a_taken_id_is_left_alone(app: Flask, cli: Cli) -> None:
    make_job("dead", id="job1", command="old")
    result = cli("enqueue", "--id", "job1", "--command", "new", "--exists-ok")
    assert (result.code, result.out, result.err) == (0, "job1\n", "Already exists: job1 (dead). Left unchanged.\n")
    assert stored("job1").command == "old"
    data = lines({"id": "a", "command": "1"}, {"id": "job1", "command": "2"})
    result = cli("enqueue", "-", "--exists-ok", stdin=data)
    assert (result.code, result.lines) == (0, ["a", "job1"])
    assert "Enqueued 1 job in" in result.err
    assert cli("enqueue", "-", "--exists-ok", stdin=data).lines == ["a", "job1"]
    assert number_of_jobs() == 2


def test_here_is_the_current_folder_of_the_submitting_user(
    app: Flask, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert stored(cli("enqueue", "--command", "true", "--here").out.strip()).cwd == str(tmp_path)
    data = lines({"id": "a", "command": "1"}, {"id": "b", "command": "2", "cwd": "/srv"})
    assert cli("enqueue", "-", "--here", stdin=data).code == 0
    assert (stored("a").cwd, stored("b").cwd) == (str(tmp_path), "/srv")
    assert cli("enqueue", "--command", "true", "--here", "--cwd", "/srv").code == 2


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a folder in use cannot be removed")
def test_a_missing_folder_is_one_line(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    for option in (["--here"], ["--cwd", "."]):
        result = cli("enqueue", "--command", "true", *option)
        assert (result.code, result.err.count("\n")) == (2, 1)
        assert "the current folder no longer exists" in result.err
    monkeypatch.chdir(tmp_path)


def test_a_start_without_a_zone_is_shown_with_it(app: Flask, cli: Cli) -> None:
    for start in ("08:00", "2199-12-01 08:00"):
        result = cli("enqueue", "--command", "true", "--run-at", start)
        job = stored(result.out.strip())
        assert clock.to_datetime(job.run_at).astimezone().strftime("%H:%M") == "08:00"
        assert re.fullmatch(r"Starts [-\d]+ 08:00:00 [+-]\d{4}, in .+\.\n", result.err)
        assert job.state == "scheduled"


def test_a_start_long_ago_gets_a_warning(app: Flask, cli: Cli) -> None:
    for argv in (
        ["--command", "true", "--run-at", "2020-01-01 08:00"],
        ['{"command":"a","run_at":"2020-01-01T08:00Z"}'],
    ):
        result = cli("enqueue", *argv)
        assert result.code == 0
        assert re.fullmatch(r"Warning: run_at 20[-\d]+T\d\d:00:00Z is [\d,]+ days in the past\. .*\n", result.err)
        assert stored(result.out.strip()).state == "pending"


# --- many ---


def test_lines_on_stdin_become_jobs_in_order_and_blank_ones_are_skipped(app: Flask, cli: Cli) -> None:
    result = cli("enqueue", "-", stdin=b'{"id":"a","command":"1"}\n\n  \n{"id":"b","command":"2"}')
    assert (result.code, result.lines) == (0, ["a", "b"])
    assert "Enqueued 2 jobs" in result.err
    assert stored("a").seq < stored("b").seq


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_files_of_any_editor_or_shell_are_accepted(app: Flask, cli: Cli, tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "jobs.jsonl"
    path.write_bytes('{"id":"a","command":"echo ä"}\r\n{"id":"b","command":"echo \u2028"}\r\n'.encode(encoding))
    result = cli("enqueue", "--file", str(path))
    assert (result.code, result.lines) == (0, ["a", "b"])
    assert stored("a").command == "echo ä"


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b"\r"])
def test_files_with_any_line_ends_can_be_concatenated(app: Flask, cli: Cli, line_end: bytes) -> None:
    file = b"\xef\xbb\xbf" + b'{"id":"a","command":"1"}' + line_end
    result = cli("enqueue", "-", stdin=file + line_end + file.replace(b'"a"', b'"b"') + b"\xef\xbb\xbf")
    assert (result.code, result.lines) == (0, ["a", "b"]), result.err


def test_one_invalid_line_stores_nothing_and_every_error_names_its_line(app: Flask, cli: Cli) -> None:
    data = lines({"command": "true"}) + b"\n" + lines({"command": "true", "priority": "high", "queu": "x"}, {})
    result = cli("enqueue", "-", stdin=data + b"nonsense\n")
    assert (result.code, result.out) == (1, "")
    told = result.err.splitlines()
    assert told[0] == "Error: nothing was stored."
    assert [line.split(":")[0:2] for line in told[1:]] == [
        ["line 3", " priority"],
        ["line 3", " queu"],
        ["line 4", " command"],
        ["line 5", " invalid JSON"],
    ]
    assert number_of_jobs() == 0


def test_the_first_twenty_errors_are_shown_and_the_rest_is_counted(cli: Cli) -> None:
    result = cli("enqueue", "-", stdin=b"{}\n" * 32)
    told = result.err.splitlines()[1:]
    assert len(told) == 21
    assert told[19].startswith("line 20:")
    assert told[20] == "and 12 more"


def test_a_duplicate_id_is_reported_with_both_lines(cli: Cli) -> None:
    data = b"\n" + lines({"id": "a", "command": "1"}, {"id": "b", "command": "2"}, {"id": "a", "command": "3"})
    assert "line 4: id: 'a' is already used in line 2." in cli("enqueue", "-", stdin=data).err


def test_a_taken_id_among_many_is_reported_with_its_line(app: Flask, cli: Cli) -> None:
    make_job(id="b")
    result = cli("enqueue", "-", stdin=b"\n" + lines({"id": "a", "command": "1"}, {"id": "b", "command": "2"}))
    assert result.code == 3
    assert "line 3: id: 'b' is already used by a pending job." in result.err
    assert number_of_jobs() == 1


def test_bytes_that_are_not_text_are_reported_with_their_line(cli: Cli) -> None:
    result = cli("enqueue", "-", stdin=lines({"command": "true"}) + b'{"command":"\xff"}\n')
    assert (result.code, result.err) == (1, "Error: line 2: this is not UTF-8 text. Nothing was stored.\n")


def test_a_missing_file_is_one_line(cli: Cli) -> None:
    result = cli("enqueue", "--file", "nowhere.jsonl")
    assert (result.code, result.out) == (1, "")
    assert result.err == "Error: cannot read nowhere.jsonl: No such file or directory.\n"


def test_only_blank_lines_are_no_error(app: Flask, cli: Cli) -> None:
    result = cli("enqueue", "-", stdin=b"\n\n")
    assert (result.code, result.out) == (0, "")
    assert "No jobs" in result.err


@pytest.mark.only("sqlite")
def test_jobs_are_submitted_as_typed_in_any_locale(app: Flask, processes: Processes) -> None:
    """Terminals send UTF-8. Under this locale Python has ASCII."""
    locale: dict[str, Any] = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    folder = processes.folder / "日本"
    folder.mkdir()
    options = ("--command", "echo ✅", "--env", "NAME=日本", "--cwd", ".")
    by_options = processes.run("enqueue", *options, cwd=folder, **locale)
    by_json = processes.run("enqueue", '{"command": "echo ✅", "env": {"NAME": "日本"}}', **locale)
    with reading() as session:
        jobs = [job_detail.find(session, result.out.strip()) for result in (by_options, by_json)]
    assert [(job.command, json.loads(job.env or "")) for job in jobs if job] == [("echo ✅", {"NAME": "日本"})] * 2
    assert jobs[0] is not None
    assert jobs[0].cwd == str(folder)
