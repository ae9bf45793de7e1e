"""A start with a finished environment: what it loads, and which packages it uses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Optional

import pytest

from tests.bootstrap.conftest import BASE_PYTHON, Door
from tests.deadline import DEADLINE
from webapp.bootstrap.venv import STAMP, BootstrapError, wanted_locks
from webapp.config import CHECKOUT


def test_a_second_start_installs_nothing_and_prints_nothing(finished: Door) -> None:
    again = finished.start("status")
    assert (again.returncode, again.stderr) == (0, "")
    assert json.loads(again.stdout)["prefix"] == str(finished.venv)


def test_the_python_of_the_environment_runs_commands_directly(finished: Door) -> None:
    told = finished.told("status", python=str(finished.venv / "bin" / "python"))
    assert told["prefix"] == str(finished.venv)


def test_a_command_runs_in_the_current_folder(finished: Door, tmp_path: Path) -> None:
    assert finished.told("status", cwd=tmp_path)["cwd"] == str(tmp_path)


def test_the_exit_code_of_the_command_is_passed_on(finished: Door) -> None:
    assert finished.start("exit", "7").returncode == 7


def test_a_tool_in_the_environments_bin_can_be_started_by_path(finished: Door) -> None:
    tool = subprocess.run([finished.venv / "bin" / "tiny-tool"], capture_output=True, text=True, check=True)
    assert tool.stdout == "tiny 1.0\n"


def test_a_package_on_pythonpath_does_not_displace_the_locked_one(finished: Door, tmp_path: Path) -> None:
    (tmp_path / "tiny.py").write_text("VERSION = 'not the locked one'\n")
    assert finished.told("status", PYTHONPATH=str(tmp_path))["version"] == "1.0"


@pytest.mark.parametrize(
    ("argv", "url", "lock"),
    [
        (["up"], None, "requirements.lock"),
        (["up"], "sqlite:////tmp/queue.db", "requirements.lock"),
        (["up"], "postgres://db/queue", "requirements-postgres.lock"),
        (["db", "move", "--to=postgresql+psycopg://db/queue"], None, "requirements-postgres.lock"),
        (["db", "move", "--to", "postgres://db/queue?sslmode=require"], None, "requirements-postgres.lock"),
        (["enqueue", "--command", "psql postgres://elsewhere/x"], None, "requirements.lock"),
        (["up"], "file:///run/secrets/address", "requirements-postgres.lock"),
        (["test"], "postgres://db/queue", "requirements-dev.lock"),
        (["test", "--help"], None, "requirements.lock"),
        (["enqueue", "test"], None, "requirements.lock"),
    ],
)
def test_a_command_gets_the_smallest_sufficient_set(
    argv: list[str], url: Optional[str], lock: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if url:
        monkeypatch.setenv("QUEUECTL_DATABASE_URL", url)
    assert wanted_locks(str(tmp_path), argv)[0] == lock


@pytest.mark.parametrize("url", ["", "postgres://db/queue"])
def test_apprise_is_installed_if_the_environment_asks_for_it(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUEUECTL_DATABASE_URL", url)
    monkeypatch.setenv("QUEUECTL_EXTRAS", "notify")
    assert wanted_locks(str(tmp_path), ["up"])[0] == "requirements-notify.lock"
    monkeypatch.setenv("QUEUECTL_EXTRAS", "apprise")
    with pytest.raises(BootstrapError, match=r"QUEUECTL_EXTRAS is 'apprise'. Expected notify"):
        wanted_locks(str(tmp_path), ["up"])


def test_dotenv_can_set_the_database(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("# ours\nexport QUEUECTL_DATABASE_URL = 'postgresql://db/queue'\n")
    assert wanted_locks(str(tmp_path), ["up"])[0] == "requirements-postgres.lock"


def test_dotenv_can_set_the_environment_with_a_comment_after_it(used_door: Door) -> None:
    (used_door.checkout / ".env").write_text("QUEUECTL_VENV=.venv  # on the small disk\n")
    assert used_door.told()["prefix"] == str(used_door.venv)


@pytest.mark.every_python
def test_an_old_python_gets_a_clear_message() -> None:
    pretend = "import sys, runpy; sys.version_info = (3, 8, 18); runpy.run_path('manage.py', run_name='__main__')"
    done = subprocess.run(
        [BASE_PYTHON, "-c", pretend], cwd=CHECKOUT, capture_output=True, text=True, timeout=DEADLINE, check=False
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("manage.py: needs Python 3.9 or newer")
    assert done.stderr.count("\n") == 1


def test_a_finished_environment_makes_a_start_cheap(finished: Door) -> None:
    command = [BASE_PYTHON, "-S", "-X", "importtime", str(finished.checkout / "manage.py")]
    done = subprocess.run(command, env=finished.environment, capture_output=True, text=True, check=True)
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "webapp.bootstrap.enter" in loaded
    assert loaded & {"webapp.bootstrap.install", "subprocess", "hashlib", "tempfile", "venv"} == set()


@pytest.fixture
def user_site(tmp_path: Path) -> tuple[Path, dict[str, str]]:
    """The folder of a user's own packages, and the environment in which Python uses it."""
    environment = {"PYTHONUSERBASE": str(tmp_path / "user")}
    ask = [BASE_PYTHON, "-c", "import site; print(site.getusersitepackages())"]
    folder = Path(subprocess.check_output(ask, text=True, env={**os.environ, **environment}).strip())
    folder.mkdir(parents=True)
    return folder, environment


def packages(door: Door) -> str:
    [folder] = door.venv.glob("[lL]ib/**/site-packages")
    return str(folder)


def test_a_start_loads_the_packages_into_its_own_process(finished: Door) -> None:
    told = finished.told()
    assert told["executable"].startswith(str(finished.venv))
    assert [path for path in told["path"] if path.endswith("-packages")] == [packages(finished)]
    child = [told["executable"], "-c", "import tiny; print(tiny.__file__)"]
    assert subprocess.check_output(child, text=True).startswith(packages(finished))


@pytest.mark.parametrize("how", ["a module", "a path", "a loaded module"])
def test_packages_of_the_user_never_precede_the_locked_ones(
    finished: Door, user_site: tuple[Path, dict[str, str]], tmp_path: Path, how: str
) -> None:
    """A path is what an editable install adds; a .pth file with code may even have loaded a package already."""
    folder, environment = user_site
    (tmp_path / "source").mkdir()
    place = tmp_path / "source" if how == "a path" else folder
    (place / "tiny.py").write_text("VERSION = 'of the user'")
    if how != "a module":
        (folder / "own.pth").write_text("import tiny\n" if how == "a loaded module" else f"{place}\n")
    told = finished.told(**environment)
    assert (told["version"], told["prefix"]) == ("1.0", str(finished.venv))
    assert not {str(folder), str(place)} & set(told["path"])


@pytest.mark.parametrize("flag", ["-S", "-I", "-s", "-E", "-O"])
def test_a_start_with_python_flags_has_the_same_packages(finished: Door, flag: str) -> None:
    command = [BASE_PYTHON, flag, str(finished.checkout / "manage.py")]
    told = json.loads(subprocess.check_output(command, text=True, env=finished.environment))
    assert (told["version"], told["prefix"]) == ("1.0", str(finished.venv))
    assert told["isolated"] == (flag == "-I")  # flags are lost in a second start


def test_folders_in_pythonpath_work_with_any_name(finished: Door, tmp_path: Path) -> None:
    (tmp_path / "site-packages").mkdir()
    told = finished.told(PYTHONPATH=str(tmp_path / "site-packages"), PYTHONHOME=sys.base_prefix)
    assert told["path"][-1] == str(tmp_path / "site-packages")
    assert told["home"] is None  # else programs that start the venv's Python would get it
    assert told["home_for_jobs"] == sys.base_prefix


@pytest.mark.full
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux shows the environment of a process's start")
def test_the_coerced_c_locale_of_python_is_not_passed_on(used_door: Door) -> None:
    for name in ("LANG", "LC_ALL", "LC_CTYPE"):
        used_door.environment.pop(name, None)
    assert used_door.told()["ctype"] is None
    assert used_door.told(LC_CTYPE="POSIX")["ctype"] == "POSIX"
    assert used_door.told(LC_CTYPE="C.UTF-8")["ctype"] == "C.UTF-8"
    # Also where the environment belongs to another Python, to which a start hands over.
    stamp = used_door.venv / STAMP
    running = used_door.popen("stay")
    assert json.loads(running.stdout.readline())["ctype"] is None
    stamp.write_bytes(b"cpython-00 /usr/bin/python0.0\n" + stamp.read_bytes().partition(b"\n")[2])
    assert used_door.told()["ctype"] is None
    running.communicate(timeout=DEADLINE)


def test_a_start_from_another_environment_of_this_python_uses_the_locked_packages(
    finished: Door, tmp_path: Path
) -> None:
    subprocess.run([BASE_PYTHON, "-m", "venv", "--without-pip", str(tmp_path / "other")], check=True)
    [folder] = (tmp_path / "other").glob("[lL]ib/**/site-packages")
    (folder / "tiny.py").write_text("VERSION = 'of the other environment'")
    python = next(path for path in (tmp_path / "other").glob("*/python*") if path.stem == "python")
    told = finished.told(python=str(python))
    assert (told["version"], told["prefix"]) == ("1.0", str(finished.venv))
    assert str(folder) not in told["path"]
