"""Roll-ups: ended attempts summed by minute and hour, so that charts cost the same for any size of the table.

`control.folded_until` is the watermark: attempts that finished before it are folded. The transaction that stores the
sums also moves the watermark, if it has not moved: several maintenance processes fold nothing twice. An attempt commits
a moment after it finished (at worst when a held lock becomes free), so folding stays FOLD_DELAY behind the clock. A
later commit, such as after an hour with a full disk, is missing from the charts. `insight/trends.py` reads attempts
after the watermark directly.

`minutes` has a row for each queue and minute. Its sums have names that no queue can have (`is_sum`): sums over all
queues (SUMS) and the half hours of each queue (`half_hours`), so that a chart reads one row per point. One more row,
TOTAL, sums up all attempts that were ever folded. It is never deleted, so that the counters of `web/metrics.py` only
grow. `failure_groups` gets the deaths of each group. `command_hours` has the MAX_SHAPES command shapes that ran or
failed most in each hour, and REST for all others. The jobs that send messages are in none of these sums.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Row, delete, insert, select, text, tuple_, update
from sqlalchemy.orm import Session

from webapp.core.notices import SYSTEM_QUEUE
from webapp.core.storage.locks import BUSY_TIMEOUT
from webapp.db import engines
from webapp.db.engines import reading, writing
from webapp.db.failure_keys import ADD_DEATHS, adopt_known
from webapp.db.models import CommandHour, Control, Minute
from webapp.insight import ended_attempts
from webapp.lib import clock, histograms
from webapp.lib.clock import HOUR, MINUTE
from webapp.lib.command_patterns import command_shape
from webapp.lib.histograms import Histogram

FOLD_DELAY = clock.seconds(60)  # twice the time that a writer waits for a lock
KEEP_FOR = 8 * clock.DAY
FOLD_BATCH = 500  # attempts per transaction: the rows are written in a few milliseconds
FOLD_SECONDS = 1.0  # limit of one call; the next call continues
PRUNE_BATCH = 2000

HALF_HOUR = 30 * MINUTE
SUMS = {"*1": MINUTE, "*30": HALF_HOUR, "*180": 3 * HOUR}  # name → span of each row
MAX_SUM_SPAN = max(SUMS.values())
TOTAL = (0, "*")  # time and name of the row with all attempts since queuectl has this row
MAX_SHAPES = 50
REST = "…"
FAILURE_WEIGHT = 10  # keeps commands that fail but rarely run


@dataclass
class Sum:
    """Ended attempts by result (`dead`: the job died with them), with histograms of wait and run times."""

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
            for number, count in others.items():  # Counter.update() is three times slower
                mine[number] += count

    @property
    def ended(self) -> int:
        """Runs that completed or failed."""
        return self.completed + self.failed


@dataclass
class Commands:
    """Runs of the commands of one shape, or of all shapes beyond the cap (REST). `run_time`: in total, microseconds.

    `durations` are the run times. They are empty where they were not read, and for hours before schema 0015.
    """

    shape: str
    runs: int = 0
    failures: int = 0
    run_time: int = 0
    durations: Histogram = field(default_factory=Counter)

    def add(self, other: Commands) -> None:
        self.runs += other.runs
        self.failures += other.failures
        self.run_time += other.run_time
        for number, count in other.durations.items():
            self.durations[number] += count

    @property
    def mean(self) -> float:
        """Average run time in seconds."""
        return self.run_time / self.runs / clock.SECOND


@dataclass
class Folded:
    """Sums of the attempts that finished before `until`. `more`: later ones are not in it."""

    until: int
    more: bool = False
    number: int = 0
    minutes: dict[tuple[int, str], Sum] = field(default_factory=dict)
    hours: dict[tuple[int, str], Commands] = field(default_factory=dict)
    groups: dict[str, Deaths] = field(default_factory=dict)


@dataclass
class Deaths:
    """Deaths of one failure group; `error` and `command` are of the last one."""

    first_at: int
    last_at: int
    error: str
    command: str
    deaths: int = 1


def half_hours(queue: str) -> str:
    """The name of the rows that sum up half hours of a queue."""
    return f"*30 {queue}"


def is_sum(name: str) -> bool:
    """Whether a name in `minutes` is that of a sum."""
    return name.startswith("*")


# --- reading attempts ------------------------------------------------------------------------------------------------


def sum_up(session: Session, since: int, until: int, limit: int) -> Folded:
    """Sum up attempts that finished from `since` until before `until`, at most the `limit` oldest."""
    rows = ended_attempts.read(session, since, until, limit + 1)
    more = len(rows) > limit
    if more:
        until = rows[-1].finished_at
        if rows[0].finished_at == until:  # all in one microsecond, which a watermark cannot split
            until += 1
            rows = ended_attempts.read(session, since, until, None)
        else:
            rows = [row for row in rows if row.finished_at < until]
    folded = Folded(until, more, len(rows))
    deaths = ended_attempts.deaths(session, rows)
    for row in rows:
        if row.queue != SYSTEM_QUEUE:  # read all the same, so that they do not stay unfolded
            _add(folded, row, (row.job_seq, row.number) in deaths)
            if row.error_key is not None and (row.job_seq, row.number) in deaths:
                _add_death(folded.groups, row)
    _add_sums(folded.minutes)
    return folded


def _add(folded: Folded, row: Row[Any], died: bool) -> None:
    key = (row.finished_at // MINUTE * MINUTE, row.queue)
    one = folded.minutes.get(key)
    if one is None:
        one = folded.minutes[key] = Sum()
    one.dead += died
    if row.due_at is not None:
        # A released job, or a job of a lost worker, is due from the end of that attempt.
        one.waits[histograms.bucket(row.started_at - max(row.due_at, row.ended_before or 0))] += 1
    if row.state == "lost":
        one.lost += 1
    if row.state not in ("completed", "failed"):
        return
    took, failed = max(row.finished_at - row.started_at, 0), row.state == "failed"
    one.failed += failed
    one.completed += not failed
    number = histograms.bucket(took)
    one.runs[number] += 1
    hour, shape = row.finished_at // HOUR * HOUR, command_shape(row.command) or REST
    run = Commands(shape, 1, int(failed), took, Counter((number,)))
    folded.hours.setdefault((hour, shape), Commands(shape)).add(run)


def _add_death(groups: dict[str, Deaths], row: Row[Any]) -> None:
    """Rows come in the order of time."""
    one = groups.setdefault(row.error_key, Deaths(row.finished_at, 0, "", "", 0))
    one.last_at, one.error, one.command = row.finished_at, row.error or "", row.command
    one.deaths += 1


def _add_sums(minutes: dict[tuple[int, str], Sum]) -> None:
    for (at, queue), one in list(minutes.items()):
        for name, span in (*SUMS.items(), (half_hours(queue), HALF_HOUR)):
            minutes.setdefault((at // span * span, name), Sum()).add(one)
        minutes.setdefault(TOTAL, Sum()).add(one)


# --- folding ---------------------------------------------------------------------------------------------------------


def fold(*, patience: float = BUSY_TIMEOUT, longest: float = FOLD_SECONDS) -> int:
    """Fold attempts that finished FOLD_DELAY ago or earlier, for at most `longest` seconds. Returns their number.

    The write lock is held only to store the sums.
    """
    until, number = time.monotonic() + longest, 0
    while True:
        with reading() as session:
            seen = session.scalars(select(Control.folded_until)).one()
            if seen > clock.now():
                break
            folded = sum_up(session, start_of(seen), clock.now() - FOLD_DELAY, FOLD_BATCH)
            if not folded.number:
                return number  # an idle queue writes nothing
            minutes, hours = _rows_of_minutes(session, folded), _rows_of_hours(session, folded)
        if not _store(seen, folded, minutes, hours, patience):
            return number  # another process was first
        number += folded.number
        if not folded.more or time.monotonic() > until:
            return number
        engines.let_others_write()
    _set_back(seen, patience)
    return number


def start_of(watermark: int) -> int:
    """Where folding continues; older attempts than KEEP_FOR are left out, as after an upgrade."""
    return max(watermark, (clock.now() - KEEP_FOR) // HOUR * HOUR)


def _rows_of_minutes(session: Session, folded: Folded) -> list[dict[str, Any]]:
    """The stored sums, which change only together with the watermark, plus the new ones."""
    sums = folded.minutes
    for row in session.scalars(select(Minute).where(tuple_(Minute.at, Minute.queue).in_(sorted(sums)))):
        sums[row.at, row.queue].add(sum_of(row))
    return [
        {**vars(one), "at": at, "queue": queue, "waits": histograms.dump(one.waits), "runs": histograms.dump(one.runs)}
        for (at, queue), one in sums.items()
    ]


def sum_of(row: Any) -> Sum:
    """Of a row of `minutes`."""
    waits, runs = histograms.load(row.waits), histograms.load(row.runs)
    return Sum(row.completed, row.failed, row.dead, row.lost, waits, runs)


def _rows_of_hours(session: Session, folded: Folded) -> list[dict[str, Any]]:
    """All rows of `command_hours` for the hours of these attempts."""
    hours: dict[int, dict[str, Commands]] = {}
    for (at, shape), commands in folded.hours.items():
        hours.setdefault(at, {})[shape] = commands
    for row in session.scalars(select(CommandHour).where(CommandHour.at.in_(hours))):
        hours[row.at].setdefault(row.shape, Commands(row.shape)).add(commands_of(row))
    return [
        {**vars(one), "at": at, "durations": histograms.dump(one.durations)}
        for at, shapes in hours.items()
        for one in _most(shapes)
    ]


def commands_of(row: Any) -> Commands:
    """Of a row of `command_hours`."""
    return Commands(row.shape, row.runs, row.failures, row.run_time, histograms.load(row.durations))


def _most(shapes: dict[str, Commands]) -> Iterable[Commands]:
    """The MAX_SHAPES shapes that ran or failed most, and REST for the others."""
    if len(shapes) <= MAX_SHAPES:
        return shapes.values()
    rest = shapes.pop(REST, Commands(REST))
    ordered = sorted(shapes.values(), key=lambda one: (one.runs + FAILURE_WEIGHT * one.failures, one.shape))
    for one in ordered[:-MAX_SHAPES]:
        rest.add(one)
    return [*ordered[-MAX_SHAPES:], rest]


_STORE_MINUTES = text("""
INSERT INTO minutes (at, queue, completed, failed, dead, lost, waits, runs)
VALUES (:at, :queue, :completed, :failed, :dead, :lost, :waits, :runs)
ON CONFLICT (at, queue) DO UPDATE SET completed = excluded.completed, failed = excluded.failed, dead = excluded.dead,
                                      lost = excluded.lost, waits = excluded.waits, runs = excluded.runs
""")


def _store(
    seen: int, folded: Folded, minutes: list[dict[str, Any]], hours: list[dict[str, Any]], patience: float
) -> bool:
    """Move the watermark and store the sums. False: another process has moved it, so nothing is stored."""
    with writing(patience, wakes_workers=False) as session:
        if not _move_watermark(session, seen, folded.until):
            return False
        if minutes:
            session.execute(_STORE_MINUTES, minutes)
        if hours:
            session.execute(delete(CommandHour).where(CommandHour.at.in_({row["at"] for row in hours})))
            session.execute(insert(CommandHour), hours)
        if folded.groups:
            now, groups = clock.now(), sorted(folded.groups.items())
            session.execute(text(ADD_DEATHS), [{**vars(one), "key": key, "now": now} for key, one in groups])
            adopt_known(session.connection(), [(key, one.error, one.command) for key, one in groups])
        return True


def _move_watermark(session: Session, seen: int, until: int) -> bool:
    moved = update(Control).where(Control.folded_until == seen).values(folded_until=until).returning(Control.id)
    return session.execute(moved.execution_options(synchronize_session=False)).first() is not None


def _set_back(seen: int, patience: float) -> None:
    """After the clock was set back, fold the current span and everything later again.

    TOTAL then has these attempts twice. A counter that shrinks would be worse: Prometheus takes it for a restart, and
    counts everything again.
    """
    begin = clock.now() // MAX_SUM_SPAN * MAX_SUM_SPAN
    with writing(patience, wakes_workers=False) as session:
        if _move_watermark(session, seen, begin):
            session.execute(delete(Minute).where(Minute.at >= begin))
            session.execute(delete(CommandHour).where(CommandHour.at >= begin))


# --- retention -------------------------------------------------------------------------------------------------------


def prune(patience: float = BUSY_TIMEOUT) -> bool:
    """Delete roll-ups older than KEEP_FOR, one batch per table. True: there may be more."""
    before = clock.now() - KEEP_FOR
    with reading() as session:
        minutes, hours = (
            session.scalars(select(at).where(at < before, at > TOTAL[0]).order_by(at).limit(PRUNE_BATCH)).all()
            for at in (Minute.at, CommandHour.at)
        )
    if not minutes and not hours:
        return False
    with writing(patience, wakes_workers=False) as session:
        if minutes:
            session.execute(delete(Minute).where(Minute.at <= minutes[-1], Minute.at > TOTAL[0]))
        if hours:
            session.execute(delete(CommandHour).where(CommandHour.at <= hours[-1]))
    return PRUNE_BATCH in (len(minutes), len(hours))
