"""The front door on fresh checkouts: real venvs, real pip, real kills. The packages are tiny wheels made here.

What the commands behind the door do is not tested here: a stand-in reports what it was started with.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Optional

import pytest

from tests.deadline import DEADLINE
from webapp.bootstrap.venv import LOCKS, STAMP, wanted_locks
from webapp.config import CHECKOUT

BASE_PYTHON = os.path.realpath(sys.executable)
DOOR = (
    *(
        "manage.py",
        "webapp/__init__.py",
        "webapp/bootstrap/enter.py",
        "webapp/bootstrap/install.py",
        "webapp/bootstrap/venv.py",
    ),
    *("webapp/lib/__init__.py", "webapp/lib/dotenv.py"),
)
STAND_IN = """
import json, os, sys
import tiny
gone = tiny.__file__.replace("tiny.py", "gone.py")

def main(argv):
    print(json.dumps({"argv": argv, "cwd": os.getcwd(), "prefix": sys.prefix, "tiny": tiny.__file__,
                      "version": tiny.VERSION, "has_gone": os.path.exists(gone), "path": sys.path,
                      "executable": sys.executable, "home": os.environ.get("PYTHONHOME"),
                      "isolated": sys.flags.isolated}))
    if argv == ["stay"]:
        sys.stdout.flush()
        sys.stdin.read()
    return int(argv[1]) if argv[:1] == ["exit"] else 0
"""


def make_wheel(folder: Path, name: str, version: str) -> str:
    """Write a wheel with one module and one script; return its line for a lock."""
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": f"VERSION = {version!r}\ndef tool():\n    print('{name}', VERSION)\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": f"[console_scripts]\n{name}-tool = {name}:tool\n",
    }
    record = ""
    for path, content in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content.encode()).digest()).rstrip(b"=").decode()
        record += f"{path},sha256={digest},{len(content)}\n"
    files[f"{info}/RECORD"] = record + f"{info}/RECORD,,\n"
    wheel = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path, content in files.items():
            archive.writestr(path, content)
    return f"{name}=={version} --hash=sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}\n"


class Door:
    """A checkout with the real manage.py, small locks, and a stand-in for the commands."""

    def __init__(self, checkout: Path, wheels: Path) -> None:
        self.checkout = checkout
        self.venv = checkout / ".venv"
        self.wheels = wheels
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "QUEUECTL_"))},
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": str(wheels),
            "PIP_CONFIG_FILE": os.devnull,
        }

    @classmethod
    def make(cls, folder: Path) -> Door:
        checkout, wheels = folder / "a checkout", folder / "wheels"
        (checkout / "webapp" / "commands").mkdir(parents=True)
        wheels.mkdir()
        for name in DOOR:
            (checkout / name).parent.mkdir(exist_ok=True)
            shutil.copy(CHECKOUT / name, checkout / name)
        (checkout / "webapp" / "commands" / "__init__.py").write_text(STAND_IN)
        door = cls(checkout, wheels)
        door.lock(tiny="1.0", gone="1.0")
        return door

    def lock(self, **packages: str) -> None:
        text = "".join(make_wheel(self.wheels, name, version) for name, version in packages.items())
        for name in LOCKS:
            (self.checkout / name).write_text(f"# {name}\n{text}")

    def popen(self, *argv: str, python: str = BASE_PYTHON, cwd: Optional[Path] = None, **environment: str) -> Any:
        return subprocess.Popen(
            [python, str(self.checkout / "manage.py"), *argv],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=cwd or self.checkout,
            env={**self.environment, **environment},
            start_new_session=True,
        )

    def start(self, *argv: str, **options: Any) -> Any:
        process = self.popen(*argv, **options)
        out, err = process.communicate(timeout=DEADLINE)
        return subprocess.CompletedProcess(argv, process.returncode, out, err)

    def told(self, *argv: str, **options: Any) -> Any:
        """Start, expect success, and return what the stand-in reported; stdout must hold nothing else."""
        done = self.start(*argv, **options)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def refused(self, *argv: str, **options: Any) -> str:
        """Start, expect a refusal with exit code 1, and return its last line."""
        done = self.start(*argv, **options)
        assert (done.returncode, done.stdout) == (1, "")
        assert "Traceback" not in done.stderr
        return str(done.stderr.splitlines()[-1])

    def left_overs(self) -> list[str]:
        return sorted(path.name for path in self.checkout.glob(".venv.*") if path.name != ".venv.lock")


class SlowIndex:
    """A package index on loopback that answers when it is told to."""

    def __init__(self, wheels: Path) -> None:
        self.asked, self.may_answer = threading.Event(), threading.Event()
        self.downloads: list[str] = []
        index = self

        class Handler(SimpleHTTPRequestHandler):
            def do_GET(self) -> None:
                index.asked.set()
                index.may_answer.wait(DEADLINE)
                if self.path.endswith(".whl"):
                    index.downloads.append(self.path)
                with contextlib.suppress(ConnectionError):  # a test killed the client
                    super().do_GET()

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), lambda *args: Handler(*args, directory=str(wheels)))
        for wheel in wheels.glob("*.whl"):  # the folder of a project, as an index has it
            project = wheels / wheel.name.split("-")[0]
            project.mkdir(exist_ok=True)
            shutil.copy(wheel, project)
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
        self.settings: dict[str, Any] = {
            "PIP_INDEX_URL": f"http://127.0.0.1:{self.server.server_address[1]}",
            "PIP_NO_INDEX": "0",
            "PIP_FIND_LINKS": "",
            "NO_PROXY": "127.0.0.1",
        }

    def close(self) -> None:
        self.may_answer.set()
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def door(tmp_path: Path) -> Door:
    """A checkout that was never started."""
    return Door.make(tmp_path)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Door:
    """A checkout that was started once. Not to be changed."""
    door = Door.make(tmp_path_factory.mktemp("finished"))
    first = door.start("status", "--json")
    assert first.returncode == 0, first.stderr
    assert "first use" in first.stderr
    assert json.loads(first.stdout)["argv"] == ["status", "--json"]
    return door


@pytest.fixture
def used_door(finished: Door, tmp_path: Path) -> Door:
    """A checkout that was started once, to be changed."""
    shutil.copytree(finished.checkout.parent, tmp_path / "copy", symlinks=True)
    return Door(tmp_path / "copy" / "a checkout", tmp_path / "copy" / "wheels")


@pytest.fixture
def slow_index(door: Door) -> Iterator[SlowIndex]:
    index = SlowIndex(door.wheels)
    yield index
    index.close()


def test_a_second_start_installs_nothing_and_says_nothing(finished: Door) -> None:
    again = finished.start("status")
    assert (again.returncode, again.stderr) == (0, "")
    assert json.loads(again.stdout)["prefix"] == str(finished.venv)


def test_the_environments_own_python_goes_on_directly(finished: Door) -> None:
    told = finished.told("status", python=str(finished.venv / "bin" / "python"))
    assert told["prefix"] == str(finished.venv)


def test_a_command_runs_in_the_folder_where_it_was_typed(finished: Door, tmp_path: Path) -> None:
    assert finished.told("status", cwd=tmp_path)["cwd"] == str(tmp_path)


def test_the_commands_exit_code_is_the_doors(finished: Door) -> None:
    assert finished.start("exit", "7").returncode == 7


def test_a_tool_in_the_environments_bin_starts_by_its_path(finished: Door) -> None:
    tool = subprocess.run([finished.venv / "bin" / "tiny-tool"], capture_output=True, text=True, check=True)
    assert tool.stdout == "tiny 1.0\n"


def test_a_package_on_pythonpath_does_not_displace_the_locked_one(finished: Door, tmp_path: Path) -> None:
    (tmp_path / "tiny.py").write_text("VERSION = 'not the locked one'\n")
    assert finished.told("status", PYTHONPATH=str(tmp_path))["version"] == "1.0"


@pytest.mark.full
def test_settings_for_other_installs_do_not_disturb_this_one(door: Door, tmp_path: Path) -> None:
    (tmp_path / "constraints.txt").write_text("tiny==9\n")
    (tmp_path / "fake").mkdir()
    (tmp_path / "fake" / "pip.py").write_text("raise SystemExit('the wrong pip')\n")
    (tmp_path / "pip.conf").write_text(
        f"[global]\nno-index = true\nfind-links = {door.wheels}\n"
        f"[install]\nuser = true\nno-deps = false\ntarget = {tmp_path}/conf-target\nno-binary = :all:\n"
    )
    del door.environment["PIP_FIND_LINKS"], door.environment["PIP_NO_INDEX"]  # pip.conf says where the wheels are
    told = door.told(
        PIP_CONFIG_FILE=str(tmp_path / "pip.conf"),
        PIP_USER="1",
        PIP_TARGET=str(tmp_path / "target"),
        PIP_PREFIX=str(tmp_path / "prefix"),
        PIP_ROOT=str(tmp_path / "root"),
        PIP_REQUIRE_VIRTUALENV="1",
        PIP_DRY_RUN="1",
        PIP_NO_DEPS="0",
        PIP_NO_BINARY=":all:",
        PIP_CONSTRAINT=str(tmp_path / "constraints.txt"),
        PIP_PYTHON="/nonexistent/python",
        PIP_QUIET="3",
        PIP_LOG="/nonexistent/pip.log",
        PYTHONPATH=str(tmp_path / "fake"),
        PYTHONHOME=sys.base_prefix,
        PYTHONUSERBASE=str(tmp_path / "userbase"),
        VIRTUAL_ENV="/nonexistent/venv",
    )
    assert told["tiny"].startswith(str(door.venv))
    strays = {"target", "prefix", "root", "conf-target", "userbase"} & set(os.listdir(tmp_path))
    assert not strays


def test_a_package_with_another_hash_is_refused_and_nothing_is_left(door: Door) -> None:
    with zipfile.ZipFile(door.wheels / "tiny-1.0-py3-none-any.whl", "a") as archive:
        archive.writestr("smuggled.py", "")
    refusal = door.refused("status")
    assert "HASHES" in refusal
    assert "tiny==1.0" in refusal
    assert not door.venv.exists()
    assert door.left_overs() == []


def test_an_index_that_cannot_be_reached_is_named_with_the_reason(door: Door) -> None:
    refusal = door.refused(
        PIP_INDEX_URL="http://127.0.0.1:9/simple",
        PIP_NO_INDEX="0",
        PIP_FIND_LINKS="",
        PIP_RETRIES="1",
        NO_PROXY="127.0.0.1",
    )
    # What pip says last, that no version matches, would send people the wrong way.
    assert "could not be installed: no connection to the package index" in refusal
    assert "Connection refused" in refusal


@pytest.mark.every_python
def test_an_install_that_was_killed_is_not_taken_for_a_finished_one(door: Door, slow_index: SlowIndex) -> None:
    killed = door.popen("status", **slow_index.settings)
    assert slow_index.asked.wait(DEADLINE)
    killed.kill()
    killed.communicate(timeout=DEADLINE)
    assert killed.returncode == -signal.SIGKILL
    assert not door.venv.exists()
    assert len(door.left_overs()) == 1

    slow_index.may_answer.set()
    assert door.told("status")["version"] == "1.0"
    assert door.left_overs() == []


@pytest.mark.every_python
def test_ctrl_c_ends_an_install_with_130_and_without_a_traceback(door: Door, slow_index: SlowIndex) -> None:
    stopped = door.popen("status", **slow_index.settings)
    assert slow_index.asked.wait(DEADLINE)
    os.killpg(stopped.pid, signal.SIGINT)
    out, err = stopped.communicate(timeout=DEADLINE)
    assert (stopped.returncode, out) == (130, "")
    assert "Traceback" not in err
    assert door.left_overs() == []


@pytest.mark.every_python
def test_of_two_starts_at_once_one_installs_and_the_other_waits(door: Door, slow_index: SlowIndex) -> None:
    first = door.popen("status", **slow_index.settings)
    assert slow_index.asked.wait(DEADLINE)
    second = door.popen("status", **slow_index.settings)
    assert "waiting for another start" in second.stderr.readline()
    slow_index.may_answer.set()
    for process in (first, second):
        out, err = process.communicate(timeout=DEADLINE)
        assert process.returncode == 0, err
        assert json.loads(out)["version"] == "1.0"
    assert len(slow_index.downloads) == len({"tiny", "gone"})


@pytest.mark.full
def test_a_changed_lock_gives_what_a_fresh_install_would(used_door: Door) -> None:
    assert used_door.told()["has_gone"]
    used_door.lock(tiny="2.0")
    told = used_door.told()
    assert (told["version"], told["has_gone"]) == ("2.0", False)
    assert used_door.left_overs() == []


@pytest.mark.full
def test_an_environment_whose_interpreter_vanished_is_made_anew(used_door: Door) -> None:
    python = used_door.venv / "bin" / "python"
    python.unlink()
    python.symlink_to("/nonexistent/python3")
    assert used_door.told()["version"] == "1.0"
    assert os.path.realpath(python) == BASE_PYTHON


def test_another_python_makes_the_environment_anew_but_not_under_a_running_command(used_door: Door) -> None:
    stamp = used_door.venv / STAMP
    _, _, rest = stamp.read_bytes().partition(b"\n")
    running = used_door.popen("stay")
    assert json.loads(running.stdout.readline())["argv"] == ["stay"]
    stamp.write_bytes(b"cpython-00 /usr/bin/python0.0\n" + rest)
    beside = used_door.start("status")
    assert (beside.returncode, beside.stderr) == (0, "")
    running.communicate(timeout=DEADLINE)

    after = used_door.start("status")
    assert (after.returncode, "replacing" in after.stderr) == (0, True)


@pytest.mark.full
def test_a_larger_set_serves_a_command_that_needs_the_smaller_one(used_door: Door) -> None:
    url = "postgresql://queue@localhost/queue"
    larger = used_door.start("status", QUEUECTL_DATABASE_URL=url)
    assert "from requirements-postgres.lock" in larger.stderr
    smaller = used_door.start("status")
    assert (smaller.returncode, smaller.stderr) == (0, "")


@pytest.mark.parametrize(
    ("argv", "url", "lock"),
    [
        (["up"], None, "requirements.lock"),
        (["up"], "sqlite:////tmp/queue.db", "requirements.lock"),
        (["up"], "postgres://db/queue", "requirements-postgres.lock"),
        (["db", "move", "--to=postgresql+psycopg://db/queue"], None, "requirements-postgres.lock"),
        (["db", "move", "--to", "postgres://db/queue?sslmode=require"], None, "requirements-postgres.lock"),
        (["enqueue", "--command", "psql postgres://elsewhere/x"], None, "requirements.lock"),
        (["test"], "postgres://db/queue", "requirements-dev.lock"),
        (["test", "--help"], None, "requirements.lock"),
        (["enqueue", "test"], None, "requirements.lock"),
    ],
)
def test_a_command_gets_the_smallest_set_that_it_needs(
    argv: list[str], url: Optional[str], lock: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if url:
        monkeypatch.setenv("QUEUECTL_DATABASE_URL", url)
    assert wanted_locks(str(tmp_path), argv)[0] == lock


def test_dotenv_may_name_the_database(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("# ours\nexport QUEUECTL_DATABASE_URL = 'postgresql://db/queue'\n")
    assert wanted_locks(str(tmp_path), ["up"])[0] == "requirements-postgres.lock"


def test_dotenv_may_name_the_environment_with_a_comment_after_it(used_door: Door) -> None:
    (used_door.checkout / ".env").write_text("QUEUECTL_VENV=.venv  # on the small disk\n")
    assert used_door.told()["prefix"] == str(used_door.venv)


def test_a_python_without_ensurepip_is_told_which_package_to_install(door: Door, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['ensurepip'] = None\n")
    refusal = door.refused(PYTHONPATH=str(tmp_path))
    assert f"apt install python{sys.version_info[0]}.{sys.version_info[1]}-venv" in refusal


def test_a_place_that_cannot_be_written_is_named_with_the_way_out(door: Door, tmp_path: Path) -> None:
    (tmp_path / "a-file").touch()  # no folder can be made below a file, not even by root
    refusal = door.refused(QUEUECTL_VENV=str(tmp_path / "a-file" / "venv"))
    assert str(tmp_path / "a-file" / "venv") in refusal
    assert "QUEUECTL_VENV=" in refusal


def test_a_folder_with_other_things_in_it_is_spared(door: Door, tmp_path: Path) -> None:
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "love.txt").write_text("dear")
    assert "QUEUECTL_VENV=" in door.refused(QUEUECTL_VENV=str(tmp_path / "letters"))
    assert os.listdir(tmp_path / "letters") == ["love.txt"]


@pytest.mark.every_python
def test_an_old_python_gets_a_sentence() -> None:
    pretend = "import sys, runpy; sys.version_info = (3, 8, 18); runpy.run_path('manage.py', run_name='__main__')"
    done = subprocess.run(
        [BASE_PYTHON, "-c", pretend], cwd=CHECKOUT, capture_output=True, text=True, timeout=DEADLINE, check=False
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("manage.py: needs Python 3.9 or newer")
    assert done.stderr.count("\n") == 1


@pytest.mark.every_python
def test_a_finished_environment_costs_a_start_little(finished: Door) -> None:
    command = [BASE_PYTHON, "-S", "-X", "importtime", str(finished.checkout / "manage.py")]
    done = subprocess.run(command, env=finished.environment, capture_output=True, text=True, check=True)
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "webapp.bootstrap.enter" in loaded
    assert loaded & {"webapp.bootstrap.install", "subprocess", "hashlib", "tempfile", "venv"} == set()


# --- the packages by path, without a second start ---


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


def test_a_start_takes_the_packages_into_its_own_process(finished: Door) -> None:
    told = finished.told()
    assert told["executable"].startswith(str(finished.venv))
    assert [path for path in told["path"] if path.endswith("-packages")] == [packages(finished)]
    child = [told["executable"], "-c", "import tiny; print(tiny.__file__)"]
    assert subprocess.check_output(child, text=True).startswith(packages(finished))


@pytest.mark.parametrize("how", ["a module", "a path", "a loaded module"])
def test_packages_of_the_user_never_come_before_the_locked_ones(
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
def test_a_start_with_flags_has_the_same_packages(finished: Door, flag: str) -> None:
    command = [BASE_PYTHON, flag, str(finished.checkout / "manage.py")]
    told = json.loads(subprocess.check_output(command, text=True, env=finished.environment))
    assert (told["version"], told["prefix"]) == ("1.0", str(finished.venv))
    assert told["isolated"] == (flag == "-I")  # flags are lost in a second start


def test_folders_in_pythonpath_stay_usable_whatever_their_name(finished: Door, tmp_path: Path) -> None:
    (tmp_path / "site-packages").mkdir()
    told = finished.told(PYTHONPATH=str(tmp_path / "site-packages"), PYTHONHOME=sys.base_prefix)
    assert told["path"][-1] == str(tmp_path / "site-packages")
    assert told["home"] is None  # else programs that jobs start would get it


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
