"""One job in detail: its fields, attempts, events, timeline, and output, both live and stored."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Optional

from sqlalchemy import select
from sqlalchemy.orm import Session, defer

from webapp.core import labels
from webapp.core.flow import limits, retry_rules, unique_keys
from webapp.core.job_spec import NAME
from webapp.core.output import Output, join
from webapp.core.settings import Settings
from webapp.db.models import Attempt, Event, Job, OutputChunk, Report
from webapp.jobs.lifecycle import NotFound
from webapp.lib import clock
from webapp.lib.clock import columns
from webapp.lib.stream_runs import decode_runs, decode_times, spans


def find(session: Session, job_id: str) -> Optional[Job]:
    return session.scalar(select(Job).where(Job.id == job_id))


def existing(session: Session, job_id: str) -> Job:
    """Raises NotFound. Invalid ids are not looked up: they may contain characters that a database rejects."""
    job = find(session, job_id) if NAME.match(job_id) else None
    if job is None:
        raise NotFound(f"job {job_id[:128]!r} does not exist. It may have been discarded.")
    return job


def attempts(session: Session, job: Job, *, with_output: bool = False) -> list[Attempt]:
    """Its ended attempts, oldest first; the output only on request, because it may be large."""
    statement = select(Attempt).where(Attempt.job_seq == job.seq).order_by(Attempt.number)
    return list(session.scalars(statement if with_output else statement.options(defer(Attempt.output, raiseload=True))))


def attempt(session: Session, job: Job, number: int) -> Optional[Attempt]:
    # Read again: `attempts()` may have loaded it into this session without its output.
    return session.get(Attempt, (job.seq, number), populate_existing=True)


def events(session: Session, job: Job) -> list[Event]:
    """Its events besides enqueue and attempts, oldest first."""
    return list(session.scalars(select(Event).where(Event.job_seq == job.seq).order_by(Event.id)))


def report(session: Session, job: Job) -> Optional[Report]:
    """What its latest attempt reported."""
    found = session.get(Report, job.seq, populate_existing=True)
    return found if found is not None and found.attempt == job.attempts else None


def add_progress(session: Session, jobs: Sequence[Job]) -> None:
    """Set `progress` of the running jobs that reported any. No statement if none of them runs."""
    running = {job.seq: job for job in jobs if job.state == "processing"}
    if running:
        columns = Report.job_seq, Report.attempt, Report.progress
        for seq, attempt, progress in session.execute(select(*columns).where(Report.job_seq.in_(running))).tuples():
            if attempt == running[seq].attempts:
                running[seq].progress = progress  # type: ignore[misc]


# The texts of a timeline. A verb without a text is shown as it is.
_TEXTS = {
    "enqueue": "submitted",
    "start": "started",
    "complete": "completed",
    "fail": "failed",
    "bury": "moved to dead letters",
    "cancel": "cancelled",
    "ask_cancel": "cancel requested",
    "release": "interrupted (worker shut down)",
    "lose": "lost (worker crashed)",
    "unclaim": "returned to the queue (no resources on the machine)",
    "requeue": "requeued (retries reset)",
    "edit": "edited and requeued",
    "run_now": "set to run now",
    "promote": "due, pending",
    "retry_rule": "retry rule applied",
    "undo": "restored by undo",
}


@dataclass(frozen=True)
class TimelineEntry:
    """One line of a timeline. `verb` is a lifecycle verb or `start`; `attempt` is set when one started or ended.

    `change` is what an edit changed: `before`, `after` and, without values, `env`.
    """

    at: int
    verb: str
    actor: str
    attempt: Optional[int] = None
    text: str = ""
    change: Optional[Mapping[str, Any]] = None

    @property
    def happened(self) -> str:
        """'submitted', 'attempt 2 failed'"""
        text = _TEXTS.get(self.verb, self.verb)
        return f"attempt {self.attempt} {text}" if self.attempt else text.replace("_", " ")

    @property
    def remark(self) -> str:
        """What `happened` does not say: the error of a failed attempt, the text of an event, or ''."""
        return "" if self.attempt and self.verb in ("release", "cancel") else self.text


def timeline(job: Job, ended: list[Attempt], recorded: list[Event]) -> list[TimelineEntry]:
    """Merge the job's row, attempts and events into one list, oldest first."""
    lines = [TimelineEntry(job.created_at, "enqueue", job.created_by)]
    for one in ended:
        lines.append(TimelineEntry(one.started_at, "start", f"worker:{one.worker_id}", one.number))
        verb = {"completed": "complete", "failed": "fail", "cancelled": "cancel", "released": "release", "lost": "lose"}
        lines.append(
            TimelineEntry(one.finished_at, verb[one.state], f"worker:{one.worker_id}", one.number, one.error or "")
        )
    if job.state == "processing" and job.started_at is not None:
        lines.append(TimelineEntry(job.started_at, "start", f"worker:{job.worker_id}", job.attempts))
    for event in recorded:
        if event.verb != "lose":  # the lost attempt is there already
            detail = json.loads(event.detail) if event.detail else {}
            change = detail if event.verb == "edit" else None
            lines.append(TimelineEntry(event.at, event.verb, event.actor, None, str(detail.get("text", "")), change))
    return sorted(lines, key=lambda line: line.at)


# --- output ----------------------------------------------------------------------------------------------------------


def _kept(ended: Attempt) -> Output:
    times = decode_times(ended.output_times)
    return Output(ended.output, decode_runs(ended.output_runs), ended.output_cut, ended.output_dropped, times=times)


def output(session: Session, job: Job, number: int) -> Optional[Output]:
    """The output of an attempt, so far if it still runs. None: no such attempt."""
    ended = attempt(session, job, number)
    if ended is not None:
        return _kept(ended)
    if job.state != "processing" or job.attempts != number:
        return None
    return join((chunk.position, chunk.data, chunk.runs, chunk.times) for chunk in _chunks(session, job.seq, number))


def _chunks(session: Session, job_seq: int, number: int, position: int = 0) -> Iterable[OutputChunk]:
    there = OutputChunk.job_seq == job_seq, OutputChunk.attempt == number, OutputChunk.position >= position
    return session.scalars(select(OutputChunk).where(*there).order_by(OutputChunk.position))


@dataclass(frozen=True)
class Piece:
    """Bytes of one stream (1 stdout, 2 stderr). `position` counts all written bytes, missing ones included."""

    position: int
    stream: int
    data: bytes


def pieces(session: Session, job: Job, number: int, position: int) -> Iterator[Piece]:
    """The output of an attempt from a position on, running or ended, for a reader that continues.

    A gap between two pieces means missing bytes.
    """
    ended = attempt(session, job, number)
    if ended is not None:
        yield from _pieces(_kept(ended), position)
        return
    for chunk in _chunks(session, job.seq, number, position):  # a reader's position is always the end of a chunk
        for piece in _pieces(Output(chunk.data, decode_runs(chunk.runs)), 0):
            yield Piece(chunk.position + piece.position, piece.stream, piece.data)


def _pieces(kept: Output, position: int) -> Iterator[Piece]:
    cut = kept.cut
    for stream, start, end in spans(kept.runs):
        inner = [cut] if cut is not None and start < cut < end else []
        for first, last in zip([start, *inner], [*inner, end]):
            shift = kept.dropped if cut is not None and first >= cut else 0
            skip = max(0, position - (first + shift))
            if first + skip < last:
                yield Piece(first + shift + skip, 1 + stream, kept.data[first + skip : last])


# --- as JSON ---------------------------------------------------------------------------------------------------------


def job_json(job: Job, settings: Settings, *, with_env: bool = True) -> dict[str, Any]:
    """A job's public fields, for `--json` and the API. Times are ISO 8601, `timeout` is in seconds.

    Without `with_env`, for users who may not submit, each environment variable has the value null.
    """
    env: dict[str, Optional[str]] = json.loads(job.env) if job.env else {}
    return {
        **columns(job, "id", "command", "queue", "priority", "state", "attempts"),
        "max_retries": settings.max_retries if job.max_retries is None else job.max_retries,
        **columns(job, "run_at", "timeout", "cwd"),
        "env": env if with_env else dict.fromkeys(env),
        **columns(job, "created_at", "started_at", "finished_at", "exit_code", "last_error"),
        "requires": labels.split(job.requires),
        "limits": [str(key) for key in limits.split(job.limits)],
        "batch": job.batch,
        "unique": unique_keys.as_json(job.unique_key, job.unique_while, job.unique_until, job.state),
        "retry": retry_rules.stored(job.retry).as_json if job.retry else None,
    }


def report_json(one: Report) -> dict[str, Any]:
    return {
        **columns(one, "attempt", "progress", "note"),
        "result": None if one.result is None else json.loads(one.result),
        **columns(one, "retry_after", "fault", "updated_at"),
    }


def attempt_json(one: Attempt) -> dict[str, Any]:
    """An ended attempt without its output."""
    return {
        **columns(one, "number", "state", "started_at", "finished_at", "exit_code", "signal", "reason", "error"),
        "worker": one.worker_id,
        "cpu_seconds": None if one.cpu_time is None else one.cpu_time / clock.SECOND,
        "peak_memory": one.peak_memory,
        "truncated": one.output_dropped > 0,
    }


def output_json(one: Attempt) -> dict[str, Any]:
    """The output of an ended attempt; bytes that are not UTF-8 become U+FFFD."""
    kept = _kept(one)
    return {name: kept.stream(which).decode(errors="replace") for which, name in ((1, "stdout"), (2, "stderr"))}


def event_json(event: Event) -> dict[str, Any]:
    detail = json.loads(event.detail) if event.detail else None
    return {**columns(event, "at", "verb", "actor", "subject"), "detail": detail}
