"""A supervisor's children where there is no fork (Windows): each is a program of its own, `worker/__main__.py`.

It gets messages on stdin in place of signals, takes the end of stdin for the supervisor's death, and a thread waits
for its end.
"""

from __future__ import annotations

import contextlib
import subprocess
import threading
from collections import deque
from dataclasses import asdict
from typing import IO, Optional

from webapp.config import Config
from worker import program
from worker.messages import Assignment, DesiredWorkers
from worker.supervisor.console import Console
from worker.supervisor.signal_pipe import SignalPipe


class Spawns:
    """The same methods as `forking.Forks`."""

    def __init__(self, config: Config, assignment: Assignment, pipe: SignalPipe) -> None:
        """`pipe` wakes the supervisor when a child has ended or the maintenance process sends a report."""
        self._config, self._assignment = config, asdict(assignment)
        self._pipe = pipe
        self._living: dict[int, subprocess.Popen[bytes]] = {}
        self._ended: deque[tuple[int, int]] = deque()
        self._reports: deque[DesiredWorkers] = deque()
        self._maintenance: Optional[subprocess.Popen[bytes]] = None

    def start_worker(self, name: str) -> int:
        return self._spawn("worker", name).pid

    def start_maintenance(self, name: str) -> int:
        self._maintenance = self._spawn("maintenance", name, stdout=subprocess.PIPE)
        threading.Thread(target=self._read, args=(self._maintenance.stdout,), name="reports", daemon=True).start()
        return self._maintenance.pid

    def start_console(self, console: Console) -> int:
        return self._watch(console.start(), "console").pid

    def ended(self) -> list[tuple[int, int]]:
        found = []
        while self._ended:
            found.append(self._ended.popleft())
            _close(self._living.pop(found[-1][0]))
        return found

    def reports(self) -> list[DesiredWorkers]:
        return [self._reports.popleft() for _ in range(len(self._reports))]

    def send(self, pid: int, message: str) -> None:
        _write(self._living.get(pid), message)

    def send_to_maintenance(self, message: str) -> None:
        _write(self._maintenance, message)

    def end_maintenance(self) -> None:
        if self._maintenance is not None:
            _close(self._maintenance)

    def _spawn(self, role: str, name: str, stdout: Optional[int] = None) -> subprocess.Popen[bytes]:
        task = {"role": role, "name": name, "assignment": self._assignment}
        process = program.start(self._config, task, stdout=stdout)
        return self._watch(process, name)

    def _watch(self, process: subprocess.Popen[bytes], name: str) -> subprocess.Popen[bytes]:
        self._living[process.pid] = process
        threading.Thread(target=self._await, args=(process,), name=f"wait for {name}", daemon=True).start()
        return process

    def _await(self, process: subprocess.Popen[bytes]) -> None:
        self._ended.append((process.pid, process.wait()))
        self._pipe.wake()

    def _read(self, stdout: IO[bytes]) -> None:
        with stdout:
            for report in map(DesiredWorkers.parse, stdout):
                if report is not None:
                    self._reports.append(report)
                    self._pipe.wake()


def _write(process: Optional[subprocess.Popen[bytes]], message: str) -> None:
    if process is not None and process.stdin is not None:
        with contextlib.suppress(OSError, ValueError):  # it has ended, or its pipe is closed
            process.stdin.write(message.encode() + b"\n")


def _close(process: subprocess.Popen[bytes]) -> None:
    if process.stdin is not None:
        with contextlib.suppress(OSError):
            process.stdin.close()
