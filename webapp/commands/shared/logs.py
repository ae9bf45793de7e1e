"""How `logs` prints the output of a job: stored output, or new output until the job ends."""

from __future__ import annotations

import codecs
import sys
from time import sleep as pause
from typing import TYPE_CHECKING, Optional, TextIO

from sqlalchemy.exc import DBAPIError

from webapp.commands.exit_codes import ExitCode, Failure
from webapp.commands.shared.core import find_job
from webapp.commands.shared.output import one_line, say, standing
from webapp.core.states import TERMINAL
from webapp.core.storage.locks import Busy
from webapp.db.engines import reading
from webapp.insight import blockers
from webapp.jobs import job_detail
from webapp.lib.durations import between
from webapp.lib.text import escape_for_terminal

if TYPE_CHECKING:
    from collections.abc import Iterable

    from webapp.db.models import Attempt, Job, Report

POLL_SECONDS = 0.2  # a running job's output reaches the database about once a second
_OBSTACLES = {
    "none": "no workers are running: manage.py worker start",
    "unserved": "no worker serves the queue {}",
    "unlabelled": "no worker of the queue {} has the required labels",
    "quiet": "the workers of the queue {} are draining or stopping",
    "paused": "the queue {0} is paused: manage.py queue resume {0}",
}
AWAY_SECONDS = 2.0  # until the next try while the database cannot be read


class _Stream:
    """Writes every byte as it is; but on a terminal, control sequences other than colors are escaped."""

    def __init__(self, stream: TextIO) -> None:
        self._bytes = stream.buffer
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace") if stream.isatty() else None

    def write(self, data: bytes) -> None:
        # Flush each time: on a terminal both streams must appear in their order.
        self._bytes.write(escape_for_terminal(self._decoder.decode(data)).encode() if self._decoder else data)
        self._bytes.flush()


class _Printer:
    """Prints the output of one attempt, and says where bytes are missing."""

    def __init__(self) -> None:
        self.position = 0
        self._streams = {1: _Stream(sys.stdout), 2: _Stream(sys.stderr)}

    def print(self, pieces: Iterable[job_detail.Piece]) -> None:
        for piece in pieces:
            if piece.position > self.position:
                say(f"… {piece.position - self.position:,} bytes omitted (see the setting output_limit) …")
            self.position = piece.position + len(piece.data)  # first: after Ctrl-C no byte is printed again
            self._streams[1 if piece.stream == 1 else 2].write(piece.data)


def print_kept(job_id: str, number: Optional[int]) -> None:
    """Print the stored output of an attempt; None: the latest."""
    with reading() as session:
        job = find_job(session, job_id)
        number = number or job.attempts
        pieces = list(job_detail.pieces(session, job, number, 0)) if number else []
        kept = job_detail.output(session, job, number) if number and not pieces else None
    if not number:
        say(f"{job.id} has not started yet: it is {job.state}.")
        return
    _check_attempt(job, number)
    if kept is not None and kept.is_deleted:
        say(f"[{job.id}: retention deleted the output of attempt {number}, {kept.dropped:,} bytes]")
    _Printer().print(pieces)


def _check_attempt(job: Job, number: int) -> None:
    if number > job.attempts:
        last = f"its last is {job.attempts}" if job.attempts else "it has not started yet"
        raise Failure(ExitCode.NOT_FOUND, f"{job.id} has no attempt {number}: {last}.")


def follow(job_id: str, only: Optional[int]) -> Optional[Attempt]:
    """Print new output of one attempt; None: of the latest and all retries. stderr gets each change of the job once.

    Returns the last attempt. Raises ClickException if the job is discarded meanwhile.
    """
    with reading() as session:
        job = find_job(session, job_id)
    number = only or job.attempts or 1
    if job.state in TERMINAL and only is not None:
        _check_attempt(job, number)
    elif job.state in TERMINAL and not job.attempts:
        say(f"{job.id}: {job.state}, never started.")
        return None
    return Follower(job_id, number, only=only is not None).run()


class Follower:
    """Reads the job again and again, and prints what is new.

    `quiet`: stderr gets only important messages: that nothing runs the job, and that it is retried.
    """

    def __init__(self, job_id: str, number: int = 1, *, only: bool = False, quiet: bool = False) -> None:
        self._job_id = job_id
        self._number = number
        self._only = only
        self._quiet = quiet
        self._told = self._reported = ""
        self._printer = _Printer()

    def run(self) -> Optional[Attempt]:
        """Return the last attempt. After Ctrl-C, another call goes on where this one stopped."""
        while True:
            try:
                done, ended = self._look()
            except (DBAPIError, Busy) as error:
                self._tell(
                    f"the database cannot be read: {str(getattr(error, 'orig', error)).strip()}", "away", always=True
                )
                pause(AWAY_SECONDS)
                continue
            if done:
                return ended
            if ended is None:
                pause(POLL_SECONDS)
            else:
                self._number += 1
                self._printer = _Printer()

    def _look(self) -> tuple[bool, Optional[Attempt]]:
        """Print what is new. Returns whether nothing more will come, and the attempt if it has ended."""
        number, printer = self._number, self._printer
        with reading() as session:
            found = job_detail.find(session, self._job_id)
            if found is None:
                raise Failure(ExitCode.NOT_FOUND, f"{self._job_id} was discarded.")
            ended = job_detail.attempt(session, found, number)
            pieces = list(job_detail.pieces(session, found, number, printer.position))
            waits = found.state == "pending"
            obstacle = blockers.fleet_of(session, found.queue, found.requires).obstacle if waits else None
            report = job_detail.report(session, found) if found.state == "processing" else None
        if ended is None:
            text, key = _doing(found, number, obstacle)
            self._tell(text, key, always=obstacle is not None)
            printer.print(pieces)
            if report is not None and found.attempts == number:
                self._tell_report(report)
            return found.state in TERMINAL, None
        if printer.position == 0:
            self._tell(f"attempt {number} started")
        printer.print(pieces)
        is_last = self._only or (found.state in TERMINAL and found.attempts == number)
        self._tell(_end(ended), always=not is_last)
        if is_last and not self._only:
            self._tell(found.state)
        return is_last, ended

    def _tell_report(self, report: Report) -> None:
        """What the command says about itself, each change once. `quiet`: on a terminal only."""
        part = [] if report.progress is None else [f"{report.progress:.0%}"]
        text = " \u00b7 ".join([*part, *([one_line(report.note)] if report.note else [])])
        if text and text != self._reported and (not self._quiet or sys.stderr.isatty()):
            self._reported = text
            say(f"[{self._job_id}: {text}]")

    def _tell(self, text: str, key: str = "", *, always: bool = False) -> None:
        if (key or text) != self._told:
            self._told = key or text
            if always or not self._quiet:
                say(f"[{self._job_id}: {text}]")


def _doing(job: Job, number: int, obstacle: Optional[blockers.Obstacle]) -> tuple[str, str]:
    """Return what a job does that is not at the end of this attempt, and a key that changes when it does."""
    text = job.state
    if job.state in ("scheduled", "failed"):
        return f"{job.state}; {standing(job)}", f"{job.state} {job.run_at}"
    if job.state == "processing":
        text = f"attempt {number} started" if job.cancel_requested_at is None else "cancelling"
    elif obstacle is not None:
        text = f"pending; {_OBSTACLES[obstacle.kind].format(obstacle.queue)}"
    return text, text


def _end(ended: Attempt) -> str:
    state = "interrupted" if ended.state == "released" else ended.state
    why = f": {one_line(ended.error)}" if ended.error else ""
    return f"attempt {ended.number} {state} after {between(ended.started_at, ended.finished_at)}{why}"
