"""Data for charts and rates: roll-ups, and the attempts after the roll-ups' watermark, so that charts are current.

`insight/windows.py` has the spans of charts.

Reads only, and few rows: one roll-up for each point of a chart, and up to MAX_UNFOLDED attempts. If more attempts ended
since the last roll-up, the data end a moment ago (`until`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Callable, Optional, TypeVar, Union

from sqlalchemy import CompoundSelect, Select, func, select, union
from sqlalchemy.orm import Session

from webapp.db.models import CommandHour, Control, Minute
from webapp.insight import rollups
from webapp.insight.rollups import HALF_HOUR, Commands, Folded, Sum
from webapp.insight.windows import Range, Window
from webapp.lib import clock, histograms
from webapp.lib.clock import HOUR, MINUTE

MAX_UNFOLDED = 2000  # attempts after the watermark: 10 to 20 ms
MAX_READS = 3  # on PostgreSQL a fold may commit between two statements; then read again
RATE_MINUTES = 5  # span of the present rate
DAY_HOURS = 24
LATE_AFTER = 5 * MINUTE  # older data are marked as not current
MAX_COMMANDS = 8
MAX_SPLIT = 5  # queues that a chart shows apart
MAX_SAMPLE = 10_000  # half hours of queues that tell which are the busiest
T = TypeVar("T")


@dataclass
class Trend:
    """Ended attempts of a window, by step, in total and by command.

    Attributes:
        until: attempts that ended later are not counted yet.
        points: start and sum of each step. The last one may not be complete.
        commands_since: commands are counted by full hours from then on. No commands for a single queue.
        queues: the points of the MAX_SPLIT busiest queues, the busiest first, if they were asked for.
        rate: runs that end per minute, the sum of `queue_rates` over all queues (or of one), for any window.
    """

    window: Window
    until: int
    is_late: bool
    points: list[tuple[int, Sum]]
    commands_since: int
    rate: float
    total: Sum = field(default_factory=Sum)
    busiest: list[Commands] = field(default_factory=list)
    failing: list[Commands] = field(default_factory=list)
    queues: dict[str, list[tuple[int, Sum]]] = field(default_factory=dict)


def trend(session: Session, wanted: Union[Range, Window], queue: Optional[str] = None, *, split: bool = False) -> Trend:
    """The data of a window, current; of one queue, or of all. `split`: with the points of the busiest queues."""

    def read(tail: Folded, now: int) -> Trend:
        window = wanted.window(now)
        result = _trend(session, window, queue, tail, now)
        if split and queue is None and (busiest := _busiest_queues(session, window, tail)):
            found = _points(session, window, tail, now, busiest)
            result.queues = {name: found[name] for name in busiest}
        return result

    return with_tail(session, read)


def with_tail(session: Session, read: Callable[[Folded, int], T]) -> T:
    """Call `read` with the sums of attempts after the watermark and the time; again if the watermark moves."""
    watermark = select(Control.folded_until)
    for _ in range(MAX_READS):
        now, seen = clock.now(), session.scalars(watermark).one()
        result = read(rollups.sum_up(session, rollups.start_of(seen), now + 1, MAX_UNFOLDED), now)
        if seen == session.scalars(watermark).one():
            break
    return result


def _trend(session: Session, window: Window, queue: Optional[str], tail: Folded, now: int) -> Trend:
    until = tail.until if tail.more else now
    points = _points(session, window, tail, now, [queue])[queue]
    is_late, since = min(now, window.end) - until > LATE_AFTER, window.start // HOUR * HOUR
    rate = _total_rate(session, tail, now) if queue is None else _rates(session, tail, now, [queue]).get(queue, 0)
    result = Trend(window, until, is_late, points, since, rate)
    for _, one in points:
        result.total.add(one)
    if queue is not None:
        return result
    ordered = sorted(_commands(session, window, tail, now).values(), key=lambda one: one.shape)
    result.busiest = sorted(ordered, key=lambda one: -one.runs)[:MAX_COMMANDS]
    result.failing = [one for one in sorted(ordered, key=lambda one: -one.failures) if one.failures][:MAX_COMMANDS]
    return result


def _points(
    session: Session, window: Window, tail: Folded, now: int, queues: Sequence[Optional[str]]
) -> dict[Optional[str], list[tuple[int, Sum]]]:
    """The sum of each step, for each queue, or for None: of all queues. Future steps are left out."""
    sources = {window.source(queue)[0]: queue for queue in queues}
    span, end = window.source(queues[0])[1], min(window.end, now + 1)
    points = {queue: {at: Sum() for at in range(window.start, end, window.step)} for queue in queues}

    def add(at: int, name: str, one: Sum) -> None:
        points[sources[name]][at // window.step * window.step].add(one)

    rows = select(Minute.__table__).where(Minute.at.in_(range(window.start, end, span)), Minute.queue.in_(sources))
    for row in session.execute(rows):
        add(row.at, row.queue, rollups.sum_of(row))
    for (at, name), one in tail.minutes.items():
        if name in sources and window.start <= at < end:
            add(at, name, one)
    return {queue: sorted(found.items()) for queue, found in points.items()}


def _busiest_queues(session: Session, window: Window, tail: Folded) -> list[str]:
    """The MAX_SPLIT queues with the most runs. With very many queues, the newest MAX_SAMPLE half hours tell."""
    newest = (
        select(Minute.queue, (Minute.completed + Minute.failed).label("ended"))
        .where(Minute.at.in_(range(window.start // HALF_HOUR * HALF_HOUR, window.end, HALF_HOUR)))
        .where(Minute.queue.like("*30 %"))
        .order_by(Minute.at.desc())
        .limit(MAX_SAMPLE)
        .subquery()
    )
    number = func.sum(newest.c.ended)
    rows = select(newest.c.queue, number).group_by(newest.c.queue).order_by(number.desc(), newest.c.queue)
    ended = Counter({name.partition(" ")[2]: int(runs) for name, runs in session.execute(rows.limit(50)).tuples()})
    for (at, name), one in tail.minutes.items():
        if not rollups.is_sum(name) and window.start <= at < window.end:
            ended[name] += one.ended
    ordered = sorted(ended.items(), key=lambda pair: (-pair[1], pair[0]))
    return [queue for queue, runs in ordered if runs][:MAX_SPLIT]


def _commands(session: Session, window: Window, tail: Folded, now: int) -> dict[str, Commands]:
    """The commands that ran or failed most in the hours of a window, attempts after the watermark included."""
    since, until = window.start // HOUR * HOUR, min(window.end - 1, now)
    sums = _sums(since, until)
    each = sums.cte("sums")
    most = [
        select(each).order_by(column.desc(), each.c.shape).limit(2 * MAX_COMMANDS).subquery()
        for column in (each.c.runs, each.c.failures)
    ]
    shapes = _read(session, union(*(select(one) for one in most)))
    lately: dict[str, Commands] = {}
    for (at, shape), commands in tail.hours.items():
        if since <= at <= until:
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


def _sums(since: int, until: int) -> Select[Any]:
    """The sums of each shape since a full hour."""
    return (
        select(
            CommandHour.shape,
            func.sum(CommandHour.runs).label("runs"),
            func.sum(CommandHour.failures).label("failures"),
            func.sum(CommandHour.run_time).label("run_time"),
        )
        .where(CommandHour.at.in_(range(since, until + 1, HOUR)))
        .group_by(CommandHour.shape)
    )


# --- rates -----------------------------------------------------------------------------------------------------------


def queue_rates(session: Session, queues: Sequence[str]) -> dict[str, float]:
    """Runs that end per minute, by queue: over RATE_MINUTES, or since the first run in that time.

    Queues without ended runs are left out. Empty if the roll-ups are not current.
    """
    return with_tail(session, lambda tail, now: _rates(session, tail, now, queues))


@dataclass
class Day:
    """The last DAY_HOURS hours of a queue.

    Attributes:
        hours: runs that ended in each hour, the current one last.
        failed: how many of them failed.
        busy: how many slots its jobs kept busy on average.
        per_minute: the current rate; None: no run ended recently.
    """

    hours: list[int] = field(default_factory=lambda: [0] * DAY_HOURS)
    failed: int = 0
    busy: float = 0.0
    per_minute: Optional[float] = None

    @property
    def runs(self) -> int:
        return sum(self.hours)


def days(session: Session, queues: Sequence[str]) -> dict[str, Day]:
    """The last hours of these queues, current."""
    return with_tail(session, lambda tail, now: _days(session, tail, now, queues))


def _days(session: Session, tail: Folded, now: int, queues: Sequence[str]) -> dict[str, Day]:
    first = now // HOUR * HOUR - (DAY_HOURS - 1) * HOUR
    names = {rollups.half_hours(queue): queue for queue in queues}
    found = {queue: Day() for queue in queues}
    columns = (Minute.at, Minute.queue, Minute.completed, Minute.failed, Minute.runs)
    rows = select(*columns).where(Minute.at.in_(range(first, now + 1, HALF_HOUR)), Minute.queue.in_(names))
    ended = [
        (at, name, completed, failed, histograms.total_of(runs))
        for at, name, completed, failed, runs in session.execute(rows).tuples()
    ]
    ended += [
        (at, name, one.completed, one.failed, histograms.total(one.runs))
        for (at, name), one in tail.minutes.items()
        if name in names and at >= first
    ]
    for at, name, completed, failed, seconds in ended:
        day = found[names[name]]
        day.hours[(at - first) // HOUR] += completed + failed
        day.failed += failed
        day.busy += seconds * clock.SECOND / (now - first)
    for queue, rate in _rates(session, tail, now, queues).items():
        found[queue].per_minute = rate
    return found


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
    lately = sorted({queue for at, queue in tail.minutes if not rollups.is_sum(queue) and at >= first})
    number = Minute.completed + Minute.failed
    each = (
        select(func.min(Minute.at).label("begun"), func.sum(number).label("number"))
        .where(Minute.at.in_(range(first, until + 1, MINUTE)), number > 0)
        .where(Minute.queue.not_like("*%"), Minute.queue.not_in(lately))
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
