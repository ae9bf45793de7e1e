"""Commands by their pattern (`lib/command_patterns.py`): runs and durations by hour, and some of the runs themselves.

No index finds the runs of a pattern. `command_hours` has the hours with runs; of these, at most
MAX_LOOK attempts are read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Optional

from sqlalchemy import TextClause, select, text
from sqlalchemy.orm import Session

from webapp.core.notices import SYSTEM_QUEUE
from webapp.db.engines import is_sqlite
from webapp.db.models import CommandHour
from webapp.insight import rollups, trends
from webapp.insight.rollups import REST, Commands, Folded, Sum
from webapp.insight.windows import Window
from webapp.lib import clock
from webapp.lib.clock import HOUR
from webapp.lib.command_patterns import COMMAND_PREFIX, command_shape, words_of

MAX_POINTS = 300  # runs of a scatter
MAX_HOURS = 24  # from which these come
MAX_LOOK = 6_000  # attempts that are read for them
USUAL_DAYS = 8
MAX_FAILURES = 8

# The inner SELECT reads columns in front of the output only: behind it, SQLite would read the output's pages too.
_RUNS = """
SELECT jobs.id, substr(jobs.command, 1, :prefix) AS command, ended.number, ended.state, ended.error, ended.started_at,
       ended.finished_at
FROM (SELECT job_seq, number, state, error, started_at, finished_at FROM attempts
      WHERE finished_at >= :since AND finished_at < :until ORDER BY finished_at DESC LIMIT :look) AS ended
JOIN jobs ON jobs.seq = ended.job_seq
WHERE ended.state IN ({states}) AND jobs.queue <> :system AND {position}(substr(jobs.command, 1, :prefix), :word) > 0
ORDER BY ended.finished_at DESC
"""


@dataclass(frozen=True)
class Run:
    """An ended attempt. `seconds`: its duration."""

    job: str
    number: int
    failed: bool
    error: Optional[str]
    finished_at: int
    seconds: float


@dataclass
class CommandView:
    """What ran with one pattern.

    Attributes:
        points: start and sum of each step. Their waits, deaths and losses are not known.
        usual: all its runs of the last USUAL_DAYS days.
        runs: some of its runs in the window, spread over its hours, oldest first.
        failures: its last failed runs in the window, newest first.
        until: runs that ended later are not counted yet.
    """

    shape: str
    window: Window
    until: int
    is_late: bool
    points: list[tuple[int, Sum]]
    usual: Commands
    total: Sum = field(default_factory=Sum)
    runs: list[Run] = field(default_factory=list)
    failures: list[Run] = field(default_factory=list)


def by_hours(window: Window) -> Window:
    """The window with steps of at least an hour, as commands are summed up."""
    step = max(window.step, HOUR)
    return Window(window.start // step * step, -(-window.end // step) * step, step, window.sums)


def view(session: Session, shape: str, window: Window) -> CommandView:
    """The runs of a pattern in a window, current."""
    window = by_hours(window)
    hours, tail, now = trends.with_tail(session, lambda tail, now: (_hours(session, shape, tail, now), tail, now))
    points = {at: Sum() for at in range(window.start, min(window.end, now + 1), window.step)}
    usual, there = Commands(shape), dict[int, Commands]()
    for at, one in hours.items():
        usual.add(one)
        if window.start <= at < window.end and at // window.step * window.step in points:
            points[at // window.step * window.step].add(_sum(one))
            there[at] = one
    until = tail.until if tail.more else now
    is_late = min(now, window.end) - until > trends.LATE_AFTER
    result = CommandView(shape, window, until, is_late, sorted(points.items()), usual)
    for ended in points.values():
        result.total.add(ended)
    spans = _spans([at for at in sorted(there, reverse=True) if there[at].runs], window)
    most = MAX_POINTS if result.total.ended <= MAX_POINTS else -(-MAX_POINTS // len(spans))
    result.runs = sorted(_runs(session, shape, spans, most), key=lambda run: run.finished_at)[-MAX_POINTS:]
    failing = [at for at in sorted(there, reverse=True) if there[at].failures]
    if failing:
        found = _runs(session, shape, _spans(failing[:MAX_FAILURES], window), MAX_FAILURES, only_failed=True)
        result.failures = sorted(found, key=lambda run: -run.finished_at)[:MAX_FAILURES]
    return result


def listing(session: Session, window: Window, limit: int = rollups.MAX_SHAPES) -> list[Commands]:
    """The commands of a window, those with the most runs first. REST, if it is there, is the last."""
    window = by_hours(window)

    def read(tail: Folded, _: int) -> dict[str, Commands]:
        found: dict[str, Commands] = {}
        rows = select(CommandHour.__table__).where(CommandHour.at >= window.start, CommandHour.at < window.end)
        for row in session.execute(rows):
            found.setdefault(row.shape, Commands(row.shape)).add(rollups.commands_of(row))
        for (at, shape), one in tail.hours.items():
            if window.start <= at < window.end:
                found.setdefault(shape, Commands(shape)).add(one)
        return found

    found = trends.with_tail(session, read)
    rest = found.pop(REST, None)
    ordered = sorted(found.values(), key=lambda one: (-one.runs, one.shape))[:limit]
    return ordered if rest is None else [*ordered, rest]


def _hours(session: Session, shape: str, tail: Folded, now: int) -> dict[int, Commands]:
    """Its runs by hour, in the last USUAL_DAYS days."""
    hours = range((now - USUAL_DAYS * clock.DAY) // HOUR * HOUR, now + 1, HOUR)
    rows = select(CommandHour.__table__).where(CommandHour.at.in_(hours), CommandHour.shape == shape)
    found = {row.at: rollups.commands_of(row) for row in session.execute(rows)}
    for (at, name), one in tail.hours.items():
        if name == shape:
            found.setdefault(at, Commands(shape)).add(one)
    return found


def _sum(one: Commands) -> Sum:
    return Sum(completed=one.runs - one.failures, failed=one.failures, runs=one.durations)


def _spans(hours: Sequence[int], window: Window) -> list[tuple[int, int]]:
    """Spans to read runs from, newest first: MAX_HOURS of these hours. Without hours (a rare command): the window."""
    if not hours:
        return [(window.start, window.end)]
    return [(at, at + HOUR) for at in hours[:: -(-len(hours) // MAX_HOURS)]]


def _runs(
    session: Session, shape: str, spans: Sequence[tuple[int, int]], most: int, *, only_failed: bool = False
) -> Iterator[Run]:
    """At most `most` runs from each span, the newest. MAX_LOOK attempts are read in all."""
    word = max(words_of(shape).split(), key=len, default="")
    values = {"prefix": COMMAND_PREFIX, "word": word, "look": MAX_LOOK // len(spans), "system": SYSTEM_QUEUE}
    for since, until in spans:
        left = most
        for row in session.execute(_statement(only_failed=only_failed), {**values, "since": since, "until": until}):
            if command_shape(row.command) == shape:
                yield _run(row)
                left -= 1
                if not left:
                    break


def _statement(*, only_failed: bool) -> TextClause:
    states = "'failed'" if only_failed else "'completed', 'failed'"
    return text(_RUNS.format(states=states, position="instr" if is_sqlite() else "strpos"))


def _run(row: Any) -> Run:
    seconds = max(row.finished_at - row.started_at, 0) / clock.SECOND
    return Run(row.id, row.number, row.state == "failed", row.error, row.finished_at, seconds)
