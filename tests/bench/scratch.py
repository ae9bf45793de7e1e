"""A scratch folder with homes and processes for one run. All of them are removed at its end, however it ends."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Optional

import psutil

from tests.bench import BenchError
from webapp.config import Config
from webapp.db import engines
from webapp.db.application import create_core
from webapp.lib.system.process_group import ENTRY

MARK = "BENCH_OF_QUEUECTL"  # in the environment of every process of a run: not QUEUECTL_…, which commands do not get
PREFIX = "queuectl-bench-"
# What a checkout's `.env` may say of the person's queue; an empty value stands before it, and is none.
_FROM_DOTENV = ("DATABASE_URL", "PUBLIC_URL", "TRUSTED_PROXIES", "DURABLE_SETTLES")


@dataclass(frozen=True)
class Used:
    """The exit of a process, and its CPU seconds with those of all processes that it waited for."""

    code: int
    cpu: float


class Scratch:
    """See the module. Homes and logs lie in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._mark = uuid.uuid4().hex
        self._number = 0
        self._kept = {folder / "bytecode"}

    def home(self) -> Path:
        """The path of a new home; its first user creates it."""
        self._number += 1
        return self.folder / f"home-{self._number}"

    def kept(self, name: str) -> Path:
        """A folder that stays for the whole run."""
        folder = self.folder / name
        folder.mkdir()
        self._kept.add(folder)
        return folder

    def forget(self, home: Path) -> None:
        """Delete a home that is no longer used."""
        shutil.rmtree(home, ignore_errors=True)

    def tidy(self) -> None:
        """Delete all homes."""
        for path in self.folder.iterdir():
            if path.is_dir() and path not in self._kept:
                self.forget(path)
            elif path.is_file():
                path.unlink()

    def warm_up(self) -> None:
        """Compile bytecode and read files once: the first start after an installation is slower."""
        home = self.home()
        for argv in (("enqueue", "--command", "true"), ("worker", "start", "--drain")):
            self.wait(self.manage(home, *argv), within=60)
        self.forget(home)

    @property
    def log(self) -> Path:
        """The log of the processes."""
        return self.folder / "log"

    def environment(self, home: Optional[Path] = None, more: Optional[Mapping[str, str]] = None) -> dict[str, str]:
        """The environment of this process without the user's own queue and the settings of `.env`."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("QUEUECTL_")}
        blank = {f"QUEUECTL_{name}": "" for name in _FROM_DOTENV}
        if kept.pop("PYTHONDONTWRITEBYTECODE", None):
            # Without bytecode, every start would compile the sources, which must not be measured.
            kept["PYTHONPYCACHEPREFIX"] = str(self.folder / "bytecode")
        of_home = {"QUEUECTL_HOME": str(home), "QUEUECTL_VENV": sys.prefix, **blank} if home is not None else {}
        return {**kept, **of_home, **(more or {}), MARK: self._mark}

    def manage(self, home: Path, *argv: str, **environment: str) -> subprocess.Popen[bytes]:
        """Start a command of the product on this home."""
        return self.start([sys.executable, str(ENTRY), *argv], self.environment(home, environment))

    def python(self, script: str, *argv: str, **options: Any) -> subprocess.Popen[bytes]:
        """Start a bare Python, the same as ours."""
        return self.start([sys.executable, "-c", script, *argv], self.environment(), **options)

    def start(
        self,
        command: list[str],
        environment: Mapping[str, str],
        *,
        stdin: int = subprocess.DEVNULL,
        out: int = -1,
        cwd: Optional[Path] = None,
    ) -> subprocess.Popen[bytes]:
        """Start a process in its own session, so that Ctrl-C reaches only this process. Its output goes to the log."""
        with self.log.open("ab") as log:
            output: int | IO[bytes] = log if out == -1 else out
            return subprocess.Popen(
                command,
                stdin=stdin,
                stdout=output,
                stderr=log,
                cwd=cwd or self.folder,
                env=environment,
                start_new_session=True,
            )

    def wait(self, process: subprocess.Popen[bytes], within: float) -> Used:
        """Wait for a process to succeed. Raises BenchError with the end of the log if it fails or does not end."""
        deadline = time.monotonic() + within
        while True:
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            if pid:
                break
            if time.monotonic() > deadline:
                raise self.failed(f"not done within {within:.0f} s")
            time.sleep(0.02)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            raise self.failed(f"it ended with {process.returncode}")
        return Used(process.returncode, usage.ru_utime + usage.ru_stime)

    def stop(self, process: subprocess.Popen[bytes], within: float = 30.0) -> None:
        """Stop a process cleanly, and wait for its end."""
        if process.poll() is None:
            process.terminate()
            self.wait(process, within)

    def failed(self, what: str) -> BenchError:
        tail = self.log.read_text(errors="replace").splitlines()[-15:] if self.log.exists() else []
        return BenchError("\n".join([f"a process of the benchmark failed: {what}.", *tail]))

    def close(self) -> None:
        """End all processes with our mark, including commands of jobs."""
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            left = list(self._processes())
            if not left:
                return
            for process in left:
                with contextlib.suppress(psutil.Error):
                    process.send_signal(signal.SIGKILL)
            psutil.wait_procs(left, timeout=2)

    def _processes(self) -> Iterator[psutil.Process]:
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                marked = process.environ().get(MARK) == self._mark
                if marked and process.status() != psutil.STATUS_ZOMBIE:
                    yield process


@contextmanager
def scratch(needed: int = 0) -> Iterator[Scratch]:
    """A scratch folder during the block. Raises BenchError if fewer than `needed` bytes are free."""
    free = shutil.disk_usage(tempfile.gettempdir()).free
    if free < needed:
        raise BenchError(
            f"{tempfile.gettempdir()} has {free / 1024**3:.1f} GiB free, and this run needs {needed / 1024**3:.1f}. "
            "Make room, or name another folder in TMPDIR."
        )
    with tempfile.TemporaryDirectory(prefix=PREFIX) as folder:
        made = Scratch(Path(folder).resolve())
        try:
            yield made
        finally:
            made.close()


@contextmanager
def opened(home: Path, database_url: Optional[str] = None) -> Iterator[Config]:
    """The application on this home in this process, without its console; its database is another, if one is named."""
    config = Config(home=home, database_url=database_url, public_url=None)
    with create_core(config).app_context():
        try:
            yield config
        finally:
            engines.disconnect()


def eventually(what: str, condition: Callable[[], Any], within: float = 30.0, every: float = 0.05) -> Any:
    """Wait until the condition returns a true value, and return it. Raises BenchError."""
    deadline = time.monotonic() + within
    while True:
        result = condition()
        if result:
            return result
        if time.monotonic() > deadline:
            raise BenchError(f"not within {within:g} s: {what}.")
        time.sleep(every)
