"""Exit codes for scripts; the table in the documents matches the code."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

import pytest
from flask import Flask

from tests.commands.conftest import Cli
from tests.factories import make_job, make_queue, make_user, make_worker
from webapp.commands import exit_codes
from webapp.commands.exit_codes import ExitCode
from webapp.config import CHECKOUT
from webapp.core.storage import relocated
from webapp.core.storage.locks import Busy
from webapp.db.engines import is_sqlite

CASES = [
    (["list"], ExitCode.DONE),
    (["enqueue", "{}"], ExitCode.ERROR),
    (["config", "set", "max_retries", "-1"], ExitCode.ERROR),
    (["list", "--nope"], ExitCode.USAGE),
    (["enqueue", "--id", "done", "--command", "true"], ExitCode.TAKEN),
    (["enqueue", '{"id":"done","command":"true"}'], ExitCode.TAKEN),
    (["user", "add", "Ana", "--password-stdin"], ExitCode.TAKEN),
    (["token", "create", "ci", "--scope", "read"], ExitCode.TAKEN),
    (["audit", "export", "taken"], ExitCode.TAKEN),
    (["db", "backup", "taken"], ExitCode.TAKEN),
    (["show", "nope"], ExitCode.NOT_FOUND),
    (["logs", "nope"], ExitCode.NOT_FOUND),
    (["cancel", "nope"], ExitCode.NOT_FOUND),
    (["cancel", "nope", "--json"], ExitCode.NOT_FOUND),
    (["run-now", "nope"], ExitCode.NOT_FOUND),
    (["dlq", "retry", "nope"], ExitCode.NOT_FOUND),
    (["dlq", "retry", "--group", "nope", "--canary"], ExitCode.NOT_FOUND),
    (["dlq", "note", "nope", "x"], ExitCode.NOT_FOUND),
    (["activity", "undo", "7"], ExitCode.NOT_FOUND),
    (["activity", "stop", "7"], ExitCode.NOT_FOUND),
    (["queue", "pause", "nope"], ExitCode.NOT_FOUND),
    (["queue", "remove", "nope"], ExitCode.NOT_FOUND),
    (["worker", "stop", "nope"], ExitCode.NOT_FOUND),
    (["worker", "scale", "nope", "1"], ExitCode.NOT_FOUND),
    (["config", "get", "nope"], ExitCode.NOT_FOUND),
    (["config", "history", "nope"], ExitCode.NOT_FOUND),
    (["user", "role", "nope", "viewer"], ExitCode.NOT_FOUND),
    (["user", "sessions", "nope"], ExitCode.NOT_FOUND),
    (["token", "revoke", "nope"], ExitCode.NOT_FOUND),
    (["cancel", "done"], ExitCode.REFUSED),
    (["cancel", "done", "nope"], ExitCode.REFUSED),
    (["run-now", "done"], ExitCode.REFUSED),
    (["edit", "done", "--timeout", "5"], ExitCode.REFUSED),
    (["edit", "nope", "--timeout", "5"], ExitCode.NOT_FOUND),
    (["dlq", "discard", "done"], ExitCode.REFUSED),
    (["queue", "remove", "busy"], ExitCode.REFUSED),
    (["worker", "drain", "w1"], ExitCode.REFUSED),
    (["user", "disable", "ana"], ExitCode.REFUSED),
]


def test_each_kind_of_refusal_has_its_code(
    app: Flask, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").touch()
    make_job("completed", id="done")
    make_queue("busy")
    make_job(queue="busy")
    make_worker(id="w1", state="stopped", stopped_at=1)
    make_user("ana")
    assert cli("token", "create", "ci", "--scope", "read").code == 0
    for argv, code in CASES:
        if argv[:2] == ["db", "backup"] and not is_sqlite():
            continue
        result = cli(*argv, stdin=b"correct horse battery\n")
        assert result.code == code, (argv, result)
        assert code == ExitCode.DONE or "Traceback" not in result.err


@pytest.mark.parametrize("error", [Busy("busy"), relocated.Relocated("this queue was moved to there")])
def test_an_unreachable_queue_has_its_code(cli: Cli, error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("webapp.core.enqueue.enqueue", refuse)
    assert cli("enqueue", "--command", "true").code == ExitCode.UNAVAILABLE


def test_every_error_of_the_table_exists() -> None:
    for name in exit_codes._CODES:
        module, _, kind = name.rpartition(".")
        assert issubclass(getattr(import_module(module), kind), Exception), name


def test_the_documents_list_every_code() -> None:
    text = (CHECKOUT / "docs" / "jobs.md").read_text(encoding="utf-8").partition("## Exit codes")[2]
    assert re.findall(r"^\| (\d+) \|", text, re.MULTILINE) == [str(int(code)) for code in ExitCode]
