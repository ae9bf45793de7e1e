"""What a change does to the fires of the next days, and the next 24 hours of all schedules. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Optional

from webapp.core.job_spec import SpecError
from webapp.lib import clock
from webapp.schedules.spec import ScheduleSpec, with_anchor
from webapp.schedules.timing import Timing

DAYS = 7
MOST = 500  # fires that a preview compares
STRIP_HOURS, SLOT = 24, 15 * 60  # hours, seconds
MANY = 96  # fires in the strip from which a schedule counts as frequent


@dataclass(frozen=True)
class Preview:
    """Fires of the next DAYS days (microseconds): those that appear, vanish, and move from one time to another.

    `is_cut`: there are more than MOST.
    """

    appear: Sequence[int]
    vanish: Sequence[int]
    move: Sequence[tuple[int, int]]
    is_cut: bool


def preview(before: Optional[ScheduleSpec], after: Optional[ScheduleSpec], now: int) -> Preview:
    """Compare the fires of two versions of a schedule. None, or paused: no fires."""
    end = now + DAYS * clock.DAY
    old, new = _fires(before, now, end), _fires(after and with_anchor(after, now), now, end)
    cut = len(old) > MOST or len(new) > MOST
    if cut:  # compare the time that both lists cover
        horizon = min(times[MOST] for times in (old, new) if len(times) > MOST)
        old, new = ([time for time in times if time < horizon] for times in (old, new))
    appear, vanish = sorted({*new} - {*old}), sorted({*old} - {*new})
    pairs = list(zip(vanish, appear))
    if len(appear) == len(vanish) and all(abs(later - earlier) <= clock.DAY // 2 for earlier, later in pairs):
        return Preview([], [], pairs, cut)
    return Preview(appear, vanish, [], cut)


def _fires(spec: Optional[ScheduleSpec], now: int, end: int) -> list[int]:
    found: list[int] = []
    if spec is None or not spec.enabled:
        return found
    for fire in spec.timing.after(now):
        if fire >= end or len(found) > MOST:
            break
        found.append(fire)
    return found


@dataclass
class Strip:
    """The next 24 hours in slots of 15 minutes.

    Attributes:
        start: microseconds; a whole slot.
        counts: fires in each slot.
        names: schedules that fire in each slot.
        frequent: schedules that fire more than MANY times. They are not in the slots, which they would fill.
    """

    start: int
    counts: list[int]
    names: list[list[str]]
    frequent: list[str] = field(default_factory=list)


def strip(specs: Sequence[ScheduleSpec], now: int) -> Strip:
    """Count the fires of the next 24 hours."""
    slot = SLOT * clock.SECOND
    start, size = now // slot * slot, STRIP_HOURS * 3600 // SLOT
    found = Strip(start, [0] * size, [[] for _ in range(size)])
    for spec in specs:
        counts, frequent = _slots(spec.timing, start)
        if frequent:
            found.frequent.append(spec.name)
            continue
        for place, number in counts:
            found.counts[place] += number
            found.names[place].append(spec.name)
    return found


@lru_cache(maxsize=4096)
def _slots(timing: Timing, start: int) -> tuple[tuple[tuple[int, int], ...], bool]:
    """The fires of one schedule in each slot; whether it fires often."""
    slot, end = SLOT * clock.SECOND, start + STRIP_HOURS * 3600 * clock.SECOND
    counts: dict[int, int] = {}
    try:
        for fire in timing.after(start - 1):
            if fire >= end:
                break
            counts[(fire - start) // slot] = counts.get((fire - start) // slot, 0) + 1
    except SpecError:  # broken
        return (), False
    return tuple(sorted(counts.items())), sum(counts.values()) > MANY
