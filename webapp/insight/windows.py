"""Spans of charts: the last hour, day or week, or from one time to another. And the roll-ups that are their points."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

from webapp.insight.rollups import HALF_HOUR, KEEP_FOR, SUMS, half_hours
from webapp.lib import clock
from webapp.lib.clock import HOUR, MINUTE

# Up to which span the points come from which sums, and how long a step is then: at most 96 steps.
_STEPS = (
    (90 * MINUTE, "*1", MINUTE),
    (3 * HOUR, "*1", 2 * MINUTE),
    (6 * HOUR, "*1", 5 * MINUTE),
    (2 * clock.DAY, "*30", HALF_HOUR),
    (KEEP_FOR + clock.DAY, "*180", 3 * HOUR),
)
SHORTEST = 5 * MINUTE


class WindowError(ValueError):
    """An invalid window. `field` is 'from' or 'to'."""

    def __init__(self, field: str, message: str) -> None:
        self.field = field
        super().__init__(f"{field}: {message}")


@dataclass(frozen=True)
class Window:
    """The span of a chart, in microseconds: whole steps from `start` to before `end`. `sums`: see `rollups.SUMS`."""

    start: int
    end: int
    step: int
    sums: str

    def window(self, _: int) -> Window:
        """Itself, see `Range`."""
        return self

    def source(self, queue: Optional[str]) -> tuple[str, int]:
        """The name of the roll-ups that are its points, of one queue or of all, and the span of each."""
        if queue is None:
            return self.sums, SUMS[self.sums]
        return (queue, MINUTE) if self.sums == "*1" else (half_hours(queue), HALF_HOUR)


@dataclass(frozen=True)
class Range:
    """A span that ends now."""

    key: str
    label: str
    title: str
    span: int
    sums: str

    @property
    def step(self) -> int:
        return SUMS[self.sums]

    def window(self, now: int) -> Window:
        start = now // self.step * self.step + self.step - self.span
        return Window(start, start + self.span, self.step, self.sums)


RANGES = {
    one.key: one
    for one in (
        Range("1h", "1 hour", "The last hour", HOUR, "*1"),
        Range("24h", "24 hours", "The last 24 hours", clock.DAY, "*30"),
        Range("7d", "7 days", "The last 7 days", 7 * clock.DAY, "*180"),
    )
}


def between(start: int, end: int) -> Window:
    """The window from one time to another, with whole steps at its edges. Raises WindowError."""
    now = clock.now()
    if start >= end:
        raise WindowError("to", "must be later than from.")
    if start >= now:
        raise WindowError("from", "is in the future.")
    if start < now - KEEP_FOR:
        raise WindowError("from", f"statistics are kept for {KEEP_FOR // clock.DAY} days. Choose a later time.")
    end = min(end, now)
    start = min(start, end - SHORTEST)
    sums, step = next((sums, step) for span, sums, step in _STEPS if end - start <= span)
    return Window(start // step * step, -(-end // step) * step, step, sums)
