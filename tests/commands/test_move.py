"""`db move`: messages before, during and after it; and those of all other commands from then on."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands.conftest import ENTRY, Cli, Processes
from tests.conftest import opened
from tests.deadline import DEADLINE
from tests.factories import make_job, make_worker
from webapp import config as configuration
from webapp.config import Config
from webapp.db.application import create_core


@pytest.fixture
def address(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/moved.db"


def make_jobs(config: Config) -> None:
    for _ in opened(create_core(config)):
        make_job(id="old", created_by="person:ana")


def test_a_dry_run_shows_what_would_move_and_that_it_can(config: Config, cli: Cli, address: str) -> None:
    make_jobs(config)
    for _ in opened(create_core(config)):
        make_worker()
    ran = cli("db", "move", "--to", address, "--dry-run")
    assert ran.code == 0
    assert ["jobs", "1"] in [line.split() for line in ran.lines]
    assert f"to       SQLite, {address}, empty" in ran.lines
    assert "running  nothing; 1 worker" in ran.lines
    assert ran.err == "The queue can be moved. Nothing was changed.\n"


def test_a_dry_run_names_what_does_not_fit_and_ends_with_1(
    config: Config, cli: Cli, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from webapp.admin.move import checks

    monkeypatch.setattr(checks, "GROWTH", 2**60)
    ran = cli("db", "move", "--to", address, "--dry-run")
    assert ran.code == 1
    assert any(line.startswith("error    ") and "are needed." in line for line in ran.lines)
    assert ran.err == "The queue cannot be moved. Nothing was changed.\n"


def test_a_move_ends_with_the_new_address_and_where_to_set_it(config: Config, cli: Cli, address: str) -> None:
    make_jobs(config)
    ran = cli("db", "move", "--to", address)
    assert (ran.code, ran.out) == (0, f"The queue is now at {address}. All tables are verified.\n")
    assert [line for line in ran.err.splitlines() if line.startswith(("copy:", "verify:"))]
    assert f"QUEUECTL_DATABASE_URL={address}\n" in ran.err
    again = cli("db", "move", "--to", address)
    assert (again.code, again.out) == (ran.code, ran.out)


WRITES = (
    ["enqueue", "--command", "true"],
    ["enqueue", '{"id": "old", "command": "true"}'],
    ["cancel", "old"],
    ["run-now", "later"],
    ["config", "set", "backoff_base", "3"],
    ["queue", "pause", "default"],
    ["token", "create", "ci", "--scope", "read"],
    ["up", "--port", "0"],
    ["web", "--port", "0"],
    ["worker", "start"],
)


@pytest.mark.full
def test_every_command_that_writes_is_refused_with_the_address(
    config: Config, processes: Processes, address: str
) -> None:
    make_jobs(config)
    for _ in opened(create_core(config)):
        make_job("scheduled", id="later")
    assert processes.run("db", "move", "--to", address).code == 0
    for command in WRITES:
        ran = processes.run(*command)
        assert (ran.code, ran.out) == (6, ""), (command, ran)
        [line] = ran.err.splitlines()
        assert f"this queue was moved to {address} on " in line, command


def test_commands_that_read_show_the_old_jobs_and_a_note(config: Config, cli: Cli, address: str) -> None:
    make_jobs(config)
    cli("db", "move", "--to", address)
    for command in (["status"], ["list", "--json"], ["show", "old"], ["queue", "list"]):
        ran = cli(*command)
        assert ran.code == 0
        assert ran.out
        assert ran.err.splitlines()[-1].startswith(f"Note: this queue was moved to {address} on ")
    found = {one["check"]: one for one in cli("doctor", "--json").json}
    assert found["address"]["result"] == "fail"
    assert found["address"]["detail"].startswith(f"this queue was moved to {address} on ")


def test_a_move_is_undone(config: Config, cli: Cli, address: str) -> None:
    make_jobs(config)
    cli("db", "move", "--to", address)
    ran = cli("db", "move", "--to", address, "--undo")
    assert (ran.code, ran.out) == (0, "")
    assert ran.err.endswith("The queue is back here. Start its workers: manage.py worker start, or up.\n")
    assert cli("enqueue", "--command", "true").code == 0


def test_an_error_in_the_options_is_reported_in_one_line(cli: Cli, address: str) -> None:
    wrong = cli("db", "move", "--to", "mysql://ana:s3cret@db/q")
    assert wrong.code == 1
    assert wrong.err.startswith("Error: --to is not a valid database address (mysql://…). Expected sqlite:////abs")
    assert cli("db", "move", "--to", address, "--force").code == 2
    assert cli("db", "move", "--to", address, "--undo", "--dry-run").code == 2


def test_the_new_address_is_written_into_a_private_dotenv(
    sqlite_config: Config, cli: Cli, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    (checkout / ".env").write_text("# ours\nQUEUECTL_PUBLIC_URL=https://q.example.org\n")
    monkeypatch.setattr(configuration, "CHECKOUT", checkout)
    ran = cli("db", "move", "--to", address, "--write-env")
    assert f"Written to {checkout}/.env." in ran.err
    assert (checkout / ".env").stat().st_mode & 0o777 == 0o600
    loaded = configuration.load()
    assert (loaded.database_url, loaded.public_url) == (address, "https://q.example.org")


def test_a_terminal_gets_a_progress_bar(config: Config, processes: Processes, address: str) -> None:
    make_jobs(config)
    master, slave = pty.openpty()
    ran = subprocess.Popen(
        [sys.executable, str(ENTRY), "db", "move", "--to", address],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=slave,
        env={**os.environ, "QUEUECTL_VENV": sys.prefix, "TERM": "xterm", "COLUMNS": "100"},
    )
    os.close(slave)
    shown = b""
    try:
        while data := os.read(master, 65536):
            shown += data
    except OSError:  # the other end is closed
        pass
    os.close(master)
    assert ran.wait(DEADLINE) == 0
    assert b"copy" in shown
    assert b"verify" in shown
    assert "━".encode() in shown
