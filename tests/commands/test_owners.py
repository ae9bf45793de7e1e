"""Commands that root runs on a queue of a service user: the service can still open every file."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.commands.conftest import Cli, Processes
from tests.users import NO_MANAGER, as_user, folder_of, needs_root, uid_of
from webapp import config as configuration
from webapp.admin.move.databases import move_lock
from webapp.commands import main
from webapp.commands.exit_codes import ExitCode
from webapp.core.storage import wakeup_signal
from webapp.core.storage.database import open_database
from webapp.core.storage.transaction import transaction_on
from webapp.lib import dotenv
from webapp.web.secret_key import secret_key

pytestmark = needs_root


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home folder of another user, empty."""
    with folder_of(NO_MANAGER) as folder:
        monkeypatch.setenv("QUEUECTL_HOME", str(folder))
        yield folder


@pytest.fixture
def migrated() -> bool:
    return False


def owners(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_uid for path in folder.iterdir()}


def test_every_file_that_root_creates_in_a_home_belongs_to_its_owner(home: Path, cli: Cli) -> None:
    assert cli("enqueue", "--command", "true").code == 0
    config = configuration.load()
    secret_key(config.key_path)
    wakeup_signal.install(config)
    with move_lock(config):
        pass
    database = open_database(config)
    with transaction_on(database) as transaction:
        transaction.execute("UPDATE control SET pulse = pulse + 1")
    found = owners(home)
    database.close()
    os.close(database.in_use)
    assert set(found) >= {"queue.db", "queue.db-wal", "queue.db-shm", "queue.lock", "queue.use", "queue.bell"}
    assert set(found) >= {"secret.key", "move.lock"}
    assert set(found.values()) == {uid_of(NO_MANAGER)}


def test_backup_and_restore_by_root_leave_the_files_to_the_service(home: Path, cli: Cli, processes: Processes) -> None:
    assert processes.run("enqueue", "--command", "true").code == 0
    assert processes.run("db", "backup", str(home / "copy.db")).code == 0
    restored = processes.run("db", "restore", str(home / "copy.db"))
    assert restored.code == 0, restored.err
    assert "1 queue paused: the jobs in the backup may have run since." in restored.err
    assert restored.err.endswith("manage.py queue resume default\n")
    found = owners(home)
    assert len([name for name in found if name.startswith("queue.db.before-restore")]) == 1
    assert set(found.values()) == {uid_of(NO_MANAGER)}

    assert cli("queue", "resume", "default").out == "default: resumed\n"
    assert cli("enqueue", "--command", "true").code == 0  # now everything is imported

    def next_command() -> str:
        with contextlib.redirect_stdout(io.StringIO()) as out:
            code = main(["enqueue", "--command", "true", "--id", "next"])
        return f"{code} {out.getvalue()}"

    assert as_user(NO_MANAGER, next_command) == "0 next\n"


def test_a_backup_in_a_folder_of_another_user_belongs_to_root(home: Path, cli: Cli, tmp_path: Path) -> None:
    os.chown(tmp_path, uid_of("daemon"), 0)  # who must not get the password hashes in it
    assert cli("db", "upgrade").code == 0
    assert cli("db", "backup", str(tmp_path / "copy.db")).code == 0
    assert owners(tmp_path) == {"copy.db": 0}


@pytest.mark.parametrize("argv", [["status"], ["enqueue", "--command", "true"], ["up", "--port", "0"], ["doctor"]])
def test_a_file_of_root_is_reported_with_its_owner_and_the_remedy(
    home: Path, cli: Cli, argv: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cli("status").code == 0
    monkeypatch.setenv("QUEUECTL_HOME", "/dev/null/home")
    code = 1 if argv == ["doctor"] else ExitCode.UNAVAILABLE
    assert cli(*argv).code == code  # now everything is imported
    monkeypatch.setenv("QUEUECTL_HOME", str(home))
    os.chown(home / "queue.db", 0, 0)

    def command() -> str:
        out = io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            code = main(argv)
        return f"{code} {out.getvalue()}"

    text = as_user(NO_MANAGER, command)
    assert text.startswith(f"{code:d} ")
    assert f"{home}/queue.db belongs to root (mode 0600), and this process runs as {NO_MANAGER}. " in text
    assert f"Run as root: `chown {NO_MANAGER}: {home}/queue.db`" in text


def test_the_doctor_of_root_finds_files_of_another_owner(home: Path, cli: Cli) -> None:
    assert cli("db", "upgrade").code == 0
    os.chown(home / "queue.db", 0, 0)
    (finding,) = [one for one in cli("doctor", "--json").json if one["check"] == "home folder"]
    assert finding["result"] == "fail"
    assert f"{finding['advice']} ".startswith(f"Run as root: chown --reference={home} {home}/queue.db ")


def test_dotenv_keeps_its_owner_and_a_new_one_belongs_to_the_owner_of_the_home(home: Path, tmp_path: Path) -> None:
    file = tmp_path / ".env"
    dotenv.assign(str(file), "A", "1", owner=str(home))
    assert file.stat().st_uid == uid_of(NO_MANAGER)
    os.chown(file, uid_of("daemon"), 0)
    dotenv.assign(str(file), "A", "2", owner=str(home))
    assert file.stat().st_uid == uid_of("daemon")
