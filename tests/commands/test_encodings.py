"""If stdout or stderr cannot write a character, every command writes a substitute."""

from __future__ import annotations

import io
import json
import sys
from contextlib import redirect_stderr, redirect_stdout

import pytest
from flask import Flask

from tests.commands.conftest import Processes, Result
from tests.factories import make_attempt, make_job, make_user, make_worker
from webapp.commands import main

COMMAND = "echo ✅ žluť Ż é 日本"
COMMANDS = [
    ["list"], ["show", "job1"], ["status"], ["dlq", "list"], ["dlq", "groups"], ["activity", "list"], ["queue", "list"],
    ["worker", "list"], ["worker", "supervisors"], ["config", "list"], ["user", "list"], ["token", "list"], ["audit"],
    ["logs", "job1"], ["cancel", "✅"], ["show", "✅"], ["list", "--state", "✅"], ["--help"],
]  # fmt: skip


def run(encoding: str, *argv: str, errors: str = "strict") -> Result:
    kept = io.BytesIO(), io.BytesIO()
    out, err = (io.TextIOWrapper(buffer, encoding=encoding, errors=errors, write_through=True) for buffer in kept)
    with redirect_stdout(out), redirect_stderr(err):
        code = main(argv)
    return Result(code, *(buffer.getvalue().decode(encoding) for buffer in kept))


@pytest.mark.parametrize(
    "encoding", ["ascii", *(pytest.param(name, marks=pytest.mark.full) for name in ("cp1252", "iso-8859-2"))]
)
def test_every_command_writes_substitutes(app: Flask, encoding: str) -> None:
    more = {"last_error": "✅ …", "error_key": "key", "cwd": "/日本", "env": '{"A": "✅"}'}
    job = make_job("dead", id="job1", command=COMMAND, **more)
    make_attempt(job, error="✅ …")
    make_worker(id="w1", host="日本")
    make_user("ana")
    for argv in COMMANDS:
        if argv[0] != "logs":
            assert run(encoding, *argv).code in {0, 2, 4}, argv
    listed = run(encoding, "list").out
    assert r"\u2705" in listed
    assert r"\u65e5\u672c" in listed
    assert ("\\xe9" in listed) == (encoding == "ascii")
    assert r"'\u2705'" in run(encoding, "show", "✅").err


def test_punctuation_becomes_similar_and_json_has_escapes(app: Flask) -> None:
    make_job(id="job1", command=COMMAND)
    assert "pending - waiting" in run("ascii", "show", "job1").out
    assert "pending - waiting" in run("iso-8859-2", "show", "job1").out
    assert "pending · waiting" in run("cp1252", "show", "job1").out
    for encoding in ("ascii", "cp1252"):
        assert json.loads(run(encoding, "list", "--json").out)[0]["command"] == COMMAND
        assert json.loads(run(encoding, "show", "job1", "--json").out)["command"] == COMMAND


def test_substitutes_set_by_the_environment_are_kept(app: Flask) -> None:
    make_job(id="job1", command="é ✅")
    assert "? ?" in run("ascii", "list", errors="replace").out


@pytest.mark.full
@pytest.mark.skipif(sys.platform == "win32", reason="a shell of POSIX")
def test_a_process_writes_substitutes_and_keeps_the_bytes_of_job_output(processes: Processes) -> None:
    assert processes.run("enqueue", "--id", "a", "--command", "printf '\\342\\234\\205\\377'").code == 0
    assert processes.run("worker", "start", "--drain").code == 0
    shown = processes.run("list", PYTHONIOENCODING="ascii")
    assert (shown.code, shown.err) == (0, "")
    assert processes.run_bytes("logs", "a", PYTHONIOENCODING="cp1252") == b"\xe2\x9c\x85\xff"
