"""The ledger: lines that commands write themselves, outside the database, each with fsync."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

SCRIPT = Path(__file__).with_name("attempt.sh")


@dataclass(frozen=True)
class Line:
    """`word` is start, overlap or end. `value` is the pid of the shell, or at the end its exit code."""

    word: str
    job_id: str
    attempt: int
    value: int


class Ledger:
    """The lines of all attempts, in the order of the file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self.path = folder / "ledger"
        self.path.touch()

    def command(self, seconds: float = 0, failures: int = 0) -> str:
        """A command that writes to the ledger, takes some time, and fails in its first attempts."""
        return f"sh {shlex.quote(str(SCRIPT))} {shlex.quote(str(self.folder))} {seconds:g} {failures}"

    def lines(self) -> list[Line]:
        found = []
        for text in self.path.read_text().splitlines():
            word, job_id, attempt, value = text.split()
            found.append(Line(word, job_id, int(attempt), int(value)))
        return found

    def started(self, job_id: str) -> list[Line]:
        return [line for line in self.lines() if line.job_id == job_id and line.word == "start"]
