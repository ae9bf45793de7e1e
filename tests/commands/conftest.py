"""Two ways to run a command: in this process, as `manage.py` calls it, and as a separate process."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Optional

import pytest

from tests.deadline import DEADLINE
from webapp.bootstrap.venv import STAMP
from webapp.commands import main
from webapp.config import CHECKOUT

# manage.py if it would run in this Python, else the module that it starts.
MANAGE = CHECKOUT / "manage.py"
ENTRY = MANAGE if (Path(sys.prefix) / STAMP).exists() else CHECKOUT / "webapp" / "commands" / "__main__.py"


@dataclass
class Result:
    """The exit code and output of a command."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()


Cli = Callable[..., Result]


class _In(io.TextIOWrapper):
    def isatty(self) -> bool:
        return False


@pytest.fixture
def cli(request: pytest.FixtureRequest, home: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Run a command in this process, on the test's home and database: the one of `config`, else a SQLite file."""
    if "config" not in request.fixturenames:
        request.getfixturevalue("sqlite_config")
    monkeypatch.setenv("LOGNAME", "ana")

    return run_here


def run_here(*argv: str, stdin: bytes = b"") -> Result:
    """Run a command in this process, on the home and database of its environment."""
    kept = io.BytesIO(), io.BytesIO()
    out, err = (io.TextIOWrapper(buffer, encoding="utf-8", write_through=True) for buffer in kept)
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "stdin", _In(io.BytesIO(stdin), encoding="utf-8"))
        code = main(list(argv))
    return Result(code, *(buffer.getvalue().decode() for buffer in kept))


class Processes:
    """Real processes of the product, ended with the test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._started: list[subprocess.Popen[str]] = []

    def run(self, *argv: str, stdin: str = "", cwd: Optional[Path] = None, **environment: str) -> Result:
        done = subprocess.run(
            self._command(argv),
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            cwd=cwd or self.folder,
            env=self._environment(environment),
            timeout=DEADLINE,
        )
        return Result(done.returncode, done.stdout, done.stderr)

    def run_bytes(self, *argv: str, **environment: str) -> bytes:
        """The exact bytes that a command writes to stdout."""
        environment = self._environment(environment)
        command = self._command(argv)
        return subprocess.run(command, capture_output=True, check=True, env=environment, timeout=DEADLINE).stdout

    def start(self, *argv: str, **environment: str) -> subprocess.Popen[str]:
        """Start a command in the background. Its stderr goes to the file `stderr` in the test's folder."""
        with (self.folder / "stderr").open("a") as errors:
            process = subprocess.Popen(
                self._command(argv),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                cwd=self.folder,
                env=self._environment(environment),
                start_new_session=True,
            )
        self._started.append(process)
        return process

    @property
    def errors(self) -> str:
        return (self.folder / "stderr").read_text()

    def end(self) -> None:
        for process in self._started:
            with suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
            process.communicate()

    @staticmethod
    def _command(argv: tuple[str, ...]) -> list[str]:
        return [sys.executable, str(ENTRY), *argv]

    @staticmethod
    def _environment(more: dict[str, str]) -> dict[str, str]:
        return {**os.environ, "QUEUECTL_VENV": sys.prefix, **more}


@pytest.fixture
def processes(request: pytest.FixtureRequest, home: Path, tmp_path: Path, migrated: bool) -> Iterator[Processes]:
    """Start commands as a user does, from a folder outside the checkout. On the test's database, as `cli`."""
    if migrated and "config" not in request.fixturenames:
        request.getfixturevalue("sqlite_config")
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    made = Processes(folder)
    yield made
    made.end()
