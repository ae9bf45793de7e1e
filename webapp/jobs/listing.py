"""Pages of jobs: in the order that fits the state, by key and not by offset, at a cost independent of the table size.

An index answers some conditions. For the others (text, exit code, queue of jobs that are not pending) a page reads row
after row for SEARCH_SECONDS; then it ends, and the next page continues after the last row that was read.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Optional

from sqlalchemy import ColumnElement, Select, and_, func, literal_column, select, true, tuple_
from sqlalchemy.orm import Session

from webapp.core import labels
from webapp.core.states import TERMINAL
from webapp.db.engines import reading
from webapp.db.label_sets import busy_label_sets
from webapp.db.models import Job
from webapp.jobs import filters
from webapp.jobs.filters import JobFilter

Key = tuple[Any, ...]  # integers
MAX_LINES = 50  # label sets that a list of all queues reads one by one
FIRST_STEP = 2_000  # rows of a search's first statement; the next ones fit the time that it took


@dataclass(frozen=True)
class Page:
    """One page of jobs. `older` and `newer` are keys for `after` and `before`; None: there are no more jobs.

    `search_capped`: the search stopped after SEARCH_SECONDS, before the page was full. It continues at `older`, or at
    `newer` when it goes backwards. `searched`: how many rows it read at most; 0 for a list that an index answers.
    """

    jobs: list[Job]
    older: Optional[str]
    newer: Optional[str]
    search_capped: bool = False
    searched: int = 0


# --- orders ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Order:
    """The columns that sort a list, all falling or all rising: one row comparison finds the next page by index.

    `ways` has -1 for each column that falls, 1 for each that rises. `against`: read the index from its other end, for
    the reversed list or a previous page.
    """

    columns: tuple[str, ...]
    ways: tuple[int, ...]

    @property
    def attributes(self) -> list[Any]:
        return [getattr(Job, column) for column in self.columns]

    def columns_in_order(self, against: bool) -> list[ColumnElement[Any]]:
        falls = [(way < 0) != against for way in self.ways]
        return [column.desc() if fall else column.asc() for column, fall in zip(self.attributes, falls)]

    def pieces(self, at: Optional[Key], until: Optional[Key], against: bool) -> list[ColumnElement[bool]]:
        """Conditions for the rows after `at` up to `until`, in consecutive ranges."""
        position, conditions = tuple_(*self.attributes), []
        falls = (self.ways[0] < 0) != against
        if at is not None:
            conditions.append(position < tuple_(*at) if falls else position > tuple_(*at))
        if until is not None:
            conditions.append(position >= tuple_(*until) if falls else position <= tuple_(*until))
        return [and_(true(), *conditions)]

    def key(self, job: Job) -> Key:
        return tuple(getattr(job, column) for column in self.columns)

    def rank(self, key: Key) -> Key:
        """A value that sorts keys in this order."""
        return tuple(way * value for way, value in zip(self.ways, key))

    def parse(self, key: str) -> Key:
        """Raises ValueError for a key that is not from this list."""
        values = tuple(int(part) for part in key.split(","))
        if len(values) != len(self.columns) or any(abs(value) >= 2**63 for value in values):
            raise ValueError("not a page key of this list")
        return values


class _ClaimOrder(_Order):
    """The order in which workers take jobs: the priority falls, the other columns of its index rise."""

    def pieces(self, at: Optional[Key], until: Optional[Key], against: bool) -> list[ColumnElement[bool]]:
        """Index ranges: the rest of the first priority, the priorities between, the last priority."""
        position = tuple_(Job.run_at, Job.seq)
        after, upto, between = [], [], []
        if at is not None:
            after = [Job.priority == at[0], position < tuple_(*at[1:]) if against else position > tuple_(*at[1:])]
            between.append(Job.priority > at[0] if against else Job.priority < at[0])
        if until is not None:
            upto = [position >= tuple_(*until[1:]) if against else position <= tuple_(*until[1:])]
            between.append(Job.priority < until[0] if against else Job.priority > until[0])
        if at is not None and until is not None and at[0] == until[0]:
            return [and_(*after, *upto)]
        pieces = [and_(*after)] if after else []
        pieces.append(and_(true(), *between))
        if until is not None:
            pieces.append(and_(Job.priority == until[0], *upto))
        return pieces


_NEWEST = _Order(("seq",), (-1,))
_NEXT_DUE = _Order(("run_at", "seq"), (1, 1))
_LAST_ENDED = _Order(("finished_at", "seq"), (-1, -1))
_ORDERS = {
    "blocked": _NEXT_DUE,
    "scheduled": _NEXT_DUE,
    "pending": _ClaimOrder(("priority", "run_at", "seq"), (-1, 1, 1)),
    "failed": _NEXT_DUE,
    "processing": _Order(("started_at", "seq"), (1, 1)),
    **dict.fromkeys(TERMINAL, _LAST_ENDED),
}


def _order(wanted: JobFilter) -> _Order:
    return _ORDERS.get(wanted.state or "", _NEWEST)


# --- pages -----------------------------------------------------------------------------------------------------------


def page_of_jobs(
    session: Session,
    wanted: JobFilter,
    *,
    limit: int = 50,
    before: Optional[str] = None,
    after: Optional[str] = None,
    turned: bool = False,
    highest_seq: Optional[int] = None,
) -> Page:
    """One page of a list, in the order that fits the state, or with `turned` in the opposite order.

    blocked, scheduled and failed: next due first; pending: in claim order; processing: longest first; ended and all
    jobs: newest first. `after` continues after a key, `before` ends in front of it: `Page.older` is the `after` of the
    next page, `Page.newer` the `before` of the previous one. Jobs past `highest_seq` are left out. Raises ValueError
    for a key that is not from this list.
    """
    order, backwards = _order(wanted), before is not None
    key = before if backwards else after
    at = order.parse(key) if key is not None else None
    against = turned != backwards
    lines = _lines(session, wanted)
    low = true() if highest_seq is None else Job.seq <= highest_seq
    rows: list[Job] = []
    until, searched = None, 0
    for start, until, number in _steps(session, lines, order, at, against):
        found = [_rows(session, line, low, order, start, until, against, limit + 1 - len(rows)) for line in lines]
        merged = heapq.merge(*found, key=lambda job: order.rank(order.key(job)), reverse=against)
        rows += list(merged)[: limit + 1 - len(rows)]
        searched += number
        if len(rows) > limit:
            break
    more, rows = len(rows) > limit, rows[:limit]
    stopped = until if not more else None
    ends = [_text(order.key(row)) for row in (rows[-1:] + rows[:1])]  # last and first in reading order
    ahead = ends[0] if more else _text(stopped) if stopped else None
    back = (ends[1] if rows else _text(stopped) if stopped else None) if key is not None else None
    if backwards:
        return Page(rows[::-1], back, ahead, stopped is not None, searched)
    return Page(rows, ahead, back, stopped is not None, searched)


def pages(wanted: JobFilter, limit: int, *, turned: bool = False, highest_seq: Optional[int] = None) -> Iterator[Page]:
    """All pages of a list, see `page_of_jobs`. Each read is a transaction of its own, so a page may be empty."""
    after: Optional[str] = None
    while True:
        with reading() as session:
            page = page_of_jobs(session, wanted, limit=limit, after=after, turned=turned, highest_seq=highest_seq)
        yield page
        after = page.older
        if after is None:
            return


def ranges(
    session: Session, wanted: JobFilter, seconds: Optional[float] = None
) -> Iterator[tuple[list[ColumnElement[bool]], bool]]:
    """The rows that a search of the whole list reads within `seconds`, range by range: conditions of rows that match,
    and whether the list ends with them."""
    if not wanted.scans:
        yield [wanted.where()], True
        return
    order, lines = _order(wanted), _lines(session, wanted)
    for start, until, _ in _steps(session, lines, order, None, False, seconds):
        parts = [and_(line.where(), piece) for line in lines for piece in order.pieces(start, until, False)]
        yield parts, until is None


def _lines(session: Session, wanted: JobFilter) -> list[JobFilter]:
    """The index ranges of the list.

    Pending jobs of one queue: its label sets, because no index sorts these together. Pending jobs of all queues have
    such an index, apart from those whose worker died, which are few, and from limited jobs, which have another one.
    """
    if wanted.state != "pending":
        return [wanted]
    if wanted.limit is not None:
        return [replace(wanted, limited=True)]
    if wanted.queue is None and wanted.requires is None:
        return _lines_of_all(session, wanted)
    named = None if wanted.queue is None else [wanted.queue]
    asked = {wanted.requires} if wanted.requires is not None else set()
    busy = busy_label_sets(session, named, labelled=bool(asked))
    found = [one for one in busy if asked <= set(labels.split(one.requires))]
    if wanted.queue is None and len(found) > MAX_LINES:
        return _lines_of_all(session, wanted)
    of_sets = [replace(wanted, queue=one.queue, label_set=one.requires, limited=False) for one in found]
    return of_sets + _if_any(session, wanted, JobFilter("pending", limited=True))


def _lines_of_all(session: Session, wanted: JobFilter) -> list[JobFilter]:
    lost = _if_any(session, wanted, JobFilter("pending", lost=True, limited=False))
    return [
        replace(wanted, lost=False, limited=False),
        *lost,
        *_if_any(session, wanted, JobFilter("pending", limited=True)),
    ]


def _if_any(session: Session, wanted: JobFilter, special: JobFilter) -> list[JobFilter]:
    """The jobs of the list that are also in `special`, whose jobs stand in an index of their own."""
    there = session.execute(select(Job.seq).where(special.where()).limit(1)).first()
    return [] if there is None else [replace(wanted, lost=special.lost, limited=special.limited)]


def _rows(
    session: Session,
    line: JobFilter,
    low: ColumnElement[bool],
    order: _Order,
    at: Optional[Key],
    until: Optional[Key],
    against: bool,
    limit: int,
) -> list[Job]:
    rows: list[Job] = []
    for piece in order.pieces(at, until, against):
        statement = select(Job).where(line.where(), low, piece).order_by(*order.columns_in_order(against))
        rows += session.scalars(statement.limit(limit - len(rows)))
        if len(rows) >= limit:
            break
    return rows


# --- where a search stops --------------------------------------------------------------------------------------------


def _steps(
    session: Session,
    lines: Sequence[JobFilter],
    order: _Order,
    at: Optional[Key],
    against: bool,
    seconds: Optional[float] = None,
) -> Iterator[tuple[Optional[Key], Optional[Key], int]]:
    """The ranges that a search reads one after the other from `at` on: start, end, number of rows.

    After `seconds` (None: SEARCH_SECONDS) it stops. Without an end the range has all rows that are left. The caller
    reads a range before it takes the next one: the time that this takes decides how long the next range is.
    """
    if not any(line.scans for line in lines):
        yield at, None, 0
        return
    number = min(FIRST_STEP, filters.SEARCH_CAP)
    begun = time.monotonic()
    end = begun + (filters.SEARCH_SECONDS if seconds is None else seconds)
    while True:
        until = _until(session, lines, order, at, against, number)
        yield at, until, number
        now = time.monotonic()
        if until is None or now >= end:
            return
        fits = number * (end - now) / max(now - begun, 0.000_1)
        number, begun, at = max(1, int(min(number * 4, fits, filters.SEARCH_CAP))), now, until


def _until(
    session: Session, lines: Sequence[JobFilter], order: _Order, at: Optional[Key], against: bool, number: int
) -> Optional[Key]:
    """The last of the next `number` rows from `at` on; None if there are no others after them.

    Several lines share the number: the range ends at the first of their ends.
    """
    share = max(1, number // max(1, len(lines)))
    ends = [end for line in lines if (end := _end(session, line, order, at, against, share)) is not None]
    if not ends:
        return None
    return (max if against else min)(ends, key=order.rank)


def _end(
    session: Session, line: JobFilter, order: _Order, at: Optional[Key], against: bool, number: int
) -> Optional[Key]:
    """The `number`-th row from `at` on, by index alone; None if no rows follow it."""
    keys: Select[Any] = select(*order.attributes)
    candidate: Optional[Key] = None
    for piece in order.pieces(at, None, against):
        rows = keys.where(line.found(), piece).order_by(*order.columns_in_order(against))
        if candidate is not None:
            if session.execute(rows.limit(1)).first() is not None:
                return candidate
            continue
        two = session.execute(rows.offset(number - 1).limit(2)).all()
        if len(two) == 2:
            return tuple(two[0])
        if two:
            candidate = tuple(two[0])
        else:
            limited = select(literal_column("1")).select_from(Job).where(line.found(), piece).limit(number).subquery()
            number -= session.scalar(select(func.count()).select_from(limited)) or 0
    return None


def _text(key: Key) -> str:
    return ",".join(str(value) for value in key)
