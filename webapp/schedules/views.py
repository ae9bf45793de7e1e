"""Reads schedules, their ledger and their runs for pages, commands and the API."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any, Optional

from sqlalchemy import ColumnElement, case, func, literal_column, or_, select
from sqlalchemy.orm import Session

from webapp.core.job_spec import SpecError, load_json
from webapp.db import name_pages, text_match
from webapp.db.models import Fire, Job, Schedule
from webapp.db.name_pages import Page
from webapp.jobs.lifecycle import NotFound
from webapp.lib import clock
from webapp.lib.clock import columns
from webapp.lib.durations import duration
from webapp.lib.text import plural
from webapp.schedules import policy
from webapp.schedules.actions import MOST_RUN
from webapp.schedules.decider import spec_of
from webapp.schedules.health import BREACHES, usual_seconds
from webapp.schedules.spec import ScheduleSpec, to_json

RUNS = 30  # of a sparkline
STRIP_SCHEDULES = 300  # schedules that the next 24 hours show
SHOWN = ("paused", "attention")  # values of `show`
GRACE = 60 * clock.SECOND  # a fire that is undecided for this long is late: no supervisor runs
_MEANT = ("overlap:", "not enqueued:")  # reasons of fires that did not run, and should not
_HAS_SCHEDULE: ColumnElement[bool] = literal_column(
    "jobs.schedule IS NOT NULL"
)  # the planner needs this text for the partial index


@dataclass(frozen=True)
class Run:
    """A job of a schedule. `seconds`: how long its last attempt took; None before it has ended."""

    id: str
    state: str
    created_at: int
    seconds: Optional[float]


@dataclass(frozen=True)
class ScheduleView:
    """A schedule with its last fire and last runs.

    Attributes:
        spec: None if it is broken, see `why_broken`.
        last: its last fire in the ledger.
        runs: its newest jobs, newest first.
    """

    row: Schedule
    spec: Optional[ScheduleSpec]
    last: Optional[Fire]
    runs: Sequence[Run]

    @property
    def is_paused(self) -> bool:
        return is_paused(self.row)

    @property
    def active(self) -> list[Run]:
        return [run for run in self.runs if run.seconds is None]

    @property
    def usual_seconds(self) -> Optional[float]:
        return usual_seconds([(run.state, 1, 1 + clock.seconds(run.seconds)) for run in self.runs if run.seconds])

    def attention(self, now: int) -> list[str]:
        return problems(self.row, now)

    def too_frequent(self, now: int) -> Optional[str]:
        """A sentence if runs usually take longer than the time between two fires."""
        usual, gap = self.usual_seconds, None if self.spec is None else self.spec.timing.shortest_gap(now)
        if usual is None or gap is None or usual <= gap:
            return None
        return f"A run usually takes {duration(usual)}, but fires are only {duration(gap)} apart."


@dataclass(frozen=True)
class NotRun:
    """The newest fires of a schedule, if they did not run because of a pause, a stop, an edit or a move.

    Attributes:
        dues: their due times in microseconds, newest first, at most MOST_RUN.
        is_cut: there are more.
        words: '3 fires were skipped while it was paused', without a full stop.
    """

    dues: Sequence[int]
    is_cut: bool
    words: str


def problems(row: Schedule, now: int) -> list[str]:
    """What is wrong with a schedule, in words; most urgent first."""
    broken = why_broken(row)
    found = [] if broken is None else [f"broken: {broken}"]
    if is_undecided(row, now):
        found.append("late: no supervisor handled its last fire")
    names = {"late": "late: its job has not started", "long": "running longer than usual", "failing": "failing"}
    return found + [names[breach] for breach in BREACHES if getattr(row, f"{breach}_since") is not None]


def is_paused(row: Schedule) -> bool:
    return policy.is_paused(row.paused_at, row.paused_until, clock.now())


def is_undecided(row: Schedule, now: int) -> bool:
    """Whether a fire has been due for so long that no supervisor seems to run."""
    return row.waiting_since is None and row.next_fire_at is not None and row.next_fire_at < now - GRACE


def find(session: Session, name: str) -> Schedule:
    """Raises NotFound."""
    row = session.scalar(select(Schedule).where(Schedule.name == name))
    if row is None:
        raise NotFound(f"no such schedule: {name[:128]!r}.")
    return row


def view_of(session: Session, row: Schedule) -> ScheduleView:
    last = session.scalar(select(Fire).where(Fire.schedule_id == row.id).order_by(Fire.due_at.desc()).limit(1))
    return ScheduleView(row, described(row), last, runs_of(session, row.name))


def described(row: Schedule) -> Optional[ScheduleSpec]:
    """The description with the current pause; None if this machine cannot read it."""
    try:
        return replace(spec_of(row.spec), enabled=not is_paused(row))
    except SpecError:
        return None


def why_broken(row: Schedule) -> Optional[str]:
    """Why it is broken, even if no decider has noticed yet. None: it works."""
    try:
        spec_of(row.spec)
    except SpecError as error:
        return str(error)
    return row.broken


def fields_of(row: Schedule) -> dict[str, Any]:
    """The stored fields, also of a broken schedule."""
    found: dict[str, Any] = load_json(row.spec)
    return found


def runs_of(session: Session, name: str) -> list[Run]:
    jobs = session.execute(
        select(Job.id, Job.state, Job.created_at, Job.started_at, Job.finished_at)
        .where(Job.schedule == name, _HAS_SCHEDULE)
        .order_by(Job.seq.desc())
        .limit(RUNS)
    )
    return [
        Run(
            job.id,
            job.state,
            job.created_at,
            (job.finished_at - (job.started_at or job.finished_at)) / clock.SECOND if job.finished_at else None,
        )
        for job in jobs
    ]


def page(
    session: Session,
    *,
    like: str = "",
    show: str = "",
    limit: int,
    after: Optional[str] = None,
    before: Optional[str] = None,
) -> Page[ScheduleView]:
    """Schedules by name."""

    def views(rows: Sequence[Schedule]) -> list[ScheduleView]:
        return [view_of(session, row) for row in rows]

    found = select(Schedule).where(*_conditions(like, show))
    return name_pages.read(session, found, Schedule.name, views, limit=limit, after=after, before=before)


def count(session: Session, like: str = "", show: str = "") -> int:
    return session.scalar(select(func.count()).select_from(Schedule).where(*_conditions(like, show))) or 0


def needing_attention(session: Session, limit: int) -> list[Schedule]:
    """Schedules that are broken, late, long or failing, by name."""
    return list(session.scalars(select(Schedule).where(_needs_attention()).order_by(Schedule.name).limit(limit)))


def next_day(session: Session) -> tuple[list[ScheduleSpec], int]:
    """The first STRIP_SCHEDULES schedules that fire in the next 24 hours, and the number of others."""
    soon = Schedule.next_fire_at < clock.now() + clock.DAY
    rows = session.scalars(select(Schedule).where(soon).order_by(Schedule.next_fire_at).limit(STRIP_SCHEDULES))
    specs = [spec for row in rows if not is_paused(row) and (spec := described(row)) is not None]
    number = session.scalar(select(func.count()).select_from(Schedule).where(soon)) or 0
    return specs, max(number - STRIP_SCHEDULES, 0)


def fires(
    session: Session, row: Schedule, limit: Optional[int], *, before: Optional[int] = None, outcome: str = ""
) -> list[Fire]:
    """The ledger, newest first, before a due time. `limit` None: all of it."""
    statement = select(Fire).where(Fire.schedule_id == row.id)
    if before is not None:
        statement = statement.where(Fire.due_at < before)
    if outcome:
        statement = statement.where(Fire.outcome == outcome)
    return list(session.scalars(statement.order_by(Fire.due_at.desc()).limit(limit)))


def not_run(session: Session, row: Schedule) -> Optional[NotRun]:
    """The newest fires, if a user may want to run them now. Not those that the overlap or the queue prevented."""
    newest = fires(session, row, MOST_RUN + 1)
    found = list(takewhile(lambda fire: fire.job_id is None and not (fire.reason or "").startswith(_MEANT), newest))
    if not found:
        return None
    cut, number = len(found) > MOST_RUN, plural(min(len(found), MOST_RUN), "fire")
    was, what = "was" if len(found) == 1 else "were", "did not run"
    if all(fire.reason == "paused" for fire in found):
        what = f"{was} skipped while it was paused"
    elif all(fire.outcome == "missed" or (fire.reason or "").startswith("too late") for fire in found):
        what = f"{was} missed while no supervisor ran"
    return NotRun([fire.due_at for fire in found[:MOST_RUN]], cut, f"{'More than ' * cut}{number} {what}")


def runnable(session: Session, row: Schedule, first: int, last: int) -> list[int]:
    """Due times of the first MOST_RUN fires between two times that were skipped or missed."""
    statement = select(Fire.due_at).where(Fire.schedule_id == row.id, Fire.due_at.between(first, last))
    return list(session.scalars(statement.where(Fire.job_id.is_(None)).order_by(Fire.due_at).limit(MOST_RUN)))


def count_problems(session: Session) -> tuple[int, dict[str, int]]:
    """The number of schedules, and of those with each problem. A schedule can have several."""
    conditions = _problem_conditions()
    columns = [func.count(case((condition, 1))) for condition in conditions.values()]
    number, *each = session.execute(select(func.count(), *columns).select_from(Schedule)).one()
    return number, dict(zip(conditions, each))


def count_fires(session: Session, row: Schedule, outcome: str = "") -> int:
    statement = select(func.count()).select_from(Fire).where(Fire.schedule_id == row.id)
    return session.scalar(statement.where(Fire.outcome == outcome) if outcome else statement) or 0


def stored(session: Session) -> dict[str, Optional[ScheduleSpec]]:
    """The descriptions of all schedules by name; None: this machine cannot read it."""
    return {row.name: described(row) for row in session.scalars(select(Schedule).order_by(Schedule.name))}


def schedule_json(row: Schedule) -> dict[str, Any]:
    """A schedule as commands and the API show it."""
    spec = described(row)
    shown: Mapping[str, Any] = {"name": row.name} if spec is None else to_json(spec)
    since = ("waiting_since", "late_since", "long_since", "failing_since")
    return {
        **shown,
        "enabled": not is_paused(row),
        "paused_until": clock.to_iso(row.paused_until) if is_paused(row) else None,
        **columns(row, "next_fire_at", "last_fire_at"),
        **{name: clock.to_iso(getattr(row, name)) for name in since},
        "broken": why_broken(row),
        **columns(row, "created_at", "created_by", "changed_at", "changed_by"),
    }


def fire_json(fire: Fire) -> dict[str, Any]:
    return columns(fire, "due_at", "decided_at", "outcome", "reason", "job_id")


def _conditions(like: str, show: str) -> list[ColumnElement[bool]]:
    conditions = [text_match.contains(Schedule.name, like)] if like else []
    if show == "paused":
        now = clock.now()
        ends = or_(Schedule.paused_until.is_(None), Schedule.paused_until > now)
        conditions += [Schedule.paused_at.is_not(None), ends]
    elif show == "attention":
        conditions.append(_needs_attention())
    return conditions


def _needs_attention() -> ColumnElement[bool]:
    return or_(*_problem_conditions().values())


def _problem_conditions() -> dict[str, ColumnElement[bool]]:
    """The rules of `problems`."""
    undecided = Schedule.waiting_since.is_(None) & (Schedule.next_fire_at < clock.now() - GRACE)
    found: dict[str, ColumnElement[bool]] = {"broken": Schedule.broken.is_not(None)}
    found.update({breach: getattr(Schedule, f"{breach}_since").is_not(None) for breach in BREACHES})
    return {**found, "late": found["late"] | undecided}
