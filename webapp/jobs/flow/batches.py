"""Views and actions for batches: progress, failures, the list, and closing one. `core/flow/batches.py` has the rules.

Counts stop at CAP jobs in a state, so a page costs the same however large a batch is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Optional

from sqlalchemy import ColumnElement, ScalarSelect, func, literal, literal_column, select, tuple_
from sqlalchemy.orm import Session

from webapp.core.flow import batches as core_batches
from webapp.core.states import STATES, TERMINAL
from webapp.db.engines import changing
from webapp.db.models import Batch, BatchCallback, Job
from webapp.jobs.lifecycle import NotFound
from webapp.lib import clock
from webapp.lib.clock import columns

CAP = 20_000  # jobs in one state
RATE_WINDOW = 300 * clock.SECOND
MOST_FAILURES = 2_000  # dead jobs that are grouped
SHOWN_GROUPS = 10
_KEY = re.compile(r"([0-9]{1,18}),([^\0]+)\Z")  # of a page: creation time and name of its last batch
_OF_BATCHES: ColumnElement[bool] = literal_column("jobs.batch IS NOT NULL")  # the text of the partial indexes


@dataclass(frozen=True)
class Progress:
    """How far a batch is.

    Attributes:
        counts: jobs by state; states without jobs are left out.
        capped: a count stopped at CAP.
        rate: jobs that ended per minute, over the last five minutes.
    """

    counts: dict[str, int]
    capped: bool
    rate: float

    @property
    def total(self) -> int:
        return sum(self.counts.values())

    @property
    def ended(self) -> int:
        return sum(self.counts.get(state, 0) for state in TERMINAL)

    @property
    def completed(self) -> int:
        return self.counts.get("completed", 0)

    @property
    def failed(self) -> int:
        """Dead jobs."""
        return self.counts.get("dead", 0)

    @property
    def left(self) -> int:
        return self.total - self.ended

    @property
    def seconds_left(self) -> Optional[float]:
        """At the current rate; None: no jobs are left, or none ended recently."""
        return self.left / self.rate * 60 if self.left and self.rate else None


@dataclass(frozen=True)
class FailureGroup:
    """Dead jobs of a batch that failed alike. `example`: the newest."""

    key: Optional[str]
    number: int
    example: Job


def where(name: str) -> ColumnElement[bool]:
    return _OF_BATCHES & (Job.batch == name)


def find(session: Session, name: str) -> Batch:
    """Raises NotFound."""
    batch = session.get(Batch, name) if "\0" not in name else None
    if batch is None:
        raise NotFound(f"no such batch: {name[:128]!r}. Retention deletes old ones with their jobs.")
    return batch


def page(
    session: Session, limit: int, *, after: Optional[str] = None, active: bool = False
) -> tuple[list[Batch], Optional[str]]:
    """Batches, newest first, and the key of the next page for `after`; None: there is none. `active`: not ended.

    Raises ValueError for a key that is not from this list.
    """
    order = Batch.created_at, Batch.name
    statement = select(Batch).order_by(*(column.desc() for column in order)).limit(limit + 1)
    if active:
        statement = statement.where(literal_column("batches.ended_at IS NULL"))
    if after is not None:
        key = _KEY.match(after)
        if key is None:
            raise ValueError("not a page key of this list")
        statement = statement.where(tuple_(*order) < tuple_(literal(int(key[1])), literal(key[2])))
    found = list(session.scalars(statement))
    more, found = len(found) > limit, found[:limit]
    return found, f"{found[-1].created_at},{found[-1].name}" if more else None


def progress(session: Session, name: str, cap: int = CAP, *, rated: bool = True) -> Progress:
    """The progress of a batch. Its index answers all of it. Not `rated`: the rate is 0, for lists."""
    numbers = session.execute(select(*(_counted(name, cap, _is(state)).label(state) for state in STATES))).one()
    counts = {state: number for state, number in zip(STATES, numbers) if number}
    found = {state: min(number, cap) for state, number in counts.items()}
    capped = any(number > cap for number in counts.values())
    return Progress(found, capped, _rate(session, name, cap, [*counts]) if rated else 0.0)


def _rate(session: Session, name: str, cap: int, states: Sequence[str]) -> float:
    """Jobs that ended per minute, over RATE_WINDOW or since the first one ended."""
    terminal = [state for state in states if state in TERMINAL]
    if not terminal:
        return 0.0
    since = clock.now() - RATE_WINDOW
    first = [
        select(Job.finished_at).where(where(name), _is(state)).order_by(Job.finished_at).limit(1).scalar_subquery()
        for state in terminal
    ]
    ended = [_counted(name, cap, _is(state), Job.finished_at >= since) for state in terminal]
    numbers = session.execute(select(*first, *ended)).one()
    begun = max(min(numbers[: len(terminal)]), since)
    minutes: float = max((clock.now() - begun) / (60 * clock.SECOND), 1 / 60)
    return float(sum(numbers[len(terminal) :])) / minutes


def _is(state: str) -> ColumnElement[bool]:
    return Job.state == literal_column(f"'{state}'")


def _counted(name: str, cap: int, *conditions: ColumnElement[bool]) -> ScalarSelect[int]:
    some = select(literal_column("1")).select_from(Job).where(where(name), *conditions).limit(cap + 1).subquery()
    return select(func.count()).select_from(some).scalar_subquery()


def failures(session: Session, name: str) -> tuple[list[FailureGroup], bool]:
    """The dead jobs of a batch by cause, most first, and whether these are all. Reads the newest MOST_FAILURES."""
    dead = select(Job.seq, Job.error_key).where(where(name), _is("dead"))
    rows = session.execute(dead.order_by(Job.finished_at.desc(), Job.seq.desc()).limit(MOST_FAILURES + 1)).all()
    if not rows:
        return [], True
    found: dict[Optional[str], list[int]] = {}
    for row in rows[:MOST_FAILURES]:
        found.setdefault(row.error_key, []).append(row.seq)
    largest = sorted(found.items(), key=lambda pair: -len(pair[1]))[:SHOWN_GROUPS]
    examples = {
        job.seq: job for job in session.scalars(select(Job).where(Job.seq.in_([seqs[0] for _, seqs in largest])))
    }
    groups = [FailureGroup(key, len(seqs), examples[seqs[0]]) for key, seqs in largest if seqs[0] in examples]
    return groups, len(rows) <= MOST_FAILURES and len(groups) == len(found)


def page_of_jobs(session: Session, name: str, after: int, limit: int) -> list[Job]:
    """Jobs of a batch in the order of their submit, after a `seq`."""
    jobs = select(Job).where(where(name), Job.seq > after).order_by(Job.seq).limit(limit)
    return list(session.scalars(jobs))


def callbacks(session: Session, name: str) -> Sequence[BatchCallback]:
    """What was decided about it, newest first."""
    order = BatchCallback.at.desc(), BatchCallback.event
    return session.scalars(select(BatchCallback).where(BatchCallback.batch == name).order_by(*order)).all()


def close(name: str, actor: str) -> bool:
    """Close a batch: no more jobs can join; its callbacks may run. False: it was already closed. Raises NotFound."""
    with changing() as transaction:
        if core_batches.close(transaction, name, actor):
            return True
        if transaction.execute("SELECT 1 FROM batches WHERE name = :name", {"name": name}).fetchone() is None:
            raise NotFound(f"no such batch: {name[:128]!r}.")
        return False


def create(batch: core_batches.Batch, actor: str) -> None:
    """Make a batch without jobs, or give an open one its callbacks. Raises SpecError."""
    with changing() as transaction:
        core_batches.join(transaction, batch, actor)


def state_of(batch: Batch) -> str:
    """open, running or ended"""
    return "ended" if batch.ended_at is not None else "open" if batch.closed_at is None else "running"


def as_json(batch: Batch, progress: Progress, decided: Sequence[BatchCallback] = ()) -> dict[str, Any]:
    """A batch for `--json` and the API. Times are ISO 8601."""
    return {
        "name": batch.name,
        "state": state_of(batch),
        **columns(batch, "created_at", "created_by", "closed_at", "ended_at", "generation"),
        "jobs": progress.counts,
        "total": progress.total,
        "ended": progress.ended,
        "failed": progress.failed,
        "left": progress.left,
        "capped": progress.capped,
        "per_minute": round(progress.rate, 2),
        "seconds_left": None if progress.seconds_left is None else round(progress.seconds_left),
        "on_done": _job(batch.on_done),
        "on_death": _job(batch.on_death),
        "callbacks": [columns(one, "event", "generation", "at", "job_id") for one in decided],
    }


def _job(text: Optional[str]) -> Optional[dict[str, Any]]:
    """A callback, without the values of its variables."""
    if text is None:
        return None
    job: dict[str, Any] = json.loads(text)
    return {**job, "env": dict.fromkeys(job["env"])} if job.get("env") else job
