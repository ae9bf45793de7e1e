"""Roll-ups: ended attempts folded by the minute and by the hour, so that charts cost the same at any size of the table.

`control.folded_until` is the watermark: what finished before it is folded. It is moved in the transaction that stores
what was folded, guarded by where it stood, so that several keepers fold nothing twice. An attempt commits a moment
after it finished (at worst once a lock that somebody held is free), so folding stays MARGIN behind the clock; what
commits even later, after an hour with a full disk, is missing from the charts. Behind the watermark `insight/trends.py` reads
the attempts themselves.

`minutes` has a row for each queue and minute, and sums over all queues under names that no queue can have (SUMS), so
that a chart reads as many rows as it has points. `command_hours` has up to SHAPES shapes of commands for each hour,
those that ran or failed most; what is left is REST's.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Optional

from sqlalchemy import Row, and_, delete, func, select, text, update
from sqlalchemy.orm import Session, aliased

from webapp.core.locks import BUSY_TIMEOUT
from webapp.db import engines
from webapp.db.engines import reading, writing
from webapp.db.models import Attempt, CommandHour, Control, Event, Job, Minute
from webapp.lib import clock, histograms
from webapp.lib.command_patterns import COMMAND_PREFIX, command_shape
from webapp.lib.histograms import Histogram

MINUTE = clock.seconds(60)
HOUR = 60 * MINUTE
MARGIN = clock.seconds(60)  # twice as long as a writer waits for a lock
KEEP = 8 * clock.DAY
CHUNK = 500  # attempts of one transaction: their rows are written in a few milliseconds
LONGEST = 1.0  # seconds that one call folds; what is left of a day is the next calls'
PRUNE_BATCH = 2000

SUMS = {"*1": MINUTE, "*30": 30 * MINUTE, "*180": 3 * HOUR}  # names, and what each of their rows spans
LONGEST_SUM = max(SUMS.values())
SHAPES = 50
REST = "…"
FAILURE_WEIGHT = 10  # a command that fails is looked for, however rarely it runs


@dataclass
class Sum:
    """What ended: attempts by how, `dead` those with which their job died; seconds waited and run as histograms."""

    completed: int = 0
    failed: int = 0
    dead: int = 0
    lost: int = 0
    waits: Histogram = field(default_factory=Counter)
    runs: Histogram = field(default_factory=Counter)

    def add(self, other: Sum) -> None:
        self.completed += other.completed
        self.failed += other.failed
        self.dead += other.dead
        self.lost += other.lost
        for mine, others in ((self.waits, other.waits), (self.runs, other.runs)):
            for number, count in others.items():  # Counter.update() takes thrice as long
                mine[number] += count

    @property
    def ended(self) -> int:
        """Runs that came to their own end, well or badly."""
        return self.completed + self.failed


@dataclass
class Commands:
    """What commands of one shape did. `run_time` is in microseconds, of all together."""

    runs: int = 0
    failures: int = 0
    run_time: int = 0

    def add(self, other: Commands) -> None:
        self.runs += other.runs
        self.failures += other.failures
        self.run_time += other.run_time


@dataclass
class Folded:
    """Attempts that finished from `since` on and before `until`, summed up. `more`: others lie between it and now."""

    since: int
    until: int
    more: bool = False
    number: int = 0
    minutes: dict[tuple[int, str], Sum] = field(default_factory=dict)
    hours: dict[tuple[int, str], Commands] = field(default_factory=dict)


# --- reading attempts ------------------------------------------------------------------------------------------------


def sum_up(session: Session, since: int, until: int, limit: int) -> Folded:
    """Sum up what finished from `since` on and before `until`, but `limit` attempts at the most, the oldest."""
    rows = _attempts(session, since, until, limit + 1)
    more = len(rows) > limit
    if more:
        until = rows[-1].finished_at
        if rows[0].finished_at == until:  # so many ended in one microsecond: a watermark cannot stand among them
            until += 1
            rows = _attempts(session, since, until, None)
        else:
            rows = [row for row in rows if row.finished_at < until]
    folded = Folded(since, until, more, len(rows))
    deaths = _deaths(session, rows)
    for row in rows:
        _add(folded, row, (row.job_seq, row.number) in deaths)
    _add_sums(folded.minutes)
    return folded


def _attempts(session: Session, since: int, until: int, limit: Optional[int]) -> Sequence[Row[Any]]:
    before = aliased(Attempt)
    statement = (
        select(
            Attempt.job_seq,
            Attempt.number,
            Attempt.state,
            Attempt.started_at,
            Attempt.finished_at,
            Attempt.due_at,
            before.finished_at.label("ended_before"),
            Job.queue,
            Job.state.label("job_state"),
            Job.attempts.label("latest"),
            func.substr(Job.command, 1, COMMAND_PREFIX).label("command"),
        )
        .join(Job, Job.seq == Attempt.job_seq)
        .outerjoin(before, and_(before.job_seq == Attempt.job_seq, before.number == Attempt.number - 1))
        .where(Attempt.finished_at >= since, Attempt.finished_at < until)
        .order_by(Attempt.finished_at)
        .limit(limit)
    )
    return session.execute(statement).all()


def _deaths(session: Session, rows: Iterable[Row[Any]]) -> set[tuple[int, int]]:
    """Which of these attempts their jobs died with: dead still, or requeued before anything else came of them."""
    deaths, unclear = set(), dict[int, list[Any]]()
    for row in rows:
        if row.state not in ("failed", "lost"):
            continue
        if row.latest == row.number and row.job_state == "dead":
            deaths.add((row.job_seq, row.number))
        elif row.latest != row.number or row.job_state not in ("failed", "processing"):
            unclear.setdefault(row.job_seq, []).append(row)
    if not unclear:
        return deaths
    events = (
        select(Event.job_seq, Event.verb, Event.at)
        .where(Event.job_seq.in_(list(unclear)), Event.verb.in_(("requeue", "cancel")))
        .order_by(Event.id)
    )
    moves: dict[Optional[int], list[Any]] = {}
    for event in session.execute(events):
        moves.setdefault(event.job_seq, []).append(event)
    starts = _next_starts(session, {seq: unclear[seq] for seq in moves if seq is not None})
    for seq, ended in moves.items():
        for row in unclear[seq] if seq is not None else ():
            after = starts.get((row.job_seq, row.number), 2**62)
            first = next((event for event in ended if row.finished_at <= event.at <= after), None)
            if first is not None and first.verb == "requeue":
                deaths.add((row.job_seq, row.number))
    return deaths


def _next_starts(session: Session, ended: Mapping[int, Sequence[Row[Any]]]) -> dict[tuple[int, int], int]:
    """When the attempt after each of these began, where there is one."""
    latest = {row.job_seq: (row.latest, row.job_state) for rows in ended.values() for row in rows}
    starts = select(Attempt.job_seq, Attempt.number, Attempt.started_at).where(Attempt.job_seq.in_(list(ended)))
    found = {(row.job_seq, row.number - 1): row.started_at for row in session.execute(starts)}
    running = [seq for seq, (_, state) in latest.items() if state == "processing"]
    for job in session.execute(select(Job.seq, Job.attempts, Job.started_at).where(Job.seq.in_(running))):
        found.setdefault((job.seq, job.attempts - 1), job.started_at or 2**62)
    return found


def _add(folded: Folded, row: Row[Any], died: bool) -> None:
    key = (row.finished_at // MINUTE * MINUTE, row.queue)
    one = folded.minutes.get(key)
    if one is None:
        one = folded.minutes[key] = Sum()
    one.dead += died
    if row.due_at is not None:
        # A job that was handed back, or whose worker died, is due since then, whatever its row says.
        one.waits[histograms.bucket(row.started_at - max(row.due_at, row.ended_before or 0))] += 1
    if row.state == "lost":
        one.lost += 1
    if row.state not in ("completed", "failed"):
        return
    took, failed = max(row.finished_at - row.started_at, 0), row.state == "failed"
    one.failed += failed
    one.completed += not failed
    one.runs[histograms.bucket(took)] += 1
    hour = (row.finished_at // HOUR * HOUR, command_shape(row.command) or REST)
    folded.hours.setdefault(hour, Commands()).add(Commands(1, int(failed), took))


def _add_sums(minutes: dict[tuple[int, str], Sum]) -> None:
    for (at, _), one in list(minutes.items()):
        for name, span in SUMS.items():
            minutes.setdefault((at // span * span, name), Sum()).add(one)


# --- folding ---------------------------------------------------------------------------------------------------------


def fold(*, patience: float = BUSY_TIMEOUT, longest: float = LONGEST) -> int:
    """Fold what has finished MARGIN ago and earlier. Returns how many attempts; it stops after `longest` seconds.

    Attempts are read and summed up without the write lock, which is held only to store the sums.
    """
    until, number = time.monotonic() + longest, 0
    while True:
        with reading() as session:
            seen = session.scalars(select(Control.folded_until)).one()
            if seen > clock.now():
                break
            folded = sum_up(session, start_of(seen), clock.now() - MARGIN, CHUNK)
            if not folded.number:
                return number  # the watermark stays where it is: an idle queue writes nothing
            rows = _rows_of_minutes(session, folded), _rows_of_hours(session, folded)
        if not _store(seen, folded.until, *rows, patience):
            return number  # another keeper was first
        number += folded.number
        if not folded.more or time.monotonic() > until:
            return number
        engines.let_others_write()
    _set_back(seen, patience)
    return number


def start_of(watermark: int) -> int:
    """Where folding goes on. What is older than roll-ups are kept is left out, as after an upgrade."""
    return max(watermark, (clock.now() - KEEP) // HOUR * HOUR)


@dataclass
class _HourRows:
    """What is to stand in `command_hours`, and what no longer."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    gone: list[tuple[int, str]] = field(default_factory=list)


def _rows_of_minutes(session: Session, folded: Folded) -> list[dict[str, Any]]:
    """What stands there already, which nobody changes but with the watermark, and what comes to it."""
    sums = {key: _copy(one) for key, one in folded.minutes.items()}
    ats = {at for at, _ in sums}
    for row in session.scalars(select(Minute).where(Minute.at.in_(ats))):
        if (row.at, row.queue) in sums:
            sums[row.at, row.queue].add(sum_of(row))
    return [
        {
            "at": at,
            "queue": queue,
            "completed": one.completed,
            "failed": one.failed,
            "dead": one.dead,
            "lost": one.lost,
            "waits": histograms.dump(one.waits),
            "runs": histograms.dump(one.runs),
        }
        for (at, queue), one in sums.items()
    ]


def _copy(one: Sum) -> Sum:
    copy = Sum()
    copy.add(one)
    return copy


def sum_of(row: Minute) -> Sum:
    waits, runs = histograms.load(row.waits), histograms.load(row.runs)
    return Sum(row.completed, row.failed, row.dead, row.lost, waits, runs)


def _rows_of_hours(session: Session, folded: Folded) -> _HourRows:
    hours: dict[int, dict[str, Commands]] = {}
    for (at, shape), commands in folded.hours.items():
        hours.setdefault(at, {}).setdefault(shape, Commands()).add(commands)
    known: dict[tuple[int, str], Commands] = {}
    for row in session.scalars(select(CommandHour).where(CommandHour.at.in_(hours))):
        known[row.at, row.shape] = Commands(row.runs, row.failures, row.run_time)
        hours[row.at].setdefault(row.shape, Commands()).add(known[row.at, row.shape])
    result = _HourRows()
    for at, shapes in hours.items():
        kept = _most(shapes)
        result.rows += [
            {"at": at, "shape": shape, **vars(commands)}
            for shape, commands in kept.items()
            if known.get((at, shape)) != commands
        ]
        result.gone += [(at, shape) for shape in shapes if shape not in kept and (at, shape) in known]
    return result


def _most(shapes: dict[str, Commands]) -> dict[str, Commands]:
    """The SHAPES that ran or failed most, and the rest as one."""
    if len(shapes) <= SHAPES:
        return shapes

    def weight(shape: str) -> tuple[int, str]:
        return (shapes[shape].runs + FAILURE_WEIGHT * shapes[shape].failures, shape)

    ordered = sorted(shapes.keys() - {REST}, key=weight, reverse=True)
    kept = {shape: shapes[shape] for shape in ordered[:SHAPES]}
    kept[REST] = shapes.get(REST, Commands())
    for shape in ordered[SHAPES:]:
        kept[REST].add(shapes[shape])
    return kept


_STORE_MINUTES = text("""
INSERT INTO minutes (at, queue, completed, failed, dead, lost, waits, runs)
VALUES (:at, :queue, :completed, :failed, :dead, :lost, :waits, :runs)
ON CONFLICT (at, queue) DO UPDATE SET completed = excluded.completed, failed = excluded.failed, dead = excluded.dead,
                                      lost = excluded.lost, waits = excluded.waits, runs = excluded.runs
""")
_STORE_HOURS = text("""
INSERT INTO command_hours (at, shape, runs, failures, run_time) VALUES (:at, :shape, :runs, :failures, :run_time)
ON CONFLICT (at, shape) DO UPDATE SET runs = excluded.runs, failures = excluded.failures, run_time = excluded.run_time
""")


def _store(seen: int, until: int, minutes: list[dict[str, Any]], hours: _HourRows, patience: float) -> bool:
    """Move the watermark from where it was seen and store the sums, or do nothing: then somebody else has moved it."""
    with writing(patience, wakes_workers=False) as session:
        if not _move_watermark(session, seen, until):
            return False
        session.execute(_STORE_MINUTES, minutes)
        for at, shape in hours.gone:
            session.execute(delete(CommandHour).where(CommandHour.at == at, CommandHour.shape == shape))
        if hours.rows:
            session.execute(_STORE_HOURS, hours.rows)
        return True


def _move_watermark(session: Session, seen: int, until: int) -> bool:
    moved = update(Control).where(Control.folded_until == seen).values(folded_until=until).returning(Control.id)
    return session.execute(moved.execution_options(synchronize_session=False)).first() is not None


def _set_back(seen: int, patience: float) -> None:
    """The clock was set back: what was folded of this hour or so, and of the time to come, is folded again."""
    begin = clock.now() // LONGEST_SUM * LONGEST_SUM
    with writing(patience, wakes_workers=False) as session:
        if _move_watermark(session, seen, begin):
            session.execute(delete(Minute).where(Minute.at >= begin))
            session.execute(delete(CommandHour).where(CommandHour.at >= begin))


# --- retention -------------------------------------------------------------------------------------------------------


def prune(patience: float = BUSY_TIMEOUT) -> bool:
    """Delete roll-ups that are older than KEEP, a batch of each table. True: there may be more."""
    before = clock.now() - KEEP
    with reading() as session:
        oldest = select(Minute.at).where(Minute.at < before).order_by(Minute.at).limit(PRUNE_BATCH)
        minutes = list(session.scalars(oldest))
        old_hours = select(CommandHour.at).where(CommandHour.at < before).order_by(CommandHour.at).limit(PRUNE_BATCH)
        hours = list(session.scalars(old_hours))
    if not minutes and not hours:
        return False
    with writing(patience, wakes_workers=False) as session:
        if minutes:
            session.execute(delete(Minute).where(Minute.at <= minutes[-1]))
        if hours:
            session.execute(delete(CommandHour).where(CommandHour.at <= hours[-1]))
    return PRUNE_BATCH in (len(minutes), len(hours))
