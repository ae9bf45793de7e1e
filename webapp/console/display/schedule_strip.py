"""The next 24 hours of all schedules as bars of 15 minutes, and the runs of one schedule as a sparkline. No script."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from webapp.console.display import times
from webapp.lib import clock
from webapp.lib.durations import about
from webapp.lib.text import plural
from webapp.schedules.preview import SLOT, STRIP_HOURS, strip
from webapp.schedules.spec import ScheduleSpec
from webapp.schedules.views import Run

STEP, GAP, HEIGHT = 10, 2, 40  # of a bar, in units of the view box
SPARK_STEP, SPARK_HEIGHT = 4, 20
SHOWN_COLLISIONS, SHOWN_NAMES = 5, 6


class Slot(NamedTuple):
    """A bar. `text`: its time and its schedules. `crowded`: two or more schedules fire in it."""

    x: int
    y: float
    height: float
    text: str
    crowded: bool


class StripView(NamedTuple):
    """`collisions`: the most crowded slots, as time and names. `others`: number of schedules that are not in it."""

    slots: list[Slot]
    width: int
    hours: list[tuple[int, str]]
    collisions: list[tuple[str, list[str]]]
    frequent: list[str]
    others: int
    top: int


class Spark(NamedTuple):
    """One run in a sparkline."""

    id: str
    state: str
    x: int
    y: float
    height: float
    text: str


def strip_of(specs: Sequence[ScheduleSpec], now: int, others: int) -> StripView:
    found = strip(specs, now)
    top = max(found.counts, default=0)
    slots = []
    for place, number in enumerate(found.counts):
        if number:
            names = found.names[place]
            height = round(max(number / top * HEIGHT, 3), 1)
            what = ", ".join(names[:SHOWN_NAMES]) + (" …" if len(names) > SHOWN_NAMES else "")
            text = f"{_clock(found.start, place)}: {plural(number, 'fire')}{f' ({what})' if what else ''}"
            slots.append(Slot(place * STEP, HEIGHT - height, height, text, len(names) > 1))
    crowded = sorted(
        (place for place, names in enumerate(found.names) if len(names) > 1), key=lambda place: -len(found.names[place])
    )
    collisions = [(_clock(found.start, place), found.names[place]) for place in sorted(crowded[:SHOWN_COLLISIONS])]
    per_hour = 3600 // SLOT
    hours = [(hour * per_hour * STEP, _clock(found.start, hour * per_hour)) for hour in range(0, STRIP_HOURS, 6)]
    return StripView(slots, len(found.counts) * STEP, hours, collisions, found.frequent, others, top)


def _clock(start: int, place: int) -> str:
    return f"{times.local(start + place * SLOT * clock.SECOND):%H:%M}"


def sparkline(runs: Sequence[Run]) -> list[Spark]:
    """The runs from old to new; the height is the duration."""
    longest = max((run.seconds or 0 for run in runs), default=0) or 1
    found = []
    for place, run in enumerate(reversed(runs)):
        height = round(max((run.seconds or 0) / longest * SPARK_HEIGHT, 3), 1)
        text = f"{run.state}{f', {about(run.seconds)}' if run.seconds is not None else ''}"
        found.append(Spark(run.id, run.state, place * SPARK_STEP, SPARK_HEIGHT - height, height, text))
    return found
