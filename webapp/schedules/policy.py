"""What happens to fires that are due: run, skip, miss or wait. Pure: the decider reads and writes the rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Optional

from webapp.lib import clock
from webapp.lib.durations import duration
from webapp.schedules.spec import ScheduleSpec, time_of_day
from webapp.schedules.timing import zone_of

ON_TIME = 60 * clock.SECOND  # a fire that is decided within this time of its due time is on time
WAITS_FOR_END = ("queue_one", "queue_all", "replace")  # overlaps that decide a fire when the active jobs have ended


@dataclass(frozen=True)
class Pause:
    """Fires before `until` (microseconds; None: no end) are skipped for this reason."""

    until: Optional[int] = None
    reason: str = "paused"

    def covers(self, due: int) -> bool:
        return self.until is None or due < self.until


def is_paused(paused_at: Optional[int], paused_until: Optional[int], now: int) -> bool:
    """Whether a schedule with this pause is paused now. Times in microseconds."""
    return paused_at is not None and Pause(paused_until).covers(now)


@dataclass(frozen=True)
class Decision:
    """What happens to one fire; `runs`: it enqueues a job."""

    due: int
    outcome: str
    reason: str = ""

    @property
    def runs(self) -> bool:
        return self.outcome in ("fired", "caught_up")


@dataclass
class Plan:
    """The decisions on the first due fires. `waits`: the next fire waits until the active jobs have ended.

    `replaces`: the active jobs must be cancelled.
    """

    decisions: list[Decision] = field(default_factory=list)
    waits: bool = False
    replaces: bool = False


def decide(
    spec: ScheduleSpec,
    due: Sequence[int],
    later: int,
    now: int,
    *,
    active: Sequence[str],
    pause: Optional[Pause] = None,
    waited: bool = False,
) -> Plan:
    """Decide fires in their order.

    Args:
        due: times in microseconds, none later than `now`.
        later: number of fires that are due after these, at most `spec.catch_up_max` of them counted.
        active: ids of the schedule's jobs that wait or run, with the running ones first.
        waited: whether the first fire waited for the active jobs, so that it is not late.
    """
    last = len(due) - 1
    wanted = [
        _without_overlap(spec, moment, last - place + later, now, pause, waited=waited)
        for place, moment in enumerate(due)
    ]
    last_run = max((place for place, one in enumerate(wanted) if one.runs), default=-1)
    plan, started = Plan(), False
    for place, one in enumerate(wanted):
        decision = one
        if one.runs and spec.overlap == "skip" and (active or started):
            holder = active[0] if active else "the previous fire"
            decision = Decision(one.due, "skipped", f"overlap: {holder} has not ended")
        elif one.runs and spec.overlap in WAITS_FOR_END:
            if active or (started and spec.overlap == "queue_all"):
                plan.waits, plan.replaces = True, bool(active) and spec.overlap == "replace"
                return plan
            if started:
                decision = Decision(one.due, "skipped", "overlap: a fire was waiting already")
            elif spec.overlap == "replace" and place < last_run:
                decision = Decision(one.due, "skipped", "overlap: a later fire replaced it")
        started = started or decision.runs
        plan.decisions.append(decision)
    return plan


def _without_overlap(
    spec: ScheduleSpec, due: int, following: int, now: int, pause: Optional[Pause], *, waited: bool
) -> Decision:
    if pause is not None and pause.covers(due):
        return Decision(due, "skipped", pause.reason)
    if waited or now - due <= ON_TIME:
        return Decision(due, "fired")
    late = duration((now - due) / clock.SECOND)
    if spec.catch_up_window is not None and now - due > clock.seconds(spec.catch_up_window):
        window = duration(spec.catch_up_window)
        return Decision(due, "skipped", f"too late: {late} late, and the catch-up window is {window}")
    if spec.not_later_than is not None and now > _limit(spec, due):
        return Decision(due, "skipped", f"too late: after {time_of_day(spec.not_later_than)}")
    if spec.catch_up == "none":
        return Decision(due, "missed", f"{late} late, and catch-up is none")
    most = 1 if spec.catch_up == "last" else spec.catch_up_max
    if following >= most:
        kept = "the last fire" if most == 1 else f"the last {most} fires"
        return Decision(due, "missed", f"{late} late, and catch-up runs only {kept}")
    return Decision(due, "caught_up", f"{late} late")


def _limit(spec: ScheduleSpec, due: int) -> int:
    """The first time of day `not_later_than` at or after a fire, in microseconds."""
    local = clock.to_datetime(due).astimezone(zone_of(spec.timing.tz))
    minutes = spec.not_later_than or 0
    limit = local.replace(hour=minutes // 60, minute=minutes % 60, second=0, microsecond=0, fold=0)
    if limit < local:
        limit += timedelta(days=1)
    return round(limit.timestamp()) * clock.SECOND
