"""Fresh checkouts with the real front door: real venvs, real pip. The packages are tiny wheels made here.

The commands are not tested here: a stand-in reports how it was started.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import shutil
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
from webapp.bootstrap.install import locked
from webapp.bootstrap.venv import LOCKS
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
    *("webapp/lib/__init__.py", "webapp/lib/dotenv.py", "webapp/lib/system/private_files.py"),
)
STAND_IN = """
import json, os, sys
import tiny
gone = tiny.__file__.replace("tiny.py", "gone.py")

def main(argv):
    print(json.dumps({"argv": argv, "cwd": os.getcwd(), "prefix": sys.prefix, "tiny": tiny.__file__,
                      "version": tiny.VERSION, "has_gone": os.path.exists(gone), "path": sys.path,
                      "executable": sys.executable, "home": os.environ.get("PYTHONHOME"),
                      "isolated": sys.flags.isolated, "ctype": os.environ.get("LC_CTYPE"),
                      "home_for_jobs": os.environ.get("QUEUECTL_PYTHONHOME")}))
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
    """A package index on loopback that answers on request."""

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


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Door:
    """A checkout that was started once, by the first process of the run that needs it. Not to be changed."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # of the whole run
    checkout, wheels = folder / "finished" / "a checkout", folder / "finished" / "wheels"
    with locked(str(folder / "finished.lock")):
        if checkout.exists():
            return Door(checkout, wheels)
        door = Door.make(folder / "finished")
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
