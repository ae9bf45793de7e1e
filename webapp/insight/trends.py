"""Data for charts and rates: roll-ups, and the attempts after the roll-ups' watermark, so that charts are current.

Reads only, and few rows: one roll-up for each point of a chart, and up to MAX_UNFOLDED attempts. If more attempts ended
since the last roll-up, the data end a moment ago (`until`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Callable, Optional, TypeVar

from sqlalchemy import CompoundSelect, Select, func, select, union
from sqlalchemy.orm import Session

from webapp.db.models import CommandHour, Control, Minute
from webapp.insight import rollups
from webapp.insight.rollups import HOUR, MINUTE, SUMS, Commands, Folded, Sum
from webapp.lib import clock

MAX_UNFOLDED = 2000  # attempts after the watermark: 10 to 20 ms
MAX_READS = 3  # on PostgreSQL a fold may commit between two statements; then read again
RATE_MINUTES = 5  # span of the present rate
LATE_AFTER = 5 * MINUTE  # older data are marked as not current
MAX_COMMANDS = 8
T = TypeVar("T")


@dataclass(frozen=True)
class Range:
    """The span of a chart (microseconds), and the sums that are its points."""

    key: str
    label: str
    title: str
    span: int
    sums: str

    @property
    def step(self) -> int:
        return SUMS[self.sums]


RANGES = {
    one.key: one
    for one in (
        Range("1h", "1 hour", "The last hour", HOUR, "*1"),
        Range("24h", "24 hours", "The last 24 hours", clock.DAY, "*30"),
        Range("7d", "7 days", "The last 7 days", 7 * clock.DAY, "*180"),
    )
}


@dataclass
class Trend:
    """Ended attempts of a range, by step, in total and by command."""

    range: Range
    until: int  # attempts that ended later are not counted yet
    is_late: bool
    points: list[tuple[int, Sum]]  # the last one is not complete
    commands_since: int  # commands are counted by full hours from then on
    rate: float  # runs that end per minute, the sum of `queue_rates` over all queues, for any range
    total: Sum = field(default_factory=Sum)
    busiest: list[Commands] = field(default_factory=list)
    failing: list[Commands] = field(default_factory=list)


def trend(session: Session, wanted: Range) -> Trend:
    """The data of a range, current."""
    return _with_tail(session, lambda tail, now: _trend(session, wanted, tail, now))


def _with_tail(session: Session, read: Callable[[Folded, int], T]) -> T:
    """Call `read` with the sums of attempts after the watermark and the time; again if the watermark moves."""
    watermark = select(Control.folded_until)
    for _ in range(MAX_READS):
        now, seen = clock.now(), session.scalars(watermark).one()
        result = read(rollups.sum_up(session, rollups.start_of(seen), now + 1, MAX_UNFOLDED), now)
        if seen == session.scalars(watermark).one():
            break
    return result


def _trend(session: Session, wanted: Range, tail: Folded, now: int) -> Trend:
    until = tail.until if tail.more else now
    first = now // wanted.step * wanted.step + wanted.step - wanted.span
    points = {at: Sum() for at in range(first, now + 1, wanted.step)}
    for row in session.scalars(select(Minute).where(Minute.at.in_(points), Minute.queue == wanted.sums)):
        points[row.at].add(rollups.sum_of(row))
    for (at, queue), one in tail.minutes.items():
        if queue == wanted.sums and at >= first:
            points[at].add(one)
    is_late, since = now - until > LATE_AFTER, first // HOUR * HOUR
    result = Trend(wanted, until, is_late, sorted(points.items()), since, _total_rate(session, tail, now))
    for one in points.values():
        result.total.add(one)
    ordered = sorted(_commands(session, since, now, tail).values(), key=lambda one: one.shape)
    result.busiest = sorted(ordered, key=lambda one: -one.runs)[:MAX_COMMANDS]
    result.failing = [one for one in sorted(ordered, key=lambda one: -one.failures) if one.failures][:MAX_COMMANDS]
    return result


def _commands(session: Session, since: int, now: int, tail: Folded) -> dict[str, Commands]:
    """The commands that ran or failed most since a full hour, attempts after the watermark included."""
    sums = _sums(since, now)
    each = sums.cte("sums")
    most = [
        select(each).order_by(column.desc(), each.c.shape).limit(2 * MAX_COMMANDS).subquery()
        for column in (each.c.runs, each.c.failures)
    ]
    shapes = _read(session, union(*(select(one) for one in most)))
    lately: dict[str, Commands] = {}
    for (at, shape), commands in tail.hours.items():
        if at >= since:
            lately.setdefault(shape, Commands(shape)).add(commands)
    missing = lately.keys() - shapes.keys()
    if missing:
        shapes.update(_read(session, sums.where(CommandHour.shape.in_(missing))))
    for shape, commands in lately.items():
        shapes.setdefault(shape, Commands(shape)).add(commands)
    return shapes


def _read(session: Session, statement: Select[Any] | CompoundSelect[Any]) -> dict[str, Commands]:
    return {
        row.shape: Commands(row.shape, int(row.runs), int(row.failures), int(row.run_time))
        for row in session.execute(statement)
    }


def usual(session: Session, shapes: Iterable[str], since: int) -> dict[str, Commands]:
    """Runs of commands of these shapes since a time, up to the watermark."""
    return _read(session, _sums(since // HOUR * HOUR, clock.now()).where(CommandHour.shape.in_(list(shapes))))


def _sums(since: int, now: int) -> Select[Any]:
    """The sums of each shape since a full hour."""
    return (
        select(
            CommandHour.shape,
            func.sum(CommandHour.runs).label("runs"),
            func.sum(CommandHour.failures).label("failures"),
            func.sum(CommandHour.run_time).label("run_time"),
        )
        .where(CommandHour.at.in_(range(since, now + 1, HOUR)))
        .group_by(CommandHour.shape)
    )


# --- rates -----------------------------------------------------------------------------------------------------------


def queue_rates(session: Session, queues: Sequence[str]) -> dict[str, float]:
    """Runs that end per minute, by queue: over RATE_MINUTES, or since the first run in that time.

    Queues without ended runs are left out. Empty if the roll-ups are not current.
    """
    return _with_tail(session, lambda tail, now: _rates(session, tail, now, queues))


def _rates(session: Session, tail: Folded, now: int, queues: Sequence[str]) -> dict[str, float]:
    until, first = _rate_span(tail, now)
    if now - until > LATE_AFTER:
        return {}
    statement = select(Minute.queue, Minute.at, Minute.completed + Minute.failed).where(
        Minute.at.in_(range(first, until + 1, MINUTE)), Minute.queue.in_(queues)
    )
    ended: dict[str, dict[int, int]] = {}
    for queue, at, number in session.execute(statement).tuples():
        ended.setdefault(queue, {})[at] = number
    for (at, queue), one in tail.minutes.items():
        if queue in queues and at >= first:
            minutes = ended.setdefault(queue, {})
            minutes[at] = minutes.get(at, 0) + one.ended
    return {queue: rate for queue, minutes in ended.items() if (rate := _rate(minutes, until))}


def _total_rate(session: Session, tail: Folded, now: int) -> float:
    """The sum of the rates of all queues. Queues with the same first minute share a row, however many there are."""
    until, first = _rate_span(tail, now)
    if now - until > LATE_AFTER:
        return 0
    lately = sorted({queue for at, queue in tail.minutes if queue not in SUMS and at >= first})
    number = Minute.completed + Minute.failed
    each = (
        select(func.min(Minute.at).label("begun"), func.sum(number).label("number"))
        .where(Minute.at.in_(range(first, until + 1, MINUTE)), Minute.queue.not_in([*SUMS, *lately]), number > 0)
        .group_by(Minute.queue)
        .subquery()
    )
    rows = session.execute(select(each.c.begun, func.sum(each.c.number)).group_by(each.c.begun)).tuples()
    total = sum(_rate({begun: int(ended)}, until) for begun, ended in rows)
    return total + sum(_rates(session, tail, now, lately).values())


def _rate_span(tail: Folded, now: int) -> tuple[int, int]:
    """Until when attempts are counted, and the first minute of a rate."""
    until = tail.until if tail.more else now
    return until, until // MINUTE * MINUTE - (RATE_MINUTES - 1) * MINUTE


def _rate(minutes: dict[int, int], until: int) -> float:
    """Ended runs per minute since the first minute with a run, in steps of ten seconds, so that it changes rarely."""
    begun = min((at for at, number in minutes.items() if number), default=until)
    step = MINUTE // 6
    passed = max((until - begun + step - 1) // step * step, MINUTE)
    return sum(minutes.values()) * MINUTE / passed


def drain_time(pending: int, per_minute: Optional[float]) -> Optional[float]:
    """Seconds for so many jobs at a rate, to two digits; None: no jobs or no rate."""
    if not pending or not per_minute:
        return None
    return float(f"{pending / per_minute * 60:.2g}")
