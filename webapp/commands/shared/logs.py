"""How `logs` prints the output of a job: what is kept, or what comes while it runs, through its retries to its end."""

from __future__ import annotations

import codecs
import sys
from time import sleep as pause
from typing import TYPE_CHECKING, Optional, TextIO

from webapp.commands.shared.core import found
from webapp.commands.shared.output import one_line, say, span
from webapp.core.states import TERMINAL
from webapp.db.engines import reading
from webapp.insight import fleet
from webapp.jobs import job_detail
from webapp.jobs import settings as tunables
from webapp.jobs.lifecycle import NotFound
from webapp.lib import clock
from webapp.lib.durations import between
from webapp.lib.text import escape_for_terminal

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy.orm import Session

    from webapp.db.models import Attempt, Job

LOOK_EVERY = 0.2  # seconds; a running job's output reaches the database about once a second


class _Stream:
    """Where output goes: byte for byte, but to a terminal without what a job must not make it do."""

    def __init__(self, stream: TextIO) -> None:
        self._bytes = stream.buffer
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace") if stream.isatty() else None

    def write(self, data: bytes) -> None:
        # After each: on a terminal the two streams meet in the order they came.
        self._bytes.write(escape_for_terminal(self._decoder.decode(data)).encode() if self._decoder else data)
        self._bytes.flush()


class _Printer:
    """Writes pieces where they belong, and says where bytes are missing."""

    def __init__(self) -> None:
        self.position = 0
        self._streams = {1: _Stream(sys.stdout), 2: _Stream(sys.stderr)}

    def print(self, pieces: Iterable[job_detail.Piece]) -> None:
        for piece in pieces:
            if piece.position > self.position:
                self._flush()
                say(f"… {piece.position - self.position:,} bytes were left out here (see the setting output_limit) …")
            self._streams[1 if piece.stream == 1 else 2].write(piece.data)
            self.position = piece.position + len(piece.data)

    def _flush(self) -> None:
        sys.stdout.buffer.flush()
        sys.stderr.buffer.flush()


def print_kept(job_id: str, number: Optional[int]) -> None:
    """Print what an attempt has written up to now."""
    with reading() as session:
        job = found(job_detail.find(session, job_id), job_id)
        number = number or job.attempts
        pieces = list(job_detail.pieces(session, job, number, 0)) if number else []
        exists = 0 < number <= job.attempts
    if not number:
        say(f"{job.id} has not started yet: it is {job.state}.")
    elif not exists:
        raise _no_attempt(job, number)
    _Printer().print(pieces)


def _no_attempt(job: Job, number: int) -> NotFound:
    had = f"its last is {job.attempts}" if job.attempts else "it has not started yet"
    return NotFound(f"{job.id} has no attempt {number}: {had}.")


def follow(job_id: str, only: Optional[int]) -> None:
    """Print the output as it comes, of one attempt or from the latest on through all retries."""
    with reading() as session:
        job = found(job_detail.find(session, job_id), job_id)
    number = only or job.attempts or 1
    if number > job.attempts and job.state in TERMINAL:
        if only is not None:
            raise _no_attempt(job, number)
        say(f"{job.id}: {job.state}, and never started.")
        return
    teller = _Teller(job_id)
    while True:
        printer = _Printer()
        while not _look(job_id, number, printer, teller, only is not None):
            pause(LOOK_EVERY)
        if teller.over:
            return
        number += 1


def _look(job_id: str, number: int, printer: _Printer, teller: _Teller, only: bool) -> bool:
    """Print what is new of one attempt, and say what happened to the job. True: this attempt has ended."""
    with reading() as session:
        job = job_detail.find(session, job_id)
        if job is None:
            raise NotFound(f"{job_id} was discarded.")
        ended = job_detail.attempt(session, job, number)
        pieces = list(job_detail.pieces(session, job, number, printer.position))
        idle = job.state == "pending" and not _anybody_works(session)
    if ended is None:
        teller.tell(job, number, idle)
        printer.print(pieces)
        teller.over = job.state in TERMINAL
        return teller.over
    if printer.position == 0:
        teller.tell_start(number)
    printer.print(pieces)
    teller.tell_end(ended)
    teller.over = only or (job.state in TERMINAL and job.attempts == number)
    if teller.over and not only:
        teller.tell(job, number, False)
    return True


def _anybody_works(session: Session) -> bool:
    return any(view.alive for view in fleet.workers(session, tunables.load(session).lease))


class _Teller:
    """Says on stderr what happens to the job, each thing once."""

    def __init__(self, job_id: str) -> None:
        self.over = False
        self._id = job_id
        self._last = ""

    def tell(self, job: Job, number: int, idle: bool) -> None:
        if job.state == "processing":
            if job.cancel_requested_at is not None:
                self._say("cancelling")
            else:
                self.tell_start(number)
        elif job.state == "pending":
            self._say("pending; no worker is alive: manage.py worker start" if idle else "pending")
        elif job.state in ("scheduled", "failed"):
            what = "attempt" if job.state == "scheduled" else "retry"
            self._say(f"{job.state}; next {what} in {span(clock.now(), job.run_at)}", key=f"{job.state} {job.run_at}")
        else:
            self._say(job.state)

    def tell_start(self, number: int) -> None:
        self._say(f"attempt {number} started")

    def tell_end(self, ended: Attempt) -> None:
        took = between(ended.started_at, ended.finished_at)
        why = f": {one_line(ended.error)}" if ended.error else ""
        self._say(f"attempt {ended.number} {ended.state} after {took}{why}")

    def _say(self, text: str, key: str = "") -> None:
        if (key or text) != self._last:
            self._last = key or text
            say(f"[{self._id}: {text}]")
