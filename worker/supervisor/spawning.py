"""A supervisor's children where there is no fork (Windows): each is a fresh program, `worker/__main__.py`, which hears
words on its stdin, takes that pipe's end for the supervisor's death, and is waited for in a thread.

The words stand for the signals that such a platform does not have.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import subprocess
import sys
import threading
from collections import deque
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any, Callable, Optional

from webapp.config import Config, ConfigError
from webapp.db import db_errors
from webapp.db import engines as db
from webapp.db.application import create_core
from worker.assignment import Assignment
from worker.messages import Wanted
from worker.supervisor.console import Console
from worker.supervisor.signal_pipe import SignalPipe

ENTRY = Path(__file__).with_name("__main__.py")
# A group of its own takes a child out of the reach of the console's Ctrl-C, as a session does on POSIX.
_FLAGS: int = getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)


class Spawns:
    """See the module, and `supervisor.Family`."""

    def __init__(self, config: Config, assignment: Assignment, bell: SignalPipe) -> None:
        """`bell` rings, from a thread, when a child has ended or the keeper said something."""
        self._environment = _environment(config)
        self._task = {"assignment": asdict(assignment), "log_level": logging.getLogger().getEffectiveLevel()}
        self._bell = bell
        self._living: dict[int, subprocess.Popen[bytes]] = {}
        self._ended: deque[tuple[int, int]] = deque()
        self._heard: deque[Wanted] = deque()
        self._keeper: Optional[subprocess.Popen[bytes]] = None

    def start_worker(self, name: str) -> int:
        return self._spawn("worker", name).pid

    def start_keeper(self, name: str) -> int:
        self._keeper = self._spawn("keeper", name, stdout=subprocess.PIPE)
        threading.Thread(target=self._hear, args=(self._keeper.stdout,), name="hear", daemon=True).start()
        return self._keeper.pid

    def start_console(self, console: Console) -> int:
        return self._watch(console.start(), "console").pid

    def ended(self) -> list[tuple[int, int]]:
        found = []
        while self._ended:
            pid, code = self._ended.popleft()
            process = self._living.pop(pid)
            _close(process)
            found.append((pid, code))
        return found

    def heard(self) -> list[Wanted]:
        found = []
        while self._heard:
            found.append(self._heard.popleft())
        return found

    def tell(self, pid: int, word: str) -> None:
        process = self._living.get(pid)
        if process is not None:
            _say(process, word)

    def tell_keeper(self, word: str) -> None:
        if self._keeper is not None:
            _say(self._keeper, word)

    def end_keeper(self) -> None:
        if self._keeper is not None:
            _close(self._keeper)

    def _spawn(self, role: str, name: str, stdout: Optional[int] = None) -> subprocess.Popen[bytes]:
        task: dict[str, Any] = {"role": role, "name": name, **self._task}
        process = subprocess.Popen(
            [sys.executable, str(ENTRY), json.dumps(task)],
            stdin=subprocess.PIPE,
            stdout=stdout,
            bufsize=0,
            env=self._environment,
            start_new_session=True,  # of no effect on Windows, as the flags are elsewhere
            creationflags=_FLAGS,
        )
        return self._watch(process, name)

    def _watch(self, process: subprocess.Popen[bytes], name: str) -> subprocess.Popen[bytes]:
        self._living[process.pid] = process
        threading.Thread(target=self._await, args=(process,), name=f"wait for {name}", daemon=True).start()
        return process

    def _await(self, process: subprocess.Popen[bytes]) -> None:
        self._ended.append((process.pid, process.wait()))
        self._bell.ring()

    def _hear(self, stdout: IO[bytes]) -> None:
        with stdout:
            for line in stdout:
                wanted = Wanted.parse(line)
                if wanted is not None:
                    self._heard.append(wanted)
                    self._bell.ring()


def _say(process: subprocess.Popen[bytes], word: str) -> None:
    if process.stdin is not None:
        with contextlib.suppress(OSError, ValueError):  # it has ended; its pipe was closed
            process.stdin.write(word.encode() + b"\n")


def _close(process: subprocess.Popen[bytes]) -> None:
    if process.stdin is not None:
        with contextlib.suppress(OSError):
            process.stdin.close()


def _environment(config: Config) -> dict[str, str]:
    """This process's environment, with its configuration as it is; an empty value is none, whatever `.env` says."""
    return {
        **os.environ,
        "QUEUECTL_HOME": str(config.home),
        "QUEUECTL_DATABASE_URL": config.database_url or "",
        "QUEUECTL_PUBLIC_URL": config.public_url or "",
    }


def ready_database(config: Config, also: Callable[[], str]) -> str:
    """Bring the database up to date, and return the answer of `also`, which needs it. Raises ConfigError."""
    try:
        app = create_core(config)
        with app.app_context():
            db_errors.check_before_start(config)
            answer = also()
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(f"cannot use the database: {db_errors.explain(error) or error}".splitlines()[0]) from None
    with app.app_context():
        for engine in db.db.engines.values():
            engine.dispose()
    return answer
